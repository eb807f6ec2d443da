//! All that was measured.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use wire_tests::{median, percentile};

use crate::{contestant::Contestant, frames::Frames, measure::Figure};

/// What was measured.
#[derive(Default)]
pub(crate) struct Samples {
    /// The samples of each figure, in the order in which they were taken.
    figures: BTreeMap<(Frames, Figure, Contestant), Vec<f64>>,
    /// How many processors other programs used in each round.
    pub(crate) others: Vec<f64>,
}

impl Samples {
    /// Adds what a measurement has given.
    pub(crate) fn add(&mut self, frames: Frames, contestant: Contestant, figures: &[(Figure, f64)]) {
        for (figure, value) in figures {
            self.figures.entry((frames, *figure, contestant)).or_default().push(*value);
        }
    }

    /// The samples of a figure; empty where it was not measured.
    pub(crate) fn of(&self, frames: Frames, figure: Figure, contestant: Contestant) -> &[f64] {
        self.figures.get(&(frames, figure, contestant)).map_or(&[], Vec::as_slice)
    }

    /// The median of a figure, where it was measured.
    pub(crate) fn median(&self, frames: Frames, figure: Figure, contestant: Contestant) -> Option<f64> {
        Some(median(self.of(frames, figure, contestant))).filter(|median| !median.is_nan())
    }

    /// Whether rules were compared.
    pub(crate) fn is_of_rules(&self) -> bool {
        self.figures.keys().any(|(_, _, contestant)| contestant.is_of_rules())
    }

    /// How often one contestant goes into another, round by round, where both were measured.
    pub(crate) fn paired(&self, frames: Frames, figure: Figure, [of, to]: [Contestant; 2]) -> Option<Paired> {
        let (of, to) = (self.of(frames, figure, of), self.of(frames, figure, to));
        let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
        let [lower, upper] = [25, 75].map(|percent| percentile(&ratios, percent));
        (!ratios.is_empty()).then(|| Paired { median: median(&ratios), lower, upper })
    }

    /// How often one contestant's median goes into another's, where both were measured.
    pub(crate) fn ratio(&self, frames: Frames, figure: Figure, [of, to]: [Contestant; 2]) -> Option<f64> {
        Some(self.median(frames, figure, of)? / self.median(frames, figure, to)?)
    }
}

/// A ratio of each round: the median of all, and the quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Paired {
    pub(crate) median: f64,
    pub(crate) lower: f64,
    pub(crate) upper: f64,
}

impl fmt::Display for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} [{:.3} {:.3}]", self.median, self.lower, self.upper)
    }
}
