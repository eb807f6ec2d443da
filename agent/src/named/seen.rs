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
    /// True if this is what was wished, or on the way there.
    pub(crate) fn is_wished(&self, wish: Wish) -> bool {
        match wish {
            Wish::Expose => self.is_exposed,
            Wish::Hide => !self.is_exposed,
        }
    }
}
