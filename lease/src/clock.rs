//! Time that passes while the host is suspended. What leases are timed with otherwise stands still then, so that a lease may
//! have ended long before its time has come.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// A clock that goes on while the host is suspended: Linux's CLOCK_BOOTTIME, clock_gettime(2).
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// Reads the time since some moment in the past.
    pub fn new(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The clock of a host that is never suspended.
    #[must_use]
    pub fn without_sleep() -> Self {
        let start = Instant::now();
        Self::new(move || start.elapsed())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Sleeps until `at`; with `None`, for ever.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Tells how long the host has been suspended.
#[derive(Debug)]
pub(crate) struct Sleep {
    clock: Clock,
    /// When both clocks were looked at last.
    looked: (Instant, Duration),
}

impl Sleep {
    /// Two clocks are never read at quite the same time.
    const SHORTEST: Duration = Duration::from_secs(1);

    pub(crate) fn new(clock: Clock) -> Self {
        let looked = (Instant::now(), (clock.0)());
        Self { clock, looked }
    }

    /// How long it was suspended since this was asked last; `None` where it was not.
    pub(crate) fn since(&mut self) -> Option<Duration> {
        let (before, all_before) = std::mem::replace(&mut self.looked, (Instant::now(), (self.clock.0)()));
        let awake = self.looked.0.saturating_duration_since(before);
        let slept = self.looked.1.saturating_sub(all_before).saturating_sub(awake);
        (slept >= Self::SHORTEST).then_some(slept)
    }
}
