//! VXLAN devices, RFC 7348.

use std::{fmt, net::IpAddr};

use wire_net::{Family, Vni};

use super::{LinkId, LinkRef};

/// The kernel's default UDP port (`vxlan_port` of drivers/net/vxlan), which is not RFC 7348's 4789.
const DEFAULT_PORT: u16 = 8472;

/// A VXLAN device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredVxlan {
    /// The network identifier.
    pub vni: Vni,
    /// The link it sends through; `None` leaves that to the routes.
    pub parent: Option<LinkRef>,
    /// The source of encapsulated packets.
    pub local: Option<IpAddr>,
    /// The UDP port; `None` leaves it to the kernel.
    pub port: Option<u16>,
    /// Group Policy extension.
    pub gbp: bool,
    /// Whether it learns from traffic.
    pub learning: bool,
}

/// A VXLAN device as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVxlan {
    /// The network identifier.
    pub vni: Vni,
    /// The link it sends through.
    pub parent: Option<LinkId>,
    /// The source of encapsulated packets.
    pub local: Option<IpAddr>,
    /// The UDP port.
    pub port: u16,
    /// The multicast group or default destination.
    pub group: Option<IpAddr>,
    /// Group Policy extension.
    pub gbp: bool,
    /// Whether it learns from traffic.
    pub learning: bool,
    /// Whether it reports missing MACs.
    pub l2miss: bool,
    /// What it takes in that ours do not: the kernel lets no two such devices share a port.
    pub extra: Option<Extra>,
}

/// What a VXLAN device takes in that ours do not, of what must agree where devices share a port (`VXLAN_F_RCV_FLAGS` of
/// net/vxlan.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// `external`: packets of any VNI.
    Metadata,
    /// `gpe`: packets that are no Ethernet frames.
    Gpe,
    /// `udp6zerocsumrx`: IPv6 packets without a checksum.
    ZeroChecksums,
    /// `remcsumrx`: checksums left to the receiver.
    RemoteChecksums,
    /// `rsc`: route short circuit.
    ShortCircuit,
}

impl DesiredVxlan {
    /// A device of that identifier with everything else off or left to the kernel.
    #[must_use]
    pub const fn new(vni: Vni) -> Self {
        Self { vni, parent: None, local: None, port: None, gbp: false, learning: false }
    }

    /// The port it will use.
    #[must_use]
    pub fn port_in_use(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }

    /// The family of the outer packets.
    #[must_use]
    pub fn underlay(&self) -> Family {
        self.local.map_or(Family::V4, Family::of)
    }
}

impl ObservedVxlan {
    /// A device of that identifier with everything else off or as the kernel has it by default.
    #[must_use]
    pub const fn new(vni: Vni) -> Self {
        Self {
            vni,
            parent: None,
            local: None,
            port: DEFAULT_PORT,
            group: None,
            gbp: false,
            learning: false,
            l2miss: false,
            extra: None,
        }
    }

    /// Whether all but the link it sends through, and what can be set in place, is as desired.
    pub(super) fn serves_as(&self, want: &DesiredVxlan) -> bool {
        self.vni == want.vni
            && self.local == want.local
            && self.group.is_none()
            && !self.l2miss
            && self.gbp == want.gbp
            && want.port.is_none_or(|port| port == self.port)
    }

    /// Whether it takes in packets of that family.
    pub(crate) fn hears(&self, family: Family) -> bool {
        // What the packets are to be, those who send them say.
        self.extra == Some(Extra::Metadata) || self.underlay() == family
    }

    /// The family of the outer packets.
    fn underlay(&self) -> Family {
        self.local.or(self.group).map_or(Family::V4, Family::of)
    }

    /// Whether its socket can be that of a device of ours, too (`vxlan_find_sock` of drivers/net/vxlan). Ours take nothing extra.
    pub(crate) fn shares_port_with(&self, ours: &DesiredVxlan) -> bool {
        self.extra.is_none() && self.gbp == ours.gbp
    }

    /// Whether the kernel refuses `other` while this device is there (`vxlan_vni_in_use` of drivers/net/vxlan).
    pub(crate) fn excludes(&self, other: &DesiredVxlan) -> bool {
        self.vni == other.vni
            && self.port == other.port_in_use()
            && self.underlay() == other.underlay()
            && self.gbp == other.gbp
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "collects metadata (external)",
            Self::Gpe => "accepts other packets than Ethernet frames (gpe)",
            Self::ZeroChecksums => "accepts IPv6 packets without checksums (udp6zerocsumrx)",
            Self::RemoteChecksums => "computes checksums for the sender (remcsumrx)",
            Self::ShortCircuit => "short-circuits routes (rsc)",
        })
    }
}

impl fmt::Display for DesiredVxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vni, parent, local, gbp, learning, .. } = self;
        Shown { vni: *vni, parent: *parent, local: *local, port: self.port_in_use(), learning: *learning, gbp: *gbp }
            .fmt(f)
    }
}

impl fmt::Display for ObservedVxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vni, parent, local, port, gbp, learning, .. } = self;
        Shown { vni: *vni, parent: *parent, local: *local, port: *port, learning: *learning, gbp: *gbp }.fmt(f)
    }
}

/// The settings that are shown, of either.
struct Shown<P> {
    vni: Vni,
    parent: Option<P>,
    local: Option<IpAddr>,
    port: u16,
    learning: bool,
    gbp: bool,
}

impl<P: fmt::Display> fmt::Display for Shown<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vxlan vni {}", self.vni)?;
        if let Some(parent) = &self.parent {
            write!(f, " dev {parent}")?;
        }
        if let Some(local) = self.local {
            write!(f, " local {local}")?;
        }
        write!(f, " port {}", self.port)?;
        f.write_str(if self.learning { " learning" } else { " nolearning" })?;
        f.write_str(if self.gbp { " gbp" } else { "" })
    }
}
