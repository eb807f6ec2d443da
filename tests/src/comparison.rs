//! What `wire-agent verify` and `wire-agent plan` answer on an agent's host.

use crate::{Agent, LabError, Result};

/// An answer of `wire-agent verify` or `wire-agent plan`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Its exit status.
    pub status: Option<i32>,
    /// Standard output.
    pub text: String,
    /// Standard error: the log, and why nothing could be compared.
    pub messages: String,
}

impl Comparison {
    /// The lines of standard output: a difference each.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.status == Some(0) && self.text.is_empty()
    }
}

impl Agent {
    /// Runs `wire-agent verify` or `wire-agent plan`, with further words, as a person does: with all the flags and the wrapper that the
    /// agent is started with.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn compare(&self, words: &[&str]) -> Result<Comparison> {
        let cannot = LabError::io(format!("cannot run wire-agent {}", words.join(" ")));
        let output = self.command(words)?.output().map_err(cannot)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (text, messages) = (text(&output.stdout), text(&output.stderr));
        Ok(Comparison { status: output.status.code(), text, messages })
    }
}
