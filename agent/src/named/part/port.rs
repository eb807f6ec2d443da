//! The UDP port of a network whose packets the agent moves: each network has a socket of its own, so each has another port.

use std::collections::BTreeSet;

use wire_backends::{SegmentAgent, SegmentOuter};

use super::Part;

/// The first such port. Above it is none that the kernel gives to sockets without one (`ip_local_port_range`, 32768 to 60999).
const FIRST: u16 = 61_000;

impl Part {
    /// Chooses the port, as long as none is chosen: the one that the network has had, if it is no other network's, else the first free one.
    pub(in crate::named) fn choose_port<'a>(&mut self, outer: &SegmentOuter, others: impl Iterator<Item = &'a Self>) {
        if outer.agent.is_none() {
            self.port = None;
        } else if self.port.is_none() {
            let taken: BTreeSet<u16> = others.filter_map(Self::port_of_agent).collect();
            let is_free = |port: &u16| !taken.contains(port);
            self.port = self.port_of_agent().filter(is_free).or_else(|| (FIRST..=u16::MAX).find(is_free));
        }
    }

    /// The way of its packets on a host with this one.
    pub(in crate::named) fn outer(&self, host: SegmentOuter) -> SegmentOuter {
        let with_port = |agent| SegmentAgent { port: self.port_of_agent().unwrap_or(FIRST), ..agent };
        SegmentOuter { agent: host.agent.map(with_port), ..host }
    }

    /// The port that is chosen, or that it had in an earlier run.
    fn port_of_agent(&self) -> Option<u16> {
        let kept = || self.entry.held.as_ref().map(|kept| kept.member.port);
        self.port.or_else(|| kept().filter(|port| *port >= FIRST))
    }
}

#[cfg(test)]
mod tests {
    use wire_backends::ForwardSettings;
    use wire_lease::named::{Kept, MemberRecord};

    use super::*;
    use crate::named::{
        document::Entry,
        samples::{host, kept, outer},
    };

    fn part(port: u16) -> Part {
        let kept = kept(1);
        let held = Kept { member: MemberRecord { port, ..kept.member }, ..kept };
        Part::new(host(1), Entry { held: Some(held), ..Entry::default() })
    }

    fn by_agent() -> SegmentOuter {
        let agent = Some(SegmentAgent { port: 8472, settings: ForwardSettings::default() });
        SegmentOuter { agent, ..outer() }
    }

    #[test]
    fn each_network_whose_packets_the_agent_moves_has_another_port_and_keeps_it() {
        let mut parts = [part(8472), part(61_001), part(8472), part(61_001)];
        for number in 0..parts.len() {
            let (before, rest) = parts.split_at_mut(number);
            let Some((part, after)) = rest.split_first_mut() else { continue };
            part.choose_port(&by_agent(), before.iter().chain(after.iter()));
        }
        let ports = || parts.iter().map(|part| part.outer(by_agent()).own_port()).collect::<Vec<_>>();
        // Two that had one: the second one to choose keeps it.
        assert_eq!(ports(), [61_000, 61_002, 61_003, 61_001]);
        let again = |part: &Part| Part::new(host(1), part.entry.clone());
        let mut kept = again(&part(61_005));
        kept.choose_port(&by_agent(), parts.iter());
        assert_eq!(kept.outer(by_agent()).own_port(), 61_005);
        // A later start with the kernel's VXLAN.
        kept.choose_port(&outer(), parts.iter());
        assert_eq!((kept.outer(outer()).own_port(), kept.port), (8472, None));
    }
}
