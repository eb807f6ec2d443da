//! Randomness as it is passed in: the system's for an agent, or drawn from a seed, so that a simulation can be repeated.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// A source of random values. Clones of a seeded one draw from the same sequence.
#[derive(Clone)]
pub struct Random(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<Mutex<StdRng>>),
}

impl Random {
    /// The generator of this process, seeded by the operating system.
    #[must_use]
    pub const fn of_system() -> Self {
        Self(Source::System)
    }

    /// A sequence that is the same for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Starts a sequence of its own, whose seed is the next value of this one. The system's stays the system's.
    #[must_use]
    pub fn fork(&self) -> Self {
        match &self.0 {
            Source::System => Self::of_system(),
            Source::Seeded(_) => Self::seeded(self.draw(|rng| rng.random())),
        }
    }

    /// Draws `N` bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        self.draw(|rng| {
            let mut bytes = [0; N];
            rng.fill_bytes(&mut bytes);
            bytes
        })
    }

    /// Draws a number from 0 (included) to 1 (not included).
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.draw(|rng| rng.random())
    }

    /// Draws a number of a range that is not empty.
    #[must_use]
    pub fn number(&self, range: Range<u64>) -> u64 {
        self.draw(|rng| rng.random_range(range))
    }

    /// Draws the index of one of `count` things. 0 if there is none.
    #[must_use]
    pub fn index(&self, count: usize) -> usize {
        if count == 0 { 0 } else { self.draw(|rng| rng.random_range(0..count)) }
    }

    /// Draws true in `per_mille` of 1000 cases.
    #[must_use]
    pub fn chance(&self, per_mille: u16) -> bool {
        per_mille > 0 && self.number(0..1000) < per_mille.into()
    }

    /// Shortens `duration` at random by up to `part` of it (0 to 1).
    #[must_use]
    pub fn shortened(&self, duration: Duration, part: f64) -> Duration {
        duration.mul_f64(1.0 - part * self.unit())
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.0 {
            Source::System => draw(&mut rand::rng()),
            Source::Seeded(rng) => draw(&mut *rng.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Equal if both draw from the same sequence.
impl PartialEq for Random {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::System, Source::System) => true,
            (Source::Seeded(one), Source::Seeded(other)) => Arc::ptr_eq(one, other),
            (Source::System, Source::Seeded(_)) | (Source::Seeded(_), Source::System) => false,
        }
    }
}

impl Eq for Random {}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::System => "Random::of_system",
            Source::Seeded(_) => "Random::seeded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_values() {
        let values = |seed| {
            let random = Random::seeded(seed);
            (random.bytes::<6>(), random.number(0..1000), random.fork().bytes::<6>())
        };
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }

    #[test]
    fn a_duration_is_shortened_by_no_more_than_its_part() {
        let random = Random::seeded(7);
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            let shortened = random.shortened(second, 0.25);
            assert!(second * 3 / 4 <= shortened && shortened <= second, "{shortened:?}");
        }
    }

    #[test]
    fn nothing_happens_by_chance_at_a_rate_of_zero_and_everything_at_a_thousand() {
        let random = Random::seeded(3);
        assert!((0..100).all(|_| !random.chance(0)));
        assert!((0..100).all(|_| random.chance(1000)));
    }
}
