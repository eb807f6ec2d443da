//! What the project promises of its data path, as ratios of medians of one run, on real frames.

use std::fmt;

use serde::Serialize;

use crate::{contestant::Contestant, frames::Frames, measure::Figure, samples::Samples};

/// The ratios that are of interest for each figure.
pub(crate) const RATIOS: [[Contestant; 2]; 3] = [
    [Contestant::OursRaw, Contestant::OnePacket],
    [Contestant::OursRaw, Contestant::KernelVxlan],
    [Contestant::OursVxlan, Contestant::KernelVxlan],
];

/// A promise, and what came of it.
#[derive(Serialize)]
pub(crate) struct Mark {
    figure: &'static str,
    of: &'static str,
    to: &'static str,
    wanted: Wanted,
    ratio: Option<f64>,
    met: Option<bool>,
}

/// What a ratio must be.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    AtLeast(f64),
    MoreThan(f64),
}

/// All of them, judged.
pub(crate) fn judge(samples: &Samples) -> Vec<Mark> {
    use Contestant::{KernelVxlan, OnePacket, OursRaw, OursVxlan};
    let mark = |figure: Figure, pair: [Contestant; 2], wanted: Wanted| {
        let ratio = samples.ratio(Frames::Real, figure, pair);
        let [of, to] = pair.map(Contestant::name);
        let met = ratio.map(|ratio| wanted.met_by(ratio));
        Mark { figure: figure.describe().0, of, to, wanted, ratio, met }
    };
    let mut marks = vec![mark(Figure::Tcp1, [OursRaw, OnePacket], Wanted::AtLeast(10.0))];
    for ours in [OursRaw, OursVxlan] {
        marks.push(mark(Figure::Tcp1, [ours, KernelVxlan], Wanted::AtLeast(1.0)));
        marks.push(mark(Figure::PpsPerCore1, [ours, KernelVxlan], Wanted::MoreThan(1.0)));
        marks.push(mark(Figure::PpsPerCore64, [ours, KernelVxlan], Wanted::MoreThan(1.0)));
    }
    marks
}

impl Wanted {
    fn met_by(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::MoreThan(bound) => ratio > bound,
        }
    }

    const fn bound(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::MoreThan(bound) => bound,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "at least {bound:.1}"),
            Self::MoreThan(bound) => write!(f, "more than {bound:.1}"),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, of, to, wanted, ratio, met: _ } = self;
        write!(f, "{figure}, {of} / {to}, {wanted}: ")?;
        match ratio {
            None => f.write_str("not measured"),
            Some(ratio) if wanted.met_by(*ratio) => write!(f, "{ratio:.2}, met"),
            Some(ratio) => {
                let short = (1.0 - ratio / wanted.bound()) * 100.0;
                write!(f, "{ratio:.2}, missed by {short:.0} %")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ours: f64) -> Samples {
        let mut samples = Samples::default();
        for (contestant, value) in
            [(Contestant::OursRaw, ours), (Contestant::OnePacket, 0.5), (Contestant::KernelVxlan, 5.0)]
        {
            samples.add(Frames::Real, contestant, &[(Figure::Tcp1, value), (Figure::PpsPerCore1, value)]);
        }
        samples
    }

    #[test]
    fn a_mark_is_met_missed_or_not_measured() {
        let lines: Vec<String> = judge(&samples(5.0)).iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "TCP ×1, ours-raw / one-packet, at least 10.0: 10.00, met");
        assert_eq!(lines[1], "TCP ×1, ours-raw / kernel-vxlan, at least 1.0: 1.00, met");
        assert_eq!(
            lines[2],
            "64 B UDP, one flow, per busy core, ours-raw / kernel-vxlan, more than 1.0: 1.00, missed by 0 %"
        );
        assert!(lines[4].ends_with("ours-vxlan / kernel-vxlan, at least 1.0: not measured"), "{}", lines[4]);
        let missed = judge(&samples(4.0));
        assert_eq!(missed[0].to_string(), "TCP ×1, ours-raw / one-packet, at least 10.0: 8.00, missed by 20 %");
        assert_eq!(missed[0].met, Some(false));
    }
}
