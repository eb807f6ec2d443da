//! Moving packets between a TUN device and a UDP socket, for kernels that do not encapsulate themselves.
//!
//! Flow out: [`egress`] reads from the device, looks up the peer ([`table`]), cuts large packets ([`split`]), puts the
//! framing before them ([`framing`]), joins what goes to one peer ([`queue`]) and sends it ([`udp`]). Flow in: [`ingress`]
//! receives, checks, passes marks of congestion on ([`ecn`]), joins packets of one flow ([`coalesce`]) and writes them to the device ([`tun`]). A [`worker`] is a
//! thread that does both; an [`engine`] is a device with its workers; the [`Forwarder`] has all engines, and is what the
//! dataplane reads and writes like the kernel itself.
//!
//! Off the async runtime. Knows nothing of leases. Payload is copied by the kernel only.

mod checksum;
mod coalesce;
mod counters;
mod ecn;
mod egress;
mod engine;
mod forwarder;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod icmp;
mod ingress;
mod packet;
mod queue;
mod split;
mod table;
mod tun;
mod udp;
mod unfinished;
mod vnet;
mod worker;

use std::fmt;

pub use forwarder::{Forwarder, Handle, Kept, TunnelSeen, Tunnels, Turn};
pub use framing::Framing;
pub(crate) use framing::{VXLAN_LEAD, vxlan_header};
pub use worker::Fault;

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
    const fn and(self, other: Self) -> Self {
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
