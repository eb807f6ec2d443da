//! A kernel VXLAN overlay made by hand, for the lab to look at without an agent.

use std::net::IpAddr;

use wire_tests::{ExpectedPeer, Family, Host, Result};

/// An overlay in flannel's form, made by `ip` and `bridge`.
pub(crate) struct Overlay {
    family: Family,
    pub(crate) device: &'static str,
}

impl Overlay {
    pub(crate) fn of(family: Family) -> Self {
        let device = match family {
            Family::V4 => "flannel.1",
            Family::V6 => "flannel-v6.1",
        };
        Self { family, device }
    }

    pub(crate) fn address(&self, number: u8) -> IpAddr {
        match self.family {
            Family::V4 => [10, 5, number, 0].into(),
            Family::V6 => [0xfd00, 5, number.into(), 0, 0, 0, 0, 0].into(),
        }
    }

    fn underlay_address(&self, host: &Host) -> IpAddr {
        match self.family {
            Family::V4 => host.v4().into(),
            Family::V6 => host.v6().into(),
        }
    }

    pub(crate) fn peer(&self, host: &Host, number: u8) -> ExpectedPeer {
        let len = if self.family == Family::V4 { 24 } else { 64 };
        let mac = format!("02:00:00:00:00:0{number}");
        ExpectedPeer { subnet: self.address(number), len, public: self.underlay_address(host), mac }
    }

    pub(crate) fn put(&self, own: &Host, other: &Host, [own_number, other_number]: [u8; 2]) -> Result {
        let ExpectedPeer { subnet, len, public, mac } = self.peer(other, other_number);
        let ExpectedPeer { subnet: own_subnet, public: local, mac: own_mac, .. } = self.peer(own, own_number);
        // Two VXLAN devices of one VNI and port need one family each; ip takes it from `local`.
        let (device, whole) = (self.device, if self.family == Family::V4 { 32 } else { 128 });
        let namespace = own.namespace();
        namespace.ip(&format!(
            "link add {device} address {own_mac} type vxlan id 1 local {local} dev eth0 dstport 8472 nolearning"
        ))?;
        namespace.ip(&format!("address add {own_subnet}/{whole} dev {device} nodad"))?;
        namespace.ip(&format!("link set {device} up"))?;
        namespace.ip(&format!("neighbour add {subnet} lladdr {mac} dev {device} nud permanent"))?;
        namespace.bridge(&format!("fdb add {mac} dev {device} dst {public} self permanent"))?;
        namespace.ip(&format!("route add {subnet}/{len} via {subnet} dev {device} onlink")).map(drop)
    }
}
