//! Faults of the store, and what others do there.

use std::time::Duration;

use wire_store::SimBackup;

use super::{StoreFault, undo::Undo};
use crate::{
    flannel::Flannel,
    host::SimulatedHost,
    world::{Broken, HELD, PROMPT, START, World},
};

/// The most hosts, flannels and reservations that come while a world runs.
const MOST_NEW: usize = 4;

impl World {
    pub(super) fn apply_to_store(&mut self, fault: StoreFault) -> Result<(), Broken> {
        let lasts = self.some_time();
        match fault {
            StoreFault::Down => {
                self.store.set_down(true);
                self.be_lenient(lasts + START);
                self.undo_after(lasts, Undo::StoreUp);
            }
            StoreFault::Stall => {
                let lasts = lasts.min(Duration::from_secs(9));
                self.store.stall(lasts);
                self.be_lenient(lasts + START);
            }
            StoreFault::BreakWatches => {
                self.store.break_watches();
                self.be_lenient(PROMPT);
            }
            StoreFault::LoseEvent => {
                self.store.lose_next_event();
                self.changes_to_lose += 1;
            }
            StoreFault::Compact => self.store.compact(),
            StoreFault::Backup => self.backup = Some(self.store.backup()),
            StoreFault::Restore => {
                if let Some(backup) = self.backup.clone() {
                    self.store.restore(backup);
                    self.forget_what_the_store_lost();
                    self.networks.forget_what_the_store_lost();
                    self.be_lenient(HELD + START);
                }
            }
            StoreFault::Wipe => {
                self.expect_held();
                self.store.restore(SimBackup::default());
                self.forget_what_the_store_lost();
                self.networks.forget_what_the_store_lost();
                self.put_config();
                self.be_lenient(HELD + START);
            }
            StoreFault::DeleteAll => {
                self.expect_held();
                let leases = self.store.listing(self.directory().as_bytes());
                leases.entries.iter().for_each(|entry| self.store.delete(&entry.key));
                self.forget_what_the_store_lost();
                self.be_lenient(HELD + START);
            }
            StoreFault::Garbage => self.put_garbage(lasts),
            StoreFault::Reserve => self.reserve(),
            StoreFault::FlannelJoins => {
                if self.flannels.len() < MOST_NEW {
                    let number = 900 + u16::try_from(self.flannels.len()).unwrap_or(0);
                    self.flannels.push(Flannel::new(number, self.shape.subnets, self.random.fork()));
                }
            }
            StoreFault::FlannelLeaves => drop(self.flannels.pop()),
            StoreFault::HostJoins => return self.add_host(None),
        }
        Ok(())
    }

    /// Reservations that are lost, and subnets that others may have taken, are no promise any more.
    fn forget_what_the_store_lost(&mut self) {
        self.reserved.clear();
        self.leases_vanished = true;
        self.hosts.iter_mut().for_each(|host| host.keeps = None);
    }

    /// Puts an entry that every agent must refuse.
    fn put_garbage(&mut self, lasts: Duration) {
        let number = self.random.number(0..1000);
        let (key, value) = match self.random.index(4) {
            0 => (format!("{}10.200.{}.0-24", self.directory(), number % 256), "{".to_owned()),
            1 => (format!("{}nonsense-{number}", self.directory()), "{}".to_owned()),
            2 => {
                let value = r#"{"PublicIP":"127.0.0.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}"#;
                (format!("{}10.200.{}.0-24", self.directory(), number % 256), value.to_owned())
            }
            _ => {
                let value = r#"{"PublicIP":"192.168.200.9","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"01:00:5e:00:00:09"}}"#;
                (format!("{}10.5.0.0-16", self.directory()), value.to_owned())
            }
        };
        self.store.put(key.clone(), value, None);
        self.bad_keys.insert(key.clone().into_bytes());
        self.undo_after(lasts, Undo::GarbageAway(key.into_bytes()));
    }

    /// Reserves a free subnet for a host that is not there.
    fn reserve(&mut self) {
        if self.reserved.len() >= MOST_NEW {
            return;
        }
        let number = 800 + u16::try_from(self.reserved.len()).unwrap_or(0);
        let mut flannel = Flannel::new(number, self.shape.subnets, self.random.fork());
        self.reserved.extend(flannel.reserve(&self.store));
    }

    /// A machine joins: a new one, or one with a copy of another's disk.
    pub(super) fn add_host(&mut self, like: Option<usize>) -> Result<(), Broken> {
        if self.hosts.len() >= usize::from(self.shape.hosts) + MOST_NEW {
            return Ok(());
        }
        let host = SimulatedHost::new(u16::try_from(self.hosts.len()).unwrap_or(0));
        if let Some(original) = like {
            let disk = self.hosts[original].parts.disk.files();
            host.parts.disk.edit(|files| files.extend(disk.into_iter().filter(|(path, _)| !path.starts_with("/run"))));
            self.networks.copy_wishes(original, self.hosts.len());
        }
        self.hosts.push(host);
        self.start(self.hosts.len() - 1)
    }
}
