//! Reading the kernel's settings, as far as they concern the overlay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use wire_lease::{DualStack, Family};

use super::{
    DataplaneError,
    attribute::{attributes, number},
    decode::{self, INET, INET6},
    encode,
    holders::holds,
    read::Other,
    socket::{Batch, Netlink},
    sysctl,
};
use crate::{LinkName, Scope, Setting};

/// What a link message says of a link's settings.
#[derive(Clone, Debug)]
pub(crate) struct LinkSettings {
    pub(crate) name: LinkName,
    pub(crate) index: u32,
    /// Whether packets that come in by it never reach the host's own IP: it is a port of a bridge, or the host itself.
    is_inner: bool,
    is_bridge: bool,
    forwards: DualStack<bool>,
    router_advertisements: u32,
    /// `None` where it has no IPv6.
    disable_ipv6: Option<bool>,
}

/// Those that a link's are looked at with.
pub(super) struct Looked<'a> {
    pub(super) scope: &'a Scope,
    /// Our own devices, by number.
    pub(super) ours: &'a decode::Names,
    /// The links that have learnt a route from a router.
    pub(super) learnt: &'a BTreeSet<u32>,
    /// The bridges that containers may be on.
    pub(super) holders: &'a BTreeSet<u32>,
}

/// The host's settings, and those of `links` that matter.
pub(super) fn read<'a>(links: impl Iterator<Item = &'a LinkSettings>, looked: &Looked<'_>) -> BTreeMap<Setting, u32> {
    let whole = |family| Some((Setting::Forwarding(family), u32::from(sysctl::get(Setting::Forwarding(family))? != 0)));
    let mut found: BTreeMap<Setting, u32> = Family::ALL.into_iter().filter_map(whole).collect();
    links.for_each(|link| looked.add(link, &mut found));
    found
}

impl Looked<'_> {
    fn add(&self, link: &LinkSettings, found: &mut BTreeMap<Setting, u32>) {
        let name = link.name;
        let ours = self.ours.contains_key(&link.index);
        if ours || self.holders.contains(&link.index) {
            let forwards = link.forwards.iter().filter(|(family, _)| ours || *family == Family::V4);
            found.extend(forwards.map(|(family, on)| (Setting::LinkForwarding(family, name), u32::from(*on))));
        }
        if ours {
            found.extend(link.disable_ipv6.map(|off| (Setting::DisableIpv6(name), u32::from(off))));
        } else if self.would_lose(link) {
            found.insert(Setting::RouterAdvertisements(name), link.router_advertisements);
        }
    }

    /// Whether a link takes routes from routers, and would not where this host forwards. What is on bridges may be containers:
    /// those count only where they have routers.
    fn would_lose(&self, link: &LinkSettings) -> bool {
        let has_router = self.learnt.contains(&link.index) || self.scope.parent == Some(link.name);
        let listens = link.forwards.v6 == Some(false) && !link.is_bridge && !link.is_inner;
        link.router_advertisements == 1 && link.disable_ipv6 == Some(false) && (has_router || listens)
    }
}

/// The bridges that containers may be on: those with an IPv4 address inside the overlay's networks.
pub(super) fn bridges(netlink: &mut Netlink, scope: &Scope, links: &[Other]) -> Result<BTreeSet<u32>, DataplaneError> {
    let is_bridge = |settings: &&LinkSettings| settings.is_bridge && scope.parent != Some(settings.name);
    let bridges: BTreeSet<u32> =
        links.iter().map(|other| &other.settings).filter(is_bridge).map(|settings| settings.index).collect();
    if bridges.is_empty() {
        return Ok(bridges);
    }
    let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, Family::V4, 0);
    let inside = |(index, address, len): (u32, IpAddr, u8)| {
        (bridges.contains(&index) && holds(&(address, len), &scope.networks)).then_some(index)
    };
    let found = netlink.dump("addresses", &request, |body| decode::any_address(body).and_then(inside))?;
    Ok(found.into_iter().collect())
}

/// A link message's settings (`IFLA_AF_SPEC` of linux/if_link.h).
pub(crate) fn of_link(name: LinkName, body: &[u8]) -> Option<LinkSettings> {
    const MASTER: u16 = 10;
    const LINKINFO: u16 = 18;
    const AF_SPEC: u16 = 26;
    const LOOPBACK: u32 = 8;
    let (index, flags) = (number(body.get(4..8)?)?, number(body.get(8..12)?)?);
    let mut link = LinkSettings { index, is_inner: flags & LOOPBACK != 0, ..LinkSettings::empty(name) };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            MASTER => link.is_inner = true,
            LINKINFO => link.is_bridge = attributes(value).any(|(kind, value)| kind == 1 && value == b"bridge\0"),
            AF_SPEC => attributes(value).for_each(|(family, value)| link.read_family(family, value)),
            _ => {}
        }
    }
    Some(link)
}

impl LinkSettings {
    fn empty(name: LinkName) -> Self {
        Self {
            name,
            index: 0,
            is_inner: false,
            is_bridge: false,
            forwards: DualStack::default(),
            router_advertisements: 0,
            disable_ipv6: None,
        }
    }

    /// The arrays of `IFLA_INET_CONF`, which begins with `IPV4_DEVCONF_FORWARDING` of linux/ip.h, and `IFLA_INET6_CONF`, by the
    /// `DEVCONF_*` of linux/ipv6.h.
    fn read_family(&mut self, family: u16, value: &[u8]) {
        const INET_CONF: u16 = 1;
        const INET6_CONF: u16 = 2;
        const FORWARDING: usize = 0;
        const ACCEPT_RA: usize = 3;
        const DISABLE_IPV6: usize = 26;
        for (kind, value) in attributes(value) {
            let at = |place: usize| value.get(place * 4..).and_then(number);
            if family == u16::from(INET) && kind == INET_CONF {
                self.forwards.v4 = at(FORWARDING).map(|value| value != 0);
            } else if family == u16::from(INET6) && kind == INET6_CONF {
                self.forwards.v6 = at(FORWARDING).map(|value| value != 0);
                self.router_advertisements = at(ACCEPT_RA).unwrap_or_default();
                self.disable_ipv6 = at(DISABLE_IPV6).map(|value| value != 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32) -> LinkSettings {
        LinkSettings {
            index,
            forwards: DualStack { v4: Some(false), v6: Some(false) },
            router_advertisements: 1,
            disable_ipv6: Some(false),
            ..LinkSettings::empty(name.parse().unwrap())
        }
    }

    /// Which of these links are found to lose what routers tell them.
    fn losers(links: &[LinkSettings], learnt: &[u32]) -> Vec<String> {
        let scope = Scope { parent: Some("eth0".parse().unwrap()), ..Scope::default() };
        let ours = decode::Names::from([(9, "flannel.1".parse().unwrap())]);
        let (learnt, holders) = (learnt.iter().copied().collect(), BTreeSet::new());
        let looked = Looked { scope: &scope, ours: &ours, learnt: &learnt, holders: &holders };
        let found = read(links.iter(), &looked);
        let names = found.keys().filter_map(|setting| match setting {
            Setting::RouterAdvertisements(link) => Some(link.to_string()),
            Setting::Forwarding(_) | Setting::LinkForwarding(..) | Setting::DisableIpv6(_) => None,
        });
        names.collect()
    }

    #[test]
    fn every_link_that_listens_to_routers_is_found_and_none_that_does_not() {
        let all = [link("eth0", 1), link("eth1", 2), link("wlan0", 3), link("flannel.1", 9)];
        assert_eq!(losers(&all, &[]), ["eth0", "eth1", "wlan0"]);
        // Who already forwards there listens only by its own will, but for what it has learnt, and for the underlay.
        let forwarding =
            all.clone().map(|link| LinkSettings { forwards: DualStack { v4: Some(true), v6: Some(true) }, ..link });
        assert_eq!(losers(&forwarding, &[]), ["eth0"]);
        assert_eq!(losers(&forwarding, &[3]), ["eth0", "wlan0"]);
        for value in [0, 2] {
            let other = all.clone().map(|link| LinkSettings { router_advertisements: value, ..link });
            assert_eq!(losers(&other, &[1, 2, 3]), [""; 0], "accept_ra={value}");
        }
        let without = all.map(|link| LinkSettings { disable_ipv6: Some(true), ..link });
        assert_eq!(losers(&without, &[1, 2, 3]), [""; 0]);
    }

    #[test]
    fn what_containers_may_be_on_is_left_alone_unless_it_has_a_router() {
        let bridge = LinkSettings { is_bridge: true, ..link("br0", 4) };
        let port = LinkSettings { is_inner: true, ..link("veth1", 5) };
        assert_eq!(losers(&[bridge.clone(), port.clone()], &[]), [""; 0]);
        assert_eq!(losers(&[bridge, port], &[4]), ["br0"]);
    }
}
