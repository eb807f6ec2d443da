//! Who reaches whom: packets are followed over the kernels of all hosts.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use tokio::time::Instant;
use wire_net::{LinkName, Prefix};
use wire_state::{
    Address, Entry, HostRoute, HostState, NextHop, ObservedFirewall, ObservedNet, Packet, RouteKey, Sending, Site,
    Surroundings, trace_across,
};

use crate::{
    host::{CARD, SimulatedHost},
    world::{Broken, World},
};

/// The most pairs that are tried at a time: in larger worlds some are drawn.
const MOST_PAIRS: usize = 600;

/// All kernels at one moment.
pub(crate) struct Kernels {
    hosts: Vec<Held>,
    by_address: BTreeMap<IpAddr, usize>,
}

/// All that one host's kernel holds.
struct Held {
    net: ObservedNet,
    surroundings: Surroundings,
    firewall: ObservedFirewall,
}

impl Site for Kernels {
    type Id = usize;

    fn host(&self, id: &usize) -> HostState<'_> {
        let Held { net, surroundings, firewall } = &self.hosts[*id];
        HostState { net, surroundings, firewall: Some(firewall) }
    }

    fn receiver(&self, _: &usize, sending: &Sending) -> Option<(usize, LinkName)> {
        let host = *self.by_address.get(&sending.next_hop)?;
        Some((host, card()))
    }
}

impl Kernels {
    pub(crate) fn of(hosts: &[SimulatedHost]) -> Self {
        let held = |host: &SimulatedHost| Held {
            net: host.parts.kernel.state(),
            surroundings: surroundings(host),
            firewall: host.parts.filter.state(),
        };
        let by_address = hosts.iter().enumerate().map(|(index, host)| (IpAddr::V4(host.address), index));
        Self { hosts: hosts.iter().map(held).collect(), by_address: by_address.collect() }
    }

    /// The place of a host among all.
    pub(crate) fn number(&self, host: &SimulatedHost) -> usize {
        *self.by_address.get(&IpAddr::V4(host.address)).expect("one of the hosts")
    }

    /// The address of a host on the underlay.
    pub(crate) fn address(&self, number: usize) -> IpAddr {
        let found = self.by_address.iter().find(|(_, host)| **host == number);
        *found.expect("one of the hosts").0
    }
}

/// The addresses of a host on the underlay, and the routes that a kernel makes of these and of all others.
fn surroundings(host: &SimulatedHost) -> Surroundings {
    let address = IpAddr::V4(host.address);
    let underlay = Prefix::new(Ipv4Addr::new(192, 168, 0, 0).into(), 16).expect("a prefix");
    let routes = [
        (RouteKey { table: 255, ..RouteKey::main(Prefix::host(address)) }, HostRoute::Local),
        (RouteKey::main(underlay), HostRoute::Via(NextHop::Link(card()))),
    ];
    let own = host.parts.kernel.state().addresses;
    Surroundings {
        addresses: [(address, card())].into(),
        routes: routes.into_iter().chain(own.iter().filter_map(route_of)).collect(),
        ..Surroundings::default()
    }
}

/// The route to the network of an address.
fn route_of(Address { link, address, len }: &Address) -> Option<(RouteKey, HostRoute)> {
    let prefix = Prefix::new(*address, *len).ok().filter(|prefix| *prefix != Prefix::host(*address))?;
    Some((RouteKey::main(prefix), HostRoute::Via(NextHop::Link(*link))))
}

fn card() -> LinkName {
    CARD.parse().expect("a name of a link")
}

impl World {
    /// Each of the hosts that had time reaches each other, and packets come to the owner of their destination.
    ///
    /// # Errors
    /// The pair that does not, and why.
    pub(crate) fn check_reach(&self) -> Result<(), Broken> {
        let now = Instant::now();
        let is_settled = |host: &&SimulatedHost| {
            host.is_ready() && host.disturbed_until <= now && host.blocked.is_empty() && !host.has_lost_its_lease()
        };
        let settled: Vec<(usize, Prefix)> = (0..self.hosts.len())
            .filter(|index| is_settled(&&self.hosts[*index]))
            .filter_map(|index| Some((index, self.hosts[index].subnet()?)))
            .collect();
        if settled.len() < 2 || self.may_be_wrong() {
            return Ok(());
        }
        let kernels = Kernels::of(&self.hosts);
        let all = settled.len() * settled.len();
        for pair in 0..all.min(MOST_PAIRS) {
            let pair = if all <= MOST_PAIRS { pair } else { self.random.index(all) };
            let (from, to) = (settled[pair / settled.len()], settled[pair % settled.len()]);
            if from.0 != to.0 {
                arrives(&kernels, from, to)?;
            }
        }
        Ok(())
    }
}

/// A packet from one subnet to another arrives at the host that has leased it.
fn arrives(kernels: &Kernels, from: (usize, Prefix), to: (usize, Prefix)) -> Result<(), Broken> {
    let packet = Packet::new(from.1.network(), to.1.network());
    let journey = trace_across(kernels, &from.0, &packet, Entry::Here);
    let at = journey.end().map(|(host, outcome)| (*host, outcome.to_string()));
    if journey.arrives() && at.as_ref().is_some_and(|(host, _)| *host == to.0) {
        return Ok(());
    }
    Err(Broken(format!("a packet from host {} to host {} ({}) ends at {at:?}", from.0, to.0, to.1)))
}
