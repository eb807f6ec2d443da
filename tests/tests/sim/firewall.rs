//! The packet filter of a host in memory.

use std::{future::poll_fn, task::Poll};

use wire_agent::ports::{FirewallMonitor, FirewallPort};
use wire_firewall::{Counted, DockerRules, ForeignRules};
use wire_kernel::sim::SimHost;
use wire_net::{Family, LinkName, Prefix};
use wire_state::{
    Attempt, ContainerLink, DataplaneError, DesiredTable, Driver, Firewall, FirewallOp, ObservedFirewall, OpError,
    sim::{FaultRates, Sim},
};

/// The rules of a host, for one process of the agent.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    rules: Sim<Firewall>,
    kernel: SimHost,
    /// The number of changes at the last read, or after the last own write.
    known: Option<u64>,
}

impl Rules {
    pub(crate) fn new(kernel: SimHost) -> Self {
        Self { rules: Sim::new(ObservedFirewall::default()), kernel, known: None }
    }

    /// The rules for the next process.
    pub(crate) fn restarted(&self) -> Self {
        Self { rules: self.rules.restarted(), kernel: self.kernel.clone(), known: None }
    }

    pub(crate) fn crash(&self) {
        self.rules.crash();
    }

    pub(crate) fn reboot(&self) {
        self.flush();
    }

    /// Removes all rules, as `nft flush ruleset` does.
    pub(crate) fn flush(&self) {
        self.rules.edit(|rules| *rules = ObservedFirewall::default());
    }

    pub(crate) fn state(&self) -> ObservedFirewall {
        self.rules.state()
    }

    /// Fails operations and reads by chance.
    pub(crate) fn fail_by_chance(&self, rates: FaultRates, seed: u64) {
        self.rules.fail_by_chance(rates, seed);
    }
}

impl Driver for Rules {
    type Resource = Firewall;

    fn read(&mut self, scope: &()) -> Result<ObservedFirewall, DataplaneError> {
        let read = self.rules.read(scope)?;
        self.known = Some(self.rules.changes());
        Ok(read)
    }

    fn apply(&mut self, ops: &[FirewallOp]) -> Vec<Attempt> {
        let attempts = self.rules.apply(ops);
        self.known = Some(self.rules.changes());
        attempts
    }
}

impl FirewallPort for Rules {
    type Monitor = Monitor;

    fn monitor(&self) -> Result<Monitor, DataplaneError> {
        Ok(Monitor { rules: self.rules.clone(), seen: self.rules.changes() })
    }

    fn set_step(&mut self, _: Box<dyn Fn() + Send>) {}

    fn set_families(&mut self, _: Vec<Family>) {}

    fn has_changed(&mut self) -> bool {
        self.known != Some(self.rules.changes())
    }

    fn hides_legacy_tables(&self) -> bool {
        false
    }

    fn accepts(&self, _: &DesiredTable) -> bool {
        true
    }

    fn counted(&mut self) -> Result<Counted, DataplaneError> {
        Ok(Counted::default())
    }

    fn foreign_rules(&mut self) -> ForeignRules {
        ForeignRules { docker: DockerRules::default(), tracked: Default::default() }
    }

    fn abandoned_unread(&self) -> Option<&OpError> {
        None
    }

    fn unread(&mut self) -> Option<OpError> {
        None
    }

    fn container_links(&mut self, subnets: &[Prefix]) -> Result<Vec<ContainerLink>, DataplaneError> {
        Ok(self.kernel.container_links(subnets))
    }

    fn has_link(&mut self, name: LinkName) -> bool {
        self.kernel.has_link(name)
    }
}

/// The notifications of the packet filter in memory.
pub(crate) struct Monitor {
    rules: Sim<Firewall>,
    seen: u64,
}

impl FirewallMonitor for Monitor {
    async fn changed(&mut self) -> Result<(), DataplaneError> {
        poll_fn(|context| match self.rules.poll_changed(&mut self.seen, context) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}
