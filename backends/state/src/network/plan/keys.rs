//! The entries that are compared: all, or some keys and the entries that depend on them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet};
use wire_net::LinkName;

use super::merge;
use crate::{
    Address, BridgeFdbKey, DesiredNet, FdbKey, FloodEntry, ForwardKey, LeadsToLink, LinkPlace, Namespace, NeighbourKey,
    NetState, ObservedNet, PerNamespace, RouteKey, Setting,
    network::{
        on_link::{OnLink, on_link},
        order,
    },
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
    fn rows<'a, K: OnLink, V>(
        &'a self,
        table: &'a OrdMap<K, V>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a V)>;

    /// The selected keys of a table without values.
    fn members<'a, K: OnLink>(
        &'a self,
        table: &'a BTreeSet<K>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())>;

    /// The selected keys of a table without values that grows with the number of peers.
    fn elements<'a, K: OnLink>(
        &'a self,
        table: &'a OrdSet<K>,
        keys: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())>;

    /// The selected routes.
    fn routes<'a, R>(&'a self, table: &'a OrdMap<RouteKey, R>) -> impl Iterator<Item = (&'a RouteKey, &'a R)>;

    fn has_link(&self, link: LinkName) -> bool;

    fn has_setting(&self, setting: &Setting) -> bool;
}

pub(super) struct All;

/// Some keys of one namespace, and the keys of the entries that depend on them.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Links with all entries on them, which are found in the tables.
    links: BTreeSet<LinkName>,
    settings: BTreeSet<Setting>,
    pub(super) addresses: BTreeSet<Address>,
    pub(super) fdb: BTreeSet<FdbKey>,
    pub(super) flooding: BTreeSet<FloodEntry>,
    pub(super) bridge_fdb: BTreeSet<BridgeFdbKey>,
    pub(super) neighbours: BTreeSet<NeighbourKey>,
    pub(super) forwarding: BTreeSet<ForwardKey>,
    routes: BTreeSet<RouteKey>,
}

impl Selection for All {
    fn rows<'a, K: OnLink, V>(
        &'a self,
        table: &'a OrdMap<K, V>,
        _: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        table.iter()
    }

    fn members<'a, K: OnLink>(
        &'a self,
        table: &'a BTreeSet<K>,
        _: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        table.iter().map(|key| (key, &()))
    }

    fn elements<'a, K: OnLink>(
        &'a self,
        table: &'a OrdSet<K>,
        _: fn(&Touched) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        table.iter().map(|key| (key, &()))
    }

    fn routes<'a, R>(&'a self, table: &'a OrdMap<RouteKey, R>) -> impl Iterator<Item = (&'a RouteKey, &'a R)> {
        table.iter()
    }

    fn has_link(&self, _: LinkName) -> bool {
        true
    }

    fn has_setting(&self, _: &Setting) -> bool {
        true
    }
}

impl Selection for Touched {
    fn rows<'a, K: OnLink, V>(
        &'a self,
        table: &'a OrdMap<K, V>,
        keys: fn(&Self) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        let of_links = self.links.iter().flat_map(|link| on_link(table, *link));
        in_order(of_links, self.alone(keys).filter_map(|key| table.get_key_value(key)))
    }

    fn members<'a, K: OnLink>(
        &'a self,
        table: &'a BTreeSet<K>,
        keys: fn(&Self) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        let on = |link: LinkName| table.range(K::first_on(link)..).take_while(move |key| key.link() == link);
        let of_links = self.links.iter().flat_map(move |link| on(*link)).map(|key| (key, &()));
        in_order(of_links, self.alone(keys).filter_map(|key| table.get(key)).map(|key| (key, &())))
    }

    fn elements<'a, K: OnLink>(
        &'a self,
        table: &'a OrdSet<K>,
        keys: fn(&Self) -> &BTreeSet<K>,
    ) -> impl Iterator<Item = (&'a K, &'a ())> {
        let on = |link: LinkName| table.range(K::first_on(link)..).take_while(move |key| key.link() == link);
        let of_links = self.links.iter().flat_map(move |link| on(*link)).map(|key| (key, &()));
        in_order(of_links, self.alone(keys).filter(|key| table.contains(*key)).map(|key| (key, &())))
    }

    fn routes<'a, R>(&'a self, table: &'a OrdMap<RouteKey, R>) -> impl Iterator<Item = (&'a RouteKey, &'a R)> {
        self.routes.iter().filter_map(|key| table.get_key_value(key))
    }

    fn has_link(&self, link: LinkName) -> bool {
        self.links.contains(&link)
    }

    fn has_setting(&self, setting: &Setting) -> bool {
        self.settings.contains(setting)
    }
}

/// The rows of two parts of a table that have no key in common, in the order of the keys.
fn in_order<'a, K: Ord + 'a, V: 'a>(
    one: impl Iterator<Item = (&'a K, &'a V)>,
    other: impl Iterator<Item = (&'a K, &'a V)>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    merge(one, other).filter_map(|(key, one, other)| Some((key, one.or(other)?)))
}

/// The links among touched keys.
pub(super) fn links_of(touched: &BTreeMap<Namespace, Touched>) -> BTreeSet<LinkPlace> {
    let places = |(namespace, touched): (&Namespace, &Touched)| {
        let namespace = *namespace;
        touched.links.iter().map(move |name| LinkPlace { namespace, name: *name }).collect::<Vec<_>>()
    };
    touched.iter().flat_map(places).collect()
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
            links.extend(have.bound_to(place));
            links.extend(made_after(want, place));
        }
    }
    for (namespace, touched) in &mut touched {
        for link in touched.links.clone() {
            if let Some(net) = have.get(*namespace) {
                let master = net.links.get(&link).and_then(|link| link.master);
                touched.add_entries(link, net, master.map(|bridge| bridge.name));
            }
            if let Some(net) = want.get(*namespace) {
                let master = net.links.get(&link).and_then(|link| link.master);
                touched.add_entries(link, net, master);
            }
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
    /// The keys that are on none of the links.
    fn alone<'a, K: OnLink + 'a>(&'a self, keys: fn(&Self) -> &BTreeSet<K>) -> impl Iterator<Item = &'a K> {
        keys(self).iter().filter(|key| !self.links.contains(&key.link()))
    }

    /// Adds the keys of the entries on a link that the tables do not have by it. `master` is the bridge that it is a port of.
    fn add_entries<L, R: LeadsToLink, F>(&mut self, link: LinkName, net: &NetState<L, R, F>, master: Option<LinkName>) {
        let on = |setting: &&Setting| setting.link() == Some(link);
        self.settings.extend(net.settings.keys().filter(on));
        // A bridge that is touched too stands for all entries on it, which may be very many.
        let bridge = master.filter(|bridge| !self.links.contains(bridge));
        let of_bridge = bridge.into_iter().flat_map(|bridge| on_link(&net.bridge_fdb, bridge));
        self.bridge_fdb.extend(of_bridge.filter(|(_, port)| **port == link).map(|(key, _)| *key));
        let routes = net.routes.iter().filter(|(_, route)| route.link() == Some(link));
        self.routes.extend(routes.map(|(key, _)| *key));
    }
}
