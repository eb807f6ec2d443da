//! Which entry of a listing is this host's own, and which subnet it should have. Pure.

use std::net::IpAddr;

use crate::{
    DualStack, Entry, Family, Full, KeyValue, Lease, Listing, Origin, Pool, Prefix, Subnet, Taken, Wish, allocate,
};

/// This host's own lease among those listed: the one with its public address, of a subnet that the config offers. Of several
/// the one with the most families is taken, then a reservation, then the oldest.
#[must_use]
pub fn own_entry(listing: &Listing, public: &DualStack<IpAddr>, pools: &DualStack<Pool>) -> Option<Entry> {
    let (family, _) = pools.iter().next()?;
    let address = public.of(family)?;
    let own = subnets(listing).filter_map(|(subnet, kv)| entry_of(subnet, kv)).filter(|entry| {
        entry.lease.public.of(family) == Some(address) && !offered(entry.lease.subnet, pools).is_empty()
    });
    own.min_by_key(|entry| {
        let families = offered(entry.lease.subnet, pools).iter().count();
        (std::cmp::Reverse(families), entry.origin.lease.is_some(), entry.origin.create_revision)
    })
}

/// The parts of `subnet` that the config offers.
pub(crate) fn offered(subnet: Subnet, pools: &DualStack<Pool>) -> DualStack<Prefix> {
    DualStack::from_fn(|family| {
        let prefix = subnet.of(family)?;
        pools.of(family).is_some_and(|pool| pool.offers(prefix)).then_some(prefix)
    })
}

/// What a host of this network should have.
pub(crate) struct Choice<'a> {
    pub(crate) pools: &'a DualStack<Pool>,
    /// What it has already, and keeps.
    pub(crate) kept: DualStack<Prefix>,
    pub(crate) preferred: DualStack<Prefix>,
    pub(crate) avoid: &'a [Prefix],
    pub(crate) identity: &'a str,
    pub(crate) attempt: u32,
}

impl Choice<'_> {
    /// What must not be leased. A prefix that holds a whole pool is no reason: the overlay is then cut out of the underlay.
    fn avoided(&self) -> impl Iterator<Item = Prefix> {
        let holds_pool = |prefix: &Prefix| self.pools.iter().any(|(_, pool)| prefix.covers(pool.network));
        self.avoid.iter().copied().filter(move |prefix| !holds_pool(prefix))
    }

    /// A subnet with a prefix of each family, free of all that is listed.
    pub(crate) fn subnet(&self, listing: &Listing) -> Result<Subnet, Full> {
        let mut prefixes = self.kept;
        let missing = self.pools.iter().filter(|(family, _)| self.kept.of(*family).is_none());
        let mut taken = None;
        for (family, pool) in missing {
            let taken = taken.get_or_insert_with(|| {
                let listed = subnets(listing).flat_map(|(subnet, _)| Family::ALL.map(|family| subnet.of(family)));
                listed.flatten().filter(|prefix| is_of(self.pools, *prefix)).chain(self.avoided()).collect::<Taken>()
            });
            let preferred = self.preferred.of(family).copied();
            let wish = Wish { preferred, identity: self.identity, attempt: self.attempt };
            prefixes.set(family, Some(allocate(pool, taken, wish)?));
        }
        Ok(Subnet::new(prefixes).expect("a network has a family, and each pool gives prefixes of its own"))
    }
}

/// A lease other than `subnet` itself that shares an address with it and may be a lease of this network: the oldest one.
pub(crate) fn overlapping<'a>(
    listing: &'a Listing,
    pools: &DualStack<Pool>,
    subnet: Subnet,
) -> Option<(Subnet, &'a KeyValue)> {
    subnets(listing)
        .filter(|(other, _)| *other != subnet && other.overlaps(&subnet))
        .filter(|(other, _)| other.prefixes().all(|prefix| pools.of(prefix.family()).is_none() || is_of(pools, prefix)))
        .min_by_key(|(_, kv)| kv.create_revision)
}

/// The entry of exactly that subnet, as far as its key goes.
pub(crate) fn listed(listing: &Listing, subnet: Subnet) -> Option<&KeyValue> {
    subnets(listing).find(|(other, _)| *other == subnet).map(|(_, kv)| kv)
}

/// The entry as a lease, where its value is one.
pub(crate) fn entry_of(subnet: Subnet, kv: &KeyValue) -> Option<Entry> {
    let lease = Lease::from_value(subnet, &kv.value).ok()?;
    let origin = Origin { create_revision: kv.create_revision, mod_revision: kv.mod_revision, lease: kv.lease };
    Some(Entry { lease, origin })
}

/// The host's addresses, for people.
pub(crate) fn addresses(lease: &Lease) -> String {
    let addresses: Vec<String> = lease.public.iter().map(|(_, address)| address.to_string()).collect();
    addresses.join(" and ")
}

/// A key that names no possible subnet of the network takes nothing from it, or one key could take all.
fn is_of(pools: &DualStack<Pool>, prefix: Prefix) -> bool {
    pools.of(prefix.family()).is_some_and(|pool| pool.admits(prefix).is_ok())
}

/// The entries whose key names a subnet, whatever their value.
fn subnets(listing: &Listing) -> impl Iterator<Item = (Subnet, &KeyValue)> {
    listing.entries.iter().filter_map(|kv| {
        let name = kv.key.rsplit(|byte| *byte == b'/').next()?;
        Some((std::str::from_utf8(name).ok()?.parse().ok()?, kv))
    })
}
