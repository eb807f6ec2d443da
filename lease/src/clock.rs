//! A clock that also runs while the host is suspended. tokio's clock, which times the leases, stands still then, so
//! that a lease may have expired long before the agent expects it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// A clock that runs while the host is suspended: Linux's CLOCK_BOOTTIME, clock_gettime(2).
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// Takes a function that returns the time since a fixed moment in the past.
    pub fn new(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The clock of a host that is never suspended, for tests.
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

/// Measures how long the host was suspended.
#[derive(Debug)]
pub(crate) struct SuspendDetector {
    clock: Clock,
    /// The last reading of both clocks.
    read: (Instant, Duration),
}

impl SuspendDetector {
    /// Shorter differences are ignored, since the two clocks are never read at exactly the same time.
    const SHORTEST: Duration = Duration::from_secs(1);

    pub(crate) fn new(clock: Clock) -> Self {
        let read = (Instant::now(), (clock.0)());
        Self { clock, read }
    }

    /// Returns how long the host was suspended since the last call; `None` if it was not.
    pub(crate) fn suspended(&mut self) -> Option<Duration> {
        let (before, all_before) = std::mem::replace(&mut self.read, (Instant::now(), (self.clock.0)()));
        let awake = self.read.0.saturating_duration_since(before);
        let slept = self.read.1.saturating_sub(all_before).saturating_sub(awake);
        (slept >= Self::SHORTEST).then_some(slept)
    }
}
