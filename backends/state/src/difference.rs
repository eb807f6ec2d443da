//! One difference between the observed and the desired state, as sentences for people.

use std::fmt;

/// One difference between a host and its desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The kind of the difference.
    pub kind: DifferenceKind,
    /// The entry, such as "route 10.5.60.0/24".
    pub entry: String,
    /// How the entry is and how it should be, to follow its name, such as "has MTU 1400, and should have 1450". Of a missing entry, the
    /// things missing with it, such as "and 3 entries on it". Empty if there is nothing to add.
    pub detail: String,
    /// Its effect, such as "host 192.0.2.3 cannot be reached"; `None` if no short sentence is true.
    pub consequence: Option<String>,
}

/// The kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DifferenceKind {
    /// A desired entry is not there.
    Missing,
    /// An entry is not as desired.
    Altered,
    /// An entry of ours is not desired.
    Unwanted,
}

impl DifferenceKind {
    /// The name for programs. It never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Unwanted => "unwanted",
        }
    }
}

impl Difference {
    pub(crate) const fn new(kind: DifferenceKind, entry: String) -> Self {
        Self { kind, entry, detail: String::new(), consequence: None }
    }

    pub(crate) const fn missing(entry: String) -> Self {
        Self::new(DifferenceKind::Missing, entry)
    }

    pub(crate) fn altered(entry: String, detail: impl Into<String>) -> Self {
        Self::new(DifferenceKind::Altered, entry).with_detail(detail)
    }

    pub(crate) const fn unwanted(entry: String) -> Self {
        Self::new(DifferenceKind::Unwanted, entry)
    }

    pub(crate) fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub(crate) fn with_consequence(self, consequence: Option<String>) -> Self {
        Self { consequence, ..self }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, entry, detail, consequence } = self;
        f.write_str(entry)?;
        match (kind, detail.is_empty()) {
            (DifferenceKind::Missing, true) => f.write_str(" is missing")?,
            (DifferenceKind::Missing, false) => write!(f, " is missing, {detail}")?,
            (DifferenceKind::Altered, true) => f.write_str(" is not as it should be")?,
            (DifferenceKind::Altered, false) => write!(f, " {detail}")?,
            (DifferenceKind::Unwanted, true) => f.write_str(" should not be there")?,
            (DifferenceKind::Unwanted, false) => write!(f, " {detail}, and should not be there")?,
        }
        consequence.as_ref().map_or(Ok(()), |consequence| write!(f, ": {consequence}"))
    }
}

/// A number of things, in words: "1 entry", "2 entries".
pub(crate) fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_one_sentence() {
        let route = || "route 10.5.60.0/24".to_owned();
        let unreachable = Some("host 192.0.2.3 cannot be reached".to_owned());
        let cases = [
            (Difference::missing(route()), "route 10.5.60.0/24 is missing"),
            (
                Difference::missing(route()).with_consequence(unreachable),
                "route 10.5.60.0/24 is missing: host 192.0.2.3 cannot be reached",
            ),
            (
                Difference::missing("device flannel.1".to_owned()).with_detail("and 3 entries on it"),
                "device flannel.1 is missing, and 3 entries on it",
            ),
            (
                Difference::altered("device flannel.1".to_owned(), "has MTU 1400, and should have 1450"),
                "device flannel.1 has MTU 1400, and should have 1450",
            ),
            (Difference::unwanted(route()), "route 10.5.60.0/24 should not be there"),
            (
                Difference::unwanted("table ip flannel-ipv4".to_owned()).with_detail("was left by flanneld"),
                "table ip flannel-ipv4 was left by flanneld, and should not be there",
            ),
        ];
        for (difference, sentence) in cases {
            assert_eq!(difference.to_string(), sentence);
        }
    }

    #[test]
    fn each_kind_has_a_name_for_programs() {
        let kinds = [DifferenceKind::Missing, DifferenceKind::Altered, DifferenceKind::Unwanted];
        assert_eq!(kinds.map(DifferenceKind::name), ["missing", "altered", "unwanted"]);
    }
}
