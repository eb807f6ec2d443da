//! All that a host's kernel holds, read by the agent's own code.

use wire_firewall::FirewallDataplane;
use wire_kernel::TraceView;
use wire_state::{DataplaneError, Driver as _, HostState, ObservedFirewall};
use wire_tests::{Family, Host, LabError, Result};

/// A reader of one host. Its packet filter is read again only if it has changed, since that runs several programs.
pub(crate) struct Reader {
    view: TraceView,
    filter: FirewallDataplane,
    firewall: ObservedFirewall,
}

impl Reader {
    pub(crate) fn new() -> Self {
        let filter = FirewallDataplane::new(wire_net::NetworkName::default(), Family::ALL.to_vec());
        Self { view: TraceView::default(), filter, firewall: ObservedFirewall::default() }
    }

    /// Reads the kernel of a host, which must be the same each time.
    pub(crate) fn read(&mut self, host: &Host) -> Result {
        let unread = |error: DataplaneError| LabError::Wrong(wire_net::chain(&error));
        let read = host.namespace().inside(|| {
            self.view = TraceView::read()?;
            if self.filter.has_changed() {
                self.firewall = self.filter.read(&())?;
            }
            Ok(())
        })?;
        read.map_err(unread)
    }

    /// What was read last.
    pub(crate) const fn state(&self) -> HostState<'_> {
        HostState { net: &self.view.net, surroundings: &self.view.surroundings, firewall: Some(&self.firewall) }
    }
}
