//! What must hold of networks by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tokio::time::Instant;
use wire_net::{LinkName, NetworkName, Prefix};

use super::{
    FOLLOWED, Networks, Wish,
    document::{Document, Held},
    records::{Entries, Records, devices},
};
use crate::{
    checks::Whom,
    host::SimulatedHost,
    world::{Broken, World},
};

/// A host's part in a network that it has joined, and that nothing is said to be wrong with.
pub(super) struct Part<'a> {
    pub(super) host: &'a SimulatedHost,
    pub(super) name: NetworkName,
    pub(super) held: Held,
}

impl Part<'_> {
    fn public(&self) -> IpAddr {
        self.host.address.into()
    }
}

impl World {
    /// Checks all that must hold now.
    ///
    /// # Errors
    /// The promise that is not kept.
    pub(crate) fn check_networks(&self, whom: Whom) -> Result<(), Broken> {
        if !self.networks.is_used {
            return Ok(());
        }
        let documents: Vec<Document> = self.hosts.iter().map(SimulatedHost::document).collect();
        self.check_wishes(&documents)?;
        self.check_left(whom, &documents)?;
        let parts = self.parts(whom, documents);
        check_devices(&parts)?;
        if whom == Whom::Undisturbed && self.may_networks_be_wrong() {
            return Ok(());
        }
        let records = Records::of(self);
        check_holders(&parts)?;
        check_records(&parts, &records)?;
        check_entries(&parts, &records)?;
        self.check_ways(&parts)
    }

    fn may_networks_be_wrong(&self) -> bool {
        let (now, Networks { lenient_until, last_change, .. }) = (Instant::now(), &self.networks);
        self.may_be_wrong() || now < *lenient_until || now < last_change.1 + FOLLOWED
    }

    /// A wish that was acknowledged is on disk.
    fn check_wishes(&self, documents: &[Document]) -> Result<(), Broken> {
        for ((host, name), wish) in &self.networks.wishes {
            let is_exposed = documents[*host].networks.get(name).is_some_and(|part| part.is_exposed);
            let is_kept = match wish {
                Wish::Exposed => is_exposed,
                Wish::Hidden => !is_exposed,
                Wish::Open => true,
            };
            if !is_kept {
                return Err(Broken(format!("host {host} was told that {name} is {wish:?}, and has not kept it")));
            }
        }
        Ok(())
    }

    fn is_settled(whom: Whom, host: &SimulatedHost) -> bool {
        whom == Whom::All || host.is_ready() && host.disturbed_until <= Instant::now()
    }

    /// The parts of hosts that had time.
    fn parts(&self, whom: Whom, documents: Vec<Document>) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let of_hosts = self.hosts.iter().zip(documents).filter(|(host, _)| Self::is_settled(whom, host));
        for (host, document) in of_hosts {
            let states = host.agent.as_ref().map(|running| running.status.networks()).unwrap_or_default();
            for (name, part) in document.networks {
                let is_joined = states.get(&name) == Some(&"joined") && host.fault_of(&name).is_none();
                if let Some(held) = part.held.filter(|_| is_joined && part.is_exposed) {
                    parts.push(Part { host, name, held });
                }
            }
        }
        parts
    }

    /// Devices of a network without a part of the host are not in its kernel. At rest, those of its networks are there.
    fn check_left(&self, whom: Whom, documents: &[Document]) -> Result<(), Broken> {
        let of_hosts = self.hosts.iter().zip(documents).filter(|(host, _)| Self::is_settled(whom, host));
        for (host, document) in of_hosts {
            let held = document.networks.values().filter_map(|part| part.held.as_ref());
            let known: BTreeSet<LinkName> = held.flat_map(|held| <[LinkName; 2]>::from(devices(held.vni))).collect();
            let net = host.parts.kernel.state();
            let is_named = |link: &&LinkName| link.as_str().starts_with("wb.") || link.as_str().starts_with("wv.");
            // A network that is joined at this moment is in the kernel only once it is on disk.
            if let Some(left) = net.links.keys().filter(is_named).find(|link| !known.contains(link)) {
                return Err(Broken(format!("host {} has {left}, and no part in such a network", host.number)));
            }
        }
        Ok(())
    }
}

/// The devices of each network are there, with this host's addresses: a network with a part here never vanishes.
fn check_devices(parts: &[Part<'_>]) -> Result<(), Broken> {
    for part in parts {
        let net = part.host.parts.kernel.state();
        let (bridge, overlay) = devices(part.held.vni);
        let has = |address: &IpAddr| net.addresses.iter().any(|own| own.link == bridge && own.address == *address);
        let gateways: Vec<IpAddr> = part.held.pools.iter().map(|pool| pool.gateway()).collect();
        let missing = part.held.own.iter().chain(&gateways).find(|address| !has(address));
        let is_there = [bridge, overlay].iter().all(|link| net.links.contains_key(link));
        if !is_there || missing.is_some() || part.held.own.is_empty() {
            let (host, name) = (part.host.number, &part.name);
            return Err(Broken(format!("host {host} has joined {name}, and misses its devices or {missing:?}")));
        }
    }
    Ok(())
}

/// No VNI, subnet, block or address is given to two.
fn check_holders(parts: &[Part<'_>]) -> Result<(), Broken> {
    let mut vnis: BTreeMap<u32, &NetworkName> = BTreeMap::new();
    let mut pools: BTreeMap<Prefix, &NetworkName> = BTreeMap::new();
    let mut rooms: BTreeMap<(&NetworkName, Prefix), u16> = BTreeMap::new();
    let twice = |what: String, one: &dyn std::fmt::Display, other: &dyn std::fmt::Display| {
        Err(Broken(format!("{what} is {one}'s and {other}'s")))
    };
    for Part { host, name, held } in parts {
        if let Some(other) = vnis.insert(held.vni, name).filter(|other| *other != name) {
            return twice(format!("the VNI {}", held.vni), other, name);
        }
        for pool in &held.pools {
            if let Some((other, of)) = pools.iter().find(|(other, of)| **of != name && other.overlaps(*pool)) {
                return twice(format!("{pool}, or {other},"), of, name);
            }
            pools.insert(*pool, name);
        }
        for room in held.rooms.iter().copied().chain(held.own.iter().map(|own| Prefix::host(*own))) {
            let others = rooms.iter().filter(|((of, _), owner)| *of == name && **owner != host.number);
            let mut overlapping = others.filter(|((_, other), _)| other.overlaps(room));
            if let Some((_, other)) = overlapping.next() {
                return twice(format!("{room} of {name}"), &format!("host {other}"), &format!("host {}", host.number));
            }
            rooms.insert((name, room), host.number);
        }
    }
    Ok(())
}

/// The store has what each host holds.
fn check_records(parts: &[Part<'_>], records: &Records) -> Result<(), Broken> {
    for part in parts {
        let (number, name) = (part.host.number, &part.name);
        let Some(network) = records.networks.get(name).filter(|network| network.vni == part.held.vni) else {
            return Err(Broken(format!("host {number} has joined {name}, and the store has no such network")));
        };
        let pools: Vec<Prefix> = network.pools.iter().map(|(pool, _)| *pool).collect();
        let members = records.members.get(name).into_iter().flatten();
        let mut of_host = members.filter(|(_, member)| member.public == part.public());
        let Some((host, member)) = of_host.next().filter(|_| pools == part.held.pools) else {
            return Err(Broken(format!("host {number} has joined {name}, and the store has no such member")));
        };
        let rooms = records.rooms.get(name);
        let is_its = |room: &&Prefix| rooms.and_then(|rooms| rooms.get(*room)) == Some(host);
        let lost = part.held.rooms.iter().find(|room| !is_its(room));
        let other = of_host.next();
        if lost.is_some() || member.own != part.held.own || other.is_some() {
            let sentence = format!("host {number} is not in {name} as the store has it: {lost:?} {member:?} {other:?}");
            return Err(Broken(sentence));
        }
    }
    Ok(())
}

/// Bridges, devices and their entries equal the records.
fn check_entries(parts: &[Part<'_>], records: &Records) -> Result<(), Broken> {
    for part in parts {
        let found = Entries::found(&part.host.parts.kernel.state(), part.held.vni);
        let wanted = records.entries(&part.name, part.public(), &part.held.own);
        if let Some(difference) = found.difference(&wanted) {
            let (host, name, said) = (part.host.number, &part.name, part.host.conditions());
            return Err(Broken(format!(
                "host {host} differs from the records of {name}: {difference}; it says {said:?}"
            )));
        }
    }
    Ok(())
}

impl SimulatedHost {
    /// The fault of a network that its agent tells.
    pub(super) fn fault_of(&self, name: &NetworkName) -> Option<String> {
        let begins = format!("{name}:");
        let of = |(condition, text): &(&str, String)| *condition == "network-by-name" && text.contains(&begins);
        self.conditions().into_iter().find(of).map(|(_, text)| text)
    }
}
