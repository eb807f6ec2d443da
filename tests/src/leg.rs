//! A leg: a namespace behind a host, in the place of a container, without a dockerd.

use std::net::IpAddr;

use wire_net::Family;

use crate::{Host, Kernel, LabError, Namespace, Result};

/// A namespace whose only way out is its host. It has the second address of each subnet; the host has the first.
#[derive(Debug)]
pub struct Leg {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
}

impl Leg {
    /// Puts one behind a host, with an address in each of these subnets, which are given as the host's own address and the
    /// length: `10.5.7.1/24`, as subnet.env has it. The MTU is that of both ends of the pair of devices, `leg0` on the host and
    /// `eth0`.
    ///
    /// # Errors
    /// Where a subnet is none, and what `ip` says.
    pub fn new(host: &Host, gateways: &[String], mtu: u32) -> Result<Self> {
        let run = host.namespace().run();
        let namespace = Namespace::new(run, &format!("{}-leg", host.name()))?;
        let (outside, inside) = (host.namespace(), namespace.name());
        outside.ip(&format!("link add leg0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {inside}"))?;
        // Otherwise neither end can ask for the other in its first second, for want of a link-local address.
        outside.exec("sysctl -qw net.ipv6.conf.leg0.accept_dad=0")?;
        namespace.exec("sysctl -qw net.ipv6.conf.eth0.accept_dad=0")?;
        outside.ip("link set leg0 up")?;
        namespace.ip("link set eth0 up")?;
        let mut addresses = Vec::new();
        for gateway in gateways {
            let (gateway, len) = parts(gateway)?;
            let own = next(gateway);
            outside.ip(&format!("address add {gateway}/{len} dev leg0 nodad"))?;
            namespace.ip(&format!("address add {own}/{len} dev eth0 nodad"))?;
            namespace.ip(&format!("route add default via {gateway}"))?;
            addresses.push(own);
        }
        Ok(Self { namespace, addresses })
    }

    /// One that has its link and its addresses from an agent.
    #[must_use]
    pub const fn attached(namespace: Namespace, addresses: Vec<IpAddr>) -> Self {
        Self { namespace, addresses }
    }

    /// Its namespace.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What its kernel holds.
    #[must_use]
    pub const fn kernel(&self) -> Kernel<'_> {
        Kernel::new(&self.namespace)
    }

    /// Its address in a family.
    ///
    /// # Errors
    /// Where it has none.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        let own = self.addresses.iter().copied().find(|address| Family::of(*address) == family);
        own.ok_or_else(|| LabError::Wrong(format!("{} has only {:?}", self.namespace.name(), self.addresses)))
    }
}

fn parts(gateway: &str) -> Result<(IpAddr, u8)> {
    let parts = gateway.split_once('/').and_then(|(ip, len)| Some((ip.parse().ok()?, len.parse().ok()?)));
    parts.ok_or_else(|| LabError::Wrong(format!("{gateway:?} is no address with a length")))
}

/// The address after this one.
fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + 1).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_has_the_address_after_its_gateway() {
        let (gateway, len) = parts("10.5.7.1/24").unwrap();
        assert_eq!((next(gateway), len), ("10.5.7.2".parse().unwrap(), 24));
        assert_eq!(next("fd00:5:7::1".parse().unwrap()), "fd00:5:7::2".parse::<IpAddr>().unwrap());
        assert!(parts("10.5.7.1").is_err());
    }
}
