//! What benchmarks make of their samples, and the times that scenarios measure.

use std::{env, fs::File, io::Write, path::Path, time::Duration};

use crate::{LabError, Result};

/// Prints a time that a promise limits, and adds it to the file that `make test` prints at its end. Figures are named in `tests/promises.toml`.
///
/// # Errors
/// Where the file cannot be written.
pub fn measured(figure: &str, took: Duration) -> Result {
    println!("{figure}: {took:?}");
    let Some(path) = env::var_os("WIRE_TESTS_FIGURES_FILE") else { return Ok(()) };
    let what = || LabError::io(format!("cannot write {}", Path::new(&path).display()));
    let mut file = File::options().create(true).append(true).open(&path).map_err(what())?;
    // One write of one line: threads and processes do not mix theirs.
    file.write_all(format!("{figure} {:.3}\n", took.as_secs_f64()).as_bytes()).map_err(what())
}

/// The smallest sample that `percent` per cent of all do not exceed; NaN where there is none.
#[must_use]
pub fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// The middle one, or the mean of the two that are; NaN where there is none.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_need_no_order() {
        let samples = [3.0, 1.0, 2.0, 10.0];
        assert_eq!([50, 99, 100].map(|percent| percentile(&samples, percent)), [2.0, 10.0, 10.0]);
        assert!((median(&samples) - 2.5).abs() < f64::EPSILON);
        assert!((median(&samples[..3]) - 2.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan() && percentile(&[], 50).is_nan());
    }
}
