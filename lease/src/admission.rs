//! Decides which entries of the lease directory are admitted. Pure. A bad entry is refused alone and does not affect
//! the others.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use wire_net::{DualStack, Family, LocalAddress, LocalUse, MacAddr, Pool, Prefix, Subnet};
use wire_store::Revision;

use crate::{BackendData, Entry, Lease, LeaseTable, Refusal, RefusalKind, entries::Decoded, hold_down::HoldDown};

/// The facts that entries are checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The network's pools.
    pub pools: DualStack<Pool>,
    /// This host's own subnet, once it has one. Its entry is not a peer.
    pub own: Option<Subnet>,
    /// This host's own public addresses. No peer may have them.
    pub public: DualStack<IpAddr>,
    /// All addresses of this host. No peer may have them, nor the network and broadcast addresses of their links.
    pub local: Vec<LocalAddress>,
    /// The MAC addresses of this host's own devices. No peer may have them.
    pub macs: DualStack<MacAddr>,
    /// Prefixes that this host reaches without the overlay. No peer's subnet may overlap them, or it would take over
    /// their routes. A prefix that contains a whole pool is ignored: there the overlay was placed inside the underlay
    /// on purpose.
    pub underlay: Vec<Prefix>,
    /// The addresses by which this host reaches the store. No peer's subnet may contain them, for the same reason.
    pub endpoints: Vec<IpAddr>,
}

pub(crate) fn admit(
    decoded: &BTreeMap<Vec<u8>, Decoded>,
    hold_down: &HoldDown,
    admission: &Admission,
    revision: Revision,
) -> LeaseTable {
    let outside = admission.outside();
    let mut table = LeaseTable { revision, hold_down: hold_down.clone(), outside, ..LeaseTable::default() };
    let mut candidates = Vec::with_capacity(decoded.len());
    let host_network =
        HostNetwork { prefixes: admission.guarded_underlay(), uses: LocalAddress::uses_of(&admission.local) };
    let there = decoded.iter().map(|(key, decoded)| (Presence::Stored, key, decoded));
    for (presence, key, decoded) in there.chain(hold_down.held().map(|(key, decoded)| (Presence::Held, key, decoded))) {
        match &decoded.content {
            Ok(entry) if Some(entry.lease.subnet) == admission.own => {}
            Ok(entry) => match admission.check(entry, &host_network) {
                Ok(entry) => candidates.push((presence, decoded.origin.create_revision, key, entry)),
                Err(refusal) => table.refuse(presence, key, &refusal),
            },
            Err(refusal) => table.refuse(presence, key, refusal),
        }
    }
    // Oldest first, so that of two conflicting leases the older is admitted first. Leases no longer in the store come
    // last.
    candidates.sort_unstable_by_key(|(presence, created, key, _)| (*presence, *created, *key));
    let mut claims = Claims::of(admission);
    let mut peers = Vec::with_capacity(candidates.len());
    for (presence, _, key, entry) in &candidates {
        match claims.claim(entry) {
            Ok(()) => {
                peers.push((entry.lease.subnet, Arc::clone(entry)));
                table.held += usize::from(*presence == Presence::Held);
            }
            Err(refusal) => table.refuse(*presence, key, &refusal),
        }
    }
    // Built from a sorted list: much faster than inserting one by one.
    table.peers = peers.into_iter().collect();
    table
}

/// Whether an entry is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    Stored,
    /// It has vanished from the store, and is held for a while.
    Held,
}

impl LeaseTable {
    /// Refuses an entry. One that is no longer in the store is not reported.
    fn refuse(&mut self, presence: Presence, key: &[u8], refusal: &Refusal) {
        match presence {
            Presence::Stored => self.refused.add(key, refusal),
            Presence::Held => {}
        }
    }
}

/// This host's own network, which peers may not disturb.
struct HostNetwork {
    /// Prefixes that no peer's subnet may overlap.
    prefixes: Vec<Prefix>,
    /// Addresses that no peer may have, with the reason.
    uses: BTreeMap<IpAddr, LocalUse>,
}

impl Admission {
    /// Checks that other hosts admit a lease of this host with the address `public`. They are assumed to be on the same
    /// links as this host, and to use link-local addresses if this host does.
    ///
    /// # Errors
    /// The reason why they would refuse it.
    pub fn check_as_own(&self, public: IpAddr) -> Result<(), String> {
        let uses = LocalAddress::uses_of(&self.local).into_iter().filter(|(_, used)| *used != LocalUse::Own).collect();
        let pool = self.pools.get(Family::of(public));
        pool.map_or(Ok(()), |pool| self.check_public(pool, public, &uses))
    }

    /// Applies the rules that concern a single entry. Returns it reduced to the families of this network.
    fn check(&self, entry: &Arc<Entry>, host_network: &HostNetwork) -> Result<Arc<Entry>, Refusal> {
        let entry = self.cut_down(entry)?;
        for prefix in entry.lease.subnet.prefixes() {
            let family = prefix.family();
            let Some(pool) = self.pools.get(family) else { continue };
            pool.admits(prefix).map_err(refuse(RefusalKind::Subnet))?;
            if let Some(underlay) = host_network.prefixes.iter().find(|underlay| underlay.overlaps(prefix)) {
                let reason = format!("{prefix} overlaps {underlay}, the underlay's own subnet");
                return Err(refuse(RefusalKind::Overlap)(reason));
            }
            if let Some(endpoint) = self.endpoints.iter().find(|endpoint| prefix.contains(**endpoint)) {
                let reason = format!("{prefix} contains {endpoint}, through which this host reaches etcd");
                return Err(refuse(RefusalKind::Overlap)(reason));
            }
            if let Some(public) = entry.lease.public.get(family) {
                self.check_foreign(*public).map_err(refuse(RefusalKind::Own))?;
                self.check_public(pool, *public, &host_network.uses).map_err(refuse(RefusalKind::PublicIp))?;
            }
            if let Some(mac) = mac_of(&entry.lease, family) {
                self.check_mac(mac).map_err(refuse(RefusalKind::Mac))?;
            }
        }
        Ok(entry)
    }

    /// Reduces an entry to the families of this network: in an IPv4 network, a dual-stack peer is an IPv4 peer. In a
    /// dual-stack network, a peer that has not enabled IPv6 yet is an IPv4 peer, too.
    fn cut_down(&self, entry: &Arc<Entry>) -> Result<Arc<Entry>, Refusal> {
        let Lease { subnet, public, data } = &entry.lease;
        if self.pools.v4.is_some() != subnet.get(Family::V4).is_some() {
            return Err(foreign(*subnet));
        }
        let wanted = |family| self.pools.get(family).is_some();
        if subnet.prefixes().all(|prefix| wanted(prefix.family())) {
            return Ok(Arc::clone(entry));
        }
        let prefixes = DualStack::from_fn(|family| subnet.get(family).filter(|_| wanted(family)));
        let subnet = Subnet::new(prefixes).ok_or_else(|| foreign(*subnet))?;
        let data = match data {
            BackendData::Vxlan(vteps) => {
                BackendData::Vxlan(DualStack::from_fn(|family| vteps.get(family).copied().filter(|_| wanted(family))))
            }
            BackendData::Untyped | BackendData::Other(_) => data.clone(),
        };
        let public = DualStack::from_fn(|family| public.get(family).copied().filter(|_| wanted(family)));
        Ok(Arc::new(Entry { lease: Lease { subnet, public, data }, origin: entry.origin }))
    }

    fn check_foreign(&self, public: IpAddr) -> Result<(), String> {
        match self.public.get(Family::of(public)) {
            Some(own) if *own == public => {
                Err(format!("{public} is this host's own: an old lease of it, or a second host with its address"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_public(&self, pool: &Pool, public: IpAddr, uses: &BTreeMap<IpAddr, LocalUse>) -> Result<(), String> {
        let own = self.public.get(Family::of(public));
        if pool.leases(Prefix::host(public)) {
            return Err(format!("{public} lies inside the overlay network {}", pool.network));
        }
        match unreachable(public) {
            // If this host itself uses link-local addresses, so do its peers.
            Some("link-local") if own.is_some_and(|own| unreachable(*own) == Some("link-local")) => {}
            Some(kind) => return Err(format!("{public} is a {kind} address, which no host has on the underlay")),
            None => {}
        }
        uses.get(&public).map_or(Ok(()), |used| Err(format!("{public} is {used}")))
    }

    fn check_mac(&self, mac: MacAddr) -> Result<(), String> {
        if !mac.is_unicast() {
            Err(format!("{mac} is a group address or zero, which no device has"))
        } else if self.macs.iter().any(|(_, own)| *own == mac) {
            Err(format!("{mac} is the address of this host's own device"))
        } else {
            Ok(())
        }
    }

    /// Single addresses inside the overlay network that this host reaches without the overlay. For the prefixes of its
    /// links, the kernel has routes of its own.
    fn outside(&self) -> Vec<IpAddr> {
        let alone = |prefix: &&Prefix| prefix.len() == prefix.family().bits();
        let alone = self.underlay.iter().filter(alone).map(|prefix| prefix.network());
        let in_network = |ip: &IpAddr| self.pools.iter().any(|(_, pool)| pool.network.contains(*ip));
        let in_own = |ip: &IpAddr| self.own.iter().flat_map(Subnet::prefixes).any(|own| own.contains(*ip));
        self.endpoints.iter().copied().chain(alone).filter(|ip| in_network(ip) && !in_own(ip)).collect()
    }

    fn guarded_underlay(&self) -> Vec<Prefix> {
        let holds_overlay = |prefix: &Prefix| self.pools.iter().any(|(_, pool)| prefix.covers(pool.network));
        self.underlay.iter().copied().filter(|prefix| !holds_overlay(prefix)).collect()
    }
}

/// The prefixes, MACs and public addresses of the leases admitted so far.
#[derive(Default)]
struct Claims<'a> {
    /// Disjoint prefixes by their first address, each with its owner.
    prefixes: BTreeMap<(Family, u128), (Prefix, Owner<'a>)>,
    macs: BTreeMap<(Family, MacAddr), &'a Lease>,
    /// The public addresses with their owners. With a bounded range they may lie in the network outside the range,
    /// where leases of an older config may be, too.
    publics: BTreeMap<(Family, u128), Owner<'a>>,
}

#[derive(Clone, Copy)]
enum Owner<'a> {
    ThisHost,
    Peer(&'a Lease),
}

impl<'a> Claims<'a> {
    /// Starts with this host's own subnet, which is in the kernel: no peer may take over its routes, not even an older
    /// one. Nor may a peer take over the route to our public address.
    fn of(admission: &Admission) -> Self {
        let mut claims = Self::default();
        for prefix in admission.own.iter().flat_map(Subnet::prefixes) {
            claims.prefixes.insert((prefix.family(), prefix.first_bits()), (prefix, Owner::ThisHost));
        }
        for (family, public) in admission.public.iter() {
            claims.publics.insert((family, Prefix::host(*public).first_bits()), Owner::ThisHost);
        }
        claims
    }

    /// Claims all that the entry needs, or nothing.
    fn claim(&mut self, entry: &'a Entry) -> Result<(), Refusal> {
        let lease = &entry.lease;
        for prefix in lease.subnet.prefixes() {
            self.check_prefix(prefix).map_err(refuse(RefusalKind::Overlap))?;
            if let Some(mac) = mac_of(lease, prefix.family()) {
                self.check_mac(lease, prefix.family(), mac).map_err(refuse(RefusalKind::Mac))?;
            }
        }
        for (_, public) in lease.public.iter() {
            self.check_public(lease, *public).map_err(refuse(RefusalKind::PublicIp))?;
        }
        for prefix in lease.subnet.prefixes() {
            let family = prefix.family();
            self.prefixes.insert((family, prefix.first_bits()), (prefix, Owner::Peer(lease)));
            if let Some(mac) = mac_of(lease, family) {
                self.macs.entry((family, mac)).or_insert(lease);
            }
        }
        for (family, public) in lease.public.iter() {
            self.publics.entry((family, Prefix::host(*public).first_bits())).or_insert(Owner::Peer(lease));
        }
        Ok(())
    }

    fn check_prefix(&self, prefix: Prefix) -> Result<(), String> {
        let family = prefix.family();
        let before = self.prefixes.range((family, 0)..=(family, prefix.last_bits())).next_back();
        match before.map(|(_, held)| held).filter(|(held, _)| held.overlaps(prefix)) {
            None => {}
            Some((held, Owner::ThisHost)) => return Err(format!("{prefix} overlaps {held}, this host's own subnet")),
            Some((_, Owner::Peer(peer))) => return Err(format!("{prefix} overlaps the older lease {}", peer.subnet)),
        }
        match self.publics.range((family, prefix.first_bits())..=(family, prefix.last_bits())).next() {
            None => Ok(()),
            Some((_, Owner::ThisHost)) => Err(format!("{prefix} holds this host's own public address")),
            Some((_, Owner::Peer(peer))) => {
                Err(format!("{prefix} holds the public address of the older lease {}", peer.subnet))
            }
        }
    }

    /// Refuses a public address that is reached through the overlay: packets to it would be encapsulated without end.
    fn check_public(&self, lease: &Lease, public: IpAddr) -> Result<(), String> {
        let address = Prefix::host(public);
        if let Some(own) = lease.subnet.prefixes().find(|prefix| prefix.covers(address)) {
            return Err(format!("{public} lies inside {own}, the lease's own subnet"));
        }
        let before = self.prefixes.range(..=(address.family(), address.first_bits())).next_back();
        match before.map(|(_, held)| held).filter(|(held, _)| held.covers(address)) {
            None => Ok(()),
            Some((held, Owner::ThisHost)) => Err(format!("{public} lies inside {held}, this host's own subnet")),
            Some((_, Owner::Peer(peer))) => Err(format!("{public} lies inside the older lease {}", peer.subnet)),
        }
    }

    /// Two leases of one host (an old one and the new one) may share a MAC; two hosts may not.
    fn check_mac(&self, lease: &Lease, family: Family, mac: MacAddr) -> Result<(), String> {
        match self.macs.get(&(family, mac)) {
            Some(older) if older.public.get(family) != lease.public.get(family) => {
                let owner = older.public.get(family).map_or_else(String::new, ToString::to_string);
                Err(format!("{mac} belongs to {owner} by the older lease {}", older.subnet))
            }
            _ => Ok(()),
        }
    }
}

/// Names the kind of an address that no host can have on the underlay.
fn unreachable(address: IpAddr) -> Option<&'static str> {
    let kind = match address {
        IpAddr::V4(v4) => [
            (v4.octets()[0] == 0, "this-network (0/8)"),
            (v4.is_loopback(), "loopback"),
            (v4.is_multicast(), "multicast"),
            (v4 == Ipv4Addr::BROADCAST, "broadcast"),
            (v4.octets()[0] >= 240, "reserved (240/4)"),
            (v4.is_link_local(), "link-local"),
        ],
        IpAddr::V6(v6) => [
            (v6.is_unspecified(), "unspecified"),
            (v6.is_loopback(), "loopback"),
            (v6.is_multicast(), "multicast"),
            (v6.to_ipv4_mapped().is_some(), "mapped IPv4"),
            (v6.is_unicast_link_local(), "link-local"),
            (false, ""),
        ],
    };
    kind.into_iter().find_map(|(is, name)| is.then_some(name))
}

fn mac_of(lease: &Lease, family: Family) -> Option<MacAddr> {
    match &lease.data {
        BackendData::Vxlan(vteps) => vteps.get(family).map(|vtep| vtep.mac),
        BackendData::Untyped | BackendData::Other(_) => None,
    }
}

fn foreign(subnet: Subnet) -> Refusal {
    let reason = format!("{subnet} has none of this network's families, or its key is in the wrong directory");
    refuse(RefusalKind::Key)(reason)
}

fn refuse(kind: RefusalKind) -> impl Fn(String) -> Refusal {
    move |reason| Refusal { kind, reason }
}
