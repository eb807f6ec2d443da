//! VXLAN devices, RFC 7348.

use std::{fmt, net::IpAddr};

use wire_net::{Family, Vni};

use super::{LinkId, LinkRef};

/// The kernel's default UDP port (`vxlan_port` of drivers/net/vxlan), which is not RFC 7348's 4789.
const DEFAULT_PORT: u16 = 8472;

/// The settings of a desired VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredVxlan {
    /// The VXLAN network identifier.
    pub vni: Vni,
    /// The link that it sends through; with `None` the host's routes choose it.
    pub parent: Option<LinkRef>,
    /// The source address of outer packets.
    pub local: Option<IpAddr>,
    /// The UDP port; with `None` the kernel's default.
    pub port: Option<u16>,
    /// Whether the Group Policy extension is on.
    pub gbp: bool,
    /// Whether it learns FDB entries from traffic.
    pub learning: bool,
}

/// The settings of a VXLAN device that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedVxlan {
    /// The VXLAN network identifier.
    pub vni: Vni,
    /// The link that it sends through.
    pub parent: Option<LinkId>,
    /// The source address of outer packets.
    pub local: Option<IpAddr>,
    /// The UDP port.
    pub port: u16,
    /// The multicast group or the default destination.
    pub group: Option<IpAddr>,
    /// Whether the Group Policy extension is on.
    pub gbp: bool,
    /// Whether it learns FDB entries from traffic.
    pub learning: bool,
    /// Whether it notifies user space of missing FDB entries.
    pub l2miss: bool,
    /// A receive flag that ours never have: with it, the device cannot share its port with one of ours.
    pub receive_flag: Option<ReceiveFlag>,
}

/// A receive flag that our VXLAN devices never have. Devices can share a port only if their receive flags are equal
/// (`VXLAN_F_RCV_FLAGS` of net/vxlan.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveFlag {
    /// `external`: it receives packets of any VNI.
    Metadata,
    /// `gpe`: it receives packets that are not Ethernet frames (Generic Protocol Extension).
    Gpe,
    /// `udp6zerocsumrx`: it receives IPv6 packets without a UDP checksum.
    ZeroChecksums,
    /// `remcsumrx`: it computes inner checksums that the sender left out.
    RemoteChecksums,
    /// `rsc`: it forwards packets to known IP addresses without a router (route short circuit).
    ShortCircuit,
}

impl DesiredVxlan {
    /// A device with that VNI, and everything else off or as the kernel chooses.
    #[must_use]
    pub const fn new(vni: Vni) -> Self {
        Self { vni, parent: None, local: None, port: None, gbp: false, learning: false }
    }

    /// The UDP port that it will use.
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
    /// A device with that VNI, and everything else off or at the kernel's default.
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
            receive_flag: None,
        }
    }

    /// Whether all settings that cannot be changed in place are as desired, except the link that it sends through.
    pub(super) fn serves_as(&self, want: &DesiredVxlan) -> bool {
        self.vni == want.vni
            && self.local == want.local
            && self.group.is_none()
            && !self.l2miss
            && self.gbp == want.gbp
            && want.port.is_none_or(|port| port == self.port)
    }

    /// Whether it receives outer packets of that family.
    pub(crate) fn receives(&self, family: Family) -> bool {
        // A device with metadata has a socket of each family.
        self.receive_flag == Some(ReceiveFlag::Metadata) || self.underlay() == family
    }

    /// The family of the outer packets.
    fn underlay(&self) -> Family {
        self.local.or(self.group).map_or(Family::V4, Family::of)
    }

    /// Whether it can share its socket with a device of ours, which has no extra flag (`vxlan_find_sock` of drivers/net/vxlan).
    pub(crate) fn shares_port_with(&self, ours: &DesiredVxlan) -> bool {
        self.receive_flag.is_none() && self.gbp == ours.gbp
    }

    /// Whether the kernel refuses `other` while this device exists (`vxlan_vni_in_use` of drivers/net/vxlan).
    pub(crate) fn excludes(&self, other: &DesiredVxlan) -> bool {
        self.vni == other.vni
            && self.port == other.port_in_use()
            && self.underlay() == other.underlay()
            && self.gbp == other.gbp
    }
}

impl fmt::Display for ReceiveFlag {
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

/// The settings that the text of a device shows, desired or observed.
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
