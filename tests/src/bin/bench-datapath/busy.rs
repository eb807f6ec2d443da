//! How busy the processors are, by proc_stat(5).

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use wire_tests::{LabError, Result};

/// How many processors may be busy with something else on a calm machine.
pub(crate) const CALM: f64 = 0.1;

/// A reading of all processors' clocks.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    at: Instant,
    busy: Duration,
}

/// What the machine did between two readings.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// By the wall.
    pub(crate) elapsed: Duration,
    /// Of all processors together.
    pub(crate) busy: Duration,
}

impl Clock {
    /// Now.
    ///
    /// # Errors
    /// Where /proc/stat cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat");
        let text = text.map_err(|source| LabError::Io { what: "cannot read /proc/stat".to_owned(), source })?;
        let busy = busy(&text).ok_or_else(|| LabError::Answer {
            what: "the kernel".to_owned(),
            rule: "/proc/stat is not as proc_stat(5) has it".to_owned(),
        })?;
        Ok(Self { at: Instant::now(), busy })
    }

    /// What was done since.
    ///
    /// # Errors
    /// Where /proc/stat cannot be read.
    pub(crate) fn since(self) -> Result<Work> {
        let now = Self::read()?;
        Ok(Work { elapsed: now.at.duration_since(self.at), busy: now.busy.saturating_sub(self.busy) })
    }
}

impl Work {
    /// How many processors were busy on the average.
    pub(crate) fn cores(self) -> f64 {
        self.busy.as_secs_f64() / self.elapsed.as_secs_f64()
    }

    /// The seconds of work, without what the machine does anyway.
    pub(crate) fn seconds_beyond(self, idle: f64) -> f64 {
        (self.busy.as_secs_f64() - idle * self.elapsed.as_secs_f64()).max(0.0)
    }
}

/// How many processors are busy while nothing is measured; to be taken off what is.
///
/// # Errors
/// Where /proc/stat cannot be read.
pub(crate) fn idle() -> Result<f64> {
    let clock = Clock::read()?;
    thread::sleep(Duration::from_secs(2));
    let cores = clock.since()?.cores();
    if cores > CALM {
        eprintln!("bench-datapath: {cores:.2} processors are busy with something else: the figures will be poor");
    }
    Ok(cores)
}

/// The sum of user, nice, system, irq and softirq of the line `cpu`, in units of USER_HZ, a hundredth of a second on every Linux.
fn busy(text: &str) -> Option<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let ticks = [0, 1, 2, 5, 6].map(|index| fields.get(index).copied());
    let ticks = ticks.into_iter().sum::<Option<u64>>()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_and_stolen_time_is_no_work() {
        let text = "cpu  100 20 30 9000 8000 4 5 7000 600 60\ncpu0 1 2 3 4\n";
        assert_eq!(busy(text), Some(Duration::from_millis(1590)));
        assert_eq!(busy("cpu  1 2\n"), None);
        assert_eq!(busy("intr 1\n"), None);
    }
}
