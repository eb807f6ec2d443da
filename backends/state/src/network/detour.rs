//! Foreign routes that lead packets for a part of a peer's subnet elsewhere: the longest prefix wins, whatever its metric. Pure.

use std::{fmt, net::IpAddr, ops::Bound};

use wire_net::{LinkName, Prefix};

use super::{conflict::protocol_name, route::innermost};
use crate::{DesiredNet, ForwardKey, NextHop, ObservedRoute, RouteKey};

/// The most routes that are listed: there may be thousands.
const NAMED: usize = 3;

/// The foreign routes that lead packets for a part of a peer's subnet elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detours {
    named: Vec<Detour>,
    more: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Detour {
    key: RouteKey,
    found: ObservedRoute,
    peer: Peer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    subnet: Prefix,
    public: Option<IpAddr>,
}

impl Detours {
    /// Whether there is no such route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }
}

/// The detours among foreign routes, in the order of their keys.
pub(super) fn among<'a>(
    foreign: impl Iterator<Item = (&'a RouteKey, &'a ObservedRoute)>,
    want: &DesiredNet,
) -> Detours {
    let mut detours = Detours::default();
    for (key, found) in foreign {
        match peer_at(key, want) {
            Some(peer) if detours.named.len() < NAMED => {
                detours.named.push(Detour { key: *key, found: found.clone(), peer });
            }
            Some(_) => detours.more += 1,
            None => {}
        }
    }
    detours
}

/// The peer whose packets a foreign route with this key takes. A route to the same destination as a desired one is no detour: there the
/// metric decides, see [`crate::Conflict::Route`].
fn peer_at(key: &RouteKey, want: &DesiredNet) -> Option<Peer> {
    let (outer, hop) = innermost(&want.routes, Bound::Excluded(*key))?;
    let outer = Some(outer.destination).filter(|outer| *outer != key.destination)?;
    match hop {
        NextHop::Gateway { gateway, link, .. } => {
            Some(Peer { subnet: outer, public: want.host_behind(*link, *gateway, outer) })
        }
        // The peers behind this link are in our own forwarding table.
        NextHop::Link(link) => peer_in_table(want, *link, key.destination),
        NextHop::Blackhole => None,
    }
}

fn peer_in_table(want: &DesiredNet, link: LinkName, destination: Prefix) -> Option<Peer> {
    let (table, at) = (&want.forwarding, ForwardKey { link, destination });
    let around = table.range(..=at).next_back().filter(|(key, _)| key.destination.covers(destination));
    let inside = || table.range(at..).next().filter(|(key, _)| destination.covers(key.destination));
    let (key, forward) = around.or_else(inside).filter(|(key, _)| key.link == link)?;
    Some(Peer { subnet: key.destination, public: Some(forward.to) })
}

impl fmt::Display for Detours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, detour) in self.named.iter().enumerate() {
            write!(f, "{}{detour}", if index == 0 { "" } else { "; " })?;
        }
        if self.more > 0 {
            write!(f, "; and {} more such routes", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, found: ObservedRoute { via, protocol, .. }, peer: Peer { subnet, public } } = self;
        let whose = public.map(|public| format!(", the subnet of {public},")).unwrap_or_default();
        let protocol = protocol_name(*protocol);
        write!(
            f,
            "the route {key} {via} of protocol {protocol} takes packets for {subnet}{whose} away from the overlay: \
             its containers cannot be reached; remove the route"
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        DesiredNet, NextHop, ObservedRoute, Owner, RouteKey, Via, retain,
        samples::{held, plan_host, state, tunnelled},
    };

    /// The text about detours if the host has these foreign routes beside all desired ones.
    fn said(want: &DesiredNet, foreign: &[&str]) -> String {
        let mut have = held(want);
        for destination in foreign {
            let key = RouteKey::main(destination.parse().unwrap());
            let (gateway, link) = ("192.0.2.1".parse().unwrap(), "eth1".parse().unwrap());
            let via = Via::NextHop(NextHop::Gateway { gateway, link, onlink: false });
            have.routes.entry(key).or_insert(ObservedRoute {
                via,
                protocol: 4,
                uses_nexthop: false,
                owner: Owner::Foreign,
            });
        }
        let plan = plan_host(&have, want);
        assert_eq!(plan.ops, vec![]);
        assert_eq!(plan.findings.conflicts, vec![]);
        plan.findings.detours.to_string()
    }

    fn wanted() -> DesiredNet {
        let mut want = state(&[(2, 20, 102), (60, 21, 103)]);
        want.routes.insert(RouteKey::main("10.5.7.0/24".parse().unwrap()), NextHop::Blackhole);
        want
    }

    /// As with the udp backend: one route, and the peers in our own forwarding table.
    fn udp() -> DesiredNet {
        let mut want = tunnelled(wanted());
        retain(&mut want.routes, |_, hop| *hop == NextHop::Blackhole);
        let all = NextHop::Link("flannel.1".parse().unwrap());
        want.routes.insert(RouteKey::main("10.5.0.0/16".parse().unwrap()), all);
        want
    }

    const TOLD: &str = "the route 10.5.60.128/25 via 192.0.2.1 dev eth1 of protocol static takes packets for \
                        10.5.60.0/24, the subnet of 192.0.2.103, away from the overlay: its containers cannot be \
                        reached; remove the route";

    #[test]
    fn a_longer_route_inside_a_peers_subnet_is_named_with_the_peer() {
        for want in [wanted(), tunnelled(wanted()), udp()] {
            assert_eq!(said(&want, &["10.5.60.128/25"]), TOLD);
            assert!(said(&want, &["10.5.2.9/32"]).contains("10.5.2.0/24, the subnet of 192.0.2.102"));
        }
    }

    #[test]
    fn a_route_that_takes_no_packets_from_a_peer_is_not_named() {
        let others = ["10.0.0.0/8", "10.5.7.0/25", "10.5.7.9/32", "10.5.61.0/24", "10.5.9.9/32", "192.0.2.0/24"];
        for want in [wanted(), tunnelled(wanted()), udp()] {
            assert_eq!(said(&want, &others), "");
        }
        assert_eq!(said(&wanted(), &["10.5.60.0/23"]), "", "ours is longer");
        assert!(said(&udp(), &["10.5.60.0/23"]).contains("10.5.60.0/24"), "ours is the whole network's");
    }

    #[test]
    fn of_many_detours_the_first_are_named_and_all_are_counted() {
        let many: Vec<String> = (1..200).map(|last| format!("10.5.60.{last}/32")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for want in [wanted(), udp()] {
            let said = said(&want, &many);
            assert!(said.starts_with("the route 10.5.60.1/32 "), "{said}");
            assert!(said.ends_with("; and 196 more such routes"), "{said}");
        }
    }
}
