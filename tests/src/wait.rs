//! Waiting for something to become true.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{LabError, Result};

/// Asks every ten milliseconds until the answer is `Ok`, and says how long that took.
///
/// # Errors
/// The last answer, where `limit` has passed. It is asked once more at the end, so a slow question is asked at least twice.
pub fn eventually(limit: Duration, mut ask: impl FnMut() -> Result) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let asked = start.elapsed();
        match ask() {
            Ok(()) => return Ok(start.elapsed()),
            Err(error) if asked > limit => {
                return Err(LabError::Late { after: limit, last: format!("{error:?}") });
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Asks every fifty milliseconds for `period`: it must stay true throughout.
///
/// # Errors
/// The first answer that is none.
pub fn steadily(period: Duration, mut ask: impl FnMut() -> Result) -> Result {
    let start = Instant::now();
    while start.elapsed() < period {
        ask()?;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
