//! The record of a run: each step in a line, and a hash over all, by which two runs are compared.

use std::fmt;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// The record of a run.
pub(crate) struct Record {
    begun: Instant,
    lines: Vec<String>,
    hash: Sha256,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), lines: Vec::new(), hash: Sha256::new() }
    }

    /// Notes what happens now.
    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        let line = format!("{:>10.3} {what}", self.begun.elapsed().as_secs_f64());
        self.hash.update(line.as_bytes());
        self.lines.push(line);
    }

    /// Adds a state to the hash alone: it would be too long for a line.
    pub(crate) fn note_state(&mut self, state: fmt::Arguments<'_>) {
        self.hash.update(state.to_string().as_bytes());
    }

    /// The steps, for people.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The hash over all that was noted.
    pub(crate) fn hash(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
