//! What a process has used, by proc(5).

use std::{fs, time::Duration};

use wire_tests::{LabError, Result};

/// The processor time of all its threads, user and system.
///
/// # Errors
/// Where it is gone.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = read(pid, "stat")?;
    // After the name, which may hold blanks: utime and stime are fields 14 and 15 of all, 12 and 13 of these.
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).ok_or_else(|| wrong("stat"))?;
    // In units of USER_HZ, a hundredth of a second on every Linux.
    Ok(Duration::from_millis((user + system) * 10))
}

/// The most memory it has had resident, in MB of 2^20 bytes.
///
/// # Errors
/// Where it is gone.
pub(crate) fn peak_memory(pid: u32) -> Result<f64> {
    let status = read(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or_else(|| wrong("status"))?;
    let kilobytes: u32 = line.trim().trim_end_matches(" kB").parse().map_err(|_| wrong("status"))?;
    Ok(f64::from(kilobytes) / 1024.0)
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(|source| LabError::Io { what: format!("cannot read {path}"), source })
}

fn wrong(file: &str) -> LabError {
    LabError::Answer { what: "the kernel".to_owned(), rule: format!("/proc/PID/{file} is not as proc(5) has it") }
}
