//! The figures, for people and for programs.

use std::time::Duration;

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

/// All figures, in the order they were measured.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    bench: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    mark: &'static str,
    unit: &'static str,
    samples: usize,
    p50: f64,
    p99: f64,
    max: f64,
    goal: &'static str,
    flannel: &'static str,
}

impl Report {
    /// Adds a series of times.
    pub(crate) fn times(&mut self, mark: &'static str, times: &[Duration], goal: Goal) {
        let samples: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        self.add(mark, "ms", &samples, goal);
    }

    /// Adds one figure of another kind.
    pub(crate) fn number(&mut self, mark: &'static str, number: f64, unit: &'static str, goal: Goal) {
        self.add(mark, unit, &[number], goal);
    }

    fn add(&mut self, mark: &'static str, unit: &'static str, samples: &[f64], Goal { ours, flannel }: Goal) {
        let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(samples, percent));
        self.bench.push(Line { mark, unit, samples: samples.len(), p50, p99, max, goal: ours, flannel });
    }

    /// Prints a table, then one line of JSON.
    pub(crate) fn print(&self) {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["mark", "n", "p50", "p99", "max", "goal", "flannel"]);
        for line in &self.bench {
            let figure = |figure: f64| format!("{figure:.2} {}", line.unit);
            let (p50, p99, max) = (figure(line.p50), figure(line.p99), figure(line.max));
            let (samples, goal, flannel) = (line.samples.to_string(), line.goal.to_owned(), line.flannel.to_owned());
            table.add_row([line.mark.to_owned(), samples, p50, p99, max, goal, flannel]);
        }
        println!("{table}");
        println!("{}", serde_json::to_string(self).expect("figures and names are JSON"));
    }
}
