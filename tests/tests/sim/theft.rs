//! A lease that another host has taken: traffic goes on with the subnet, also after a hangup, until an operator acts.

use std::time::Duration;

use crate::{
    flannel::Flannel,
    world::{START, World},
};

/// The most leases that are stolen in a world: each takes a subnet for good.
const MOST: u16 = 2;
/// The time after which the agent is told to join anew. By then it has noticed the theft.
pub(crate) const TOLD_AFTER: Duration = Duration::from_millis(500);

impl World {
    /// A flanneld that was cut off for long takes its former subnet, which a host has leased meanwhile. Returns whether it does.
    pub(crate) fn steal(&mut self, index: usize) -> bool {
        let host = &mut self.hosts[index];
        let key = host.lease_key().filter(|_| host.is_ready() && !host.has_lost_its_lease());
        let Some(key) = key.filter(|_| self.stolen < MOST) else { return false };
        // One that has started with the saved state leases another subnet (docs/adr/0008-start-without-etcd.md).
        host.keeps = host.subnet().filter(|_| host.is_well());
        host.disturb(START);
        self.stolen += 1;
        Flannel::new(850 + self.stolen, self.shape.subnets, self.random.fork()).take(&self.store, key);
        true
    }
}
