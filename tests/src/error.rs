//! What can go wrong in a lab.

use std::{fmt, io, time::Duration};

/// The result of everything in the lab, and of each lab test.
pub type Result<T = ()> = std::result::Result<T, LabError>;

/// Why a step of the lab failed.
#[derive(thiserror::Error)]
pub enum LabError {
    /// A command that could not end well.
    #[error("`{command}` {outcome}\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status, or that it ran out of time.
        outcome: String,
        /// What it wrote, standard error first.
        output: String,
    },
    /// A file, socket or process.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A text that is not what its writer promised.
    #[error("{what} answered what the lab cannot read: {rule}")]
    Answer {
        /// Who answered.
        what: String,
        /// What is wrong with it.
        rule: String,
    },
    /// Something that did not come true in time.
    #[error("not within {after:?}: {last}")]
    Late {
        /// How long the lab waited.
        after: Duration,
        /// Why it was not true the last time.
        last: String,
    },
    /// Something that is otherwise than expected.
    #[error("{0}")]
    Wrong(String),
    /// What this machine lacks to hold a lab.
    #[error("this machine cannot hold a lab: {0}")]
    Machine(String),
}

/// The same as Display with the sources, so that a test that returns the error prints it readably.
impl fmt::Debug for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl LabError {
    /// For `map_err`: an I/O error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err`: a system call's error with what was tried.
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }

    /// For `map_err`: an answer that cannot be read.
    pub(crate) fn answer<E: fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |rule| Self::Answer { what, rule: rule.to_string() }
    }
}

/// `Ok` where `truth` holds, else what is wrong.
///
/// # Errors
/// [`LabError::Wrong`] with the text of `otherwise`.
pub fn check(truth: bool, otherwise: impl FnOnce() -> String) -> Result {
    if truth { Ok(()) } else { Err(LabError::Wrong(otherwise())) }
}
