//! A packet filter in memory.

use std::{
    pin::pin,
    task::{Context, Waker},
};

use wire_net::Family;
use wire_state::{ChainName, ChainTable, ChainTableKind, Element, ObservedFirewall, ObservedTable};

use super::{Change, Host};
use crate::sim::{SimFirewall, SimFirewallMonitor, SimPacketFilter};

pub(super) struct Double(SimPacketFilter);

impl Host for Double {
    type Filter = SimFirewall;
    type Monitor = SimFirewallMonitor;

    fn on_new(check: impl FnOnce(Self) + Send + 'static) {
        check(Self(SimPacketFilter::default()));
    }

    fn filter(&self) -> SimFirewall {
        let mut filter = self.0.driver();
        filter.set_families(Family::ALL.to_vec());
        filter
    }

    fn has_changed(filter: &mut SimFirewall) -> bool {
        filter.has_changed()
    }

    fn has_own_writes_alone(filter: &mut SimFirewall) -> bool {
        filter.has_own_writes_alone()
    }

    fn monitor(&self) -> SimFirewallMonitor {
        self.0.monitor()
    }

    fn has_heard(&self, monitor: &mut SimFirewallMonitor) -> bool {
        pin!(monitor.changed()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn change(&self, change: Change) {
        match change {
            Change::FlushAll => self.0.flush(),
            Change::DeleteTable => self.0.edit(|rules| rules.table = None),
            Change::FlushChain(chain) => self.edit(|table| table.chains.get_mut(chain).unwrap().rules.clear()),
            Change::FlushSet(set) => self.edit(|table| table.sets.get_mut(set).unwrap().elements.clear()),
            Change::AddElement(set, address) => self.edit(|table| {
                table.sets.get_mut(set).unwrap().elements.insert(element(address));
            }),
            Change::DeleteElement(set, address) => self.edit(|table| {
                table.sets.get_mut(set).unwrap().elements.remove(&element(address));
            }),
            Change::FlushChains(chain) => self.0.edit(|rules| flush(rules, chain)),
            Change::AddForeignRule => self.0.edit(|rules| {
                rules.used.insert(FILTER);
            }),
            Change::AddForeignTable => self.0.edit(|_| ()),
        }
    }
}

impl Double {
    fn edit(&self, change: impl FnOnce(&mut ObservedTable)) {
        self.0.edit(|rules| change(rules.table.as_mut().unwrap()));
    }
}

const FILTER: ChainTable = ChainTable { family: Family::V4, kind: ChainTableKind::Filter };

fn element(address: &str) -> Element {
    Element::Address(address.parse().unwrap())
}

/// Removes the rules of a chain of the table `filter`, and with them its calls of ours.
fn flush(rules: &mut ObservedFirewall, chain: &str) {
    if let Some(own) = rules.chains.get_mut(&ChainName { table: FILTER, name: chain.to_owned() }) {
        own.rules.clear();
    }
    for (_, own) in rules.chains.iter_mut().filter(|(name, _)| name.table == FILTER) {
        own.calls.remove(chain);
    }
}
