//! The counters of our table.

use std::{collections::BTreeSet, net::IpAddr};

use wire_net::DualStack;
use wire_state::{DataplaneError, Element, OurTable, TableFamily};

use super::FirewallDataplane;
use crate::{bridges, family_rules::counter, netfilter::TablePlace, segments};

/// The packets that our table has counted since it was created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Encapsulated packets dropped because their sender has no lease.
    pub unknown_peers: u64,
    /// The addresses of such senders in the last hour; not all, since the set is bounded.
    pub senders: BTreeSet<IpAddr>,
    /// The same senders, each with an inner source it has used.
    pub claims: BTreeSet<(IpAddr, IpAddr)>,
    /// Encapsulated packets dropped because a container sent them.
    pub containers: u64,
    /// Packets of peers dropped because the peer may not use their inner source.
    pub spoofed: u64,
    /// Encapsulated packets that our rules accepted, by the family of the overlay.
    pub arrived: DualStack<u64>,
    /// Encapsulated packets that all rules of others accepted too, for families in which they are counted.
    pub delivered: DualStack<u64>,
    /// Dropped packets of networks over several hosts.
    pub segments: SegmentsCounted,
}

/// The packets and frames of networks over several hosts that our tables have dropped since they were created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentsCounted {
    /// Encapsulated packets that no member has sent.
    pub strangers: u64,
    /// Encapsulated packets of members with an inner source that is not theirs.
    pub forged: u64,
    /// Packets from one network to another, or out of an internal one.
    pub crossing: u64,
    /// Frames at the port of a bridge whose MAC or address may not send there, or that would get past the bridge.
    pub at_ports: u64,
}

impl FirewallDataplane {
    /// Reads the counters of our table.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn counted(&mut self) -> Result<Counted, DataplaneError> {
        let counters = self.netfilter()?.counters()?;
        let of = |name| counters.get(name).copied().unwrap_or_default();
        let mut counted = Counted {
            unknown_peers: of(counter::UNKNOWN_PEERS),
            senders: BTreeSet::new(),
            claims: BTreeSet::new(),
            containers: of(counter::CONTAINERS),
            spoofed: of(counter::SPOOFED),
            arrived: DualStack::from_fn(|family| counters.get(counter::arrived(family)).copied()),
            delivered: DualStack::from_fn(|family| counters.get(counter::delivered(family)).copied()),
            segments: SegmentsCounted {
                strangers: of(segments::NO_MEMBERS),
                forged: of(segments::FORGED),
                crossing: of(segments::CROSSING),
                at_ports: of(segments::PAST_BRIDGES),
            },
        };
        let bridge = OurTable { family: TableFamily::Bridge, network: self.network.clone() };
        if self.flowtables.contains_key(&bridge) {
            let counters = self.netfilter()?.named_counters(&TablePlace::of(&bridge))?;
            counted.segments.at_ports += counters.get(bridges::FORGED).copied().unwrap_or_default();
        }
        if counted.unknown_peers > 0 {
            for family in ["v4", "v6"] {
                let noted = self.netfilter()?.noted(&format!("strangers-{family}"))?;
                counted.senders.extend(noted.into_iter().filter_map(|element| match element {
                    Element::Address(address) => Some(address),
                    Element::Link(_)
                    | Element::Lease(..)
                    | Element::Subnet(..)
                    | Element::Source(_)
                    | Element::Sender(..)
                    | Element::Vni(_)
                    | Element::Port(_)
                    | Element::Vtep(..)
                    | Element::Behind(..)
                    | Element::Within(_) => None,
                }));
                let claimed = self.netfilter()?.claimed(&format!("claims-{family}"))?;
                counted.claims.extend(claimed.into_iter().filter_map(|element| match element {
                    Element::Lease(sender, source) => Some((sender, source.network())),
                    Element::Link(_)
                    | Element::Address(_)
                    | Element::Subnet(..)
                    | Element::Source(_)
                    | Element::Sender(..)
                    | Element::Vni(_)
                    | Element::Port(_)
                    | Element::Vtep(..)
                    | Element::Behind(..)
                    | Element::Within(_) => None,
                }));
            }
        }
        Ok(counted)
    }
}
