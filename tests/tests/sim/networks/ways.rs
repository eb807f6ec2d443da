//! Packets in networks by name, as `trace` follows them over the kernels and packet filters of all hosts: they arrive within a network, and never
//! between two.

use std::net::IpAddr;

use wire_net::Family;
use wire_state::{Entry, Packet, trace_across};

use super::{checks::Part, records::devices};
use crate::{
    reach::Kernels,
    world::{Broken, World},
};

/// The most pairs that are tried at a time: in larger worlds some are drawn.
const MOST_PAIRS: usize = 200;

impl World {
    /// Each host of a network reaches each other there, and nobody elsewhere.
    pub(super) fn check_ways(&self, parts: &[Part<'_>]) -> Result<(), Broken> {
        let kernels = Kernels::of(&self.hosts);
        let all = parts.len() * parts.len();
        for pair in 0..all.min(MOST_PAIRS) {
            let pair = if all <= MOST_PAIRS { pair } else { self.networks.random.index(all) };
            let (from, to) = (&parts[pair / parts.len()], &parts[pair % parts.len()]);
            // A host takes packets to all of its own addresses, by whatever network they come.
            if from.host.number == to.host.number {
                continue;
            }
            if from.name == to.name {
                arrives(&kernels, from, to)?;
            } else {
                ends_before(&kernels, from, to)?;
            }
        }
        Ok(())
    }
}

/// Packets between this host's own addresses and the other's in one network arrive there.
fn arrives(kernels: &Kernels, from: &Part<'_>, to: &Part<'_>) -> Result<(), Broken> {
    for (source, destination) in pairs(&from.held.own, to) {
        let way = Way { from, to, source, destination, entry: Entry::Here };
        match way.end(kernels) {
            (true, Some(host), _) if host == IpAddr::V4(to.host.address) => {}
            (_, _, end) => return Err(way.broken(&end)),
        }
    }
    Ok(())
}

/// Packets from one network to another host's address in another do not arrive: neither this host's own nor those of its containers.
fn ends_before(kernels: &Kernels, from: &Part<'_>, to: &Part<'_>) -> Result<(), Broken> {
    // The host's own address is the first one that it has; the last one may be a container's.
    let of_containers: Vec<IpAddr> = from.held.rooms.iter().map(|room| room.last()).collect();
    let (bridge, _) = devices(from.held.vni);
    for (sources, entry) in [(&from.held.own, Entry::Here), (&of_containers, Entry::Link(bridge))] {
        for (source, destination) in pairs(sources, to) {
            let way = Way { from, to, source, destination, entry };
            if let (true, _, end) = way.end(kernels) {
                return Err(way.broken(&end));
            }
        }
    }
    Ok(())
}

/// Each source with the destinations of its family.
fn pairs(sources: &[IpAddr], to: &Part<'_>) -> Vec<(IpAddr, IpAddr)> {
    let of = |source: &IpAddr| {
        let (source, family) = (*source, Family::of(*source));
        let own = to.held.own.iter().copied().filter(move |own| Family::of(*own) == family);
        own.map(move |own| (source, own))
    };
    sources.iter().flat_map(of).collect()
}

/// A packet from a part of a host in a network to another.
struct Way<'a> {
    from: &'a Part<'a>,
    to: &'a Part<'a>,
    source: IpAddr,
    destination: IpAddr,
    entry: Entry,
}

impl Way<'_> {
    /// Whether it arrives, at which host it ends, and how.
    fn end(&self, kernels: &Kernels) -> (bool, Option<IpAddr>, String) {
        let packet = Packet::new(self.source, self.destination);
        let journey = trace_across(kernels, &kernels.number(self.from.host), &packet, self.entry);
        let end = journey.end();
        let host = end.map(|(host, _)| kernels.address(*host));
        (journey.arrives(), host, end.map(|(_, outcome)| outcome.to_string()).unwrap_or_default())
    }

    fn broken(&self, end: &str) -> Broken {
        let name = |part: &Part<'_>| format!("host {} in {}", part.host.number, part.name);
        let (from, to) = (name(self.from), name(self.to));
        Broken(format!("a packet from {} of {from} to {} of {to} ends so: {end}", self.source, self.destination))
    }
}
