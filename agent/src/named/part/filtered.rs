//! What the packet filter was told of a network: its devices wait for the first rules about it, not for those about all of its members.
//!
//! The rules of a network are the same few for any members: packets of its VNI, and what leaves or enters its bridge, are judged by sets of members and
//! of containers. As long as a set lacks somebody, whose packets are dropped. So the devices may be made as soon as the network itself is in the sets.

use std::net::IpAddr;

use wire_firewall::SegmentShare;
use wire_net::{DualStack, LinkName, Prefix, Vni};

use crate::datapath::NetworkShare;

/// Since when the packet filter knows of a network.
#[derive(Debug, Default)]
pub(in crate::named) struct Filtered {
    /// The network as it was told last, and the first change that told so.
    first: Option<(Network, u64)>,
}

/// What the rules judge a network's packets by, whoever is in it.
#[derive(Debug, PartialEq, Eq)]
struct Network {
    vni: Vni,
    pools: DualStack<Prefix>,
    internal: bool,
    local: IpAddr,
    underlay: LinkName,
    port: u16,
}

/// A share in the kernel's state that waits until the packet filter knows of the network.
#[derive(Debug)]
pub(in crate::named) struct AfterFilter {
    /// The change of the packet filter that it waits for.
    pub(in crate::named) filtered: u64,
    pub(in crate::named) share: NetworkShare,
    /// The change with which the packet filter was told who may send in this share.
    pub(in crate::named) belongs_to: u64,
}

impl Filtered {
    /// Notes a change that told of the network. Returns the first one that told of it as it is now: with another VNI, port or pool it is another one.
    pub(in crate::named) fn note(&mut self, share: &SegmentShare, number: u64) -> u64 {
        let SegmentShare { vni, pools, internal, local, underlay, port, .. } = *share;
        let network = Network { vni, pools, internal, local, underlay, port };
        let first = self.first.take().filter(|(told, _)| *told == network).map_or(number, |(_, first)| first);
        self.first = Some((network, first));
        first
    }

    /// True if the packet filter was told of the network in this run.
    pub(in crate::named) const fn is_told(&self) -> bool {
        self.first.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named::{filter, part::shares::segment, samples};

    #[test]
    fn devices_wait_for_the_first_rules_about_the_network_as_it_is() {
        let closed = filter::alone(&segment(samples::host(1), &samples::kept(1), samples::outer()));
        let mut filtered = Filtered::default();
        assert!(!filtered.is_told());
        assert_eq!(filtered.note(&closed, 7), 7);
        assert!(filtered.is_told());
        let open = SegmentShare { blocks: vec!["10.128.1.32/27".parse().unwrap()], ..closed.clone() };
        assert_eq!(filtered.note(&open, 9), 7, "more may send since then, but it is judged since 7");
        let other = SegmentShare { port: 61000, ..open.clone() };
        assert_eq!(filtered.note(&other, 12), 12);
        assert_eq!(filtered.note(&other, 13), 12);
        assert_eq!(filtered.note(&open, 14), 14, "the rules are about another port since");
    }
}
