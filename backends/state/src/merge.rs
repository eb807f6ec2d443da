//! What several networks of a host want, as one desired state. Pure.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use wire_net::NetworkName;

/// Two networks want different values for one key of the host. The network that comes first has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The key, such as `route 10.5.1.0/24`.
    pub key: String,
    /// The network that has it.
    pub holder: NetworkName,
    /// The network that does not get it.
    pub refused: NetworkName,
}

/// What one network wants of a resource.
#[derive(Debug)]
pub struct Share<'a, T> {
    /// The network.
    pub network: &'a NetworkName,
    /// Its part of the desired state.
    pub desired: &'a T,
}

impl<T> Clone for Share<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Share<'_, T> {}

/// Collects the clashes of a merge.
#[derive(Debug, Default)]
pub(crate) struct Clashes(Vec<Clash>);

impl Clashes {
    pub(crate) fn add(&mut self, key: String, holder: &NetworkName, refused: &NetworkName) {
        self.0.push(Clash { key, holder: holder.clone(), refused: refused.clone() });
    }

    pub(crate) fn all(self) -> Vec<Clash> {
        self.0
    }

    /// Merges one table of all shares. Two networks may want the same value for a key.
    pub(crate) fn rows<'a, T, R, M, K: Ord + Clone + 'a, V: PartialEq + Clone + 'a>(
        &mut self,
        shares: &[Share<'a, T>],
        table: impl Fn(&'a T) -> R,
        name: impl Fn(&K) -> String,
    ) -> M
    where
        R: IntoIterator<Item = (&'a K, &'a V)>,
        M: FromIterator<(K, V)>,
    {
        let mut merged: BTreeMap<&K, (&NetworkName, &V)> = BTreeMap::new();
        for share in shares {
            for (key, value) in table(share.desired) {
                match merged.entry(key) {
                    Entry::Vacant(free) => drop(free.insert((share.network, value))),
                    Entry::Occupied(taken) => {
                        let (holder, held) = taken.get();
                        if *held != value {
                            self.add(name(key), holder, share.network);
                        }
                    }
                }
            }
        }
        merged.into_iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect()
    }
}

/// The elements of one table of all shares. An element has no value, so two networks may want it.
pub(crate) fn elements<'a, T, S, K: Ord + Clone + 'a>(shares: &[Share<'a, T>], table: impl Fn(&'a T) -> &'a S) -> S
where
    S: FromIterator<K> + 'a,
    &'a S: IntoIterator<Item = &'a K>,
{
    shares.iter().flat_map(|share| table(share.desired)).cloned().collect()
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, holder, refused } = self;
        write!(f, "the networks {holder} and {refused} both want {key}: {holder} has it, and {refused} goes without it")
    }
}
