//! The errors of flags and variables.

use std::{net::IpAddr, path::PathBuf};

use wire_net::{KeyPrefix, NetworkName};

/// A flag or variable is not valid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// A flag that makes flannel keep its leases in Kubernetes.
    #[error("--{flag}: wire-agent keeps its leases in etcd and does not work with Kubernetes")]
    Kubernetes { flag: &'static str },
    /// A flag that current flannel no longer has. `instead` is the reason, and what replaces it.
    #[error("--{flag}: {instead}")]
    Removed { flag: &'static str, instead: &'static str },
    /// An address that is no host's.
    #[error(
        "{flag}={address}: other hosts can reach no host at this address, and refuse a lease with it: give an address \
         at which they reach this host, or remove the flag"
    )]
    NoHostsAddress { flag: &'static str, address: IpAddr },
    /// An address that other hosts refuse in this network.
    #[error(
        "{flag}={address}: {reason}, so other hosts refuse a lease with it: give an address at which they reach this \
         host, or remove the flag"
    )]
    RefusedAddress { flag: &'static str, address: IpAddr, reason: String },
    /// Two files of the agent have one path.
    #[error(
        "--subnet-file and --docker-opts-file are both {}, and each would be written over the other: give each a file of its own",
        file.display()
    )]
    SameFile { file: PathBuf },
    #[error("--flat: there are two networks {name}: give each a name of its own; --etcd-prefix is that of default")]
    NetworkTwice { name: NetworkName },
    #[error("--flat: the networks {name} and {other} have the same prefix {prefix}: give each one of its own")]
    PrefixTwice { name: NetworkName, other: NetworkName, prefix: KeyPrefix },
    #[error(
        "--flat: the keys of {name} ({prefix}) lie among the leases of {other}, or theirs among its own: give it another prefix"
    )]
    PrefixBelow { name: NetworkName, other: NetworkName, prefix: KeyPrefix },
    #[error("--network={name}: give the prefix of its keys too, by --flat {name}=PREFIX or --etcd-prefix")]
    NoPrefix { name: NetworkName },
    #[error("--etcd-certfile and --etcd-keyfile belong together: give both or neither")]
    HalfIdentity,
    #[error("--etcd-password and --etcd-password-file need --etcd-username")]
    PasswordWithoutUser,
    #[error("--etcd-password and --etcd-password-file both give a password: give one of them")]
    TwoPasswords,
    #[error("--etcd-endpoints is empty: name at least one member, like http://10.0.0.1:2379")]
    NoEndpoint,
    #[error("--forward-without: {name:?} is none of uso, tso, gso, gro, vxlan")]
    ForwardWithout { name: String },
    #[error("--iface-regex {text:?} is not a regular expression")]
    Pattern { text: String, source: regex::Error },
}

impl UsageError {
    /// The next step for the reader, if there is one.
    pub(crate) const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Kubernetes { .. } => Some("leave it out, or run flanneld there"),
            Self::Removed { .. }
            | Self::NoHostsAddress { .. }
            | Self::RefusedAddress { .. }
            | Self::SameFile { .. }
            | Self::NetworkTwice { .. }
            | Self::PrefixTwice { .. }
            | Self::NoPrefix { .. }
            | Self::PrefixBelow { .. }
            | Self::HalfIdentity
            | Self::PasswordWithoutUser
            | Self::TwoPasswords
            | Self::NoEndpoint
            | Self::ForwardWithout { .. }
            | Self::Pattern { .. } => None,
        }
    }
}
