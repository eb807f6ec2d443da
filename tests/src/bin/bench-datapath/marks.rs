//! What the project promises of its data path, as ratios of medians of one run, on real frames.

use std::fmt;

use serde::Serialize;

use crate::{contestant::Contestant, frames::Frames, measure::Figure, samples::Samples};

/// The ratios that are of interest for each figure.
pub(crate) const RATIOS: [[Contestant; 2]; 15] = [
    [Contestant::OursRaw, Contestant::OnePacket],
    [Contestant::OursRaw, Contestant::KernelVxlan],
    [Contestant::OursVxlan, Contestant::KernelVxlan],
    SAME,
    [Contestant::FlannelRules, Contestant::Tracking],
    [Contestant::OurRules, Contestant::Tracking],
    [Contestant::OurRules, Contestant::FlannelRules],
    [Contestant::OurRules20000, Contestant::OurRules],
    [Contestant::UdpRules, Contestant::OurRules],
    [Contestant::HostGwRules, Contestant::HostGwTracking],
    [Contestant::NamedRules, Contestant::NamedTracking],
    [Contestant::NamedRules, Contestant::Tracking],
    [Contestant::UdpRules, Contestant::OnePacket],
    [Contestant::UserspaceVxlanRules, Contestant::OurRules],
    [Contestant::UserspaceVxlanRules, Contestant::OnePacket],
];

/// The same beside itself: what differs is chance.
const SAME: [Contestant; 2] = [Contestant::TrackingAgain, Contestant::Tracking];

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
    use Contestant::{FlannelRules, KernelVxlan, OnePacket, OurRules, OurRules20000, OursRaw, OursVxlan, Tracking};
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
    marks.retain(|mark| mark.ratio.is_some() || !samples.is_of_rules());
    let rules = [Figure::Tcp1, Figure::Tcp4, Figure::Pps1, Figure::Pps64];
    let rules = rules.into_iter().filter(|_| samples.is_of_rules()).flat_map(|figure| {
        let ours = [([OurRules, Tracking], 0.95), ([OurRules, FlannelRules], 1.0), ([OurRules20000, OurRules], 0.97)];
        let [userspace, vxlan] = Contestant::USERSPACE_RULES.map(|one| ([one, OurRules], 0.9));
        let direct = ([Contestant::HostGwRules, Contestant::HostGwTracking], 0.97);
        let networks =
            [Contestant::NamedTracking, Tracking].map(|yardstick| ([Contestant::NamedRules, yardstick], 0.95));
        let named = [userspace, vxlan, direct].into_iter().chain(networks);
        let ours = ours.map(|(pair, least)| of_rules(samples, figure, pair, least));
        let named = named.map(move |(pair, least)| of_rules(samples, figure, pair, least));
        ours.into_iter().chain(named.into_iter().filter(|mark| mark.ratio.is_some()))
    });
    marks.extend(rules);
    marks
}

/// One that is met with half of what chance does (the quartiles of the same beside itself) taken off.
fn of_rules(samples: &Samples, figure: Figure, pair: [Contestant; 2], least: f64) -> Mark {
    let chance = samples.paired(Frames::Real, figure, SAME).map_or(0.0, |same| (same.upper - same.lower) / 2.0);
    let ratio = samples.paired(Frames::Real, figure, pair).map(|paired| paired.median);
    let met = ratio.map(|ratio| ratio >= least - chance);
    let [of, to] = pair.map(Contestant::name);
    Mark { figure: figure.describe().0, of, to, wanted: Wanted::AtLeast(least), ratio, met }
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
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
            Self::MoreThan(bound) => write!(f, "more than {bound}"),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, of, to, wanted, ratio, met } = self;
        write!(f, "{figure}, {of} / {to}, {wanted}: ")?;
        match ratio {
            None => f.write_str("not measured"),
            Some(ratio) if *met == Some(true) => write!(f, "{ratio:.2}, met"),
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
        assert_eq!(lines[0], "TCP ×1, ours-raw / one-packet, at least 10: 10.00, met");
        assert_eq!(lines[1], "TCP ×1, ours-raw / kernel-vxlan, at least 1: 1.00, met");
        assert_eq!(
            lines[2],
            "64 B UDP, one flow, per busy core, ours-raw / kernel-vxlan, more than 1: 1.00, missed by 0 %"
        );
        assert!(lines[4].ends_with("ours-vxlan / kernel-vxlan, at least 1: not measured"), "{}", lines[4]);
        assert_eq!(lines.len(), 7);
        let missed = judge(&samples(4.0));
        assert_eq!(missed[0].to_string(), "TCP ×1, ours-raw / one-packet, at least 10: 8.00, missed by 20 %");
        assert_eq!(missed[0].met, Some(false));
    }

    #[test]
    fn rules_are_judged_round_by_round_less_half_of_chance() {
        let mut samples = Samples::default();
        for (tracking, again, ours) in [(4.0, 4.4, 3.8), (2.0, 2.0, 1.84), (3.0, 2.7, 2.76)] {
            let many = ours * 0.8;
            for (contestant, value) in Contestant::RULES.into_iter().zip([tracking, again, tracking, ours, many]) {
                samples.add(Frames::Real, contestant, &[(Figure::Tcp1, value)]);
            }
        }
        let lines: Vec<String> = judge(&samples).iter().map(ToString::to_string).collect();
        // 0.92 each, and what is the same differs by a tenth: half of it is 0.1.
        assert_eq!(lines[0], "TCP ×1, our-rules / tracking, at least 0.95: 0.92, met");
        assert_eq!(lines[1], "TCP ×1, our-rules / flannel-rules, at least 1: 0.92, met");
        assert_eq!(lines[2], "TCP ×1, our-rules-20000 / our-rules, at least 0.97: 0.80, missed by 18 %");
        assert!(lines[3].ends_with("at least 0.95: not measured") && lines.len() == 12, "{lines:#?}");
        samples.add(Frames::Real, Contestant::UdpRules, &[(Figure::Tcp1, 0.9)]);
        let lines: Vec<String> = judge(&samples).iter().map(ToString::to_string).collect();
        assert!(lines[3].starts_with("TCP ×1, udp-rules / our-rules, at least 0.9: 0.24"), "{lines:#?}");
    }
}
