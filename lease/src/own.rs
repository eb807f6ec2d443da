//! Finds this host's own entry in a listing, and chooses its subnet. Pure.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use wire_net::{Directory, DualStack, KeyPrefix, Pool, Prefix, Subnet};
use wire_store::{KeyValue, Listing};

use crate::{Entry, Full, Lease, Origin, Preference, Taken, allocate};

/// Finds this host's own lease: it has its public address and a subnet that the config offers. Of several, takes the
/// one with the most families, then a reservation, then the oldest.
#[must_use]
pub fn own_entry(
    listing: &Listing,
    prefix: &KeyPrefix,
    public: &DualStack<IpAddr>,
    pools: &DualStack<Pool>,
) -> Option<Entry> {
    let directory = prefix.leases(pools.v4.is_some());
    own_entry_without(&[], listing, LeaseSpace { directory: &directory, pools }, public)
}

/// Like [`own_entry`], but ignores a lease whose subnet contains one of `endpoints`.
pub(crate) fn own_entry_without(
    endpoints: &[IpAddr],
    listing: &Listing,
    space: LeaseSpace<'_>,
    public: &DualStack<IpAddr>,
) -> Option<Entry> {
    let LeaseSpace { directory, pools } = space;
    let (family, _) = pools.iter().next()?;
    let address = public.get(family)?;
    let holds_one = |subnet: Subnet| subnet.prefixes().any(|prefix| endpoints.iter().any(|ip| prefix.contains(*ip)));
    let own = leases(listing, directory).filter(|entry| !holds_one(entry.lease.subnet)).filter(|entry| {
        entry.lease.public.get(family) == Some(address) && !offered(entry.lease.subnet, pools).is_empty()
    });
    own.min_by_key(|entry| {
        let families = offered(entry.lease.subnet, pools).iter().count();
        (std::cmp::Reverse(families), entry.origin.lease.is_some(), entry.origin.create_revision)
    })
}

/// The leases with other subnets that have one of these public addresses, in a family of the network.
pub(crate) fn at_address(
    listing: &Listing,
    space: LeaseSpace<'_>,
    public: &DualStack<IpAddr>,
    own: Subnet,
) -> Vec<Entry> {
    let others = subnets(listing, space.directory).filter(|(subnet, _)| *subnet != own);
    let others = others.filter_map(|(subnet, kv)| entry_of(subnet, kv));
    others.filter(|entry| shares_address(space.pools, &entry.lease.public, public)).collect()
}

/// Whether both have the same address in a family of the network.
fn shares_address(pools: &DualStack<Pool>, one: &DualStack<IpAddr>, other: &DualStack<IpAddr>) -> bool {
    pools.iter().any(|(family, _)| one.get(family).is_some() && one.get(family) == other.get(family))
}

/// The prefixes of `subnet` that the config offers.
pub(crate) fn offered(subnet: Subnet, pools: &DualStack<Pool>) -> DualStack<Prefix> {
    DualStack::from_fn(|family| {
        let prefix = subnet.get(family)?;
        pools.get(family).is_some_and(|pool| pool.offers(prefix)).then_some(prefix)
    })
}

/// The directory of a network's leases, and the pools that they come from.
#[derive(Clone, Copy)]
pub(crate) struct LeaseSpace<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) pools: &'a DualStack<Pool>,
}

/// The choice of a subnet for this host.
pub(crate) struct Choice<'a> {
    pub(crate) space: LeaseSpace<'a>,
    /// The prefixes that it already has, and keeps.
    pub(crate) kept: DualStack<Prefix>,
    pub(crate) preferred: DualStack<Prefix>,
    pub(crate) excluded: &'a [Prefix],
    pub(crate) last_resort: &'a [Prefix],
    pub(crate) identity: &'a str,
    pub(crate) attempt: u32,
}

/// The subnets of a listing.
#[derive(Default)]
struct ListedSubnets {
    /// Those whose keys hold leases.
    leases: BTreeSet<Subnet>,
    /// Those whose keys hold something else.
    others: BTreeSet<Subnet>,
}

impl Choice<'_> {
    /// The prefixes that must not be leased. One that contains a whole pool is ignored: there the overlay was placed
    /// inside the underlay on purpose.
    fn excluded(&self) -> impl Iterator<Item = Prefix> {
        let holds_pool = |prefix: &Prefix| self.space.pools.iter().any(|(_, pool)| prefix.covers(pool.network));
        self.excluded.iter().copied().filter(move |prefix| !holds_pool(prefix))
    }

    /// Chooses a prefix for each missing family. The subnet overlaps no listed lease, and its key does not exist.
    pub(crate) fn subnet(&self, listing: &Listing) -> Result<Subnet, NoRoom> {
        let missing = || self.space.pools.iter().filter(|(family, _)| self.kept.get(*family).is_none());
        let mut prefixes = self.kept;
        if missing().next().is_none() {
            return Ok(Subnet::new(prefixes).expect(HAS_A_FAMILY));
        }
        let listed = self.split(listing);
        let leased = listed.leases.iter().flat_map(Subnet::prefixes).filter(|prefix| is_of(self.space.pools, *prefix));
        let mut taken: Taken = leased.chain(self.excluded()).collect();
        loop {
            for (family, pool) in missing() {
                let preferred = self.preferred.get(family).copied();
                let Self { identity, attempt, last_resort, .. } = *self;
                let preference = Preference { preferred, identity, attempt, last_resort };
                let prefix = allocate(pool, &taken, preference);
                prefixes.set(family, Some(prefix.map_err(|full| self.no_room(full, pool, &listed))?));
            }
            let subnet = Subnet::new(prefixes).expect(HAS_A_FAMILY);
            if !listed.others.contains(&subnet) {
                return Ok(subnet);
            }
            // Its key holds something that is not a lease. No key is overwritten, so this one subnet is taken.
            let chosen = missing().last().and_then(|(family, _)| subnet.get(family));
            taken.insert(chosen.expect("a family was missing"));
        }
    }

    fn split(&self, listing: &Listing) -> ListedSubnets {
        let mut listed = ListedSubnets::default();
        for (subnet, kv) in subnets(listing, self.space.directory) {
            let is_lease = entry_of(subnet, kv).is_some();
            if is_lease { &mut listed.leases } else { &mut listed.others }.insert(subnet);
        }
        listed
    }

    /// Names the entries that block more than one subnet of the range, and the keys that hold no lease; the widest
    /// first.
    fn no_room(&self, full: Full, pool: &Pool, listed: &ListedSubnets) -> NoRoom {
        let key = |subnet: Subnet| String::from_utf8_lossy(&self.space.directory.key(subnet)).into_owned();
        let of_pool = |subnet: &Subnet| subnet.get(pool.network.family());
        let wide = listed.leases.iter().filter_map(|subnet| {
            let takes =
                of_pool(subnet).filter(|prefix| pool.admits(*prefix).is_ok()).map_or(0, |it| pool.overlapped(it));
            (takes > 1).then(|| (takes, format!("{} takes {takes} of them", key(*subnet))))
        });
        let excluded = self.excluded().filter_map(|prefix| match pool.overlapped(prefix) {
            0 => None,
            takes => {
                Some((takes, format!("{prefix}, which this host reaches without the overlay, takes {takes} of them")))
            }
        });
        let spoilt = listed.others.iter().filter_map(|subnet| {
            let takes = of_pool(subnet).filter(|prefix| pool.offers(*prefix));
            takes.map(|_| (1, format!("{} does not hold a lease: delete it", key(*subnet))))
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

/// The oldest other lease that overlaps `subnet` and can belong to this network.
pub(crate) fn overlapping<'a>(
    listing: &'a Listing,
    space: LeaseSpace<'_>,
    subnet: Subnet,
) -> Option<(Subnet, &'a KeyValue)> {
    let LeaseSpace { directory, pools } = space;
    subnets(listing, directory)
        .filter(|(other, _)| *other != subnet && other.overlaps(&subnet))
        .filter(|(other, _)| {
            other.prefixes().all(|prefix| pools.get(prefix.family()).is_none() || is_of(pools, prefix))
        })
        .filter(|(other, kv)| entry_of(*other, kv).is_some())
        .min_by_key(|(_, kv)| kv.create_revision)
}

/// The entry with the key of `subnet`, whatever its value.
pub(crate) fn listed<'a>(listing: &'a Listing, directory: &Directory, subnet: Subnet) -> Option<&'a KeyValue> {
    let key = directory.key(subnet);
    listing.entries.iter().find(|kv| kv.key == key)
}

/// The entries that are valid leases.
pub(crate) fn leases(listing: &Listing, directory: &Directory) -> impl Iterator<Item = Entry> {
    subnets(listing, directory).filter_map(|(subnet, kv)| entry_of(subnet, kv))
}

/// Decodes an entry; `None` if its value is not a lease.
pub(crate) fn entry_of(subnet: Subnet, kv: &KeyValue) -> Option<Entry> {
    let lease = Lease::from_value(subnet, &kv.value).ok()?;
    let origin = Origin { create_revision: kv.create_revision, mod_revision: kv.mod_revision, lease: kv.lease };
    Some(Entry { lease, origin })
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

/// The entries whose keys name subnets, whatever their values.
fn subnets<'a>(listing: &'a Listing, directory: &Directory) -> impl Iterator<Item = (Subnet, &'a KeyValue)> {
    listing.entries.iter().filter_map(|kv| Some((directory.subnet(&kv.key).ok()?, kv)))
}
