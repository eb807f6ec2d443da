//! The keys that two desired states have differently. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet, ordmap, ordset};
use wire_net::LinkName;

use super::{Key, merge};
use crate::{DesiredNet, LinkPlace, Namespace, PerNamespace, network::on_link::OnLink};

/// The keys whose desired values differ; `None` if what differs concerns all entries. Takes a time in proportion to the links, and to the keys in the
/// tables that grow with the number of peers, if one state was made from the other.
pub(super) fn changed_keys(
    before: &PerNamespace<DesiredNet>,
    after: &PerNamespace<DesiredNet>,
) -> Option<BTreeSet<Key>> {
    let namespaces = |net: &PerNamespace<DesiredNet>| net.iter().map(|(namespace, _)| namespace).collect::<Vec<_>>();
    if namespaces(before) != namespaces(after) {
        return None;
    }
    let mut keys = BTreeSet::new();
    for ((namespace, before), (_, after)) in before.iter().zip(after.iter()) {
        add_changed(&mut keys, namespace, before, after)?;
    }
    Some(keys)
}

fn add_changed(keys: &mut BTreeSet<Key>, namespace: Namespace, before: &DesiredNet, after: &DesiredNet) -> Option<()> {
    // Each table by name: a new one must be thought of here.
    let DesiredNet {
        links,
        addresses,
        fdb,
        flooding,
        bridge_fdb,
        neighbours,
        forwarding,
        routes,
        route_form,
        settings,
    } = before;
    if *route_form != after.route_form {
        return None;
    }
    for setting in changed_values(settings, &after.settings) {
        // The host's forwarding sets that of all links.
        setting.link()?;
        keys.insert(Key::Setting(namespace, *setting));
    }
    let changed: BTreeSet<LinkName> = changed_values(links, &after.links).copied().collect();
    keys.extend(changed.iter().map(|name| Key::Link(LinkPlace { namespace, name: *name })));
    let addresses = addresses.symmetric_difference(&after.addresses);
    keys.extend(alone(addresses, &changed).map(|key| Key::Address(namespace, *key)));
    keys.extend(alone(changed_rows(fdb, &after.fdb), &changed).map(|key| Key::Fdb(namespace, *key)));
    let flooding = changed_elements(flooding, &after.flooding);
    keys.extend(alone(flooding, &changed).map(|key| Key::Flood(namespace, *key)));
    let bridge_fdb = changed_rows(bridge_fdb, &after.bridge_fdb);
    keys.extend(alone(bridge_fdb, &changed).map(|key| Key::BridgeFdb(namespace, *key)));
    let neighbours = changed_rows(neighbours, &after.neighbours);
    keys.extend(alone(neighbours, &changed).map(|key| Key::Neighbour(namespace, *key)));
    keys.extend(alone(changed_rows(forwarding, &after.forwarding), &changed).map(|key| Key::Forward(*key)));
    keys.extend(changed_rows(routes, &after.routes).map(|key| Key::Route(namespace, *key)));
    Some(())
}

/// The keys that are on none of these links: a link stands for all entries on it, which may be very many.
fn alone<'a, K: OnLink + 'a>(
    keys: impl Iterator<Item = &'a K>,
    links: &BTreeSet<LinkName>,
) -> impl Iterator<Item = &'a K> {
    keys.filter(|key| !links.contains(&key.link()))
}

/// In one walk through both: there are some settings for each link.
fn changed_values<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let both = merge(before.iter(), after.iter());
    both.filter(|(_, before, after)| before != after).map(|(key, ..)| key)
}

fn changed_rows<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.diff(after).map(|item| match item {
        ordmap::DiffItem::Add(key, _)
        | ordmap::DiffItem::Remove(key, _)
        | ordmap::DiffItem::Update { new: (key, _), .. } => key,
    })
}

fn changed_elements<'a, K: Ord + Clone>(before: &'a OrdSet<K>, after: &'a OrdSet<K>) -> impl Iterator<Item = &'a K> {
    before.diff(after).map(|item| match item {
        ordset::DiffItem::Add(key) | ordset::DiffItem::Remove(key) => key,
    })
}
