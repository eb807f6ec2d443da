//! What a process has used, by proc_pid_stat(5).

use std::{fs, time::Duration};

use crate::{LabError, Result};

/// One reading of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// The process that started it, or took it over.
    pub parent: u32,
    /// The processor time of all its threads, user and system.
    pub own: Duration,
    /// The same of its children that have ended and were waited for, and of theirs.
    pub reaped: Duration,
}

impl ProcessStat {
    /// Reads that of a process.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn read(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(LabError::io(format!("cannot read {path}")))?;
        Self::parse(&text).ok_or_else(|| LabError::Answer {
            what: "the kernel".to_owned(),
            rule: format!("{path} is not as proc_pid_stat(5) has it"),
        })
    }

    /// How often a thread of a process was woken after it had gone to sleep by itself, all threads that live added up.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn wakes(pid: u32) -> Result<u64> {
        let path = format!("/proc/{pid}/task");
        let threads = fs::read_dir(&path).map_err(LabError::io(format!("cannot read {path}")))?;
        // A thread may end meanwhile.
        let statuses = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
        let of = |status: &str| -> Option<u64> {
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
        };
        Ok(statuses.filter_map(|status| of(&status)).sum())
    }

    /// The most memory a process has had resident, in MB of 2^20 bytes.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn peak_memory(pid: u32) -> Result<f64> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).map_err(LabError::io(format!("cannot read {path}")))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes: Option<u32> = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
        let wrong = || LabError::Answer { what: "the kernel".to_owned(), rule: format!("{path} has no VmHWM") };
        kilobytes.map(|kilobytes| f64::from(kilobytes) / 1024.0).ok_or_else(wrong)
    }

    fn parse(text: &str) -> Option<Self> {
        // After the name, which may hold blanks: what the manual numbers 4 and 14 to 17 is 1 and 11 to 14 here.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // In units of USER_HZ, a hundredth of a second on every Linux.
        let time = |user: usize, system: usize| Some(Duration::from_millis((field(user)? + field(system)?) * 10));
        Some(Self { parent: field(1)?.try_into().ok()?, own: time(11, 12)?, reaped: time(13, 14)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_moves_no_field() {
        let text = "4194 (a ) b) S 77 4194 4194 0 -1 4194304 1 2 3 4 150 50 7 3 20 0 1 0 99 1 2\n";
        let expected = ProcessStat { parent: 77, own: Duration::from_secs(2), reaped: Duration::from_millis(100) };
        assert_eq!(ProcessStat::parse(text), Some(expected));
        assert_eq!(ProcessStat::parse("4194 (short) S 77\n"), None);
    }
}
