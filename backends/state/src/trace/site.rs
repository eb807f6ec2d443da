//! The way of a packet over several hosts.

use std::net::IpAddr;

use wire_net::LinkName;

use super::{
    Entry, Trace,
    host::HostState,
    outcome::{Delivery, Gap, Outcome, Reason, Sending},
    packet::Packet,
    trace,
};

/// The most hosts that a packet goes through: the TTL that Linux gives it (`IPDEFTTL`).
const MOST_HOSTS: usize = 64;

/// Several hosts, and who has which address on the underlay.
pub trait Site {
    /// Identifies a host.
    type Id: Clone;

    /// All that one host's kernel holds.
    fn host(&self, id: &Self::Id) -> HostState<'_>;

    /// The host that a packet reaches which `from` sends, and the link by which it comes in; `None` if no host takes it. Routers of the
    /// underlay are the site's own matter: `sending` holds the next hop and the destination.
    fn receiver(&self, from: &Self::Id, sending: &Sending) -> Option<(Self::Id, LinkName)>;
}

/// Hosts on one link, without routers: the one that has the address of the next hop takes the packet.
impl Site for [HostState<'_>] {
    type Id = usize;

    fn host(&self, id: &usize) -> HostState<'_> {
        self[*id]
    }

    fn receiver(&self, from: &usize, sending: &Sending) -> Option<(usize, LinkName)> {
        let others = self.iter().enumerate().filter(|(number, _)| number != from);
        others.into_iter().find_map(|(number, host)| Some((number, host.link_of(sending.next_hop)?)))
    }
}

/// The way of a packet over several hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journey<I> {
    /// Its way on each host. Only the last outcome says where it ends.
    pub legs: Vec<Leg<I>>,
}

/// The way of a packet on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg<I> {
    /// The host.
    pub host: I,
    /// The way on it.
    pub trace: Trace,
}

impl<I> Journey<I> {
    /// The last host, and the packet's fate there.
    #[must_use]
    pub fn end(&self) -> Option<(&I, &Outcome)> {
        self.legs.last().map(|leg| (&leg.host, &leg.trace.outcome))
    }

    /// Whether the packet arrives.
    #[must_use]
    pub fn arrives(&self) -> bool {
        matches!(self.end(), Some((_, Outcome::Delivered(_))))
    }
}

/// Follows a packet from one host to its end. A packet that no host takes is dropped on the last one.
#[must_use]
pub fn trace_across<S: Site + ?Sized>(site: &S, from: &S::Id, packet: &Packet, entry: Entry) -> Journey<S::Id> {
    let mut legs = Vec::new();
    let (mut host, mut packet, mut entry) = (from.clone(), packet.clone(), entry);
    loop {
        let state = site.host(&host);
        let mut walked = trace(&state, &packet, entry);
        let next = match onward(&walked.outcome, &packet, &state) {
            Some(sending) => Some((site.receiver(&host, &sending), sending)),
            None => None,
        };
        match next {
            Some((Some((receiver, link)), sending)) if legs.len() + 1 < MOST_HOSTS => {
                legs.push(Leg { host, trace: walked });
                if let Some(mac) = strange_mac(&site.host(&receiver), link, &sending) {
                    legs.push(Leg { host: receiver, trace: refused(Reason::OtherMac { link, mac }) });
                    return Journey { legs };
                }
                (host, packet, entry) = (receiver, sending.packet, Entry::Link(link));
            }
            next => {
                walked.outcome = last_outcome(walked.outcome, next.map(|(receiver, _)| receiver.is_some()));
                legs.push(Leg { host, trace: walked });
                return Journey { legs };
            }
        }
    }
}

/// The packet that leaves the host, if it does. One for a neighbour on a link may be for another host too.
fn onward(outcome: &Outcome, packet: &Packet, host: &HostState<'_>) -> Option<Sending> {
    match outcome {
        Outcome::Sent(sending) => Some(sending.clone()),
        Outcome::Delivered(Delivery::OnLink(link, next_hop)) => {
            let mac = host.neighbour(&crate::NeighbourKey { link: *link, address: *next_hop });
            let packet = innermost(packet, *next_hop).clone();
            Some(Sending { link: *link, next_hop: *next_hop, mac, packet })
        }
        Outcome::Delivered(Delivery::Here(_) | Delivery::AtPort(..)) | Outcome::Dropped(_) | Outcome::Unknown(_) => {
            None
        }
    }
}

/// The packet that was delivered to this address: the packet itself, or one that was inside it.
fn innermost(packet: &Packet, destination: IpAddr) -> &Packet {
    match packet.inner.as_deref() {
        Some(inner) if packet.destination != destination => innermost(&inner.packet, destination),
        Some(_) | None => packet,
    }
}

/// The MAC of a frame, if it is not that of the link which receives it.
fn strange_mac(receiver: &HostState<'_>, link: LinkName, sending: &Sending) -> Option<wire_net::MacAddr> {
    let own = receiver.link(link).and_then(|link| link.mac)?;
    sending.mac.filter(|mac| *mac != own)
}

const fn refused(reason: Reason) -> Trace {
    Trace { hops: Vec::new(), outcome: Outcome::Dropped(reason), not_looked_at: Vec::new() }
}

/// The fate of a packet on the last host. `is_taken` says whether another host would take it; `None` if it does not leave.
fn last_outcome(outcome: Outcome, is_taken: Option<bool>) -> Outcome {
    match (outcome, is_taken) {
        (Outcome::Sent(_) | Outcome::Delivered(Delivery::OnLink(..)), Some(true)) => {
            Outcome::Dropped(Reason::TooManyHosts)
        }
        (Outcome::Sent(Sending { next_hop, packet, .. }), _) => {
            if packet.destination == next_hop {
                Outcome::Dropped(Reason::NobodyHas(next_hop))
            } else {
                Outcome::Unknown(Gap::Router(next_hop))
            }
        }
        (outcome, _) => outcome,
    }
}
