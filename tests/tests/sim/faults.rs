//! The faults: drawn from the seed, applied, and undone after a while.

mod host;
mod store;
mod undo;

use std::{fmt, time::Duration};

use wire_store::Random;

pub(crate) use self::undo::Plan;
use crate::world::{Broken, World};

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

    /// True if a host may lose its lease, and with it for a while what it has on networks by name.
    const fn is_about_leases(self) -> bool {
        use HostFault as Host;
        matches!(
            self,
            Self::Store(
                StoreFault::Down
                    | StoreFault::Stall
                    | StoreFault::LoseEvent
                    | StoreFault::Restore
                    | StoreFault::Wipe
                    | StoreFault::DeleteAll
            ) | Self::Host(
                Host::Suspend
                    | Host::Clone
                    | Host::OtherAddress
                    | Host::CutHalfOpen
                    | Host::CutReset
                    | Host::LoseReplies
                    | Host::DelayWatches
                    | Host::LoseOwnEvent
                    | Host::DeleteLease
                    | Host::RevokeLease
                    | Host::Steal,
                _
            )
        )
    }

    pub(crate) fn draw(random: &Random, hosts: usize) -> Self {
        if random.chance(700) {
            Self::Host(Self::HOST[random.index(Self::HOST.len())], random.index(hosts))
        } else {
            Self::Store(Self::STORE[random.index(Self::STORE.len())])
        }
    }
}

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

    /// Lets a fault happen.
    ///
    /// # Errors
    /// When an agent cannot start though nothing is in its way.
    pub(crate) fn apply(&mut self, fault: Fault) -> Result<(), Broken> {
        self.record.note(format_args!("{fault}"));
        self.held = None;
        if fault.is_about_leases() {
            self.networks_may_be_wrong();
        }
        match fault {
            Fault::Host(fault, index) => self.apply_to_host(fault, index),
            Fault::Store(fault) => self.apply_to_store(fault),
        }
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
