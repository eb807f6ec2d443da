//! The things that can be wrong, one variant each, by area. Pure.

mod agent;
mod docker;
mod etcd;
mod firewall;
mod kernel;
mod underlay;

pub(crate) use self::{
    agent::AgentCondition,
    docker::DockerCondition,
    etcd::{EtcdCondition, RefusedLeases, SpokenFor},
    firewall::{Blocked, FirewallCondition, Unchecked},
    kernel::KernelCondition,
    underlay::UnderlayCondition,
};
use super::Message;

/// A thing that is wrong now, by its area.
///
/// To add a condition, open the file of its area, and add to it
/// 1. a line in `kinds!`: the stable name, the severity and the subject, and its lines in the log;
/// 2. a variant, with the values that its text needs;
/// 3. an arm in `kind()` and one in `message()`; in an area that has it, also one in `instance()`.
///
/// Then call [`StatusWriter::raise`] and [`StatusWriter::clear`], or [`StatusWriter::set`], where the agent finds it. Last,
/// add the name to `NAMES` in `status/tests.rs`. `status` and `status --json` show all conditions; STATUS= and `/readyz`
/// show the faults. The log has nothing unless the kind says so ([`Log`]). Two kinds with the same severity and subject
/// replace each other. The sentence of a warning says by itself what it is about: `status` shows it without
/// the subject.
///
/// A new area is a file and a variant here, with arms in `kind()`, `message()` and `instance()`, and a line in
/// `all_kinds()` and in `areas!`; its enum is also named in `status.rs`.
///
/// [`StatusWriter::raise`]: super::StatusWriter::raise
/// [`StatusWriter::clear`]: super::StatusWriter::clear
/// [`StatusWriter::set`]: super::StatusWriter::set
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// The agent itself, its files and flags.
    Agent(AgentCondition),
    /// etcd, the network config and the leases.
    Etcd(EtcdCondition),
    /// The underlay, and packets on it.
    Underlay(UnderlayCondition),
    /// The kernel's entries.
    Kernel(KernelCondition),
    /// The packet filter.
    Firewall(FirewallCondition),
    /// Docker, its bridges and settings.
    Docker(DockerCondition),
}

impl Condition {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Agent(condition) => condition.kind(),
            Self::Etcd(condition) => condition.kind(),
            Self::Underlay(condition) => condition.kind(),
            Self::Kernel(condition) => condition.kind(),
            Self::Firewall(condition) => condition.kind(),
            Self::Docker(condition) => condition.kind(),
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::Agent(condition) => condition.message(),
            Self::Etcd(condition) => condition.message(),
            Self::Underlay(condition) => condition.message(),
            Self::Kernel(condition) => condition.message(),
            Self::Firewall(condition) => condition.message(),
            Self::Docker(condition) => condition.message(),
        }
    }

    /// Distinguishes conditions of one kind, if there may be several: the route, the link, the part of the agent.
    pub(crate) fn instance(&self) -> String {
        match self {
            Self::Agent(condition) => condition.instance(),
            Self::Kernel(condition) => condition.instance(),
            Self::Etcd(_) | Self::Underlay(_) | Self::Firewall(_) | Self::Docker(_) => String::new(),
        }
    }

    /// The stable name, for programs.
    pub(crate) const fn name(&self) -> &'static str {
        self.kind().name
    }

    pub(crate) const fn severity(&self) -> Severity {
        self.kind().place.severity
    }

    /// The thing that is wrong, such as `bridge`: it is written before the text.
    pub(crate) const fn subject(&self) -> Option<&'static str> {
        self.kind().place.subject
    }

    /// The sentence, without the remedy.
    pub(crate) fn sentence(&self) -> String {
        self.message().sentence
    }

    pub(crate) fn remedy(&self) -> Option<String> {
        self.message().remedy_text().map(str::to_owned)
    }

    /// The sentence and the remedy.
    pub(crate) fn text(&self) -> String {
        self.message().to_string()
    }

    /// The subject and the text, as in the reason of a degraded agent.
    pub(crate) fn line(&self) -> String {
        match self.subject() {
            Some(subject) => format!("{subject}: {}", self.message()),
            None => self.text(),
        }
    }
}

/// The effect on the agent's phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// The agent is degraded.
    Fault,
    /// The operator should know.
    Warning,
}

impl Severity {
    /// The stable name, for programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Warning => "warning",
        }
    }
}

/// The order of conditions of one severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Hang,
    Flag,
    Store,
    Vanished,
    AllRefused,
    /// Most conditions, in the order of their subjects.
    Lasting,
    SomeRefused,
    Conflict,
    Failure,
}

/// The place of a condition in the list. Conditions with the same place replace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) severity: Severity,
    pub(crate) rank: Rank,
    pub(crate) subject: Option<&'static str>,
}

/// The lines that a condition has in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// None. If there are any, the code that raises the condition writes them.
    Nothing,
    /// The text when it begins. Later texts are not logged, since each lease may change them.
    Beginning,
    /// Each new text.
    Texts,
    /// Each new text, after these words.
    TextsAfter(&'static str),
    /// Each new text after the subject.
    Lines,
    /// Each new text after the subject, and the end.
    LinesAndEnd,
    /// This line as an error, with each new text as the field `fault`.
    Error(&'static str),
    /// Each part of the agent that hangs, and the end of all hangs.
    Hangs,
}

/// The fixed properties of a kind of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) log: Log,
}

impl Kind {
    const fn fault(name: &'static str, subject: &'static str) -> Self {
        Self::new(name, Severity::Fault, Some(subject))
    }

    const fn warning(name: &'static str, subject: &'static str) -> Self {
        Self::new(name, Severity::Warning, Some(subject))
    }

    /// Without a subject: the text alone says what is wrong.
    const fn bare(name: &'static str, severity: Severity, rank: Rank) -> Self {
        Self::new(name, severity, None).ranked(rank)
    }

    const fn new(name: &'static str, severity: Severity, subject: Option<&'static str>) -> Self {
        Self { name, place: Place { severity, rank: Rank::Lasting, subject }, log: Log::Nothing }
    }

    const fn ranked(self, rank: Rank) -> Self {
        Self { place: Place { rank, ..self.place }, ..self }
    }

    const fn logged(self, log: Log) -> Self {
        Self { log, ..self }
    }
}

/// Makes a constant for each kind of an area, and for tests a list of all of them.
macro_rules! kinds {
    ($($name:ident = $kind:expr;)*) => {
        $(pub(crate) const $name: Kind = $kind;)*
        #[cfg(test)]
        pub(super) const ALL: &'static [Kind] = &[$(Self::$name),*];
    };
}
use kinds;

/// The kinds of all areas.
#[cfg(test)]
pub(super) fn all_kinds() -> Vec<Kind> {
    [
        AgentCondition::ALL,
        EtcdCondition::ALL,
        UnderlayCondition::ALL,
        KernelCondition::ALL,
        FirewallCondition::ALL,
        DockerCondition::ALL,
    ]
    .concat()
}

/// Implements `From` for each area, so that callers can pass the condition of an area.
macro_rules! areas {
    ($($area:ident($condition:ident)),*) => {
        $(impl From<$condition> for Condition {
            fn from(condition: $condition) -> Self {
                Self::$area(condition)
            }
        })*
    };
}

areas!(
    Agent(AgentCondition),
    Etcd(EtcdCondition),
    Underlay(UnderlayCondition),
    Kernel(KernelCondition),
    Firewall(FirewallCondition),
    Docker(DockerCondition)
);
