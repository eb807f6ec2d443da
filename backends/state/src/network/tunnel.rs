//! How packets travel that we move ourselves.

use std::fmt;

use wire_net::{MacAddr, Vni};

/// How an inner packet is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The IP packet as it is, as flannel's udp backend has it.
    Raw,
    /// VXLAN (RFC 7348 §5): its header, an Ethernet header, the IP packet.
    Vxlan {
        /// The network identifier.
        vni: Vni,
        /// Our own inner address.
        mac: MacAddr,
    },
}

/// Bytes of a VXLAN header and an Ethernet header without a VLAN tag.
pub const VXLAN_LEAD: usize = 8 + 14;

impl Framing {
    /// The VXLAN network it belongs to, where it says one.
    #[must_use]
    pub const fn vni(self) -> Option<Vni> {
        match self {
            Self::Raw => None,
            Self::Vxlan { vni, .. } => Some(vni),
        }
    }

    /// Bytes before the inner packet.
    #[must_use]
    pub const fn lead(self) -> usize {
        match self {
            Self::Raw => 0,
            Self::Vxlan { .. } => VXLAN_LEAD,
        }
    }
}

/// RFC 7348 §5: the I flag says that there is an identifier, and all else is reserved and 0.
#[must_use]
pub const fn vxlan_header(vni: Vni) -> [u8; 8] {
    (0x0800_0000_0000_0000 | (vni.number() as u64) << 8).to_be_bytes()
}

/// What the kernel does for us beyond one packet for each call. Each is given up by itself where it is not to be had.
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
    /// All of them.
    pub const ALL: Self = Self { uso: true, tso: true, gso: true, gro: true };

    /// What both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            uso: self.uso && other.uso,
            tso: self.tso && other.tso,
            gso: self.gso && other.gso,
            gro: self.gro && other.gro,
        }
    }

    /// Their names, and whether they are there.
    #[must_use]
    pub const fn named(self) -> [(&'static str, bool); 4] {
        [("uso", self.uso), ("tso", self.tso), ("gso", self.gso), ("gro", self.gro)]
    }

    /// All but those named.
    ///
    /// # Errors
    /// With the name that is none.
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
