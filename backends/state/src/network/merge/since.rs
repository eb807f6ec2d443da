//! The networks of several networks of a host, as one, brought forward by what some of them want differently. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imbl::{OrdMap, OrdSet, ordmap, ordset};
use wire_net::NetworkName;

use super::{Wanted, vni_of};
use crate::network::{DesiredForm, DesiredNet, Namespace, PerNamespace};

/// The desired state of the shares `now`, which is `merged` for the shares `before`, of which no two clashed. Found in a time in proportion to what
/// differs. `None` if two clash now, or all must be compared.
pub(in crate::network) fn merge_since(
    before: &[Wanted<'_>],
    merged: &PerNamespace<DesiredNet>,
    now: &[Wanted<'_>],
) -> Option<PerNamespace<DesiredNet>> {
    let mut all: BTreeMap<Namespace, DesiredNet> = merged.iter().map(|(key, net)| (key, net.clone())).collect();
    let nothing = PerNamespace::from_iter([]);
    let (of_before, of_now) = (by_name(before), by_name(now));
    let names: BTreeSet<&NetworkName> = of_before.keys().chain(of_now.keys()).copied().collect();
    for network in names {
        let was = of_before.get(network).copied().unwrap_or(&nothing);
        let is = of_now.get(network).copied().unwrap_or(&nothing);
        if std::ptr::eq(was, is) {
            continue;
        }
        let namespaces: BTreeSet<Namespace> = was.iter().chain(is.iter()).map(|(namespace, _)| namespace).collect();
        for namespace in namespaces {
            let empty = DesiredNet::default();
            let (was, is) = (was.get(namespace).unwrap_or(&empty), is.get(namespace).unwrap_or(&empty));
            let nets: Vec<&DesiredNet> = now.iter().filter_map(|share| share.desired.get(namespace)).collect();
            bring_forward(all.entry(namespace).or_default(), was, is, &nets)?;
        }
    }
    let is_wanted = |namespace: Namespace| now.iter().any(|share| share.desired.get(namespace).is_some());
    all.retain(|namespace, _| is_wanted(*namespace));
    all.values().all(has_each_vni_once).then(|| all.into_iter().collect())
}

fn by_name<'a>(shares: &[Wanted<'a>]) -> BTreeMap<&'a NetworkName, &'a PerNamespace<DesiredNet>> {
    shares.iter().map(|share| (share.network, share.desired)).collect()
}

/// True if no two devices have one VNI on one port, which the kernel allows once.
fn has_each_vni_once(net: &DesiredNet) -> bool {
    let mut vnis = BTreeSet::new();
    net.links.values().filter_map(vni_of).all(|vni| vnis.insert(vni))
}

/// Brings one namespace forward. `all` are the nets of all shares there.
fn bring_forward(merged: &mut DesiredNet, was: &DesiredNet, is: &DesiredNet, all: &[&DesiredNet]) -> Option<()> {
    rows(&mut merged.links, &was.links, &is.links, || all.iter().map(|net| &net.links))?;
    rows(&mut merged.addresses, &was.addresses, &is.addresses, || all.iter().map(|net| &net.addresses))?;
    rows(&mut merged.fdb, &was.fdb, &is.fdb, || all.iter().map(|net| &net.fdb))?;
    rows(&mut merged.flooding, &was.flooding, &is.flooding, || all.iter().map(|net| &net.flooding))?;
    rows(&mut merged.bridge_fdb, &was.bridge_fdb, &is.bridge_fdb, || all.iter().map(|net| &net.bridge_fdb))?;
    rows(&mut merged.neighbours, &was.neighbours, &is.neighbours, || all.iter().map(|net| &net.neighbours))?;
    rows(&mut merged.forwarding, &was.forwarding, &is.forwarding, || all.iter().map(|net| &net.forwarding))?;
    rows(&mut merged.routes, &was.routes, &is.routes, || all.iter().map(|net| &net.routes))?;
    rows(&mut merged.settings, &was.settings, &is.settings, || all.iter().map(|net| &net.settings))?;
    let is_plain = all.iter().any(|net| net.route_form == DesiredForm::Plain);
    merged.route_form = if is_plain { DesiredForm::Plain } else { DesiredForm::Any };
    Some(())
}

/// Brings one table forward. `None` if two of `all` have different values for a key that has changed.
fn rows<'a, T: Rows + 'a, I: Iterator<Item = &'a T>>(
    merged: &mut T,
    was: &T,
    is: &T,
    all: impl Fn() -> I,
) -> Option<()> {
    if was.len() == 0 && merged.len() < is.len() && merged.keys().all(|key| is.value(key).is_none()) {
        // The smaller into the larger: a network that is new may be far larger than all others.
        let smaller = std::mem::replace(merged, is.clone());
        smaller.into_rows().for_each(|(key, value)| merged.put(key, value));
        return Some(());
    }
    let (held, new): (Vec<T::Key>, Vec<T::Key>) =
        T::changed(was, is).into_iter().partition(|key| merged.value(key).is_some());
    // What nobody had, only this share can have, or one that is looked at later.
    for key in new {
        if let Some(value) = is.value(&key) {
            merged.put(key, value.clone());
        }
    }
    let (Some(first), Some(last)) = (held.iter().min(), held.iter().max()) else { return Some(()) };
    // Most have none of all these keys, which begin with a link.
    let others: Vec<&T> = all().filter(|table| table.has_between(first, last)).collect();
    for key in &held {
        let mut values = others.iter().filter_map(|table| table.value(key));
        let first = values.next();
        if !values.all(|value| Some(value) == first) {
            return None;
        }
        match first {
            Some(value) => merged.put(key.clone(), value.clone()),
            None => merged.take(key),
        }
    }
    Some(())
}

/// A table. The elements of a set have no value.
trait Rows: Clone {
    type Key: Ord + Clone;
    type Value: PartialEq + Clone;

    fn len(&self) -> usize;
    fn keys(&self) -> impl Iterator<Item = &Self::Key>;
    fn into_rows(self) -> impl Iterator<Item = (Self::Key, Self::Value)>;
    /// True if it has one of the keys from the first to the last, both included.
    fn has_between(&self, first: &Self::Key, last: &Self::Key) -> bool;
    /// The keys whose values differ.
    fn changed(was: &Self, is: &Self) -> Vec<Self::Key>;
    fn value(&self, key: &Self::Key) -> Option<&Self::Value>;
    fn put(&mut self, key: Self::Key, value: Self::Value);
    fn take(&mut self, key: &Self::Key);
}

impl<K: Ord + Clone, V: PartialEq + Clone> Rows for OrdMap<K, V> {
    type Key = K;
    type Value = V;

    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys()
    }

    fn into_rows(self) -> impl Iterator<Item = (K, V)> {
        self.into_iter()
    }

    fn has_between(&self, first: &K, last: &K) -> bool {
        self.range(first.clone()..=last.clone()).next().is_some()
    }

    fn changed(was: &Self, is: &Self) -> Vec<K> {
        let key = |item: ordmap::DiffItem<'_, '_, K, V>| match item {
            ordmap::DiffItem::Add(key, _) | ordmap::DiffItem::Remove(key, _) => key.clone(),
            ordmap::DiffItem::Update { new: (key, _), .. } => key.clone(),
        };
        was.diff(is).map(key).collect()
    }

    fn value(&self, key: &K) -> Option<&V> {
        self.get(key)
    }

    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }

    fn take(&mut self, key: &K) {
        self.remove(key);
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Rows for BTreeMap<K, V> {
    type Key = K;
    type Value = V;

    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys()
    }

    fn into_rows(self) -> impl Iterator<Item = (K, V)> {
        self.into_iter()
    }

    fn has_between(&self, first: &K, last: &K) -> bool {
        self.range(first.clone()..=last.clone()).next().is_some()
    }

    fn changed(was: &Self, is: &Self) -> Vec<K> {
        let differs = |key: &&K| was.get(*key) != is.get(*key);
        let gone = was.keys().filter(|key| !is.contains_key(*key));
        is.keys().filter(differs).chain(gone).cloned().collect()
    }

    fn value(&self, key: &K) -> Option<&V> {
        self.get(key)
    }

    fn put(&mut self, key: K, value: V) {
        self.insert(key, value);
    }

    fn take(&mut self, key: &K) {
        self.remove(key);
    }
}

impl<K: Ord + Clone> Rows for OrdSet<K> {
    type Key = K;
    type Value = ();

    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter()
    }

    fn into_rows(self) -> impl Iterator<Item = (K, ())> {
        self.into_iter().map(|key| (key, ()))
    }

    fn has_between(&self, first: &K, last: &K) -> bool {
        self.range(first.clone()..=last.clone()).next().is_some()
    }

    fn changed(was: &Self, is: &Self) -> Vec<K> {
        let key = |item: ordset::DiffItem<'_, '_, K>| match item {
            ordset::DiffItem::Add(key) | ordset::DiffItem::Remove(key) => key.clone(),
        };
        was.diff(is).map(key).collect()
    }

    fn value(&self, key: &K) -> Option<&()> {
        self.contains(key).then_some(&())
    }

    fn put(&mut self, key: K, (): ()) {
        self.insert(key);
    }

    fn take(&mut self, key: &K) {
        self.remove(key);
    }
}

impl<K: Ord + Clone> Rows for BTreeSet<K> {
    type Key = K;
    type Value = ();

    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter()
    }

    fn into_rows(self) -> impl Iterator<Item = (K, ())> {
        self.into_iter().map(|key| (key, ()))
    }

    fn has_between(&self, first: &K, last: &K) -> bool {
        self.range(first.clone()..=last.clone()).next().is_some()
    }

    fn changed(was: &Self, is: &Self) -> Vec<K> {
        was.symmetric_difference(is).cloned().collect()
    }

    fn value(&self, key: &K) -> Option<&()> {
        self.contains(key).then_some(&())
    }

    fn put(&mut self, key: K, (): ()) {
        self.insert(key);
    }

    fn take(&mut self, key: &K) {
        self.remove(key);
    }
}
