//! The counters of our table.

use std::{collections::BTreeSet, net::IpAddr};

use wire_net::DualStack;
use wire_state::{DataplaneError, Element};

use super::FirewallDataplane;
use crate::family_rules::counter;

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
        };
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
                    | Element::Vtep(..)
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
                    | Element::Vtep(..)
                    | Element::Within(_) => None,
                }));
            }
        }
        Ok(counted)
    }
}
