//! The network config, the underlay and our public addresses that a network is joined with.

use std::net::IpAddr;

use tracing::info;
use wire_lease::{Admission, Entry, NetworkConfig};
use wire_net::{DualStack, Pool};
use wire_state::Underlay;

use crate::{
    exit::Exit,
    host::Host,
    ports::Ports,
    settings::{UsageError, public_flag},
    state::KnownBy,
    status::UnderlayCondition,
    underlay::{self, Held},
};

/// The network config, the underlay and our public addresses that a network is joined with.
pub(crate) struct JoinContext {
    pub(crate) underlay: Underlay,
    pub(crate) config: NetworkConfig,
    pub(crate) public: DualStack<IpAddr>,
}

impl JoinContext {
    /// The rules for leases of other hosts.
    pub(crate) fn admission(&self, own: &Entry, endpoints: Vec<IpAddr>) -> Admission {
        Admission {
            pools: self.config.pools,
            own: Some(own.lease.subnet),
            public: self.public,
            local: self.underlay.local.clone(),
            macs: own.lease.data.macs(),
            underlay: self.underlay.connected.clone(),
            endpoints,
        }
    }
}

impl<P: Ports> Host<P> {
    /// Finds the underlay, and our addresses on it.
    pub(crate) fn join_context(&self, config: NetworkConfig) -> Result<JoinContext, Exit> {
        let underlay = self.underlay(&config.pools)?;
        info!(link = %underlay.link, mtu = %underlay.mtu, "underlay found");
        check_public(&self.settings.public, &config.pools, &underlay)?;
        self.status.set(UnderlayCondition::PUBLIC_ADDRESS, unused(&self.settings.public, &config.pools));
        let public = self.settings.public_on(&underlay);
        self.status.update(|seen| {
            seen.backend = config.backend.name().to_owned();
            seen.underlay = underlay.link.to_string();
            seen.public = public;
        });
        Ok(JoinContext { underlay, config, public })
    }

    /// Finds the interface for a network with these pools. An earlier choice is kept while the flags are the same.
    pub(super) fn underlay(&self, pools: &DualStack<Pool>) -> Result<Underlay, Exit> {
        underlay::find(&self.ports, &self.settings, pools, self.held_before())
    }

    fn held_before(&self) -> Option<Held> {
        let before = self.state.underlay.as_ref();
        before.filter(|before| before.asked == self.settings.asked_underlay()).and_then(KnownBy::held)
    }

    /// The choice that is kept after a join in this context.
    pub(super) fn held_on(&self, context: &JoinContext) -> Held {
        Held::of(&context.underlay, self.held_before())
    }
}

/// Refuses a public address from the flags if all other hosts would refuse a lease with it.
fn check_public(asked: &DualStack<IpAddr>, pools: &DualStack<Pool>, underlay: &Underlay) -> Result<(), UsageError> {
    let others =
        Admission { pools: *pools, public: underlay.addresses, local: underlay.local.clone(), ..Admission::default() };
    for (family, address) in asked.iter() {
        others.check_as_own(*address).map_err(|reason| UsageError::RefusedAddress {
            flag: public_flag(family),
            address: *address,
            reason,
        })?;
    }
    Ok(())
}

/// The warning about public addresses of a family that the network does not have.
fn unused(asked: &DualStack<IpAddr>, pools: &DualStack<Pool>) -> Option<UnderlayCondition> {
    let (family, address) = asked.iter().find(|(family, _)| pools.get(*family).is_none())?;
    Some(UnderlayCondition::PublicAddressUnused { family, address: *address })
}

#[cfg(test)]
mod tests {
    use wire_net::{Family, LinkName, LocalAddress, Mtu};

    use super::*;

    fn pools(config: &str) -> DualStack<Pool> {
        NetworkConfig::from_json(config.as_bytes()).unwrap().pools
    }

    /// On 192.0.2.0/24 and 2001:db8::/64.
    fn underlay() -> Underlay {
        let local = [("192.0.2.1", 24), ("2001:db8::1", 64), ("10.5.250.1", 28)];
        let local = local.map(|(address, len)| LocalAddress::new(address.parse().unwrap(), len).unwrap());
        let addresses = DualStack { v4: Some(local[0].address), v6: Some(local[1].address) };
        let link: LinkName = "eth0".parse().unwrap();
        let (on_link, connected, attached, local) = (Vec::new(), Vec::new(), Vec::new(), local.to_vec());
        Underlay { link, index: 2, mtu: Mtu(1500), mac: None, addresses, on_link, local, connected, attached }
    }

    fn asked(text: &str) -> DualStack<IpAddr> {
        let address: IpAddr = text.parse().unwrap();
        DualStack::from_fn(|family| (Family::of(address) == family).then_some(address))
    }

    const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.199.0","EnableIPv6":true,"IPv6Network":"fd00:5::/48",
                           "Backend":{"Type":"vxlan"}}"#;
    const V4: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

    #[test]
    fn an_address_with_which_others_would_refuse_our_lease_is_refused_with_the_reason() {
        let refused = [
            ("10.5.7.9", "10.5.7.9 lies inside the overlay network 10.5.0.0/16"),
            ("fd00:5::9", "lies inside the overlay network fd00:5::/48"),
            ("192.0.2.255", "the broadcast address of 192.0.2.0/24"),
            ("192.0.2.0", "192.0.2.0 is the address of 192.0.2.0/24 itself"),
            ("2001:db8::", "any router's address on 2001:db8::/64"),
            ("10.5.250.15", "the broadcast address of 10.5.250.0/28"),
            ("240.0.0.1", "a reserved (240/4) address"),
            ("169.254.0.9", "a link-local address"),
        ];
        for (address, reason) in refused {
            let said = check_public(&asked(address), &pools(DUAL), &underlay()).unwrap_err();
            let flag = if address.contains(':') { "--public-ipv6" } else { "--public-ip" };
            assert!(said.to_string().starts_with(&format!("{flag}={address}: ")), "{said}");
            assert!(said.to_string().contains(reason), "{said}");
        }
    }

    #[test]
    fn an_address_that_others_take_is_taken() {
        // Our own address, another one of the link, one behind 1:1 NAT, and one in the network outside the leased
        // range.
        for address in ["192.0.2.1", "192.0.2.7", "198.51.100.255", "10.5.250.1", "10.5.201.0", "2001:db8::1"] {
            check_public(&asked(address), &pools(DUAL), &underlay()).unwrap();
            assert!(unused(&asked(address), &pools(DUAL)).is_none());
        }
        let link_local = "169.254.0.1".parse().unwrap();
        let local = Underlay { addresses: DualStack { v4: Some(link_local), v6: None }, ..underlay() };
        check_public(&asked("169.254.0.9"), &pools(V4), &local).unwrap();
    }

    #[test]
    fn an_address_of_a_family_that_the_network_has_not_is_named() {
        let said = unused(&asked("2001:db8::9"), &pools(V4)).unwrap().message().to_string();
        assert!(said.starts_with("--public-ipv6=2001:db8::9 is ignored: the network has no IPv6;"), "{said}");
        check_public(&asked("fd00:5::9"), &pools(V4), &underlay()).unwrap();
    }
}
