//! The keys that two desired states have differently. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet, ordmap, ordset};

use super::Key;
use crate::{DesiredNet, LinkPlace, Namespace, PerNamespace};

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
    let place = |name| LinkPlace { namespace, name };
    keys.extend(changed_values(links, &after.links).map(|name| Key::Link(place(*name))));
    keys.extend(addresses.symmetric_difference(&after.addresses).map(|key| Key::Address(namespace, *key)));
    keys.extend(changed_rows(fdb, &after.fdb).map(|key| Key::Fdb(namespace, *key)));
    keys.extend(changed_elements(flooding, &after.flooding).map(|key| Key::Flood(namespace, *key)));
    keys.extend(changed_rows(bridge_fdb, &after.bridge_fdb).map(|key| Key::BridgeFdb(namespace, *key)));
    keys.extend(changed_rows(neighbours, &after.neighbours).map(|key| Key::Neighbour(namespace, *key)));
    keys.extend(changed_rows(forwarding, &after.forwarding).map(|key| Key::Forward(*key)));
    keys.extend(changed_rows(routes, &after.routes).map(|key| Key::Route(namespace, *key)));
    Some(())
}

fn changed_values<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    after.iter().filter(|(key, value)| before.get(*key) != Some(*value)).map(|(key, _)| key).chain(gone)
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
