//! The UDP port of a network whose packets the agent moves: each network has a socket of its own, so each has another port. Nobody else on the host
//! has it: not the default network, nor another agent, nor any program.

use std::collections::BTreeSet;

use tracing::warn;
use wire_backends::{SegmentAgent, SegmentOuter};

use super::Part;

/// The first such port. Above it is none that the kernel gives to sockets without one (`ip_local_port_range`, 32768 to 60999).
const FIRST: u16 = 61_000;

/// True if a port is one that a network whose packets the agent moves may have.
pub(in crate::named) const fn is_of_agent(port: u16) -> bool {
    port >= FIRST
}

/// The UDP ports of this host.
pub(in crate::named) struct FreePorts<F, I> {
    /// True if no socket has it.
    pub(in crate::named) is_free: F,
    /// True if a socket of an earlier run of the agent has it, which the tunnel takes over.
    pub(in crate::named) has_inherited: I,
}

impl Part {
    /// Chooses the port, as long as none is chosen: the one that the network has had, if it is no other network's, else the first free one.
    /// One that has become that of the default network is given up.
    pub(in crate::named) fn choose_port<'a>(
        &mut self,
        outer: &SegmentOuter,
        others: impl Iterator<Item = &'a Self>,
        ports: &FreePorts<impl Fn(u16) -> bool, impl Fn(u16) -> bool>,
    ) {
        let FreePorts { is_free, has_inherited } = ports;
        if self.port == Some(outer.port) {
            self.give_up_port();
        }
        if outer.agent.is_none() {
            self.port = None;
        } else if self.port.is_none() {
            let taken: BTreeSet<u16> = others.filter_map(Self::port_of_agent).collect();
            let is_left = |port: &u16| *port != outer.port && !taken.contains(port) && !self.taken_ports.contains(port);
            let new = || (FIRST..=u16::MAX).find(|port| is_left(port) && is_free(*port));
            let is_had = |port: &u16| is_left(port) && (has_inherited(*port) || is_free(*port));
            self.port = self.port_of_agent().filter(is_had).or_else(new);
        }
    }

    /// Gives up the port, which somebody else has. Another one is chosen at the next look, at once.
    pub(in crate::named) fn give_up_port(&mut self) {
        if let Some(port) = self.port.take() {
            warn!(port, "the UDP port of a network by name is taken: another one is chosen");
            self.taken_ports.insert(port);
            self.progress.forget_pause();
            self.progress.is_behind = true;
        }
    }

    /// The way of its packets on a host with this one.
    pub(in crate::named) fn outer(&self, host: SegmentOuter) -> SegmentOuter {
        let with_port = |agent| SegmentAgent { port: self.port_of_agent().unwrap_or(FIRST), ..agent };
        SegmentOuter { agent: host.agent.map(with_port), ..host }
    }

    /// The port that is chosen. One that it had in an earlier run is not claimed before: that would be in its own way.
    pub(in crate::named) const fn chosen_port(&self) -> Option<u16> {
        self.port
    }

    /// The port that is chosen, or that it had in an earlier run.
    pub(in crate::named) fn port_of_agent(&self) -> Option<u16> {
        let kept = || self.entry.held.as_ref().map(|kept| kept.member.port);
        self.port.or_else(|| kept().filter(|port| is_of_agent(*port)))
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

    type Asked = fn(u16) -> bool;

    /// No socket has any port.
    const ALL_FREE: FreePorts<Asked, Asked> = FreePorts { is_free: |_| true, has_inherited: |_| false };

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
            part.choose_port(&by_agent(), before.iter().chain(after.iter()), &ALL_FREE);
        }
        let ports = || parts.iter().map(|part| part.outer(by_agent()).own_port()).collect::<Vec<_>>();
        // Two that had one: the second one to choose keeps it.
        assert_eq!(ports(), [61_000, 61_002, 61_003, 61_001]);
        let again = |part: &Part| Part::new(host(1), part.entry.clone());
        let mut kept = again(&part(61_005));
        kept.choose_port(&by_agent(), parts.iter(), &ALL_FREE);
        assert_eq!(kept.outer(by_agent()).own_port(), 61_005);
        // A later start with the kernel's VXLAN.
        kept.choose_port(&outer(), parts.iter(), &ALL_FREE);
        assert_eq!((kept.outer(outer()).own_port(), kept.port), (8472, None));
    }

    #[test]
    fn a_port_that_somebody_else_has_is_not_chosen_and_is_given_up() {
        let free = FreePorts { is_free: |port| port != 61_001, has_inherited: |_| false };
        let flat = SegmentOuter { port: 61_000, ..by_agent() };
        let mut new = part(8472);
        new.choose_port(&flat, [].into_iter(), &free);
        assert_eq!(new.port, Some(61_002), "without that of the default network, and that of a program");
        new.give_up_port();
        new.choose_port(&flat, [].into_iter(), &free);
        assert_eq!(new.port, Some(61_003));
        // A kept one that a program has got while the agent did not run.
        let mut kept = part(61_001);
        kept.choose_port(&by_agent(), [].into_iter(), &free);
        assert_eq!(kept.port, Some(61_000));
        // One that sockets of an earlier run have, for this network.
        let inherited = FreePorts { is_free: |port| port != 61_001, has_inherited: |port| port == 61_001 };
        let mut kept = part(61_001);
        kept.choose_port(&by_agent(), [].into_iter(), &inherited);
        assert_eq!(kept.port, Some(61_001));
        kept.give_up_port();
        kept.choose_port(&by_agent(), [].into_iter(), &inherited);
        assert_eq!((kept.port, kept.outer(by_agent()).own_port()), (Some(61_000), 61_000));
    }

    #[test]
    fn a_port_that_becomes_that_of_the_default_network_is_given_up() {
        let mut part = part(61_001);
        part.choose_port(&by_agent(), [].into_iter(), &ALL_FREE);
        let flat = SegmentOuter { port: 61_001, ..by_agent() };
        part.choose_port(&flat, [].into_iter(), &ALL_FREE);
        assert_eq!(part.outer(flat).own_port(), 61_000);
    }
}
