//! Packets, as far as their way depends on them.

use std::{fmt, net::IpAddr};

use wire_net::{MacAddr, Vni};

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address, of the same family.
    pub destination: IpAddr,
    /// Its UDP destination port; `None` if it is not UDP, or the port is not known.
    pub udp_port: Option<u16>,
    /// The packet inside, if it is the outer packet of an overlay.
    pub inner: Option<Box<Encapsulated>>,
}

/// The contents of an outer packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encapsulated {
    /// The headers between UDP and the inner packet; `None` if there are none, as in flannel's udp backend, and for IPIP.
    pub header: Option<VxlanHeader>,
    /// The inner packet.
    pub packet: Packet,
}

/// A VXLAN header and the Ethernet header behind it (RFC 7348 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanHeader {
    /// The VNI.
    pub vni: Vni,
    /// The inner source MAC, if it is known.
    pub source: Option<MacAddr>,
    /// The inner destination MAC.
    pub destination: MacAddr,
}

impl Packet {
    /// A packet that is not UDP.
    #[must_use]
    pub const fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self { source, destination, udp_port: None, inner: None }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}", self.source, self.destination)?;
        self.udp_port.map_or(Ok(()), |port| write!(f, ", UDP port {port}"))?;
        if self.udp_port.is_none() && self.inner.is_some() {
            f.write_str(", IPIP")?;
        }
        match self.inner.as_deref().and_then(|inner| inner.header) {
            Some(VxlanHeader { vni, destination, .. }) => write!(f, ", VNI {vni}, inner destination MAC {destination}"),
            None => Ok(()),
        }
    }
}
