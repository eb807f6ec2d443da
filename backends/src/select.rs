//! Chooses the backend for a network config. Only this file names all backends.

use std::net::IpAddr;

use wire_lease::{BackendConfig, NetworkConfig};
use wire_net::{Family, LinkName, Mtu, Vni};

use crate::{
    Backend, Identity, Placement, alloc::Alloc, host_gw::HostGw, ipip, ipip::IpipBackend, udp, udp::UdpBackend, vxlan,
    vxlan::VxlanBackend,
};

/// There is no backend for a network config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The config names a backend that is planned.
    #[error("the backend {0} is not in this version: set Backend.Type to vxlan in the network config")]
    NotYet(String),
    /// The config names a backend that only flannel has.
    #[error(
        "the backend {0} exists in flannel only: set Backend.Type to vxlan in the network config, or stay with flanneld"
    )]
    Foreign(String),
    /// The underlay has no address of a family that is enabled in the overlay.
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
    /// The backend host-gw, and a public address that the underlay's link does not have.
    #[error(
        "host-gw needs a public address that this host has: peers would send to {public}, and {link} has {local}; leave out \
         --public-ip and --public-ipv6, or behind NAT set Backend.Type to vxlan in the network config"
    )]
    PublicElsewhere {
        /// The underlay's link.
        link: LinkName,
        /// Its own address.
        local: IpAddr,
        /// Our public address.
        public: IpAddr,
    },
    /// The backend ipip in a network with IPv6.
    #[error(
        "the backend ipip carries IPv4 alone: set EnableIPv6 to false and EnableIPv4 to true in the network config, or Backend.Type \
         to vxlan"
    )]
    Ipv4Only,
    /// The underlay's MTU is too small for the overlay's headers and the smallest packets.
    #[error("an MTU of {outer} on {link} leaves {inner} bytes for {family}, which needs {least}: raise it")]
    SmallMtu {
        /// The underlay's link.
        link: LinkName,
        /// The MTU of the underlay, or a smaller one from the network config.
        outer: Mtu,
        /// The MTU that is left for the overlay.
        inner: Mtu,
        /// The family that needs more.
        family: Family,
        /// The smallest MTU that the family allows.
        least: Mtu,
    },
    /// The VNI has so many digits that the name of the device is too long.
    #[error("VNI {vni} makes the device name {name}, which is longer than 15 characters: choose a smaller VNI")]
    LongName {
        /// The name of the device.
        name: String,
        /// The VNI.
        vni: Vni,
    },
    /// The caller gave no MAC for a family that is enabled.
    #[error("no MAC was chosen for the {0} device")]
    NoMac(Family),
}

/// The backend that `config` asks for.
///
/// # Errors
/// When it is not one of ours, or cannot work on this underlay. The message says what to change.
pub fn select(config: &NetworkConfig, placement: Placement) -> Result<Box<dyn Backend>, SelectError> {
    match &config.backend {
        BackendConfig::Vxlan(vxlan) => Ok(Box::new(VxlanBackend::new(config, vxlan, placement)?)),
        BackendConfig::Alloc => Ok(Box::new(Alloc::new(config, &placement))),
        BackendConfig::Udp { port } => Ok(Box::new(UdpBackend::new(config, *port, &placement)?)),
        BackendConfig::HostGw => Ok(Box::new(HostGw::new(config, &placement)?)),
        BackendConfig::Ipip { direct_routing } => Ok(Box::new(IpipBackend::new(config, *direct_routing, &placement)?)),
        BackendConfig::Wireguard => Err(SelectError::NotYet(config.backend.name().to_owned())),
        BackendConfig::Foreign(name) => Err(SelectError::Foreign(name.clone())),
    }
}

/// The properties of the backend that follow from `config` alone; empty for a backend without devices or one that is not ours.
///
/// # Errors
/// [`SelectError::LongName`].
pub fn identify(config: &NetworkConfig) -> Result<Identity, SelectError> {
    match &config.backend {
        BackendConfig::Vxlan(vxlan) => vxlan::identity(config, vxlan),
        BackendConfig::Udp { port } => Ok(udp::identity(config, *port)),
        BackendConfig::Ipip { .. } => Ok(ipip::identity()),
        BackendConfig::HostGw | BackendConfig::Wireguard | BackendConfig::Alloc | BackendConfig::Foreign(_) => {
            Ok(Identity::default())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
