//! The figures, for people and for programs.

use std::time::{Duration, Instant};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use wire_tests::percentile;

/// What a figure is compared with, in words.
#[derive(Clone, Copy, Default)]
pub(crate) struct Goal {
    /// What the project promises.
    pub(crate) ours: &'static str,
    /// What flannel v0.28.9 needs, on the machine of the project's field notes.
    pub(crate) flannel: &'static str,
}

/// What the same run measured of something simpler, in the same way and unit.
pub(crate) struct Yardstick<'a> {
    pub(crate) name: &'static str,
    pub(crate) times: &'a [f64],
}

/// A time as samples have it, in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The time from one instant to another in milliseconds; negative where the other was before.
pub(crate) fn millis_between(from: Instant, to: Instant) -> f64 {
    if to >= from { millis(to.duration_since(from)) } else { -millis(from.duration_since(to)) }
}

/// A ratio of less than this, or to less, is none: in milliseconds, per cent.
const LEAST_OF_A_RATIO: f64 = 0.1;

/// All figures, in the order they were measured.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    bench: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    mark: String,
    unit: &'static str,
    #[serde(flatten)]
    figure: Figure,
    yardstick: Option<YardstickLine>,
    /// The median over the yardstick's; none where that is nearly nothing.
    ratio: Option<f64>,
    /// The median less the yardstick's.
    difference: Option<f64>,
    goal: &'static str,
    flannel: &'static str,
}

#[derive(Serialize)]
struct YardstickLine {
    name: &'static str,
    #[serde(flatten)]
    figure: Figure,
}

#[derive(Serialize)]
struct Figure {
    samples: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Goal {
    pub(crate) const fn ours(ours: &'static str) -> Self {
        Self { ours, flannel: "" }
    }
}

impl Report {
    /// Adds a series of times in milliseconds.
    pub(crate) fn times(&mut self, mark: impl Into<String>, times: &[f64], goal: Goal) {
        self.add(mark.into(), "ms", Figure::of(times), None, goal);
    }

    /// Adds a series of times beside its yardstick's.
    pub(crate) fn against(&mut self, mark: impl Into<String>, times: &[f64], yardstick: &Yardstick<'_>, goal: Goal) {
        let line = YardstickLine { name: yardstick.name, figure: Figure::of(yardstick.times) };
        self.add(mark.into(), "ms", Figure::of(times), Some(line), goal);
    }

    /// Adds one figure of another kind.
    pub(crate) fn number(&mut self, mark: impl Into<String>, number: f64, unit: &'static str, goal: Goal) {
        self.add(mark.into(), unit, Figure::of(&[number]), None, goal);
    }

    /// Adds one figure of another kind beside its yardstick's.
    pub(crate) fn number_against(
        &mut self,
        mark: impl Into<String>,
        [number, theirs]: [f64; 2],
        unit: &'static str,
        goal: Goal,
    ) {
        let line = YardstickLine { name: "bare client", figure: Figure::of(&[theirs]) };
        self.add(mark.into(), unit, Figure::of(&[number]), Some(line), goal);
    }

    fn add(
        &mut self,
        mark: String,
        unit: &'static str,
        figure: Figure,
        yardstick: Option<YardstickLine>,
        Goal { ours, flannel }: Goal,
    ) {
        let theirs = yardstick.as_ref().map(|line| line.figure.p50);
        let ratio =
            theirs.filter(|theirs| theirs.min(figure.p50) >= LEAST_OF_A_RATIO).map(|theirs| figure.p50 / theirs);
        let difference = theirs.map(|theirs| figure.p50 - theirs);
        let line = Line { mark, unit, figure, yardstick, ratio, difference, goal: ours, flannel };
        eprintln!("bench:   {}", line.cells().map(|(_, text)| text).join(" | "));
        self.bench.push(line);
    }

    /// Prints a table, then one line of JSON.
    pub(crate) fn print(&self) {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        if let Some(first) = self.bench.first() {
            table.set_header(first.cells().map(|(title, _)| title));
        }
        for line in &self.bench {
            table.add_row(line.cells().map(|(_, text)| text));
        }
        println!("{table}");
        println!("{}", serde_json::to_string(self).expect("figures and names are JSON"));
    }
}

impl Line {
    fn cells(&self) -> [(&'static str, String); 10] {
        let shown = |figure: f64| format!("{figure:.2} {}", self.unit);
        let theirs = self.yardstick.as_ref().map_or_else(String::new, YardstickLine::text);
        [
            ("mark", self.mark.clone()),
            ("n", self.figure.samples.to_string()),
            ("p50", shown(self.figure.p50)),
            ("p99", shown(self.figure.p99)),
            ("max", shown(self.figure.max)),
            ("yardstick, p50 / p99 / max", theirs),
            ("ratio", self.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))),
            ("difference", self.difference.map_or_else(String::new, shown)),
            ("goal", self.goal.to_owned()),
            ("flannel", self.flannel.to_owned()),
        ]
    }
}

impl YardstickLine {
    fn text(&self) -> String {
        let Figure { p50, p99, max, .. } = self.figure;
        format!("{}: {p50:.2} / {p99:.2} / {max:.2}", self.name)
    }
}

impl Figure {
    fn of(samples: &[f64]) -> Self {
        let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(samples, percent));
        Self { samples: samples.len(), p50, p99, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_the_medians_and_stands_in_both_outputs() {
        let mut report = Report::default();
        let yardstick = Yardstick { name: "bare client", times: &[2.0, 1.0, 9.0] };
        report.against("a mark", &[3.0, 2.0, 40.0], &yardstick, Goal::ours("< 1 ms"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["bench"][0]["ratio"], 1.5);
        assert_eq!(json["bench"][0]["difference"], 1.0);
        assert_eq!(json["bench"][0]["max"], 40.0);
        assert_eq!(json["bench"][0]["yardstick"]["p50"], 2.0);
        let cells = report.bench[0].cells().map(|(_, text)| text);
        assert_eq!(cells[5], "bare client: 2.00 / 9.00 / 9.00");
        assert_eq!(cells[6], "1.50");
    }

    #[test]
    fn a_yardstick_of_nearly_nothing_gives_a_difference_and_no_ratio() {
        let mut report = Report::default();
        report.number_against("a mark", [1.0, 0.0], "%", Goal::default());
        report.number_against("another", [-0.1, 0.2], "ms", Goal::default());
        assert_eq!(report.bench[1].ratio, None);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["bench"][0]["ratio"], &json["bench"][0]["difference"]),
            (&serde_json::Value::Null, &1.0.into())
        );
    }

    #[test]
    fn what_came_before_is_negative() {
        let (now, ago) = (Instant::now(), Duration::from_millis(2));
        assert_eq!((millis_between(now, now + ago), millis_between(now + ago, now)), (2.0, -2.0));
    }
}
