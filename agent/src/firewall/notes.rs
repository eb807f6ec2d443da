//! What the board is told of the host around the firewall after each look.

use std::time::Instant;

use tracing::{info, warn};
use wire_firewall::{ACCEPT_MARK, Counted, DockerRules, HostFacts, OverlayDevice};
use wire_kernel::traffic;
use wire_lease::LeaseTable;
use wire_net::{DualStack, Family, LinkName, Prefix};

use super::{
    Keeper, LASTING,
    claims::{PEERS, claimed, misplaced},
    said::{BLOCKED, BRIDGE, BRIDGE_NAME, CONTESTED, DOCKER_USER, RIVAL, blocked, overruled, unnamed},
};
use crate::{
    bridges::{Docker, Expected, Findings},
    other_agents,
};

impl Keeper {
    /// Whether it was another agent that changed what is ours.
    pub(super) fn note_rivals(&mut self) {
        self.contested = other_agents::are_there();
        self.board.alarm(RIVAL, self.contested.then(|| CONTESTED.to_owned()));
    }

    /// Whether containers are where the overlay leads to.
    pub(super) fn note_bridges(&mut self, around: &HostFacts, subnets: Vec<Prefix>) {
        let (networks, mtu) = (self.policy.pools.map(|_, pool| pool.network), self.board.look(|seen| seen.mtu));
        let expected = Expected { subnets, networks, mtu, told: self.told.clone() };
        let found = expected.compare(&around.links, Docker::look);
        if found != self.found.0 {
            self.found = (found.clone(), Instant::now());
        }
        if found != Findings::default() && self.found.1.elapsed() < LASTING {
            return;
        }
        let Findings { fault, warning, clash } = found;
        let before = self.board.look(|seen| [seen.faults.get(BRIDGE).cloned(), seen.notes.get(BRIDGE).cloned()]);
        let said = [&fault, &warning].into_iter().zip(&before).filter(|(now, before)| now != before);
        for text in said.filter_map(|(now, _)| now.as_ref()) {
            warn!("{text}");
        }
        self.board.fault(BRIDGE, fault);
        self.board.warning(BRIDGE, warning);
        // The log has it since before the options were written.
        self.board.warning("daemon.json", clash.filter(|_| self.told.file.is_some()));
    }

    /// Whether a Docker runs whose chains are not to be seen, though ours are to stand before them.
    pub(super) fn is_blind(&mut self) -> bool {
        let concerns_us = self.policy.forward && self.around.docker == DockerRules::Iptables;
        concerns_us && self.reconciler.driver().hides_docker() && Docker::look().runs
    }

    pub(super) fn note_host_facts(&mut self, around: HostFacts, devices: &DualStack<OverlayDevice>) {
        if around.bridges != self.around.bridges {
            let links: Vec<&str> = around.bridges.iter().map(LinkName::as_str).collect();
            info!(links = links.join(" "), "containers are on");
        }
        // Without a device nothing is encapsulated, and there is no such rule.
        let unnamed = unnamed(around.unnamed_bridges()).filter(|_| !devices.is_empty());
        if let Some(unnamed) = &unnamed
            && self.board.look(|seen| seen.notes.get(BRIDGE_NAME) != Some(unnamed))
        {
            warn!("{unnamed}");
        }
        self.board.warning(BRIDGE_NAME, unnamed);
        let fault = (around.docker == DockerRules::Unmarked).then(|| {
            format!(
                "its rules in nftables drop the overlay's packets to containers: start it with \
                 --bridge-accept-fwmark={ACCEPT_MARK:#x}/{ACCEPT_MARK:#x}, or \"bridge-accept-fwmark\" in daemon.json"
            )
        });
        self.board.fault("docker", fault);
        self.around = around;
    }

    /// Which strangers may be peers that send from another address than they publish.
    pub(super) fn note_claims(&self, leases: &LeaseTable) {
        let is_userspace = self.board.look(|seen| seen.datapath.is_some_and(|datapath| datapath.is_userspace));
        let claims = misplaced(&self.seen.counted.claims, leases).map(|misplaced| claimed(&misplaced, is_userspace));
        if let Some(claims) = &claims
            && self.board.look(|seen| seen.notes.get(PEERS) != Some(claims))
        {
            warn!("{claims}");
        }
        self.board.warning(PEERS, claims);
    }

    /// What an operator has put where ours comes first.
    pub(super) fn note_overruled(&mut self, devices: &DualStack<OverlayDevice>) {
        let drops = self.reconciler.driver().operators_drops();
        let warning = overruled(&self.policy.overruled(drops, devices, &self.around));
        if let Some(warning) = &warning
            && self.board.look(|seen| seen.notes.get(DOCKER_USER) != Some(warning))
        {
            warn!("{DOCKER_USER}: {warning}");
        }
        self.board.warning(DOCKER_USER, warning);
    }

    /// Compares what we let in with what the devices have received; true where another family is doubted than before.
    pub(super) fn note_doubts(&mut self, devices: &DualStack<OverlayDevice>) -> bool {
        // Each lease brings a look, and reading the counters of all links takes longer than all else of it.
        if !self.doubts.is_due(Instant::now()) {
            return false;
        }
        // Our own counters were read before: what is on its way in between is received in excess.
        let Ok(traffic) = traffic() else { return false };
        let mut changed = false;
        for (family, device) in devices.iter() {
            let arrived = self.seen.counted.arrived.get(family).copied();
            let received = traffic.devices.get(&device.link).map(|passed| passed.received);
            if let Some((arrived, received)) = arrived.zip(received) {
                changed |= self.doubts.note(family, arrived, received, Instant::now());
            }
        }
        changed
    }

    /// What we let in and nobody sees at the end of the way, another firewall of this host has dropped.
    pub(super) fn note_blocked(&mut self, counted: &Counted, devices: &DualStack<OverlayDevice>) {
        let before = &self.seen.counted;
        let packets = |counted: &DualStack<u64>, family| counted.get(family).copied().unwrap_or_default();
        let more = |now, before, family| packets(now, family) > packets(before, family);
        for (family, _) in devices.iter() {
            if more(&counted.delivered, &before.delivered, family) {
                self.blocked.remove(&family);
            } else if counted.delivered.get(family).is_some() && more(&counted.arrived, &before.arrived, family) {
                self.blocked.insert(family);
            }
        }
        let port = devices.iter().find(|(family, _)| self.blocked.contains(family)).map(|(_, device)| device.port);
        let fault = port.map(|port| {
            let links = devices.iter().map(|(_, device)| device.link).chain(self.around.bridges.iter().copied());
            // Of a network with one family it is that one.
            let families: Vec<Family> = self.blocked.iter().copied().filter(|_| devices.iter().count() > 1).collect();
            blocked(self.reconciler.driver().others(), port, &families, links)
        });
        self.board.alarm(BLOCKED, fault);
    }
}
