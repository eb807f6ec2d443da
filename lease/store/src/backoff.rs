//! Pauses between attempts, with jitter, so that a thousand hosts do not retry in step.

use std::time::Duration;

use crate::Random;

/// Pauses between attempts at one operation. The first retry is immediate, then the pauses double up to a cap. Each is
/// shortened at random by up to a half.
#[derive(Clone, Debug)]
pub struct Backoff {
    step: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Makes pauses of 0, `step`, 2 × `step` and so on, none above `cap`.
    #[must_use]
    pub const fn new(step: Duration, cap: Duration) -> Self {
        Self { step, cap, next: Duration::ZERO }
    }

    /// Returns the pause before the next attempt.
    pub fn pause(&mut self, random: &Random) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).clamp(self.step, self.cap);
        random.shortened(pause, 0.5)
    }

    /// Starts anew after a success: the next retry is immediate again.
    pub fn reset(&mut self) {
        self.next = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_again_after_a_success() {
        let random = Random::of_system();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let upper = [0, 100, 200, 400, 800, 1000, 1000].map(Duration::from_millis);
        for upper in upper {
            let pause = backoff.pause(&random);
            assert!(upper / 2 <= pause && pause <= upper, "{pause:?} of {upper:?}");
        }
        backoff.reset();
        assert_eq!(backoff.pause(&random), Duration::ZERO);
    }

    #[test]
    fn a_thousand_hosts_do_not_come_back_in_step() {
        let random = Random::of_system();
        let hosts = std::iter::repeat_with(|| {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            (0..20).map(|_| backoff.pause(&random)).sum::<Duration>().as_millis() / 100
        });
        // How many come back in each tenth of a second.
        let mut at = std::collections::BTreeMap::new();
        hosts.take(1000).for_each(|tenth| *at.entry(tenth).or_insert(0) += 1);
        assert!(at.len() > 10 && at.values().all(|hosts| *hosts < 300), "{at:?}");
    }
}
