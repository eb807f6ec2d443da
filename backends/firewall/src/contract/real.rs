//! The packet filter of a network namespace.

use std::time::Duration;

use wire_net::{Family, NetworkName};
use wire_netlink::lab::{in_namespace, run, runtime};

use super::{Change, Host};
use crate::{FirewallDataplane, FirewallMonitor};

pub(super) struct Real(tokio::runtime::Runtime);

impl Host for Real {
    type Filter = FirewallDataplane;
    type Monitor = FirewallMonitor;

    fn on_new(check: impl FnOnce(Self) + Send + 'static) {
        in_namespace(|| check(Self(runtime())));
    }

    fn filter(&self) -> FirewallDataplane {
        FirewallDataplane::new(NetworkName::default(), Family::ALL.to_vec())
    }

    fn has_changed(filter: &mut FirewallDataplane) -> bool {
        filter.has_changed()
    }

    fn has_own_writes_alone(filter: &mut FirewallDataplane) -> bool {
        filter.has_own_writes_alone()
    }

    fn monitor(&self) -> FirewallMonitor {
        let _inside = self.0.enter();
        FirewallMonitor::open().unwrap()
    }

    fn has_heard(&self, monitor: &mut FirewallMonitor) -> bool {
        let wait = async { tokio::time::timeout(Duration::from_millis(50), monitor.changed()).await };
        self.0.block_on(wait).is_ok()
    }

    fn change(&self, change: Change) {
        run(&match change {
            Change::FlushAll => "nft flush ruleset".to_owned(),
            Change::DeleteTable => "nft delete table inet wire-agent".to_owned(),
            Change::FlushChain(chain) => format!("nft flush chain inet wire-agent {chain}"),
            Change::FlushSet(set) => format!("nft flush set inet wire-agent {set}"),
            Change::AddElement(set, address) => format!("nft add element inet wire-agent {set} {{ {address} }}"),
            Change::DeleteElement(set, address) => format!("nft delete element inet wire-agent {set} {{ {address} }}"),
            Change::FlushChains(chain) => format!("iptables -F {chain}"),
            Change::AddForeignRule => "iptables -A FORWARD -s 192.0.2.7 -j DROP".to_owned(),
            Change::AddForeignTable => "nft add table ip others".to_owned(),
        });
    }
}
