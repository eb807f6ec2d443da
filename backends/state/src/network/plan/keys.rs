//! The entries that are compared: all, or some keys and the entries that depend on them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet};
use wire_net::LinkName;

use super::OnLink;
use crate::{
    Address, BridgeFdbKey, DesiredNet, FdbKey, FloodEntry, ForwardKey, LinkPlace, Namespace, NeighbourKey, NetState,
    NextHop, ObservedNet, PerNamespace, RouteKey, Setting, network::order,
};

/// The key of any entry of a host's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A link with all entries on it.
    Link(LinkPlace),
    /// A setting in `/proc/sys/net`.
    Setting(Namespace, Setting),
    /// An address of a link.
    Address(Namespace, Address),
    /// An FDB entry.
    Fdb(Namespace, FdbKey),
    /// A destination of flooded frames.
    Flood(Namespace, FloodEntry),
    /// An entry in the FDB of a bridge.
    BridgeFdb(Namespace, BridgeFdbKey),
    /// A neighbour.
    Neighbour(Namespace, NeighbourKey),
    /// A prefix in a tunnel's forwarding table.
    Forward(ForwardKey),
    /// A route.
    Route(Namespace, RouteKey),
}

/// The entries that are compared.
pub(super) trait Selection {
    /// The selected rows of a table.
    fn rows<'a, K: Ord, V>(
        &'a self,
        table: &'a OrdMap<K, V>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a V)>;

    /// The selected keys of a table without values.
    fn members<'a, K: Ord>(
        &'a self,
        table: &'a BTreeSet<K>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())>;

    /// The selected keys of a table without values that grows with the number of peers.
    fn elements<'a, K: Ord>(
        &'a self,
        table: &'a OrdSet<K>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())>;

    fn has_link(&self, link: LinkName) -> bool;

    fn has_setting(&self, setting: &Setting) -> bool;
}

pub(super) struct All;

/// Some keys of one namespace, and the keys of the entries that depend on them.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    links: BTreeSet<LinkName>,
    settings: BTreeSet<Setting>,
    pub(super) addresses: BTreeSet<Address>,
    pub(super) fdb: BTreeSet<FdbKey>,
    pub(super) flooding: BTreeSet<FloodEntry>,
    pub(super) bridge_fdb: BTreeSet<BridgeFdbKey>,
    pub(super) neighbours: BTreeSet<NeighbourKey>,
    pub(super) forwarding: BTreeSet<ForwardKey>,
    pub(super) routes: BTreeSet<RouteKey>,
}

impl Selection for All {
    fn rows<'a, K: Ord, V>(
        &'a self,
        table: &'a OrdMap<K, V>,
        _: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        table.iter()
    }

    fn members<'a, K: Ord>(
        &'a self,
        table: &'a BTreeSet<K>,
        _: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        table.iter().map(|key| (key, &()))
    }

    fn elements<'a, K: Ord>(
        &'a self,
        table: &'a OrdSet<K>,
        _: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        table.iter().map(|key| (key, &()))
    }

    fn has_link(&self, _: LinkName) -> bool {
        true
    }

    fn has_setting(&self, _: &Setting) -> bool {
        true
    }
}

impl Selection for Touched {
    fn rows<'a, K: Ord, V>(
        &'a self,
        table: &'a OrdMap<K, V>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        keys(self).iter().filter_map(|key| table.get_key_value(key))
    }

    fn members<'a, K: Ord>(
        &'a self,
        table: &'a BTreeSet<K>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        keys(self).iter().filter_map(|key| table.get(key)).map(|key| (key, &()))
    }

    fn elements<'a, K: Ord>(
        &'a self,
        table: &'a OrdSet<K>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        keys(self).iter().filter(|key| table.contains(*key)).map(|key| (key, &()))
    }

    fn has_link(&self, link: LinkName) -> bool {
        self.links.contains(&link)
    }

    fn has_setting(&self, setting: &Setting) -> bool {
        self.settings.contains(setting)
    }
}

/// The keys in `keys` and those of the entries that depend on them. The links that are made or removed together with a link depend on
/// it, and so do all entries on any of these links.
pub(super) fn touched(
    have: &PerNamespace<ObservedNet>,
    want: &PerNamespace<DesiredNet>,
    keys: &BTreeSet<Key>,
) -> BTreeMap<Namespace, Touched> {
    let mut touched: BTreeMap<Namespace, Touched> =
        have.iter().map(|(namespace, _)| (namespace, Touched::default())).collect();
    let mut links = Vec::new();
    for key in keys {
        match *key {
            Key::Link(place) => links.push(place),
            Key::Setting(namespace, key) => touched.entry(namespace).or_default().settings.extend([key]),
            Key::Address(namespace, key) => touched.entry(namespace).or_default().addresses.extend([key]),
            Key::Fdb(namespace, key) => touched.entry(namespace).or_default().fdb.extend([key]),
            Key::Flood(namespace, key) => touched.entry(namespace).or_default().flooding.extend([key]),
            Key::BridgeFdb(namespace, key) => touched.entry(namespace).or_default().bridge_fdb.extend([key]),
            Key::Neighbour(namespace, key) => touched.entry(namespace).or_default().neighbours.extend([key]),
            Key::Forward(key) => touched.entry(Namespace::Host).or_default().forwarding.extend([key]),
            Key::Route(namespace, key) => touched.entry(namespace).or_default().routes.extend([key]),
        }
    }
    while let Some(place) = links.pop() {
        let of_namespace = touched.entry(place.namespace).or_default();
        if of_namespace.links.insert(place.name) {
            if let Some(net) = have.get(place.namespace) {
                of_namespace.add_entries(place.name, net, |route| route.via.link());
            }
            if let Some(net) = want.get(place.namespace) {
                of_namespace.add_entries(place.name, net, NextHop::link);
            }
            links.extend(have.bound_to(place));
            links.extend(made_after(want, place));
        }
    }
    touched
}

/// The desired links that need this one.
fn made_after(want: &PerNamespace<DesiredNet>, place: LinkPlace) -> impl Iterator<Item = LinkPlace> {
    let all = want.iter().flat_map(|(namespace, net)| {
        net.links.iter().map(move |(name, link)| (LinkPlace { namespace, name: *name }, link))
    });
    all.filter(move |(other, link)| order::needs(*other, link).any(|need| need == place)).map(|(other, _)| other)
}

impl Touched {
    /// Adds the keys of all entries on a link.
    fn add_entries<L, R, F>(
        &mut self,
        link: LinkName,
        net: &NetState<L, R, F>,
        of_route: impl Fn(&R) -> Option<LinkName>,
    ) {
        let on = |setting: &&Setting| setting.link() == Some(link);
        self.settings.extend(net.settings.keys().filter(on));
        self.addresses.extend(net.addresses.iter().filter(|key| key.link() == link));
        self.fdb.extend(net.fdb.keys().filter(|key| key.link() == link));
        self.flooding.extend(net.flooding.iter().filter(|key| key.link() == link));
        let is_on = |key: &BridgeFdbKey, port: &LinkName| key.bridge == link || *port == link;
        let behind = net.bridge_fdb.iter().filter(|(key, port)| is_on(key, port));
        self.bridge_fdb.extend(behind.map(|(key, _)| *key));
        self.neighbours.extend(net.neighbours.keys().filter(|key| key.link() == link));
        self.forwarding.extend(net.forwarding.keys().filter(|key| key.link() == link));
        let routes = net.routes.iter().filter(|(_, route)| of_route(route) == Some(link));
        self.routes.extend(routes.map(|(key, _)| *key));
    }
}
