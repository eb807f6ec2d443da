//! The leases of hosts that a backend reaches: by what they say, or by the backend that their hosts still speak beside it. Pure.

use std::{borrow::Cow, fmt};

use wire_lease::{BackendConfig, BackendData, FormerBackend, Lease, NetworkConfig};
use wire_net::Vni;

/// The leases that a backend takes for those of hosts that it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reaches {
    /// None: it moves no packets.
    Nobody,
    /// Those without a type, as udp has them.
    Untyped,
    /// Those of host-gw.
    HostGw,
    /// Those of ipip.
    Ipip,
    /// Those of vxlan with this VNI, or without one, as old ones are.
    Vxlan(Vni),
}

impl Reaches {
    /// Those that the backend of a network config reaches.
    #[must_use]
    pub const fn of(config: &NetworkConfig) -> Self {
        match &config.backend {
            BackendConfig::Vxlan(vxlan) => Self::Vxlan(vxlan.vni),
            BackendConfig::Udp { .. } => Self::Untyped,
            BackendConfig::HostGw => Self::HostGw,
            BackendConfig::Ipip { .. } => Self::Ipip,
            BackendConfig::Wireguard | BackendConfig::Alloc | BackendConfig::Foreign(_) => Self::Nobody,
        }
    }

    /// True if a host with such data is reached.
    #[must_use]
    pub fn has(self, data: &BackendData) -> bool {
        match (self, data) {
            (Self::Untyped, BackendData::Untyped)
            | (Self::HostGw, BackendData::HostGw)
            | (Self::Ipip, BackendData::Ipip) => true,
            (Self::Vxlan(vni), BackendData::Vxlan(vteps)) => {
                vteps.iter().all(|(_, vtep)| vtep.vni.is_none_or(|other| other == vni))
            }
            (Self::Nobody | Self::Untyped | Self::HostGw | Self::Ipip | Self::Vxlan(_), _) => false,
        }
    }

    /// A peer's lease as the backend is to take it: with the data of the backend that both speak. `None` if the peer is not reached.
    #[must_use]
    pub fn seen(self, peer: &Lease) -> Option<Cow<'_, Lease>> {
        if self.has(&peer.data) {
            return Some(Cow::Borrowed(peer));
        }
        let FormerBackend { data, port } = peer.former.as_deref().filter(|former| self.has(&former.data))?;
        Some(Cow::Owned(Lease { data: data.clone(), port: *port, ..peer.clone() }))
    }
}

impl fmt::Display for Reaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("none"),
            Self::Untyped => f.write_str("udp"),
            Self::HostGw => f.write_str("host-gw"),
            Self::Ipip => f.write_str("ipip"),
            Self::Vxlan(vni) => write!(f, "vxlan with VNI {vni}"),
        }
    }
}
