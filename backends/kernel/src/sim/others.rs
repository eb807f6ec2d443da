//! What others do to a host in memory: its administrator, other programs, the network, a reboot.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::{Family, LinkName, LocalAddress, MacAddr, Mtu, Prefix};
use wire_state::{
    Address, KernelOp, LinkPlace, Namespace, NextHop, ObservedKind, ObservedLink, ObservedNet, ObservedRoute, Op,
    Owner, PerNamespace, RouteKey, Setting, Via, retain,
};

use super::{Boot, LinkFacts, SimHost, link};
use crate::{AddressState, DeviceCounters, HostAddress};

/// `RTPROT_DHCP` of linux/rtnetlink.h.
const DHCP: u8 = 16;
impl SimHost {
    /// Adds a network card that is up.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn add_card(&self, name: &str, mac: MacAddr, mtu: Mtu) {
        let facts = LinkFacts { has_carrier: true, card: Some(mac), ..LinkFacts::default() };
        self.insert_link(name, link(ObservedKind::Other(String::new()), Some(mac), mtu), facts);
        let accepts = Setting::RouterAdvertisements(named(name));
        self.edit_net(|net| {
            net.settings.insert(accepts, 1);
        });
    }

    /// Adds a link of another program of any kind, for example a bridge.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn add_link(&self, name: &str, kind: ObservedKind, mac: Option<MacAddr>, mtu: Mtu) {
        let facts = LinkFacts { has_carrier: true, ..LinkFacts::default() };
        self.insert_link(name, link(kind, mac, mtu), facts);
    }

    pub(super) fn insert_link(&self, name: &str, link: ObservedLink, facts: LinkFacts) {
        let name = named(name);
        self.facts().links.insert(name, facts);
        self.edit_net(|net| {
            let foreign = net.links.values().filter(|link| link.index < 1000).map(|link| link.index);
            let index = foreign.max().unwrap_or_default() + 1;
            net.links.insert(name, ObservedLink { index, ..link });
            super::set_as_new(net, name);
        });
    }

    /// Adds an address to a link.
    ///
    /// # Panics
    /// If `name` is no name of a link, or `len` is too large.
    pub fn add_address(&self, name: &str, address: IpAddr, len: u8) {
        let local = LocalAddress::new(address, len).expect("a length of the family");
        let own = HostAddress { local, state: AddressState::Stable };
        let link = named(name);
        let is_of_host = self.facts().links.get_mut(&link).map(|facts| facts.addresses.push(own)).is_some();
        if is_of_host {
            self.underlay_changed();
        } else {
            self.edit_net(|net| net.addresses.insert(Address { link, address, len }));
        }
    }

    /// Removes an address from a link. The last one of IPv4 takes the IPv4 routes on the link along.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn remove_address(&self, name: &str, address: IpAddr) {
        let link = named(name);
        let mut facts = self.facts();
        let Some(found) = facts.links.get_mut(&link) else {
            drop(facts);
            self.remove_own_address(link, address);
            return;
        };
        found.addresses.retain(|own| own.local.address != address);
        let is_without_ipv4 = !found.addresses.iter().any(|own| own.local.address.is_ipv4());
        drop(facts);
        if is_without_ipv4 {
            self.edit_net(|net| net.forget_family(link, Family::V4));
        }
        self.underlay_changed();
    }

    fn remove_own_address(&self, link: LinkName, address: IpAddr) {
        self.net.edit(|state| {
            let Some(net) = state.get(Namespace::Host) else { return };
            let found = net.addresses.iter().find(|own| own.link == link && own.address == address);
            if let Some(own) = found.copied() {
                state.apply(&Op::Kernel(Namespace::Host, KernelOp::DeleteAddress(own)));
            }
        });
    }

    /// Adds a foreign route of the main table, with the default metric.
    pub fn add_route(&self, destination: Prefix, hop: NextHop) {
        let route =
            ObservedRoute { via: Via::NextHop(hop), protocol: DHCP, uses_nexthop: false, owner: Owner::Foreign };
        self.edit_net(|net| {
            net.routes.insert(RouteKey::main(destination), route);
        });
        if destination.len() == 0 {
            self.underlay_changed();
        }
    }

    /// Removes a route of the main table, whosever it is.
    pub fn remove_route(&self, destination: Prefix) {
        self.edit_net(|net| retain(&mut net.routes, |key, _| key.destination != destination));
        if destination.len() == 0 {
            self.underlay_changed();
        }
    }

    /// Takes the present links, addresses and routes of others for those that the host has after each boot. It forwards nothing then.
    pub fn set_boot(&self) {
        let mut net = self.state().foreign();
        net.settings.extend(Family::ALL.map(|family| (Setting::Forwarding(family), 0)));
        for (setting, value) in &mut net.settings {
            if matches!(setting, Setting::LinkForwarding(..)) {
                *value = 0;
            }
        }
        let mut facts = self.facts();
        facts.boot = Boot { net, links: facts.links.clone() };
    }

    /// Restarts the host: its links and routes are those of [`SimHost::set_boot`], and all else is gone. The agent has ended.
    pub fn reboot(&self) {
        self.net.crash();
        let boot = {
            let mut facts = self.facts();
            facts.links = facts.boot.links.clone();
            facts.counters.clear();
            facts.withdrawn.clear();
            facts.boot.net.clone()
        };
        self.net.edit(|state| *state = PerNamespace::host(boot));
        self.underlay_changed();
    }

    /// Deletes a link with all that the kernel deletes along with it.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn delete_link(&self, name: &str) {
        let place = LinkPlace::in_host(named(name));
        self.net.edit(|state| {
            state.apply(&Op::Kernel(Namespace::Host, KernelOp::DeleteLink(place.name)));
        });
        let gone = self.facts().links.remove(&place.name);
        if gone.is_some_and(|link| !link.addresses.is_empty()) {
            self.underlay_changed();
        }
    }

    /// Deletes the routes on a link, as `ip route flush dev` does.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn flush_routes(&self, name: &str) {
        let name = named(name);
        let is_default = self.edit_net(|net| {
            let is_on = |route: &ObservedRoute| route.via.link() == Some(name);
            let is_default = net.routes.iter().any(|(key, route)| is_on(route) && key.destination.len() == 0);
            retain(&mut net.routes, |_, route| !is_on(route));
            is_default
        });
        if is_default {
            self.underlay_changed();
        }
    }

    /// Deletes the FDB entries of a link.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn flush_fdb(&self, name: &str) {
        let name = named(name);
        self.edit_net(|net| retain(&mut net.fdb, |key, _| key.link != name));
    }

    /// Deletes the neighbours on a link, permanent ones too.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn flush_neighbours(&self, name: &str) {
        let name = named(name);
        self.edit_net(|net| retain(&mut net.neighbours, |key, _| key.link != name));
    }

    /// Gives a link another Ethernet address.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn set_mac(&self, name: &str, mac: MacAddr) {
        let name = named(name);
        self.edit_net(|net| {
            retain(&mut net.neighbours, |key, _| key.link != name);
            if let Some(link) = net.links.get_mut(&name) {
                link.mac = Some(mac);
            }
        });
    }

    /// Sets the MTU of a link. With one below IPv6's smallest, the link has no IPv6 any more.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn set_mtu(&self, name: &str, mtu: Mtu) {
        let name = named(name);
        self.edit_net(|net| {
            let had_ipv6 = net.has_ipv6(name);
            let Some(link) = net.links.get_mut(&name) else { return };
            link.mtu = mtu;
            if net.has_ipv6(name) != had_ipv6 {
                net.forget_family(name, Family::V6);
                net.settings.remove(&Setting::DisableIpv6(name));
                net.settings.remove(&Setting::LinkForwarding(Family::V6, name));
            }
            super::set_as_new(net, name);
        });
    }

    /// Sets a link down: its neighbours, routes and IPv6 addresses are gone.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn set_down(&self, name: &str) {
        let name = named(name);
        let gone: BTreeMap<RouteKey, ObservedRoute> = self.edit_net(|net| {
            let is_on = |route: &ObservedRoute| route.via.link() == Some(name);
            let routes = net.routes.iter().filter(|(_, route)| is_on(route) && route.owner == Owner::Foreign);
            let gone = routes.map(|(key, route)| (*key, route.clone())).collect();
            net.set_link_down(name);
            gone
        });
        let is_default_v6 = |key: &RouteKey| key.destination.len() == 0 && key.destination.family() == Family::V6;
        // The kernel sends no notification of IPv4 routes that go with their link.
        let mut is_notified = gone.keys().any(is_default_v6);
        let mut facts = self.facts();
        facts.withdrawn.extend(gone);
        if let Some(link) = facts.links.get_mut(&name) {
            let (kept, lost): (Vec<HostAddress>, Vec<HostAddress>) =
                link.addresses.iter().partition(|own| own.local.address.is_ipv4());
            is_notified |= !lost.is_empty();
            link.addresses = kept;
            link.withdrawn.extend(lost);
        }
        drop(facts);
        if is_notified {
            self.underlay_changed();
        }
    }

    /// Sets a link up. The host's own addresses and routes on it are back, as its network configuration makes them.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn set_up(&self, name: &str) {
        let name = named(name);
        let withdrawn = std::mem::take(&mut self.facts().withdrawn);
        let (back, others): (BTreeMap<_, _>, _) =
            withdrawn.into_iter().partition(|(_, route)| route.via.link() == Some(name));
        let mut facts = self.facts();
        facts.withdrawn = others;
        let mut is_notified = back.keys().any(|key| key.destination.len() == 0);
        if let Some(link) = facts.links.get_mut(&name) {
            is_notified |= !link.withdrawn.is_empty();
            link.addresses.append(&mut link.withdrawn);
        }
        drop(facts);
        self.edit_net(|net| {
            if let Some(link) = net.links.get_mut(&name) {
                link.up = true;
            }
            net.routes.extend(back);
        });
        if is_notified {
            self.underlay_changed();
        }
    }

    /// Sets the forwarding of the host, as `sysctl` does.
    pub fn set_forwarding(&self, family: Family, value: u32) {
        let op = KernelOp::Set(Setting::Forwarding(family), value);
        self.net.edit(|state| state.apply(&Op::Kernel(Namespace::Host, op)));
    }

    /// Takes IPv6 out of the kernel, as `ipv6.disable=1` does at a boot.
    pub fn take_ipv6_away(&self) {
        self.edit_net(|net| {
            let links: Vec<LinkName> = net.links.keys().copied().collect();
            links.iter().for_each(|link| net.forget_family(*link, Family::V6));
            net.settings.retain(|setting, _| setting.family() == Family::V4);
            links.into_iter().for_each(|link| super::set_as_new(net, link));
        });
    }

    /// Turns IPv6 off on a link.
    ///
    /// # Panics
    /// If `name` is no name of a link.
    pub fn disable_ipv6(&self, name: &str) {
        let name = named(name);
        let op = KernelOp::Set(Setting::DisableIpv6(name), 1);
        self.net.edit(|state| state.apply(&Op::Kernel(Namespace::Host, op)));
    }

    /// Loses notifications: each monitor reports that anything may have changed.
    pub fn lose_notifications(&self) {
        self.facts().overruns += 1;
        self.edit_net(|_| ());
    }

    /// Counts packets of a device.
    pub fn count(&self, name: LinkName, passed: DeviceCounters) {
        let mut facts = self.facts();
        let counters = facts.counters.entry(name).or_default();
        counters.received += passed.received;
        counters.sent += passed.sent;
    }

    /// Counts UDP packets with wrong checksums.
    pub fn count_bad_checksums(&self, packets: u64) {
        self.facts().bad_checksums += packets;
    }

    /// Changes any entry as another program would.
    pub fn edit(&self, change: impl FnOnce(&mut ObservedNet)) {
        self.edit_net(change);
    }

    fn underlay_changed(&self) {
        self.facts().underlay_changes += 1;
        self.edit_net(|_| ());
    }
}

pub(super) fn named(name: &str) -> LinkName {
    name.parse().expect("a name of a link")
}
