//! Tunnels whose packets the agent moves itself.

use std::{fmt, net::SocketAddr};

use wire_net::{MacAddr, Prefix, Vni};

/// A tunnel whose packets the agent moves between a TUN device, or a TAP device, and a UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The headers before each inner packet.
    pub framing: Framing,
    /// The source of outer packets. All hosts use the same port.
    pub local: SocketAddr,
    /// This host's subnet: received packets for other destinations are dropped. `None` accepts all.
    pub own: Option<Prefix>,
    /// Whether a received packet must come from the host that has its inner source.
    pub source_check: bool,
    /// The number of queues, each with a thread that moves packets.
    pub queues: usize,
    /// The offloads to use if the kernel has them.
    pub capabilities: Capabilities,
}

/// The headers between the UDP header and the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// None, as in flannel's udp backend.
    Raw,
    /// A VXLAN header and an Ethernet header (RFC 7348 §5).
    Vxlan {
        /// The VXLAN network identifier.
        vni: Vni,
        /// The inner Ethernet address of this host.
        mac: MacAddr,
    },
    /// A VXLAN header before the Ethernet frames of a TAP device, which is a port of a bridge.
    Ethernet {
        /// The VXLAN network identifier.
        vni: Vni,
    },
}

/// The length of a VXLAN header and an Ethernet header without a VLAN tag, in bytes.
pub const VXLAN_LEAD: usize = 8 + ETHERNET;

/// The length of an Ethernet header without a VLAN tag, in bytes.
const ETHERNET: usize = 14;

impl Framing {
    /// The VNI in each packet; `None` for packets without one.
    #[must_use]
    pub const fn vni(self) -> Option<Vni> {
        match self {
            Self::Raw => None,
            Self::Vxlan { vni, .. } | Self::Ethernet { vni } => Some(vni),
        }
    }

    /// The number of bytes before the inner packet.
    #[must_use]
    pub const fn lead(self) -> usize {
        match self {
            Self::Raw => 0,
            Self::Vxlan { .. } | Self::Ethernet { .. } => VXLAN_LEAD,
        }
    }

    /// The number of bytes that the device has before each packet: an Ethernet header, or none.
    #[must_use]
    pub const fn link_header(self) -> usize {
        match self {
            Self::Raw | Self::Vxlan { .. } => 0,
            Self::Ethernet { .. } => ETHERNET,
        }
    }
}

/// The VXLAN header with that VNI (RFC 7348 §5): the I flag says that the VNI is valid; all other bits are reserved and 0.
#[must_use]
pub const fn vxlan_header(vni: Vni) -> [u8; 8] {
    (0x0800_0000_0000_0000 | (vni.number() as u64) << 8).to_be_bytes()
}

/// The offloads by which one call moves several packets. Each is disabled on its own if the kernel lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The device takes and gives several UDP datagrams as one packet (Linux 6.2).
    pub uso: bool,
    /// The device takes and gives several TCP segments as one packet.
    pub tso: bool,
    /// The socket sends several datagrams as one message (`UDP_SEGMENT`, Linux 4.18).
    pub gso: bool,
    /// The socket receives several datagrams as one message (`UDP_GRO`, Linux 5.0).
    pub gro: bool,
}

impl Capabilities {
    /// All offloads.
    pub const ALL: Self = Self { uso: true, tso: true, gso: true, gro: true };

    /// The offloads that both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            uso: self.uso && other.uso,
            tso: self.tso && other.tso,
            gso: self.gso && other.gso,
            gro: self.gro && other.gro,
        }
    }

    /// The name of each offload, and whether it is enabled.
    #[must_use]
    pub const fn named(self) -> [(&'static str, bool); 4] {
        [("uso", self.uso), ("tso", self.tso), ("gso", self.gso), ("gro", self.gro)]
    }

    /// All offloads except those named.
    ///
    /// # Errors
    /// The first name that is no offload.
    pub fn without<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let mut left = Self::ALL;
        for name in names {
            let capability = match name {
                "uso" => &mut left.uso,
                "tso" => &mut left.tso,
                "gso" => &mut left.gso,
                "gro" => &mut left.gro,
                other => return Err(other),
            };
            *capability = false;
        }
        Ok(left)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there: Vec<&str> = self.named().into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
        f.write_str(if there.is_empty() { "none" } else { "" })?;
        f.write_str(&there.join(" "))
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.framing {
            Framing::Raw => write!(f, "raw local {}", self.local)?,
            Framing::Vxlan { vni, mac } => write!(f, "vxlan vni {vni} local {} lladdr {mac}", self.local)?,
            Framing::Ethernet { vni } => write!(f, "ethernet vni {vni} local {}", self.local)?,
        }
        f.write_str(if self.source_check { "" } else { " unchecked" })
    }
}
