//! Which entries of the lease directory are let in. Pure; a bad entry is refused alone and never changes what becomes of
//! the others.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use wire_net::{DualStack, Family, LocalAddress, LocalUse, MacAddr, Pool, Prefix, Subnet};
use wire_store::Revision;

use crate::{BackendData, Entry, Lease, LeaseTable, Refusal, RefusalKind, entries::Decoded, hold_down::HoldDown};

/// What entries are checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The network's pools.
    pub pools: DualStack<Pool>,
    /// Our own subnet, once we have one. Its entry is no peer.
    pub own: Option<Subnet>,
    /// Our own public addresses, which no peer may have.
    pub public: DualStack<IpAddr>,
    /// All addresses of this host. No peer may have them, nor those that lead to a whole link of this host.
    pub local: Vec<LocalAddress>,
    /// The addresses of our own devices, which no peer may have.
    pub macs: DualStack<MacAddr>,
    /// Prefixes that this host reaches without the overlay, which no peer may lead away. One that holds a whole network
    /// of the pools is not looked at: there the overlay was cut out of the underlay on purpose.
    pub underlay: Vec<Prefix>,
    /// By which addresses this host reaches the store, which no peer may lead away.
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
    // Oldest first, so that the older of two that conflict is in when the younger comes; what is not there any more last.
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
    // Built at once: much quicker than one by one.
    table.peers = peers.into_iter().collect();
    table
}

/// Whether an entry is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    Stored,
    /// It was until lately.
    Held,
}

impl LeaseTable {
    /// An entry that is not even there any more is not worth a word.
    fn refuse(&mut self, presence: Presence, key: &[u8], refusal: &Refusal) {
        match presence {
            Presence::Stored => self.refused.add(key, refusal),
            Presence::Held => {}
        }
    }
}

/// What of this host's own network entries are checked against.
struct HostNetwork {
    /// No subnet of a peer may overlap these.
    prefixes: Vec<Prefix>,
    /// No peer may have these addresses.
    uses: BTreeMap<IpAddr, LocalUse>,
}

impl Admission {
    /// Why other hosts of the network refuse a lease of this one with `public` for its address. They are taken to live on
    /// the links that this host lives on, and on link-local addresses where it does.
    ///
    /// # Errors
    /// When they do.
    pub fn check_as_own(&self, public: IpAddr) -> Result<(), String> {
        let uses = LocalAddress::uses_of(&self.local).into_iter().filter(|(_, used)| *used != LocalUse::Own).collect();
        let pool = self.pools.get(Family::of(public));
        pool.map_or(Ok(()), |pool| self.check_public(pool, public, &uses))
    }

    /// The rules that concern one entry alone. What comes back is cut down to the families of this network.
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
                let reason = format!("{prefix} holds {endpoint}, by which this host reaches etcd");
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

    /// A dual-stack peer of an IPv4 network is an IPv4 peer, and a peer that has not turned IPv6 on yet is one too.
    fn cut_down(&self, entry: &Arc<Entry>) -> Result<Arc<Entry>, Refusal> {
        let Lease { subnet, public, data } = &entry.lease;
        let foreign = || {
            let reason = format!("{subnet} has none of this network's families, or its key is in the wrong directory");
            refuse(RefusalKind::Key)(reason)
        };
        if self.pools.v4.is_some() != subnet.get(Family::V4).is_some() {
            return Err(foreign());
        }
        let wanted = |family| self.pools.get(family).is_some();
        if subnet.prefixes().all(|prefix| wanted(prefix.family())) {
            return Ok(Arc::clone(entry));
        }
        let prefixes = DualStack::from_fn(|family| subnet.get(family).filter(|_| wanted(family)));
        let subnet = Subnet::new(prefixes).ok_or_else(foreign)?;
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
            // Where this host itself lives on link-local addresses, so do its peers.
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

    /// Single addresses that this host reaches without the overlay though they lie in the network. To the prefixes of its links the kernel
    /// has routes of its own.
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

/// What the leases let in so far have for themselves.
#[derive(Default)]
struct Claims<'a> {
    /// Disjoint prefixes by their first address, and whose they are.
    prefixes: BTreeMap<(Family, u128), (Prefix, Owner<'a>)>,
    macs: BTreeMap<(Family, MacAddr), &'a Lease>,
    /// Where hosts are reached. In a network whose range is bounded they may lie beside it, where leases of an older config do.
    publics: BTreeMap<(Family, u128), Owner<'a>>,
}

#[derive(Clone, Copy)]
enum Owner<'a> {
    ThisHost,
    Peer(&'a Lease),
}

impl<'a> Claims<'a> {
    /// This host's subnet is in the kernel: no peer may lead it away, even an older one. Nor may one lead our address away.
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

    /// Either all that the entry claims, or nothing.
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

    /// Packets for a host that is reached through the overlay would be wrapped without end.
    fn check_public(&self, lease: &Lease, public: IpAddr) -> Result<(), String> {
        let address = Prefix::host(public);
        if let Some(own) = lease.subnet.prefixes().find(|prefix| prefix.covers(address)) {
            return Err(format!("{public} lies inside {own}, which it is to lead to"));
        }
        let before = self.prefixes.range(..=(address.family(), address.first_bits())).next_back();
        match before.map(|(_, held)| held).filter(|(held, _)| held.covers(address)) {
            None => Ok(()),
            Some((held, Owner::ThisHost)) => Err(format!("{public} lies inside {held}, this host's own subnet")),
            Some((_, Owner::Peer(peer))) => Err(format!("{public} lies inside the older lease {}", peer.subnet)),
        }
    }

    /// Two leases of one host (its stale one and its new one) may share a MAC; two hosts may not.
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

/// What makes an address unfit as a host's own on the underlay.
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

fn refuse(kind: RefusalKind) -> impl Fn(String) -> Refusal {
    move |reason| Refusal { kind, reason }
}
