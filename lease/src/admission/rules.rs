//! The rules that concern a single entry.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use wire_net::{DualStack, Family, LocalAddress, LocalUse, MacAddr, Pool, Prefix, Subnet};

use super::{Admission, mac_of, refuse};
use crate::{BackendData, Entry, Lease, LeaseTable, Refusal, RefusalKind, entries::Decoded};

/// This host's own network, which peers may not disturb.
#[derive(Debug)]
pub(super) struct HostNetwork {
    /// Prefixes that no peer's subnet may overlap.
    prefixes: Vec<Prefix>,
    /// Addresses that no peer may have, with the reason.
    uses: BTreeMap<IpAddr, LocalUse>,
}

impl HostNetwork {
    pub(super) fn of(admission: &Admission) -> Self {
        Self { prefixes: admission.guarded_underlay(), uses: LocalAddress::uses_of(&admission.local) }
    }
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

    /// A table without leases.
    pub(super) fn no_leases(&self) -> LeaseTable {
        LeaseTable { outside: self.outside(), ..LeaseTable::default() }
    }

    /// Applies the rules that concern a single entry. Returns it reduced to the families of this network; `None` for
    /// this host's own.
    pub(super) fn check(&self, decoded: &Decoded, host_network: &HostNetwork) -> Option<Result<Arc<Entry>, Refusal>> {
        match &decoded.content {
            Ok(entry) if Some(entry.lease.subnet) == self.own => None,
            Ok(entry) => Some(self.check_entry(entry, host_network)),
            Err(refusal) => Some(Err(refusal.clone())),
        }
    }

    fn check_entry(&self, entry: &Arc<Entry>, host_network: &HostNetwork) -> Result<Arc<Entry>, Refusal> {
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
        // What a record says is joined later.
        let Lease { subnet, public, data, port: _, former: _ } = &entry.lease;
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
            BackendData::Untyped | BackendData::HostGw | BackendData::Ipip | BackendData::Other(_) => data.clone(),
        };
        let public = DualStack::from_fn(|family| public.get(family).copied().filter(|_| wanted(family)));
        Ok(Arc::new(Entry { lease: Lease::new(subnet, public, data), origin: entry.origin }))
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

/// Names the kind of an address that no host can have on the underlay.
pub(crate) fn unreachable(address: IpAddr) -> Option<&'static str> {
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

fn foreign(subnet: Subnet) -> Refusal {
    let reason = format!("{subnet} has none of this network's families, or its key is in the wrong directory");
    refuse(RefusalKind::Key)(reason)
}
