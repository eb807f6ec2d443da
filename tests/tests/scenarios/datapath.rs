//! The three ways packets of an overlay travel, and what each leaves in the kernel.

use wire_tests::{Encapsulation, Etcd, ExpectedPeer, Family, Host, Result, expect_peers, expect_tunnel, peers_of};

use crate::cluster::DUAL;

/// The same network as [`DUAL`] with flannel's backend `udp`.
pub(crate) const DUAL_UDP: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","EnableIPv6":true,"IPv6Network":"fd00:5::/32",
    "IPv6SubnetMax":"fd00:5:0:ff::","Backend":{"Type":"udp","Port":8285}}"#;

/// How a host's packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Datapath {
    /// By the kernel's VXLAN device.
    KernelVxlan,
    /// By the agent, in VXLAN.
    UserspaceVxlan,
    /// By the agent, in flannel's raw IP.
    UserspaceUdp,
}

impl Datapath {
    /// A network of both families for it.
    pub(crate) fn config(self) -> &'static str {
        match self {
            Self::KernelVxlan | Self::UserspaceVxlan => DUAL,
            Self::UserspaceUdp => DUAL_UDP,
        }
    }

    /// What an agent must be told besides.
    pub(crate) fn flag(self) -> Option<&'static str> {
        match self {
            Self::KernelVxlan | Self::UserspaceUdp => None,
            Self::UserspaceVxlan => Some("--userspace-vxlan"),
        }
    }

    /// What `status` calls it.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::KernelVxlan => "kernel-vxlan",
            Self::UserspaceVxlan => "userspace-vxlan",
            Self::UserspaceUdp => "userspace-udp",
        }
    }

    pub(crate) fn encapsulation(self) -> Encapsulation {
        match self {
            Self::KernelVxlan | Self::UserspaceVxlan => Encapsulation::Vxlan,
            Self::UserspaceUdp => Encapsulation::RawIp,
        }
    }

    /// The UDP port of the first network by name that a host takes part in.
    pub(crate) fn port_of_first_network(self) -> u16 {
        match self {
            Self::KernelVxlan | Self::UserspaceUdp => 8472,
            Self::UserspaceVxlan => 61_000,
        }
    }

    /// Its device of a family.
    pub(crate) fn device(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::KernelVxlan | Self::UserspaceVxlan, Family::V4) => "flannel.1",
            (Self::KernelVxlan | Self::UserspaceVxlan, Family::V6) => "flannel-v6.1",
            (Self::UserspaceUdp, Family::V4) => "flannel0",
            (Self::UserspaceUdp, Family::V6) => "flannel-v60",
        }
    }

    /// The largest UDP payload that passes in one packet.
    pub(crate) fn largest_payload(self, family: Family) -> u32 {
        let headers = match family {
            Family::V4 => 28,
            Family::V6 => 48,
        };
        self.encapsulation().mtu(family) - headers
    }

    /// Checks that a host's kernel holds exactly what the leases in etcd ask for.
    pub(crate) fn exact(self, host: &Host, etcd: &Etcd, family: Family) -> Result {
        self.holds(host, family, &self.peers_of(host, etcd, family)?)
    }

    /// The other hosts' leases in etcd that a kernel must know.
    pub(crate) fn peers_of(self, host: &Host, etcd: &Etcd, family: Family) -> Result<Vec<ExpectedPeer>> {
        match self {
            Self::KernelVxlan | Self::UserspaceVxlan => peers_of(host, etcd, family),
            // One route leads to all of them.
            Self::UserspaceUdp => Ok(Vec::new()),
        }
    }

    /// Checks that a host's kernel holds exactly what these peers ask for.
    pub(crate) fn holds(self, host: &Host, family: Family, peers: &[ExpectedPeer]) -> Result {
        let device = self.device(family);
        match (self, family) {
            (Self::KernelVxlan, _) => expect_peers(host, device, family, peers),
            // Neighbours and FDB are the agent's own: the kernel needs to know the way into the TUN alone.
            (Self::UserspaceVxlan, _) => {
                let routes: Vec<_> = peers.iter().map(|peer| format!("{}/{}", peer.subnet, peer.len)).collect();
                expect_tunnel(host, device, family, &routes)
            }
            (Self::UserspaceUdp, Family::V4) => expect_tunnel(host, device, family, &["10.5.0.0/16".to_owned()]),
            (Self::UserspaceUdp, Family::V6) => expect_tunnel(host, device, family, &["fd00:5::/32".to_owned()]),
        }
    }
}
