//! How hosts reach each other: the trait, and the choice by the network config.

use std::collections::BTreeSet;

use wire_lease::{
    BackendConfig, BackendData, DualStack, Family, Lease, LeaseTable, MacAddr, NetworkConfig, Prefix, Vni,
};

use crate::{LinkName, Mtu, NetState, Route, RouteKey, Underlay, Via, alloc::Alloc, vxlan::VxlanBackend};

/// What leases mean for this host's kernel. Pure: the same leases give the same state, at any time.
pub trait Backend: Send + Sync {
    /// All that the kernel should hold for us.
    fn desired(&self, own: &Lease, leases: &LeaseTable) -> NetState;

    /// What our lease says of the backend.
    fn data(&self) -> BackendData;

    /// The MTU of the overlay: the smallest of our devices.
    fn mtu(&self) -> Mtu;

    /// What of the kernel's state is our concern.
    fn scope(&self) -> Scope;
}

/// Where this host stands.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The link to the other hosts.
    pub underlay: Underlay,
    /// The addresses other hosts send to, as our lease says.
    pub public: DualStack<std::net::IpAddr>,
    /// The MACs of our VXLAN devices, see [`crate::choose`].
    pub macs: DualStack<MacAddr>,
    /// Whether packets to addresses of our own subnet that nobody has are dropped (`--ip-blackhole-route`).
    pub blackhole: bool,
}

/// What of the kernel's state is read: our devices with all that is on them, and routes into the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Our devices' names. A VXLAN device with such a name is ours.
    pub devices: BTreeSet<LinkName>,
    /// The underlay's link.
    pub parent: Option<LinkName>,
    /// The overlay's networks: routes that overlap them are looked at.
    pub networks: Vec<Prefix>,
}

/// Why there is no backend for a network config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// flannel's udp, which a config without a Backend means too.
    #[error(
        "the network config asks for the udp backend (flannel takes a config without a Backend for udp), which is not in \
         this version: set Backend to {{\"Type\":\"vxlan\"}}"
    )]
    Udp,
    /// One that is planned.
    #[error("the backend {0} is not in this version: set Backend.Type to vxlan in the network config")]
    NotYet(String),
    /// One that only flannel has.
    #[error(
        "the backend {0} exists in flannel only: set Backend.Type to vxlan in the network config, or stay with flanneld"
    )]
    Foreign(String),
    /// The underlay cannot carry a family of the overlay.
    #[error(
        "the link {link} has no {family} address, so it cannot carry the {family} overlay: give it one, choose another \
         link with --iface, or turn {family} off in the network config"
    )]
    NoUnderlay {
        /// The underlay's link.
        link: LinkName,
        /// The family without an address.
        family: Family,
    },
    /// No room for packets.
    #[error("an MTU of {outer} on {link} leaves {inner} bytes for {family}, which needs {least}: raise it")]
    SmallMtu {
        /// The underlay's link.
        link: LinkName,
        /// The MTU of the underlay, or the one the network config sets.
        outer: Mtu,
        /// What is left of it.
        inner: Mtu,
        /// The family that needs more.
        family: Family,
        /// The least MTU of the family.
        least: Mtu,
    },
    /// A VNI with too many digits.
    #[error("VNI {vni} makes the device name {name}, which is longer than 15 characters: choose a smaller VNI")]
    LongName {
        /// The name it makes.
        name: String,
        /// The VNI.
        vni: Vni,
    },
    /// The caller chose no MAC for a family that is on.
    #[error("no MAC was chosen for the {0} device")]
    NoMac(Family),
}

/// The backend that `config` asks for.
///
/// # Errors
/// When it is not one of ours, or cannot work on this underlay; says what to change.
pub fn select(config: &NetworkConfig, placement: Placement) -> Result<Box<dyn Backend>, SelectError> {
    match &config.backend {
        BackendConfig::Vxlan(vxlan) => Ok(Box::new(VxlanBackend::new(config, vxlan, placement)?)),
        BackendConfig::Alloc => Ok(Box::new(Alloc::new(config, &placement))),
        BackendConfig::Udp { .. } => Err(SelectError::Udp),
        BackendConfig::HostGw | BackendConfig::Wireguard => Err(SelectError::NotYet(config.backend.name().to_owned())),
        BackendConfig::Foreign(name) => Err(SelectError::Foreign(name.clone())),
    }
}

/// Drops packets to addresses of our own subnet that no container has, instead of sending them out by the default route.
///
/// flannel's is metric 0 (`AddBlackholeV4Route` of its pkg/ip/iface.go), which wins over the bridge's own route to the same
/// prefix if it is there first. Ours has the highest metric, so that it only ever catches what nothing else does.
pub(crate) fn blackholes(own: &Lease) -> impl Iterator<Item = (RouteKey, Route)> {
    own.subnet.prefixes().map(|destination| {
        let key = RouteKey { metric: u32::MAX, ..RouteKey::main(destination) };
        (key, Route::ours(Via::Blackhole))
    })
}

#[cfg(test)]
mod tests;
