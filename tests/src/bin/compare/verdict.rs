//! Whether two records of a scene are the same.

use std::process::Command;

use wire_tests::{LabError, Result};

use crate::{record::HEADING, scenes::Scene, side::Played};

/// What came of a scene.
pub(crate) struct Verdict {
    name: &'static str,
    outcome: Outcome,
    /// What is wrong with a record, and what differs.
    details: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Same,
    Differs,
    /// It could not be played, or a record lacks what the scene is about.
    Cannot,
}

impl Verdict {
    /// Compares what both agents have left. Where one record has a fault the difference is printed too: it may be the cause.
    pub(crate) fn of(scene: &Scene, played: &[Played; 2]) -> Self {
        let faults = played.iter().filter_map(|played| Some(format!("{}: {}\n", played.name, played.fault.as_ref()?)));
        let faults: String = faults.collect();
        let (difference, mut outcome) = match difference(scene.name, played) {
            Ok(text) if text.is_empty() => (text, Outcome::Same),
            Ok(text) => (text, Outcome::Differs),
            Err(error) => (format!("{error:?}\n"), Outcome::Cannot),
        };
        if !faults.is_empty() {
            outcome = Outcome::Cannot;
        }
        Self { name: scene.name, outcome, details: faults + &difference }
    }

    /// The scene, and what came of it.
    pub(crate) fn line(&self) -> String {
        let outcome = match self.outcome {
            Outcome::Same => "same",
            Outcome::Differs => "differs",
            Outcome::Cannot => "error",
        };
        format!("{:<18}{outcome}", self.name)
    }

    /// A unified diff, and what is wrong.
    pub(crate) fn details(&self) -> &str {
        &self.details
    }

    /// The exit status that it asks for.
    pub(crate) fn status(&self) -> u8 {
        self.outcome as u8
    }
}

/// A unified diff of two records, with the heading of the part in each hunk; empty where they are the same, and where one is
/// missing, which is a fault that has been said.
fn difference(scene: &str, played: &[Played; 2]) -> Result<String> {
    if played.iter().any(|played| !played.file.exists()) {
        return Ok(String::new());
    }
    let mut command = Command::new("diff");
    command.arg("--unified").arg(format!("--show-function-line=^{HEADING}"));
    for played in played {
        command.arg("--label").arg(format!("{}/{scene}", played.name));
    }
    command.args(played.iter().map(|played| &played.file));
    let done = command.output().map_err(LabError::io("cannot run diff; is it installed?"))?;
    match done.status.code() {
        Some(0 | 1) => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        Some(_) | None => Err(LabError::Wrong(format!("diff: {}", String::from_utf8_lossy(&done.stderr).trim()))),
    }
}
