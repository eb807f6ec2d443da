//! Round trips.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use wire_tests::{LabError, Process, Result, median};

use crate::pair::Pair;

/// Running pings.
pub(crate) struct Pings {
    process: Process,
    limit: Duration,
}

/// Starts so many pings, one each `interval`.
///
/// # Errors
/// Where ping cannot be started.
pub(crate) fn start(pair: &Pair, count: u32, interval: Duration) -> Result<Pings> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let line = format!("-n -c {count} -i {} {}", interval.as_secs_f64(), pair.target());
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    // Each run has a log of its own.
    let log = format!("ping.{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let process = pair.near.start_in(pair.sender(), "ping", &words, &log)?;
    // ping waits ten seconds for the answer to its last one.
    Ok(Pings { process, limit: interval * count + Duration::from_secs(15) })
}

impl Pings {
    /// Waits for their end, and gives the median of the round trips in milliseconds.
    ///
    /// # Errors
    /// Where none is answered.
    pub(crate) fn median(mut self) -> Result<f64> {
        self.process.wait(self.limit)?;
        let log = self.process.log();
        let times = times(&log);
        if times.is_empty() {
            return Err(LabError::Wrong(format!("no ping was answered:\n{log}")));
        }
        Ok(median(&times))
    }
}

fn times(log: &str) -> Vec<f64> {
    let time = |line: &str| line.split_once(" time=")?.1.split(' ').next()?.parse().ok();
    log.lines().filter_map(time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_have_a_time() {
        let log = "PING 10.51.2.1 (10.51.2.1) 56(84) bytes of data.\n\
                   64 bytes from 10.51.2.1: icmp_seq=1 ttl=64 time=0.091 ms\n\
                   From 10.51.1.0 icmp_seq=2 Destination Host Unreachable\n\
                   64 bytes from 10.51.2.1: icmp_seq=3 ttl=64 time=12 ms\n\
                   3 packets transmitted, 2 received, 33.3333% packet loss, time 20ms\n";
        assert_eq!(times(log), [0.091, 12.0]);
    }
}
