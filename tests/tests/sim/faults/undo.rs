//! What undoes a fault, after a while or at the end of all.

use std::time::Duration;

use tokio::time::Instant;
use wire_net::Prefix;

use crate::{
    host::CARD,
    world::{HELD, PROMPT, START, World},
};

/// What undoes a fault.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    StoreUp,
    Heal(usize),
    Calm(usize),
    CardUp(usize),
    RouteAway(usize, Prefix),
    GarbageAway(Vec<u8>),
    Hangup(usize),
}

/// What is to be undone, and when.
#[derive(Debug, Default)]
pub(crate) struct Plan(Vec<(Instant, Undo)>);

impl World {
    pub(super) fn undo_after(&mut self, time: Duration, undo: Undo) {
        self.plan.0.push((Instant::now() + time, undo));
    }

    /// Has a record that no agent may believe in deleted after a while.
    pub(crate) fn remove_garbage_after(&mut self, time: Duration, key: Vec<u8>) {
        self.undo_after(time, Undo::GarbageAway(key));
    }

    /// Undoes what is due.
    pub(crate) fn undo_due(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.plan.0).into_iter().partition(|(at, _)| *at <= now);
        self.plan.0 = later;
        for (_, undo) in due {
            self.undo(undo);
        }
    }

    /// Undoes all faults at once.
    pub(crate) fn undo_all(&mut self) {
        for (_, undo) in std::mem::take(&mut self.plan.0) {
            self.undo(undo);
        }
        self.store.lose_no_more();
        for host in &mut self.hosts {
            if host.agent.is_none() {
                host.start_at = Some(Instant::now());
            }
        }
    }

    fn undo(&mut self, undo: Undo) {
        self.record.note(format_args!("undone: {undo:?}"));
        match undo {
            Undo::StoreUp => {
                self.store.set_down(false);
                self.networks_may_be_wrong();
                // Agents learn only now of leases that vanished together meanwhile, and hold them.
                let held = if std::mem::take(&mut self.leases_vanished) { HELD } else { Duration::ZERO };
                self.be_lenient(held + START);
            }
            Undo::Heal(index) => {
                if let Some(client) = self.hosts[index].client() {
                    client.heal();
                    client.lose_replies(0);
                    client.delay_watches(Duration::ZERO);
                }
                self.hosts[index].disturb(START);
                self.networks_may_be_wrong();
            }
            Undo::Calm(index) => {
                self.hosts[index].calm();
                self.hosts[index].disturb(2 * PROMPT);
            }
            Undo::CardUp(index) => {
                self.hosts[index].parts.kernel.set_up(CARD);
                self.hosts[index].remove_former_routes();
                self.hosts[index].disturb(START);
                self.hosts[index].note_foreign();
            }
            Undo::RouteAway(index, prefix) => {
                if self.hosts[index].blocked.remove(&prefix) {
                    self.hosts[index].parts.kernel.remove_route(prefix);
                    self.hosts[index].disturb(PROMPT);
                    self.hosts[index].note_foreign();
                }
            }
            Undo::GarbageAway(key) => {
                // A backup may bring it back, so no agent may ever believe in it.
                self.store.delete(&key);
            }
            Undo::Hangup(index) => self.hosts[index].hang_up(),
        }
    }
}
