//! TCP streams, by iperf3.

use std::time::Duration;

use serde_json::Value;
use wire_tests::{LabError, Result};

use crate::pair::Pair;

/// How the streams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// As many, from near to far.
    Forth(u8),
    /// One each way at once.
    Both,
}

/// When the streams end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// After a time.
    After(Duration),
    /// When as many bytes were sent.
    Bytes(u32),
}

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Received {
    /// Bits of TCP payload, at all receivers.
    pub(crate) bits: f64,
    /// Bits each second, at all receivers.
    pub(crate) bits_per_second: f64,
}

/// Lets TCP run.
///
/// # Errors
/// What iperf3 says.
pub(crate) fn run(pair: &Pair, streams: Streams, end: End) -> Result<Received> {
    let way = match streams {
        Streams::Forth(number) => format!("-P {number}"),
        Streams::Both => "--bidir".to_owned(),
    };
    let end = match end {
        End::After(time) => format!("-t {}", time.as_secs()),
        End::Bytes(bytes) => format!("-n {bytes}"),
    };
    let answer = pair.sender().exec(&format!("iperf3 -J -c {} {end} {way}", pair.target()))?;
    let wrong = |rule: &str| LabError::Answer { what: "iperf3".to_owned(), rule: rule.to_owned() };
    let answer: Value = serde_json::from_str(&answer).map_err(|error| wrong(&error.to_string()))?;
    // It leaves with 0 after some failures, and says them here alone.
    if let Some(failure) = answer["error"].as_str() {
        return Err(wrong(failure));
    }
    received(&answer, streams).ok_or_else(|| wrong(&format!("there is no sum of what was received: {}", answer["end"])))
}

fn received(answer: &Value, streams: Streams) -> Option<Received> {
    let sums: &[&str] = match streams {
        Streams::Forth(_) => &["sum_received"],
        Streams::Both => &["sum_received", "sum_received_bidir_reverse"],
    };
    let mut total = Received { bits: 0.0, bits_per_second: 0.0 };
    for sum in sums {
        let sum = &answer["end"][*sum];
        total.bits += sum["bytes"].as_f64()? * 8.0;
        total.bits_per_second += sum["bits_per_second"].as_f64()?;
    }
    (total.bits > 0.0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_ends_received_is_summed() {
        let text = r#"{"end":{"sum_received":{"bytes":100,"bits_per_second":400.0},
            "sum_received_bidir_reverse":{"bytes":50,"bits_per_second":200.0}}}"#;
        let answer: Value = serde_json::from_str(text).unwrap();
        let both = Received { bits: 1200.0, bits_per_second: 600.0 };
        assert_eq!(received(&answer, Streams::Both), Some(both));
        assert_eq!(received(&answer, Streams::Forth(4)).map(|sum| sum.bits_per_second), Some(400.0));
    }

    #[test]
    fn a_run_that_moved_nothing_is_no_run() {
        let answer: Value =
            serde_json::from_str(r#"{"end":{"sum_received":{"bytes":0,"bits_per_second":0}}}"#).unwrap();
        assert_eq!(received(&answer, Streams::Forth(1)), None);
        assert_eq!(received(&Value::Null, Streams::Both), None);
    }
}
