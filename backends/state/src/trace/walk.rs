//! A packet on one host: it comes in, or is sent here, and its route is looked up.

use wire_net::{Family, LinkName};

use super::{
    Entry, Trace,
    filter::{ARRIVING, Incoming},
    host::{HostState, ReversePath},
    outcome::{Gap, Hop, Outcome, Reason},
    packet::Packet,
    routes::{Found, Query},
};
use crate::Setting;

/// The rest of a packet's way. An error is the packet's fate.
pub(super) type Step<T> = Result<T, Box<Outcome>>;

/// A trace in the making.
pub(super) struct Walk<'a> {
    pub(super) host: &'a HostState<'a>,
    pub(super) hops: Vec<Hop>,
    not_looked_at: Vec<String>,
}

impl<'a> Walk<'a> {
    pub(super) const fn new(host: &'a HostState<'a>) -> Self {
        Self { host, hops: Vec::new(), not_looked_at: Vec::new() }
    }

    pub(super) fn follow(mut self, packet: &Packet, from: Entry) -> Trace {
        let fate = match from {
            Entry::Here => self.routed(packet, None),
            Entry::Link(link) => self.arrive(packet, link, false),
            Entry::Decapsulated(link) => self.arrive(packet, link, true),
        };
        let outcome = match fate {
            Ok(outcome) => outcome,
            Err(outcome) => *outcome,
        };
        Trace { hops: self.hops, outcome, not_looked_at: self.not_looked_at }
    }

    pub(super) fn not_looked_at(&mut self, what: &str) {
        if !self.not_looked_at.iter().any(|known| known == what) {
            self.not_looked_at.push(what.to_owned());
        }
    }

    /// Follows a packet that comes in. `let_in` says that a rule has let in the outer packet that it came in.
    pub(super) fn arrive(&mut self, packet: &Packet, link: LinkName, let_in: bool) -> Step<Outcome> {
        self.hops.push(Hop::Arrived(link));
        self.expect_up(link)?;
        match self.host.bridge_of(link) {
            Some(bridge) => self.sent_by_neighbour(packet, (link, let_in), bridge),
            None => self.take_in(packet, link, let_in),
        }
    }

    /// Follows a packet that a link which is up hands to the host.
    pub(super) fn take_in(&mut self, packet: &Packet, link: LinkName, let_in: bool) -> Step<Outcome> {
        let let_in = self.filter(&Incoming { packet, link, let_in }, &ARRIVING)?;
        let let_in = self.judge_member(packet, link)? || let_in;
        self.check_source(packet, link)?;
        if packet.inner.is_some()
            && let Found::Local = self.host.route(&query(packet, Some(link)))
        {
            return self.open(packet, link, let_in);
        }
        self.routed(packet, Some(link))
    }

    /// Follows a packet from the lookup of its route.
    fn routed(&mut self, packet: &Packet, incoming: Option<LinkName>) -> Step<Outcome> {
        let destination = packet.destination;
        if is_for_one_link(destination) {
            return Err(Gap::LinkLocal(destination).into());
        }
        let (key, hop) = match self.host.route(&query(packet, incoming)) {
            Found::Local => return Ok(here(packet)),
            Found::Hop(key, hop) => (key, hop),
            Found::Broadcast => return Err(Gap::Several(destination).into()),
            Found::Refused(what) => return Err(Reason::Refused(what).into()),
            Found::Nothing => return Err(Reason::NoRoute(destination).into()),
            Found::Unclear(what) => return Err(Gap::Route(what).into()),
        };
        let Some(link) = incoming else {
            self.hops.push(Hop::Route(key, hop));
            return self.leave(packet, hop);
        };
        self.expect_forwarding(Family::of(destination), link)?;
        self.hops.push(Hop::Route(key, hop));
        let Some(out) = hop.link() else { return self.leave(packet, hop) };
        self.judge_crossing(link, out)?;
        let Some(source) = self.masqueraded(packet.source, link, out) else { return self.leave(packet, hop) };
        self.hops.push(Hop::Masqueraded(source));
        self.leave(&Packet { source, ..packet.clone() }, hop)
    }

    pub(super) fn expect_up(&mut self, link: LinkName) -> Step<()> {
        let found = self.host.link(link).ok_or(Reason::NoLink(link))?;
        if !found.up {
            return Err(Reason::LinkDown(link).into());
        }
        if self.host.surroundings.without_carrier.contains(&link) {
            return Err(Reason::NoCarrier(link).into());
        }
        Ok(())
    }

    /// Checks the source as the kernel does for IPv4 (`fib_validate_source` of net/ipv4/fib_frontend.c).
    fn check_source(&mut self, packet: &Packet, link: LinkName) -> Step<()> {
        let Packet { source, destination, .. } = *packet;
        if Family::of(source) == Family::V6 {
            return Ok(());
        }
        let back = self.host.route(&Query { destination: source, source: destination, incoming: None });
        let strictness = self.host.surroundings.reverse_path.get(&link);
        let is_answered = match (&back, strictness) {
            (Found::Local, _) => return Err(Reason::OwnSource(source, link).into()),
            (_, None) => true,
            (Found::Hop(_, hop), Some(ReversePath::Strict)) => hop.link() == Some(link),
            (Found::Hop(..), Some(ReversePath::Loose)) => true,
            (Found::Broadcast | Found::Refused(_) | Found::Nothing, Some(_)) => false,
            (Found::Unclear(what), Some(_)) => return Err(Gap::Route(what.clone()).into()),
        };
        if is_answered { Ok(()) } else { Err(Reason::ReversePath(source, link).into()) }
    }

    /// Checks that the host forwards what comes in by a link. IPv4 has a setting for each link, IPv6 one for the host.
    fn expect_forwarding(&mut self, family: Family, link: LinkName) -> Step<()> {
        let of_host = Setting::Forwarding(family);
        let of_link = Setting::LinkForwarding(family, link);
        let settings = match family {
            Family::V4 => [of_link, of_host],
            Family::V6 => [of_host, of_link],
        };
        let held = &self.host.net.settings;
        let decisive = settings.into_iter().find_map(|setting| Some((setting, *held.get(&setting)?)));
        match decisive {
            Some((setting, 0)) => Err(Reason::NoForwarding(setting).into()),
            Some(_) => Ok(()),
            None => {
                self.not_looked_at(&format!("whether this host forwards {family}"));
                Ok(())
            }
        }
    }
}

fn query(packet: &Packet, incoming: Option<LinkName>) -> Query {
    Query { destination: packet.destination, source: packet.source, incoming }
}

const fn here(packet: &Packet) -> Outcome {
    Outcome::Delivered(super::Delivery::Here(packet.destination))
}

/// Whether an address is valid on one link only, or stands for a group.
const fn is_for_one_link(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    }
}
