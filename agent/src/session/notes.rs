//! The conditions that a session reports of the underlay, its lease and the network config.

use wire_backends::select;
use wire_lease::{ConfigEvent, HoldState, NetworkConfig};
use wire_net::{Prefix, chain};

use super::{LeaseSource, Session};
use crate::{
    named::Leased,
    ports::Ports,
    status::{EtcdCondition, KernelCondition, UnderlayCondition},
    underlay::{Moved, overlaps},
};

impl<P: Ports> Session<P> {
    /// Reports the state of the underlay. True if the network must be joined anew on it.
    pub(super) fn note_underlay(&mut self) -> bool {
        let moved = self.underlay.look();
        let fault = match &moved {
            Moved::Lost(why) => Some(why.clone()),
            Moved::Yes | Moved::No => None,
        };
        self.status.set(UnderlayCondition::LOST, fault.map(UnderlayCondition::Lost));
        self.status.set(UnderlayCondition::RENAMED, self.underlay.renamed());
        self.note_overlaps();
        self.note_bypasses();
        moved == Moved::Yes
    }

    /// Warns of rules that lead packets past our routes. They are looked at with the underlay, at least once a minute: of rules alone nobody
    /// notifies.
    fn note_bypasses(&self) {
        let networks: Vec<Prefix> = self.joined_with.pools.iter().map(|(_, pool)| pool.network).collect();
        // Without an answer, the loop of `Network` has one to report, too.
        if let Ok(rules) = self.underlay.ports().bypasses(&networks, &self.scope.devices) {
            let condition = (!rules.is_empty()).then_some(KernelCondition::Bypassed(rules));
            self.status.set(KernelCondition::BYPASSED, condition);
        }
    }

    /// Warns of bridges of this host that overlap leases.
    pub(super) fn note_overlaps(&self) {
        if let Some(own) = self.source.own() {
            let leases = self.follow.table.borrow();
            let said = overlaps(self.underlay.attached(), &self.leased_over, own.lease.subnet, leases.as_deref());
            self.status.set(UnderlayCondition::OVERLAPS, said.map(UnderlayCondition::Overlaps));
        }
    }

    /// Names the peers that are not on the underlay's link, if the backend reaches no others.
    pub(super) fn note_beyond_link(&self) {
        let beyond = self.computed.as_ref().map(|computed| computed.beyond_link().clone()).unwrap_or_default();
        if self.status.look(|seen| seen.beyond_link.is_copy_of(&beyond)) {
            return;
        }
        let condition = (!beyond.is_empty()).then(|| UnderlayCondition::BeyondLink(beyond.clone()));
        self.status.set(UnderlayCondition::BEYOND_LINK, condition);
        self.status.update(|seen| seen.beyond_link = beyond);
    }

    /// Reports the state of our lease. True if its subnet differs from the one that traffic uses.
    pub(super) fn note_hold(&mut self) -> bool {
        let LeaseSource::Etcd(etcd) = &mut self.source else { return false };
        let Some(hold) = &mut etcd.hold else { return false };
        let state = hold.state.borrow_and_update().clone();
        let trouble = match &state {
            HoldState::Held { trouble, .. } => trouble.clone().map(EtcdCondition::LeaseAtRisk),
            HoldState::Acquiring { reason } => Some(EtcdCondition::NoLease(reason.clone())),
            HoldState::Lost { reason, .. } => Some(EtcdCondition::LeaseLost(reason.clone())),
        };
        let is_other = state.subnet().is_some_and(|subnet| subnet != etcd.own.lease.subnet);
        self.status.set(EtcdCondition::LEASE_LOST, trouble);
        if let Some(named) = &self.named {
            named.note_lease(Leased::of(&state));
        }
        self.status.update(|seen| seen.hold = Some(state));
        is_other
    }

    /// Checks and reports a config that changes while the agent runs. It is applied only by a restart.
    pub(super) fn note_config(&self, event: ConfigEvent) {
        let fault = match event {
            ConfigEvent::Broken(_) => return,
            ConfigEvent::Is(None) => Some(EtcdCondition::ConfigDeleted),
            ConfigEvent::Is(Some(json)) => match NetworkConfig::from_json(&json) {
                Ok(config) if config == self.joined_with => None,
                Ok(config) => Some(match self.why_inapplicable(&config) {
                    None => EtcdCondition::ConfigChanged,
                    Some(why) => EtcdCondition::ConfigInapplicable(why),
                }),
                Err(error) => Some(EtcdCondition::ConfigRefused(chain(&error))),
            },
        };
        self.status.set(EtcdCondition::CONFIG_CHANGED, fault);
    }

    /// The reason why a restarted agent could not join with this config; `None` if it could.
    fn why_inapplicable(&self, config: &NetworkConfig) -> Option<String> {
        let placement = match self.underlay.placement(&config.pools) {
            Ok(placement) => placement,
            Err(error) => return Some(error.report()),
        };
        select(config, placement).err().map(|error| chain(&error))
    }
}
