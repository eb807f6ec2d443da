//! What must hold: checked after each step for the hosts that had time, and at the end for all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use serde_json::Value;
use tokio::time::Instant;
use wire_net::{MacAddr, Prefix};

use crate::{
    host::{Peer, SimulatedHost, peers},
    world::{Broken, PROMPT, World},
};

/// The hosts that a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Those that nothing has disturbed for as long as a promise takes.
    Undisturbed,
    /// All.
    All,
}

impl World {
    /// Checks all that must hold now.
    ///
    /// # Errors
    /// The promise that is not kept.
    pub(crate) fn check(&self, whom: Whom) -> Result<(), Broken> {
        self.check_foreign()?;
        self.check_gaps()?;
        self.check_held()?;
        self.check_reservations()?;
        self.check_kernels(whom)?;
        self.check_owners(whom)?;
        self.check_reach()?;
        self.check_networks(whom)
    }

    /// Whether leases have changed just now, or the store is in trouble.
    pub(crate) fn may_be_wrong(&self) -> bool {
        let now = Instant::now();
        now < self.lenient_until || now < self.last_change.1 + PROMPT
    }

    fn settled(&self, whom: Whom) -> impl Iterator<Item = &SimulatedHost> {
        let now = Instant::now();
        self.hosts.iter().filter(move |host| whom == Whom::All || host.is_ready() && host.disturbed_until <= now)
    }

    fn may_differ(&self, whom: Whom) -> bool {
        whom == Whom::Undisturbed && self.may_be_wrong()
    }

    /// Each kernel holds exactly the leases in the store.
    fn check_kernels(&self, whom: Whom) -> Result<(), Broken> {
        if self.may_differ(whom) {
            return Ok(());
        }
        let leases = self.leases();
        for host in self.settled(whom) {
            let is_wanted = |(prefix, peer): &(&Prefix, &Peer)| {
                // A subnet that was taken from the host is its own still.
                let is_own = peer.public == IpAddr::V4(host.address) || host.subnet() == Some(**prefix);
                !is_own && !host.blocked.contains(prefix)
            };
            let wanted: BTreeMap<Prefix, Peer> =
                leases.iter().filter(is_wanted).map(|(prefix, peer)| (*prefix, *peer)).collect();
            let held = host.peers();
            let missing = wanted.iter().find(|(prefix, peer)| held.get(prefix) != Some(peer));
            let left = held.iter().find(|(prefix, _)| !wanted.contains_key(prefix));
            if missing.is_some() || left.is_some() {
                let said = host.agent.as_ref().map(|running| running.status.conditions()).unwrap_or_default();
                return Err(Broken(format!(
                    "host {} ({}) misses {missing:?}, has left {left:?}, holds {} of {}; it says {said:?}",
                    host.number,
                    host.address,
                    held.len(),
                    wanted.len()
                )));
            }
            let macs: BTreeSet<MacAddr> = leases.values().map(|peer| peer.mac).collect();
            if let Some(entry) = host.stray_entry(&macs) {
                return Err(Broken(format!("host {} has an entry that belongs to no lease: {entry}", host.number)));
            }
        }
        Ok(())
    }

    /// No two agents use one subnet or one MAC; and the store says of each that it is the owner.
    fn check_owners(&self, whom: Whom) -> Result<(), Broken> {
        if self.may_differ(whom) {
            return Ok(());
        }
        let leases = self.leases();
        let mut owners: BTreeMap<Prefix, u16> = BTreeMap::new();
        let mut macs: BTreeMap<MacAddr, u16> = BTreeMap::new();
        for host in self.settled(whom) {
            if host.has_lost_its_lease() {
                continue;
            }
            let Some(subnet) = host.subnet() else {
                return Err(Broken(format!("host {} has no subnet: {:?}", host.number, host.conditions())));
            };
            if let Some(kept) = host.keeps.filter(|kept| *kept != subnet) {
                return Err(Broken(format!("host {} had {kept} before a hangup, and has {subnet} now", host.number)));
            }
            if let Some(other) = owners.insert(subnet, host.number) {
                return Err(Broken(format!("hosts {other} and {} both use {subnet}", host.number)));
            }
            if let Some(mac) = host.mac()
                && let Some(other) = macs.insert(mac, host.number)
            {
                return Err(Broken(format!("hosts {other} and {} both have the MAC {mac}", host.number)));
            }
            let owner = leases.get(&subnet).map(|peer| peer.public);
            if owner != Some(IpAddr::V4(host.address)) {
                let said = host.conditions();
                return Err(Broken(format!("host {} uses {subnet}, which is {owner:?}'s: {said:?}", host.number)));
            }
        }
        Ok(())
    }

    /// No agent has touched anything of others.
    fn check_foreign(&self) -> Result<(), Broken> {
        let touched = self.hosts.iter().find(|host| host.foreign_differs());
        touched.map_or(Ok(()), |host| Err(Broken(format!("something foreign was touched on host {}", host.number))))
    }

    /// No peer was unknown for a moment while its entries were changed.
    fn check_gaps(&self) -> Result<(), Broken> {
        let gap = self.hosts.iter().find_map(|host| Some((host.number, host.parts.gaps.first()?)));
        gap.map_or(Ok(()), |(number, gap)| Err(Broken(format!("host {number}: {gap}"))))
    }

    /// A subnet that is reserved for another host is taken by nobody.
    fn check_reservations(&self) -> Result<(), Broken> {
        for (key, value) in &self.reserved {
            let listing = self.store.listing(key);
            let now = listing.entries.first().map(|entry| entry.value.clone());
            if now.as_ref() != Some(value) {
                let name = String::from_utf8_lossy(key);
                return Err(Broken(format!("the reservation {name} is another now")));
            }
        }
        Ok(())
    }

    /// The store was asked a bounded number of times, whatever happened.
    ///
    /// # Errors
    /// Names the host that asks too often.
    pub(crate) fn check_calls(&mut self) -> Result<(), Broken> {
        let now = Instant::now();
        // A host follows five folders in the place of one, and has transactions for each network by name.
        let (some, each_second) = if self.networks.are_used() { (120, 20) } else { (60, 10) };
        for host in &mut self.hosts {
            let calls = host.calls();
            let (before, then) = std::mem::replace(&mut host.counted, (calls, now));
            let most = some + each_second * (now - then).as_secs();
            let asked = calls.saturating_sub(before);
            if asked > most {
                let seconds = (now - then).as_secs_f64();
                return Err(Broken(format!("host {} has asked the store {asked} times in {seconds} s", host.number)));
            }
        }
        Ok(())
    }

    /// At the end, all agents are ready and say that nothing is wrong.
    pub(crate) fn check_ready(&self) -> Result<(), Broken> {
        for host in &self.hosts {
            let phase = host.agent.as_ref().map_or("away", |running| running.status.phase());
            if phase != "ready" {
                return Err(Broken(format!("host {} is {phase}: {:?}", host.number, host.conditions())));
            }
        }
        Ok(())
    }

    /// The leases in the store that agents must believe in.
    pub(crate) fn leases(&self) -> BTreeMap<Prefix, Peer> {
        let listing = self.store.listing(self.directory().as_bytes());
        let good = listing.entries.iter().filter(|entry| !self.bad_keys.contains(&entry.key));
        good.filter_map(|entry| lease(&entry.key[self.directory().len()..], &entry.value)).collect()
    }
}

/// Reads a lease without the code that is tested.
fn lease(name: &[u8], value: &[u8]) -> Option<(Prefix, Peer)> {
    let name = std::str::from_utf8(name).ok()?;
    let (network, len) = name.split_once('-')?;
    let network: Ipv4Addr = network.parse().ok()?;
    let value: Value = serde_json::from_slice(value).ok()?;
    let public = value["PublicIP"].as_str()?.parse().ok()?;
    let mac = value["BackendData"]["VtepMAC"].as_str()?.parse().ok()?;
    Some((Prefix::new(network.into(), len.parse().ok()?).ok()?, Peer { public, mac }))
}

impl SimulatedHost {
    /// The peers that its kernel knows.
    pub(crate) fn peers(&self) -> BTreeMap<Prefix, Peer> {
        peers(&self.parts.kernel)
    }

    /// An entry of our device that is of none of these MACs.
    fn stray_entry(&self, macs: &BTreeSet<MacAddr>) -> Option<String> {
        let net = self.parts.kernel.state();
        let device = crate::host::device();
        let stray = net.fdb.keys().find(|key| key.link == device && !macs.contains(&key.mac));
        stray.map(|key| format!("{key:?}"))
    }
}
