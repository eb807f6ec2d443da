//! The packet filter of a host in memory, as a driver of the agent.

use wire_agent::ports::{FirewallMonitor, FirewallPort};
use wire_firewall::{
    Counted, ForeignRules,
    sim::{SimFirewall, SimFirewallMonitor, SimPacketFilter},
};
use wire_kernel::sim::SimHost;
use wire_net::{Family, LinkName, Prefix};
use wire_state::{
    Attempt, ContainerLink, DataplaneError, DesiredTable, Driver, Firewall, FirewallOp, ObservedFirewall, OpError,
};

/// The packet filter and the links of a host.
pub(crate) struct Rules {
    driver: SimFirewall,
    filter: SimPacketFilter,
    kernel: SimHost,
}

impl Rules {
    pub(crate) fn new(filter: SimPacketFilter, kernel: SimHost) -> Self {
        Self { driver: filter.driver(), filter, kernel }
    }
}

impl Driver for Rules {
    type Resource = Firewall;

    fn read(&mut self, scope: &()) -> Result<ObservedFirewall, DataplaneError> {
        self.driver.read(scope)
    }

    fn apply(&mut self, ops: &[FirewallOp]) -> Vec<Attempt> {
        self.driver.apply(ops)
    }
}

impl FirewallPort for Rules {
    type Monitor = Monitor;

    fn monitor(&self) -> Result<Monitor, DataplaneError> {
        Ok(Monitor(self.filter.monitor()))
    }

    fn set_step(&mut self, _: Box<dyn Fn() + Send>) {}

    fn set_families(&mut self, families: Vec<Family>) {
        self.driver.set_families(families);
    }

    fn has_changed(&mut self) -> bool {
        self.driver.has_changed()
    }

    fn has_own_writes_alone(&mut self) -> bool {
        self.driver.has_own_writes_alone()
    }

    fn hides_legacy_tables(&self) -> bool {
        self.driver.hides_legacy_tables()
    }

    fn accepts(&self, table: &DesiredTable) -> bool {
        self.driver.accepts(table)
    }

    fn counted(&mut self) -> Result<Counted, DataplaneError> {
        self.driver.counted()
    }

    fn foreign_rules(&mut self) -> ForeignRules {
        self.driver.foreign_rules()
    }

    fn abandoned_unread(&self) -> Option<&OpError> {
        self.driver.abandoned_unread()
    }

    fn unread(&mut self) -> Option<OpError> {
        self.driver.unread()
    }

    fn container_links(&mut self, subnets: &[Prefix]) -> Result<Vec<ContainerLink>, DataplaneError> {
        Ok(self.kernel.container_links(subnets))
    }

    fn has_link(&mut self, name: LinkName) -> bool {
        self.kernel.has_link(name)
    }
}

/// The notifications of the packet filter in memory.
pub(crate) struct Monitor(SimFirewallMonitor);

impl FirewallMonitor for Monitor {
    async fn changed(&mut self) -> Result<(), DataplaneError> {
        self.0.changed().await
    }
}
