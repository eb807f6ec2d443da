//! Finds this host's own entry among all, and chooses its subnet. Pure.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use wire_net::{DualStack, Pool, Prefix, Subnet};

use crate::{Entries, Entry, Full, Lease, Preference, Taken, allocate};

/// Finds this host's own lease: it has its public address and a subnet that the config offers. Of several, takes the
/// one with the most families, then a reservation, then the oldest.
#[must_use]
pub fn own_entry(entries: &Entries, public: &DualStack<IpAddr>, pools: &DualStack<Pool>) -> Option<Entry> {
    own_entry_without(&[], entries, public, pools)
}

/// Like [`own_entry`], but ignores a lease whose subnet contains one of `endpoints`.
pub(crate) fn own_entry_without(
    endpoints: &[IpAddr],
    entries: &Entries,
    public: &DualStack<IpAddr>,
    pools: &DualStack<Pool>,
) -> Option<Entry> {
    let (family, _) = pools.iter().next()?;
    let address = public.get(family)?;
    let holds_one = |subnet: Subnet| subnet.prefixes().any(|prefix| endpoints.iter().any(|ip| prefix.contains(*ip)));
    let own = entries.leases().filter(|entry| !holds_one(entry.lease.subnet)).filter(|entry| {
        entry.lease.public.get(family) == Some(address) && !offered(entry.lease.subnet, pools).is_empty()
    });
    let own = own.min_by_key(|entry| {
        let families = offered(entry.lease.subnet, pools).iter().count();
        (std::cmp::Reverse(families), entry.origin.lease.is_some(), entry.origin.create_revision)
    });
    own.map(|entry| (**entry).clone())
}

/// Whether both have the same address in a family of the network.
pub(crate) fn shares_address(pools: &DualStack<Pool>, one: &DualStack<IpAddr>, other: &DualStack<IpAddr>) -> bool {
    pools.iter().any(|(family, _)| one.get(family).is_some() && one.get(family) == other.get(family))
}

/// The prefixes of `subnet` that the config offers.
pub(crate) fn offered(subnet: Subnet, pools: &DualStack<Pool>) -> DualStack<Prefix> {
    DualStack::from_fn(|family| {
        let prefix = subnet.get(family)?;
        pools.get(family).is_some_and(|pool| pool.offers(prefix)).then_some(prefix)
    })
}

/// The choice of a subnet for this host.
pub(crate) struct Choice<'a> {
    pub(crate) pools: &'a DualStack<Pool>,
    /// The prefixes that it already has, and keeps.
    pub(crate) kept: DualStack<Prefix>,
    pub(crate) preferred: DualStack<Prefix>,
    pub(crate) excluded: &'a [Prefix],
    pub(crate) last_resort: &'a [Prefix],
    pub(crate) identity: &'a str,
    pub(crate) attempt: u32,
}

impl Choice<'_> {
    /// The prefixes that must not be leased. One that contains a whole pool is ignored: there the overlay was placed
    /// inside the underlay on purpose.
    fn excluded(&self) -> impl Iterator<Item = Prefix> {
        let holds_pool = |prefix: &Prefix| self.pools.iter().any(|(_, pool)| prefix.covers(pool.network));
        self.excluded.iter().copied().filter(move |prefix| !holds_pool(prefix))
    }

    /// Chooses a prefix for each missing family. The subnet overlaps no lease, and its key does not exist.
    pub(crate) fn subnet(&self, entries: &Entries) -> Result<Subnet, NoRoom> {
        let missing = || self.pools.iter().filter(|(family, _)| self.kept.get(*family).is_none());
        let mut prefixes = self.kept;
        if missing().next().is_none() {
            return Ok(Subnet::new(prefixes).expect(HAS_A_FAMILY));
        }
        let without_lease: BTreeSet<Subnet> = entries.subnets_without_lease().collect();
        let leased = entries.leases().flat_map(|entry| entry.lease.subnet.prefixes());
        let leased = leased.filter(|prefix| is_of(self.pools, *prefix));
        let mut taken: Taken = leased.chain(self.excluded()).collect();
        loop {
            for (family, pool) in missing() {
                let preferred = self.preferred.get(family).copied();
                let Self { identity, attempt, last_resort, .. } = *self;
                let preference = Preference { preferred, identity, attempt, last_resort };
                let prefix = allocate(pool, &taken, preference);
                prefixes.set(family, Some(prefix.map_err(|full| self.no_room(full, pool, entries))?));
            }
            let subnet = Subnet::new(prefixes).expect(HAS_A_FAMILY);
            if !without_lease.contains(&subnet) {
                return Ok(subnet);
            }
            // Its key holds something that is not a lease. No key is overwritten, so this one subnet is taken.
            let chosen = missing().last().and_then(|(family, _)| subnet.get(family));
            taken.insert(chosen.expect("a family was missing"));
        }
    }

    /// Names the entries that block more than one subnet of the range, and the keys that hold no lease; the widest
    /// first.
    fn no_room(&self, full: Full, pool: &Pool, entries: &Entries) -> NoRoom {
        let leased: BTreeSet<Subnet> = entries.leases().map(|entry| entry.lease.subnet).collect();
        let without_lease: BTreeSet<Subnet> = entries.subnets_without_lease().collect();
        let of_pool = |subnet: &Subnet| subnet.get(pool.network.family());
        let wide = leased.iter().filter_map(|subnet| {
            let takes =
                of_pool(subnet).filter(|prefix| pool.admits(*prefix).is_ok()).map_or(0, |it| pool.overlapped(it));
            (takes > 1).then(|| (takes, format!("{} takes {takes} of them", entries.shown_key(*subnet))))
        });
        let excluded = self.excluded().filter_map(|prefix| match pool.overlapped(prefix) {
            0 => None,
            takes => {
                Some((takes, format!("{prefix}, which this host reaches without the overlay, takes {takes} of them")))
            }
        });
        let spoilt = without_lease.iter().filter_map(|subnet| {
            let takes = of_pool(subnet).filter(|prefix| pool.offers(*prefix));
            takes.map(|_| (1, format!("{} does not hold a lease: delete it", entries.shown_key(*subnet))))
        });
        let mut blocked_by: Vec<_> = wide.chain(excluded).chain(spoilt).collect();
        blocked_by.sort_by(|(one, _), (other, _)| other.cmp(one));
        NoRoom { full, blocked_by: blocked_by.into_iter().map(|(_, text)| text).take(BLOCKERS).collect() }
    }
}

const HAS_A_FAMILY: &str = "a network has a family, and each pool gives prefixes of its own";

/// The number of entries to name.
const BLOCKERS: usize = 3;

/// The error that the range is full.
#[derive(Debug)]
pub(crate) struct NoRoom {
    full: Full,
    blocked_by: Vec<String>,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.full.fmt(f)?;
        self.blocked_by.iter().try_for_each(|blocker| write!(f, "; {blocker}"))
    }
}

/// Whether `other` is another subnet that overlaps `subnet` and can belong to this network.
pub(crate) fn collides(other: Subnet, subnet: Subnet, pools: &DualStack<Pool>) -> bool {
    let fits = |prefix: Prefix| pools.get(prefix.family()).is_none() || is_of(pools, prefix);
    other != subnet && other.overlaps(&subnet) && other.prefixes().all(fits)
}

/// The oldest of these leases.
pub(crate) fn oldest<'a>(leases: impl Iterator<Item = &'a Entry>) -> Option<&'a Entry> {
    leases.min_by_key(|entry| entry.origin.create_revision)
}

/// The host's public addresses, for messages.
pub(crate) fn addresses(lease: &Lease) -> String {
    let addresses: Vec<String> = lease.public.iter().map(|(_, address)| address.to_string()).collect();
    addresses.join(" and ")
}

/// Whether `prefix` is a possible subnet of the network. Any other key takes no address, or one key could take all.
fn is_of(pools: &DualStack<Pool>, prefix: Prefix) -> bool {
    pools.get(prefix.family()).is_some_and(|pool| pool.admits(prefix).is_ok())
}
