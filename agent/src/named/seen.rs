//! How a network by name stands on this host, for the status.

use std::net::IpAddr;

use wire_net::{DualStack, Vni};

use super::Wish;

/// The state of this host's part in a network, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkSeen {
    pub(crate) state: NetworkState,
    /// True if its operator has said that it shall take part; else it does so for its containers.
    pub(crate) is_exposed: bool,
    /// The reason why it is not as it should be; else empty.
    pub(crate) reason: String,
    pub(crate) vni: Option<Vni>,
    /// The addresses of this host on it.
    pub(crate) own: DualStack<IpAddr>,
    /// Its blocks and single addresses.
    pub(crate) rooms: Vec<String>,
    /// The number of other hosts.
    pub(crate) others: usize,
    /// The UDP port on which this host listens for it.
    pub(crate) port: Option<u16>,
    /// True if the agent moves its packets, since the kernel has no VXLAN or was not to be asked.
    pub(crate) is_userspace: bool,
}

/// The progress of this host with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkState {
    /// It shall take part, and does not yet.
    Waiting,
    /// It takes part.
    Joined,
    /// It is about to leave.
    Leaving,
}

impl NetworkState {
    /// The stable name, for programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Joined => "joined",
            Self::Leaving => "leaving",
        }
    }
}

impl NetworkSeen {
    /// The things that this host cannot do on it, for people; empty if it can do all.
    pub(crate) const fn lacks(&self) -> &'static str {
        match self.is_userspace {
            true => {
                "broadcast, multicast, and protocols other than IPv4 and IPv6 (the agent moves the packets, not the kernel's VXLAN)"
            }
            false => "",
        }
    }

    /// True if this is what was wished, or on the way there.
    pub(crate) fn is_wished(&self, wish: Wish) -> bool {
        match wish {
            Wish::Expose => self.is_exposed,
            Wish::Hide => !self.is_exposed,
        }
    }
}
