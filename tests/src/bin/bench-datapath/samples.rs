//! All that was measured.

use std::collections::BTreeMap;

use wire_tests::median;

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

    /// How often one contestant's median goes into another's, where both were measured.
    pub(crate) fn ratio(&self, frames: Frames, figure: Figure, [of, to]: [Contestant; 2]) -> Option<f64> {
        Some(self.median(frames, figure, of)? / self.median(frames, figure, to)?)
    }
}
