//! What a process has used, by proc(5).

use std::{fs, time::Duration};

use wire_tests::{LabError, ProcessStat, Result};

/// The processor time of all its threads, user and system.
///
/// # Errors
/// Where it is gone.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    ProcessStat::read(pid).map(|stat| stat.own)
}

/// The most memory it has had resident, in MB of 2^20 bytes.
///
/// # Errors
/// Where it is gone.
pub(crate) fn peak_memory(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let failed = |source| LabError::Io { what: format!("cannot read {path}"), source };
    let status = fs::read_to_string(&path).map_err(failed)?;
    let wrong = || LabError::Answer { what: "the kernel".to_owned(), rule: format!("{path} is not as proc(5) has it") };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or_else(wrong)?;
    let kilobytes: u32 = line.trim().trim_end_matches(" kB").parse().map_err(|_| wrong())?;
    Ok(f64::from(kilobytes) / 1024.0)
}
