//! The clocks of a host: they follow virtual time, and others set them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// The time of day at which every simulation begins, in seconds since 1970.
const BEGINNING: u64 = 1_800_000_000;

/// The clocks of one host.
#[derive(Clone, Debug)]
pub(crate) struct Clocks(Arc<Mutex<Set>>);

#[derive(Debug)]
struct Set {
    booted: Instant,
    suspended: Duration,
    time_of_day: SystemTime,
    set_at: Instant,
}

impl Clocks {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let time_of_day = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGINNING);
        Self(Arc::new(Mutex::new(Set { booted: now, suspended: Duration::ZERO, time_of_day, set_at: now })))
    }

    /// The time since the boot, including suspension.
    pub(crate) fn since_boot(&self) -> Duration {
        self.with(|set| set.booted.elapsed() + set.suspended)
    }

    pub(crate) fn time_of_day(&self) -> SystemTime {
        self.with(|set| set.time_of_day + set.set_at.elapsed())
    }

    /// Sets the time of day forward, or back.
    pub(crate) fn jump(&self, by: Duration, forward: bool) {
        let now = self.time_of_day();
        self.with(|set| {
            set.time_of_day = if forward { now + by } else { now - by };
            set.set_at = Instant::now();
        });
    }

    /// Lets the host have been suspended: timers have stood still, the boot's clock has not.
    pub(crate) fn suspend(&self, time: Duration) {
        self.with(|set| set.suspended += time);
    }

    fn with<T>(&self, work: impl FnOnce(&mut Set) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
