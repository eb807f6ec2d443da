//! Faults of one host: its agent, its machine, its kernel, its way to the store.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;
use wire_net::{Family, MacAddr, Prefix};
use wire_state::{
    NextHop,
    sim::{DiskFault, FaultRates},
};
use wire_store::{SimCut, SimStore};

use super::{HostFault, undo::Undo};
use crate::{
    host::{CARD, DEVICE, SimulatedHost, address},
    theft::TOLD_AFTER,
    world::{Broken, PROMPT, START, World},
};

/// How often a part of a host fails that fails by chance.
const OFTEN: FaultRates = FaultRates { ops: 200, reads: 50 };

impl World {
    pub(super) fn apply_to_host(&mut self, fault: HostFault, index: usize) -> Result<(), Broken> {
        let lasts = self.some_time();
        let (number, seed) = (self.random.number(0..1 << 16), self.random.number(0..u64::MAX));
        let runs = self.hosts[index].agent.is_some();
        self.hosts[index].keeps = None;
        let host = &mut self.hosts[index];
        match fault {
            HostFault::Kill => {
                host.crash();
                host.start_at = Some(Instant::now() + lasts);
            }
            HostFault::KillBetween => {
                host.parts.kernel.faults().crash_after(usize::try_from(number % 8).unwrap_or(0));
                // Something to do for it.
                host.parts.kernel.delete_link(DEVICE);
                host.disturb(START);
            }
            HostFault::Terminate => {
                host.stop();
                host.start_at = Some(Instant::now() + lasts);
            }
            HostFault::Hangup => {
                host.keeps = host.subnet().filter(|_| host.is_well());
                host.hang_up();
                host.disturb(START);
            }
            HostFault::Reboot => {
                host.reboot(SimulatedHost::shut_down);
                host.start_at = Some(Instant::now() + lasts);
            }
            HostFault::PowerCut => {
                host.reboot(SimulatedHost::lose_power);
                host.start_at = Some(Instant::now() + lasts);
            }
            HostFault::Suspend => {
                host.parts.clocks.suspend(lasts * 100);
                host.disturb(START);
            }
            HostFault::ClockJump => host.parts.clocks.jump(Duration::from_secs(86_400), number % 2 == 0),
            HostFault::Clone => return self.add_host(Some(index)),
            HostFault::DeleteDevice => host.parts.kernel.delete_link(DEVICE),
            HostFault::FlushRoutes => host.parts.kernel.flush_routes(DEVICE),
            HostFault::FlushFdb => host.parts.kernel.flush_fdb(DEVICE),
            HostFault::FlushNeighbours => host.parts.kernel.flush_neighbours(DEVICE),
            HostFault::FlushRules => host.parts.filter.flush(),
            HostFault::OtherMac => {
                let [high, low] = (number as u16).to_be_bytes();
                host.parts.kernel.set_mac(DEVICE, MacAddr::new([2, 0, 0, 1, high, low]));
            }
            HostFault::ForeignRoute => self.put_foreign_route(index, lasts),
            HostFault::OtherAddress => {
                self.moves += 1;
                host.move_to(address(1000 + self.moves));
                host.disturb(START);
                self.be_lenient(START);
            }
            HostFault::CardDown => {
                host.parts.kernel.set_down(CARD);
                host.disturb(lasts + START);
                self.undo_after(lasts, Undo::CardUp(index));
            }
            HostFault::LoseNotifications => host.parts.kernel.lose_notifications(),
            HostFault::KernelFails => {
                host.parts.kernel.fail_by_chance(OFTEN, seed);
                // Something to write for it.
                host.parts.kernel.flush_fdb(DEVICE);
                self.fails(index, lasts);
            }
            HostFault::RulesFail => {
                host.parts.filter.fail_by_chance(OFTEN, seed);
                self.fails(index, lasts);
            }
            HostFault::DiskFails => {
                host.parts.disk.set_fault(Some(DiskFault::Full));
                self.fails(index, lasts);
            }
            HostFault::CutHalfOpen => self.trouble_client(index, lasts, |client| client.cut(SimCut::HalfOpen)),
            HostFault::CutReset => self.trouble_client(index, lasts, |client| client.cut(SimCut::Reset)),
            HostFault::LoseReplies => self.trouble_client(index, lasts, |client| client.lose_replies(300)),
            HostFault::DelayWatches => {
                self.trouble_client(index, lasts, |client| client.delay_watches(Duration::from_millis(1500)));
            }
            HostFault::LoseOwnEvent => {
                if let Some(client) = host.client() {
                    client.lose_own_event();
                    host.events_to_lose += 1;
                }
            }
            HostFault::DeleteLease => {
                if let Some(key) = host.lease_key() {
                    self.store.delete(&key);
                    self.be_lenient(PROMPT);
                }
            }
            HostFault::RevokeLease => {
                let key = host.lease_key();
                let listing = self.store.listing(self.directory().as_bytes());
                let lease =
                    listing.entries.iter().find(|entry| Some(&entry.key) == key.as_ref()).and_then(|entry| entry.lease);
                if let Some(lease) = lease {
                    self.store.revoke_now(lease);
                    self.be_lenient(PROMPT);
                }
            }
            HostFault::Steal => {
                if self.steal(index) {
                    self.undo_after(TOLD_AFTER, Undo::Hangup(index));
                }
            }
        }
        let host = &mut self.hosts[index];
        host.disturb(if runs { PROMPT } else { START });
        host.note_foreign();
        Ok(())
    }

    /// A part of a host fails for some time.
    fn fails(&mut self, index: usize, lasts: Duration) {
        self.hosts[index].faulty_until = Some(Instant::now() + lasts + Duration::from_secs(1));
        self.hosts[index].disturb(lasts + START);
        self.undo_after(lasts, Undo::Calm(index));
    }

    /// An agent's connection to the store is in trouble: sometimes for longer than its lease lives.
    fn trouble_client(&mut self, index: usize, lasts: Duration, trouble: fn(&SimStore)) {
        let Some(client) = self.hosts[index].client() else { return };
        trouble(client);
        let longer =
            if self.random.chance(250) { self.shape.ttl.min(Duration::from_secs(700)) } else { Duration::ZERO };
        self.hosts[index].disturb(lasts + longer + START);
        self.undo_after(lasts + longer, Undo::Heal(index));
    }

    /// Another program puts a route where one of ours is.
    fn put_foreign_route(&mut self, index: usize, lasts: Duration) {
        let others: Vec<Prefix> =
            self.subnets_in_use().into_iter().filter(|(_, host)| *host != index).map(|(prefix, _)| prefix).collect();
        let Some(prefix) = others.get(self.random.index(others.len())).copied() else { return };
        let host = &mut self.hosts[index];
        let card = CARD.parse().expect("a name of a link");
        let gateway = IpAddr::from([192, 168, 255, 253]);
        debug_assert_eq!(prefix.family(), Family::V4);
        host.parts.kernel.add_route(prefix, NextHop::Gateway { gateway, link: card, onlink: false });
        host.blocked.insert(prefix);
        host.once_blocked.insert(prefix);
        self.undo_after(lasts, Undo::RouteAway(index, prefix));
    }
}
