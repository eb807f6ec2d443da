//! How busy the processors are with the bench, by proc_stat(5), and with what else the machine runs.

use std::{
    collections::BTreeMap,
    fs, process,
    time::{Duration, Instant},
};

use wire_tests::{LabError, ProcessStat, Result};

/// How many processors other programs may use on a machine that counts as calm.
pub(crate) const CALM: f64 = 0.1;
/// The parent of all kernel threads.
const KTHREADD: u32 = 2;

/// A reading of all processors' clocks.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    at: Instant,
    busy: Duration,
    others: Duration,
}

/// What the machine did between two readings.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// By the wall.
    pub(crate) elapsed: Duration,
    /// Of all processors together, the kernel's included, without what programs outside the bench used.
    pub(crate) busy: Duration,
    /// What programs outside the bench used.
    pub(crate) others: Duration,
}

impl Clock {
    /// Now.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let failed = |source| LabError::Io { what: "cannot read /proc".to_owned(), source };
        let busy = busy(&fs::read_to_string("/proc/stat").map_err(failed)?);
        let busy = busy.ok_or_else(|| LabError::Answer {
            what: "the kernel".to_owned(),
            rule: "/proc/stat is not as proc_stat(5) has it".to_owned(),
        })?;
        let names =
            fs::read_dir("/proc").map_err(failed)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let pids = names.filter_map(|name| name.parse().ok());
        // What has ended meanwhile is with its parent, or with the next reading.
        let stats = pids.filter_map(|pid| Some((pid, ProcessStat::read(pid).ok()?))).collect();
        Ok(Self { at: Instant::now(), busy, others: others(&stats, process::id()) })
    }

    /// What was done since.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub(crate) fn since(self) -> Result<Work> {
        let now = Self::read()?;
        let others = now.others.saturating_sub(self.others);
        let busy = now.busy.saturating_sub(self.busy).saturating_sub(others);
        Ok(Work { elapsed: now.at.duration_since(self.at), busy, others })
    }
}

impl Work {
    /// How many processors other programs used on the average.
    pub(crate) fn cores_of_others(self) -> f64 {
        self.others.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// The sum of user, nice, system, irq and softirq of the line `cpu`, in units of USER_HZ, a hundredth of a second on every Linux.
fn busy(text: &str) -> Option<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let ticks = [0, 1, 2, 5, 6].map(|index| fields.get(index).copied());
    let ticks = ticks.into_iter().sum::<Option<u64>>()?;
    Some(Duration::from_millis(ticks * 10))
}

/// What all processes have used that neither descend from this one nor are threads of the kernel. A child that ends hands what it
/// used to its parent, so between two readings nothing is lost.
fn others(stats: &BTreeMap<u32, ProcessStat>, this: u32) -> Duration {
    let is_other = |pid: u32| {
        let mut ancestor = pid;
        // A process may be read after the one it was handed over to: no longer chain than there are processes.
        for _ in 0..stats.len() {
            if ancestor == this || ancestor == KTHREADD {
                return false;
            }
            match stats.get(&ancestor) {
                Some(stat) => ancestor = stat.parent,
                None => return true,
            }
        }
        true
    };
    stats.iter().filter(|(pid, _)| is_other(**pid)).map(|(_, stat)| stat.own + stat.reaped).sum()
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

    #[test]
    fn what_the_bench_and_the_kernel_do_is_not_the_others() {
        let stat = |parent, own, reaped| ProcessStat {
            parent,
            own: Duration::from_secs(own),
            reaped: Duration::from_secs(reaped),
        };
        let bench = 50;
        let before = BTreeMap::from([
            (1, stat(0, 1, 2)),
            (2, stat(0, 100, 0)),
            (20, stat(2, 200, 0)),
            (40, stat(1, 5, 0)),
            (41, stat(40, 7, 0)),
            (bench, stat(40, 300, 300)),
            (60, stat(bench, 400, 0)),
            (61, stat(60, 500, 0)),
        ]);
        assert_eq!(others(&before, bench), Duration::from_secs(15));
        // A compiler works on, ends, and is waited for.
        let mut after = before;
        after.remove(&41);
        after.insert(40, stat(1, 5, 9));
        assert_eq!(others(&after, bench), Duration::from_secs(17));
    }
}
