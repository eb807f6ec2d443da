//! The UDP port of a network whose packets the agent moves: each network has a socket of its own, so each has another port.

use wire_backends::{SegmentAgent, SegmentOuter};

use super::Part;

/// The first such port. Above it is none that the kernel gives to sockets without one (`ip_local_port_range`, 32768 to 60999).
const FIRST: u16 = 61_000;

impl Part {
    /// Chooses the port, as long as none is chosen: the one that the network has had, if it is no other network's, else the first free one.
    pub(in crate::named) fn choose_port<'a>(
        &mut self,
        outer: &SegmentOuter,
        others: impl Iterator<Item = &'a Self> + Clone,
    ) {
        if outer.agent.is_none() {
            self.port = None;
        } else if self.port.is_none() {
            let is_free = |port: &u16| !others.clone().any(|other| other.port_of_agent() == Some(*port));
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
