//! The flags of `wire-agent network`.

use clap::{Args, Subcommand};
use wire_lease::{
    NetworkRange,
    named::{NewNetwork, SubnetWish, pool_prefix},
};
use wire_net::{DualStack, Family, NetworkName, Prefix};

use super::NetworkCommandError;
use crate::cli::Output;

/// A command about networks by name.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network. It is there on every host at once; each takes part in it as soon as it has a container on it.
    Create(CreateFlags),
    /// List all networks, also those that no host takes part in, with the reason. `default` is the flat network.
    Ls(Output),
    /// Show a network with its members, their blocks and single addresses.
    Inspect {
        /// The network.
        name: NetworkName,
        #[command(flatten)]
        output: Output,
    },
    /// Let this host take part in a network, with an address of its own. Asks the agent, and outlives restarts of both.
    Expose {
        /// The network.
        name: NetworkName,
        #[command(flatten)]
        output: Output,
    },
    /// Let this host leave a network: its address, devices and entries go.
    Hide {
        /// The network.
        name: NetworkName,
        #[command(flatten)]
        output: Output,
    },
    /// Change labels and broadcast of a network. All else is as it was made.
    Update(UpdateFlags),
    /// Remove networks. One that a host has a container on is refused, and the host is named.
    Rm {
        /// The networks.
        #[arg(required = true)]
        names: Vec<NetworkName>,
        /// Remove them also if hosts have containers on them. For hosts that are gone for good.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// A new network.
#[derive(Debug, Args)]
pub(crate) struct CreateFlags {
    /// The name: letters, digits, '.', '_' or '-', at most 63.
    pub(crate) name: NetworkName,
    /// The subnet; once for each family. Without it, a free one is chosen from the range in the network config (Networks).
    #[arg(long, value_name = "PREFIX")]
    pub(crate) subnet: Vec<String>,
    /// Give it IPv6 addresses too, from a free subnet or this one.
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "PREFIX")]
    pub(crate) ipv6: Option<Option<String>>,
    /// Give it no IPv4 addresses.
    #[arg(long)]
    pub(crate) no_ipv4: bool,
    /// Give it no way to the outside.
    #[arg(long)]
    pub(crate) internal: bool,
    /// Let no broadcast and multicast pass from host to host.
    #[arg(long)]
    pub(crate) no_broadcast: bool,
    /// The MTU of its containers in bytes. Without it, that of the underlay without VXLAN's overhead.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "BYTES")]
    pub(crate) mtu: u32,
    /// A label; may be given several times.
    #[arg(long, value_parser = label, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<(String, String)>,
    /// An option of Docker's overlay networks. There is none so far.
    #[arg(short = 'o', long = "opt", hide = true, value_name = "NAME=VALUE")]
    pub(crate) options: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// A change of a network.
#[derive(Debug, Args)]
pub(crate) struct UpdateFlags {
    /// The network.
    pub(crate) name: NetworkName,
    /// Set a label; may be given several times.
    #[arg(long, value_parser = label, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<(String, String)>,
    /// Remove a label; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) remove_label: Vec<String>,
    /// Let broadcast and multicast pass from host to host, or not.
    #[arg(long, value_name = "BOOL")]
    pub(crate) broadcast: Option<bool>,
    #[command(flatten)]
    pub(crate) output: Output,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() { Err("it must be NAME=VALUE".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

impl CreateFlags {
    /// The wanted network, whose subnets come from these ranges where none is given.
    ///
    /// # Errors
    /// Names the flag.
    pub(super) fn wanted(
        self,
        ranges: &DualStack<NetworkRange>,
        created: String,
    ) -> Result<NewNetwork, NetworkCommandError> {
        if let Some(option) = self.options.first() {
            let name = option.split_once('=').map_or(option.as_str(), |(name, _)| name);
            return Err(match name {
                "encrypted" => NetworkCommandError::Encrypted,
                _ => NetworkCommandError::Option { name: name.chars().take(64).collect() },
            });
        }
        let given = self.given()?;
        if self.no_ipv4 && given.v4.is_some() {
            return Err(NetworkCommandError::NoIpv4);
        }
        let wants_v6 = self.ipv6.is_some() || given.v6.is_some();
        if self.no_ipv4 && !wants_v6 {
            return Err(NetworkCommandError::NoFamily);
        }
        let wish = |family, is_wanted: bool| {
            let from = || ranges.get(family).copied().map(SubnetWish::From);
            let given = given.get(family).copied().map(SubnetWish::Of);
            is_wanted.then(|| given.or_else(from)).flatten()
        };
        let subnets = DualStack { v4: wish(Family::V4, !self.no_ipv4), v6: wish(Family::V6, wants_v6) };
        Ok(NewNetwork {
            name: self.name,
            subnets,
            internal: self.internal,
            broadcast: !self.no_broadcast,
            mtu: self.mtu,
            labels: self.label.into_iter().collect(),
            created,
        })
    }

    /// The subnets on the command line.
    fn given(&self) -> Result<DualStack<Prefix>, NetworkCommandError> {
        let mut given = DualStack::default();
        let subnets = self.subnet.iter().map(|text| (family_of(text), text));
        let v6 = self.ipv6.iter().flatten().map(|text| (Family::V6, text));
        for (family, text) in subnets.chain(v6) {
            let prefix = pool_prefix(family, text).map_err(NetworkCommandError::Subnet)?;
            if given.get(family).is_some() {
                return Err(NetworkCommandError::SubnetTwice { family });
            }
            given.set(family, Some(prefix));
        }
        Ok(given)
    }
}

fn family_of(text: &str) -> Family {
    if text.contains(':') { Family::V6 } else { Family::V4 }
}
