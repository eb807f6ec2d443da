//! The faults: drawn from the seed, applied, and undone after a while.

use std::{fmt, net::IpAddr, time::Duration};

use tokio::time::Instant;
use wire_net::{Family, MacAddr, Prefix};
use wire_state::{
    NextHop,
    sim::{DiskFault, FaultRates},
};
use wire_store::{Random, SimBackup, SimCut, SimStore};

use crate::{
    flannel::Flannel,
    host::{CARD, DEVICE, SimulatedHost, address},
    theft::TOLD_AFTER,
    world::{Broken, HELD, PROMPT, START, World},
};

/// The most hosts and flannels that join while a world runs.
const MOST_NEW: usize = 4;

/// How often a part of a host fails that fails by chance.
const OFTEN: FaultRates = FaultRates { ops: 200, reads: 50 };

/// A fault of one host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostFault {
    /// The agent is killed.
    Kill,
    /// The agent is killed between two operations on the kernel.
    KillBetween,
    /// The agent is told to end.
    Terminate,
    /// The agent is told to join anew (SIGHUP).
    Hangup,
    Reboot,
    PowerCut,
    Suspend,
    ClockJump,
    /// Another machine gets a copy of its disk.
    Clone,
    DeleteDevice,
    FlushRoutes,
    FlushFdb,
    FlushNeighbours,
    FlushRules,
    /// The device gets another MAC.
    OtherMac,
    /// Another program puts a route where one of ours is.
    ForeignRoute,
    OtherAddress,
    CardDown,
    LoseNotifications,
    KernelFails,
    RulesFail,
    DiskFails,
    CutHalfOpen,
    CutReset,
    LoseReplies,
    DelayWatches,
    LoseOwnEvent,
    DeleteLease,
    RevokeLease,
    /// Another host takes its lease; then the agent is told to join anew.
    Steal,
}

/// A fault of all hosts, or of none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreFault {
    Down,
    Stall,
    BreakWatches,
    LoseEvent,
    Compact,
    Backup,
    Restore,
    Wipe,
    DeleteAll,
    Garbage,
    /// An operator reserves a subnet for a host that is not there.
    Reserve,
    FlannelJoins,
    FlannelLeaves,
    HostJoins,
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Host(HostFault, usize),
    Store(StoreFault),
}

impl Fault {
    /// All faults, of which a world draws with equal chances.
    const HOST: [HostFault; 30] = [
        HostFault::Kill,
        HostFault::KillBetween,
        HostFault::Terminate,
        HostFault::Hangup,
        HostFault::Reboot,
        HostFault::PowerCut,
        HostFault::Suspend,
        HostFault::ClockJump,
        HostFault::Clone,
        HostFault::DeleteDevice,
        HostFault::FlushRoutes,
        HostFault::FlushFdb,
        HostFault::FlushNeighbours,
        HostFault::FlushRules,
        HostFault::OtherMac,
        HostFault::ForeignRoute,
        HostFault::OtherAddress,
        HostFault::CardDown,
        HostFault::LoseNotifications,
        HostFault::KernelFails,
        HostFault::RulesFail,
        HostFault::DiskFails,
        HostFault::CutHalfOpen,
        HostFault::CutReset,
        HostFault::LoseReplies,
        HostFault::DelayWatches,
        HostFault::LoseOwnEvent,
        HostFault::DeleteLease,
        HostFault::RevokeLease,
        HostFault::Steal,
    ];
    const STORE: [StoreFault; 14] = [
        StoreFault::Down,
        StoreFault::Stall,
        StoreFault::BreakWatches,
        StoreFault::LoseEvent,
        StoreFault::Compact,
        StoreFault::Backup,
        StoreFault::Restore,
        StoreFault::Wipe,
        StoreFault::DeleteAll,
        StoreFault::Garbage,
        StoreFault::Reserve,
        StoreFault::FlannelJoins,
        StoreFault::FlannelLeaves,
        StoreFault::HostJoins,
    ];

    pub(crate) fn draw(random: &Random, hosts: usize) -> Self {
        if random.chance(700) {
            Self::Host(Self::HOST[random.index(Self::HOST.len())], random.index(hosts))
        } else {
            Self::Store(Self::STORE[random.index(Self::STORE.len())])
        }
    }
}

/// What undoes a fault.
#[derive(Clone, Debug)]
enum Undo {
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
    /// A time drawn from the seed: mostly short, sometimes long.
    pub(crate) fn some_time(&self) -> Duration {
        let milliseconds = match self.random.index(4) {
            0 => 100 + self.random.number(0..900),
            1 | 2 => 1000 + self.random.number(0..9000),
            _ => 20_000 + self.random.number(0..40_000),
        };
        Duration::from_millis(milliseconds)
    }

    fn undo_after(&mut self, time: Duration, undo: Undo) {
        self.plan.0.push((Instant::now() + time, undo));
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
                self.be_lenient(START);
            }
            Undo::Heal(index) => {
                if let Some(client) = self.hosts[index].client() {
                    client.heal();
                    client.lose_replies(0);
                    client.delay_watches(Duration::ZERO);
                }
                self.hosts[index].disturb(START);
            }
            Undo::Calm(index) => {
                self.hosts[index].fail(FaultRates::default(), 0);
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
                self.store.delete(&key);
                self.bad_keys.remove(&key);
            }
            Undo::Hangup(index) => self.hosts[index].hang_up(),
        }
    }

    /// Lets a fault happen.
    ///
    /// # Errors
    /// When an agent cannot start though nothing is in its way.
    pub(crate) fn apply(&mut self, fault: Fault) -> Result<(), Broken> {
        self.record.note(format_args!("{fault}"));
        self.held = None;
        match fault {
            Fault::Host(fault, index) => self.apply_to_host(fault, index),
            Fault::Store(fault) => self.apply_to_store(fault),
        }
    }

    fn apply_to_store(&mut self, fault: StoreFault) -> Result<(), Broken> {
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
                    self.be_lenient(HELD + START);
                }
            }
            StoreFault::Wipe => {
                self.expect_held();
                self.store.restore(SimBackup::default());
                self.forget_what_the_store_lost();
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
    fn add_host(&mut self, like: Option<usize>) -> Result<(), Broken> {
        if self.hosts.len() >= usize::from(self.shape.hosts) + MOST_NEW {
            return Ok(());
        }
        let host = SimulatedHost::new(u16::try_from(self.hosts.len()).unwrap_or(0));
        if let Some(original) = like {
            let disk = self.hosts[original].parts.disk.files();
            host.parts.disk.edit(|files| files.extend(disk.into_iter().filter(|(path, _)| !path.starts_with("/run"))));
        }
        self.hosts.push(host);
        self.start(self.hosts.len() - 1)
    }

    fn apply_to_host(&mut self, fault: HostFault, index: usize) -> Result<(), Broken> {
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
                host.keeps = host.subnet().filter(|_| host.is_ready() && !host.has_lost_its_lease());
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
        self.hosts[index].is_faulty = true;
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(fault, index) => write!(f, "host {index}: {fault:?}"),
            Self::Store(fault) => write!(f, "store: {fault:?}"),
        }
    }
}
