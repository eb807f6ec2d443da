//! Which candidates may be in conflict with each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use wire_net::{Family, MacAddr, Prefix};

use super::mac_of;
use crate::{Lease, entries::Key};

/// All candidates by what they claim.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    prefixes: BTreeSet<(Prefix, Key)>,
    /// The number of `prefixes` of each length.
    lengths: BTreeMap<(Family, u8), usize>,
    /// The public addresses, as host prefixes.
    publics: BTreeSet<(Prefix, Key)>,
    macs: BTreeSet<(Family, MacAddr, Key)>,
}

impl Conflicts {
    pub(super) fn of<'a>(candidates: impl Iterator<Item = (&'a Key, &'a Lease)> + Clone) -> Self {
        // Built from lists: faster than inserting one by one, and the sets have no gaps.
        let prefixes: BTreeSet<_> = candidates.clone().flat_map(|(key, lease)| prefixes_of(key, lease)).collect();
        let mut lengths = BTreeMap::new();
        for (prefix, _) in &prefixes {
            *lengths.entry((prefix.family(), prefix.len())).or_default() += 1;
        }
        let publics = candidates.clone().flat_map(|(key, lease)| publics_of(key, lease)).collect();
        let macs = candidates.flat_map(|(key, lease)| macs_of(key, lease)).collect();
        Self { prefixes, lengths, publics, macs }
    }

    pub(super) fn add(&mut self, key: &Key, lease: &Lease) {
        for (prefix, key) in prefixes_of(key, lease) {
            *self.lengths.entry((prefix.family(), prefix.len())).or_default() += 1;
            self.prefixes.insert((prefix, key));
        }
        self.publics.extend(publics_of(key, lease));
        self.macs.extend(macs_of(key, lease));
    }

    pub(super) fn remove(&mut self, key: &Key, lease: &Lease) {
        for claim in prefixes_of(key, lease) {
            let length = (claim.0.family(), claim.0.len());
            self.prefixes.remove(&claim);
            self.lengths.entry(length).and_modify(|count| *count -= 1);
            self.lengths.retain(|_, count| *count > 0);
        }
        for claim in publics_of(key, lease) {
            self.publics.remove(&claim);
        }
        for claim in macs_of(key, lease) {
            self.macs.remove(&claim);
        }
    }

    /// The candidates that cannot be admitted together with this lease; and those with its MAC, of which some can.
    /// It names some twice.
    pub(super) fn with<'a>(&'a self, lease: &'a Lease) -> impl Iterator<Item = &'a Key> {
        let prefixes = lease.subnet.prefixes();
        let of_prefixes = prefixes.flat_map(|prefix| self.overlapping(prefix).chain(inside(&self.publics, prefix)));
        let of_publics = lease.public.iter().flat_map(|(_, public)| self.overlapping(Prefix::host(*public)));
        let macs = Family::ALL.into_iter().filter_map(|family| Some((family, mac_of(lease, family)?)));
        let of_macs = macs.flat_map(|(family, mac)| self.sharing(family, mac));
        of_prefixes.chain(of_publics).chain(of_macs)
    }

    fn overlapping(&self, prefix: Prefix) -> impl Iterator<Item = &Key> {
        let family = prefix.family();
        let shorter = self.lengths.range((family, 0)..(family, prefix.len())).map(|((_, len), _)| *len);
        let covering = shorter.filter_map(move |len| Prefix::from_bits(family, prefix.first_bits(), len).ok());
        covering.flat_map(|covering| equal(&self.prefixes, covering)).chain(inside(&self.prefixes, prefix))
    }

    fn sharing(&self, family: Family, mac: MacAddr) -> impl Iterator<Item = &Key> {
        let from = self.macs.range((family, mac, first_key())..);
        from.take_while(move |(of, other, _)| (*of, *other) == (family, mac)).map(|(_, _, key)| key)
    }
}

/// The claims of `prefix` and of all that it covers. In the order of prefixes these follow each other.
fn inside(claims: &BTreeSet<(Prefix, Key)>, prefix: Prefix) -> impl Iterator<Item = &Key> {
    let from = claims.range((prefix, first_key())..);
    from.take_while(move |(other, _)| prefix.covers(*other)).map(|(_, key)| key)
}

fn equal(claims: &BTreeSet<(Prefix, Key)>, prefix: Prefix) -> impl Iterator<Item = &Key> {
    let from = claims.range((prefix, first_key())..);
    from.take_while(move |(other, _)| prefix == *other).map(|(_, key)| key)
}

fn first_key() -> Key {
    Arc::default()
}

fn prefixes_of<'a>(key: &'a Key, lease: &'a Lease) -> impl Iterator<Item = (Prefix, Key)> + use<'a> {
    lease.subnet.prefixes().map(|prefix| (prefix, Arc::clone(key)))
}

fn publics_of<'a>(key: &'a Key, lease: &'a Lease) -> impl Iterator<Item = (Prefix, Key)> + use<'a> {
    let claim = |(_, public): (Family, &IpAddr)| (Prefix::host(*public), Arc::clone(key));
    lease.public.iter().map(claim)
}

fn macs_of<'a>(key: &'a Key, lease: &'a Lease) -> impl Iterator<Item = (Family, MacAddr, Key)> + use<'a> {
    let claim = |family| Some((family, mac_of(lease, family)?, Arc::clone(key)));
    Family::ALL.into_iter().filter_map(claim)
}
