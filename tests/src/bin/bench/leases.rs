//! The leases that the bench puts into etcd, in one family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire_store::Write;
use wire_tests::{Etcd, ExpectedPeer, Family};

/// Hosts lease from the first subnets; [`Lease`] has others.
const CONFIG_V4: &str =
    r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMax":"10.4.255.0","Backend":{"Type":"vxlan"}}"#;
const CONFIG_V6: &str = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/32","IPv6SubnetMax":"fd00:5:0:ff::",
    "Backend":{"Type":"vxlan"}}"#;
const CONFIG_HOST_GW: &str =
    r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMax":"10.4.255.0","Backend":{"Type":"host-gw"}}"#;
/// The prefix of a network that no agent watches, only the bare client.
pub(crate) const BARE_PREFIX: &str = "/bare/network";

/// The first bytes of every MAC here.
const MAC_BEGIN: [u8; 3] = [0x02, 0xaa, 0];

/// The lease of a host that exists only in etcd. Each change of it is a version: same subnet, another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lease {
    pub(crate) family: Family,
    /// From 1 to 64 255.
    pub(crate) number: u16,
    /// Counted modulo 16.
    pub(crate) version: u8,
    pub(crate) way: Way,
}

/// The way to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Vxlan,
    /// As a gateway on the underlay's link: IPv4 alone.
    HostGw,
}

/// The network config of an overlay of one family, with room for all leases.
pub(crate) const fn config(family: Family, way: Way) -> &'static str {
    match (way, family) {
        (Way::Vxlan, Family::V4) => CONFIG_V4,
        (Way::Vxlan, Family::V6) => CONFIG_V6,
        (Way::HostGw, _) => CONFIG_HOST_GW,
    }
}

/// The VXLAN device that the agent makes.
pub(crate) const fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    }
}

/// The prefix of the keys of all leases of a network.
pub(crate) fn directory(prefix: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{prefix}/subnets/"),
        Family::V6 => format!("{prefix}/wire/subnets/"),
    }
}

/// The first `count` leases.
pub(crate) fn many(family: Family, way: Way, count: u16) -> Vec<Lease> {
    (1..=count).map(|number| Lease { way, ..Lease::new(family, number) }).collect()
}

impl Lease {
    pub(crate) const fn new(family: Family, number: u16) -> Self {
        Self { family, number, version: 0, way: Way::Vxlan }
    }

    /// The same subnet, leased by another host.
    pub(crate) const fn next(self) -> Self {
        Self { version: (self.version + 1) % 16, ..self }
    }

    pub(crate) fn subnet(&self) -> IpAddr {
        // 10.0 to 10.4, and fd00:5:0:0 to fd00:5:0:ff, are left to real hosts.
        let [high, low] = self.number.to_be_bytes();
        match self.family {
            Family::V4 => Ipv4Addr::new(10, 5 + high, low, 0).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 5, 1, self.number, 0, 0, 0, 0).into(),
        }
    }

    const fn len(&self) -> u8 {
        match self.family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    pub(crate) fn public(&self) -> IpAddr {
        let [high, low] = self.number.to_be_bytes();
        match self.family {
            Family::V4 => Ipv4Addr::new(172, 16 + self.version, high, low).into(),
            Family::V6 => Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, self.version.into(), self.number).into(),
        }
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        let [high, low] = self.number.to_be_bytes();
        let [first, second, third] = MAC_BEGIN;
        [first, second, third, self.version, high, low]
    }

    /// The MAC of one of these leases that a message holds.
    pub(crate) fn mac_in(body: &[u8]) -> Option<[u8; 6]> {
        body.windows(6).find(|mac| mac.starts_with(&MAC_BEGIN))?.try_into().ok()
    }

    fn mac_text(&self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }

    fn key(&self, prefix: &str) -> Vec<u8> {
        format!("{}{}-{}", directory(prefix, self.family), self.subnet(), self.len()).into_bytes()
    }

    fn value(&self) -> Vec<u8> {
        let (public, mac) = (self.public(), self.mac_text());
        let text = match self.family {
            _ if self.way == Way::HostGw => {
                format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
            }
            Family::V4 => format!(
                r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
            ),
            Family::V6 => format!(
                r#"{{"PublicIP":"0.0.0.0","PublicIPv6":"{public}","BackendType":"vxlan","BackendV6Data":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
            ),
        };
        text.into_bytes()
    }

    pub(crate) fn put(&self, prefix: &str) -> Write {
        // The writer adds its own etcd lease.
        Write::Put { key: self.key(prefix), value: self.value(), lease: None }
    }

    pub(crate) fn delete(&self, prefix: &str) -> Write {
        Write::Delete(self.key(prefix))
    }

    /// What every notification about this lease holds: its subnet's address, its VTEP's MAC, or that of the version before, whose FDB
    /// entry goes.
    pub(crate) fn needles(&self) -> [Vec<u8>; 3] {
        [bytes(self.subnet()), self.mac().to_vec(), self.before().mac().to_vec()]
    }

    /// The same for the elements of sets: its public address, or that of the version before.
    pub(crate) fn needles_of_elements(&self) -> [Vec<u8>; 2] {
        [bytes(self.public()), bytes(self.before().public())]
    }

    const fn before(self) -> Self {
        Self { version: (self.version + 15) % 16, ..self }
    }

    pub(crate) fn expected(&self) -> ExpectedPeer {
        ExpectedPeer { subnet: self.subnet(), len: self.len(), public: self.public(), mac: self.mac_text() }
    }
}

/// An address in network byte order.
pub(crate) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Whose network a lease is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Agent,
    Bare,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Agent, Self::Bare];

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Agent => Etcd::PREFIX,
            Self::Bare => BARE_PREFIX,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn leases_differ_in_all_that_a_kernel_holds_of_them_and_versions_in_all_but_the_subnet() {
        for family in [Family::V4, Family::V6] {
            let leases = many(family, Way::Vxlan, 64_000);
            let subnets: BTreeSet<_> = leases.iter().map(Lease::subnet).collect();
            let publics: BTreeSet<_> = leases.iter().map(Lease::public).collect();
            assert_eq!((subnets.len(), publics.len()), (64_000, 64_000));
            let (lease, next) = (leases[9], leases[9].next());
            assert_eq!(lease.subnet(), next.subnet());
            assert_ne!(lease.public(), next.public());
            assert_ne!(lease.mac(), next.mac());
            assert_eq!(Lease::mac_in(&[&[10, 0], &next.mac()[..], &[0]].concat()), Some(next.mac()));
        }
    }
}
