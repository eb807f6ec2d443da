//! The resource `Files`: files with content that follows from the desired state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    Difference, Operation, Plan, Resource,
    merge::{Clash, Clashes, Share},
};

/// The files of a host that the agent writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {}

/// The files that should exist, by path. A file in scope that is not here is removed.
pub type DesiredFiles = BTreeMap<PathBuf, DesiredFile>;

/// A file as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFile {
    /// Its whole content.
    pub content: String,
    /// How it is written.
    pub writing: Writing,
}

/// How a file is written. It is always replaced in one step, so that no reader sees a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// A file of ours that can be made again: mode 0644. A power cut may lose it.
    Plain,
    /// The same, and it is on the disk when the operation ends.
    Durable,
    /// A file of another program: its mode and owner stay, a symbolic link still leads to it, and it is on the disk when the operation
    /// ends.
    InPlace,
}

/// A file as it was read. A file that does not exist has no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedFile {
    /// A regular file with this content.
    Content(String),
    /// It exists, and its content is not known: it is no regular file, too large, not UTF-8, or cannot be read. The reason, for people.
    Unknown(String),
}

/// One change of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Writes a file, and replaces an existing one.
    Write(PathBuf, DesiredFile),
    /// Removes a file.
    Remove(PathBuf),
}

/// There are no findings beside the changes: a file has no owner but its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoFindings;

impl Resource for Files {
    type Observed = BTreeMap<PathBuf, ObservedFile>;
    type Desired = DesiredFiles;
    /// The files that are read.
    type Scope = BTreeSet<PathBuf>;
    type Op = FileOp;
    type Findings = NoFindings;
    type Index = ();
    type Part = ();

    fn index(_: &Self::Observed) {}

    fn merge(shares: &[Share<'_, DesiredFiles>]) -> (DesiredFiles, Vec<Clash>) {
        let mut clashes = Clashes::default();
        let merged = clashes.rows(shares, |files| files, |path| format!("the file {}", path.display()));
        (merged, clashes.all())
    }

    /// Files are written in the order of their paths, and then the others are removed.
    fn plan(observed: &Self::Observed, desired: &DesiredFiles) -> Plan<Self> {
        let differs =
            |(path, file): &(&PathBuf, &DesiredFile)| !observed.get(*path).is_some_and(|found| found.is(file));
        let writes = desired.iter().filter(differs).map(|(path, file)| FileOp::Write(path.clone(), file.clone()));
        let undesired = observed.keys().filter(|path| !desired.contains_key(*path));
        let removals = undesired.map(|path| FileOp::Remove(path.clone()));
        Plan { ops: writes.chain(removals).collect(), findings: NoFindings }
    }

    fn differences(observed: &Self::Observed, desired: &DesiredFiles) -> Vec<Difference> {
        Self::plan(observed, desired).ops.iter().map(|op| difference(observed, op)).collect()
    }

    fn apply(observed: &mut Self::Observed, op: &FileOp) {
        match op {
            FileOp::Write(path, file) => {
                observed.insert(path.clone(), ObservedFile::Content(file.content.clone()));
            }
            FileOp::Remove(path) => {
                observed.remove(path);
            }
        }
    }
}

fn difference(observed: &BTreeMap<PathBuf, ObservedFile>, op: &FileOp) -> Difference {
    let entry = format!("file {}", op.path().display());
    match (op, observed.get(op.path())) {
        // It may hold secrets of another program.
        (FileOp::Write(_, DesiredFile { writing: Writing::InPlace, .. }), Some(_)) => {
            Difference::altered(entry, "has other settings than it should have")
        }
        (FileOp::Write(_, desired), Some(found)) => Difference::altered(entry, found.unlike(&desired.content)),
        (FileOp::Write(..), None) => Difference::missing(entry),
        (FileOp::Remove(_), _) => Difference::unwanted(entry),
    }
}

impl ObservedFile {
    /// How it differs from the desired content: its first line that is another one, since a file may be long.
    fn unlike(&self, desired: &str) -> String {
        let content = match self {
            Self::Content(content) => content,
            Self::Unknown(why) => return format!("cannot be compared: {why}"),
        };
        let lines = content.lines().map(Some).chain(std::iter::repeat(None));
        let wanted = desired.lines().map(Some).chain(std::iter::repeat(None));
        let longest = content.lines().count().max(desired.lines().count());
        let first = lines.zip(wanted).take(longest).position(|(line, wanted)| line != wanted);
        let Some(first) = first else { return "differs in its line ends".to_owned() };
        match (content.lines().nth(first), desired.lines().nth(first)) {
            (Some(line), Some(wanted)) => format!("has line {}: {line:?}, and should have {wanted:?}", first + 1),
            (None, Some(wanted)) => format!("lacks line {}: {wanted:?}", first + 1),
            (Some(line), None) => format!("has line {}: {line:?}, and should end before it", first + 1),
            (None, None) => "differs".to_owned(),
        }
    }

    fn is(&self, desired: &DesiredFile) -> bool {
        match self {
            Self::Content(content) => *content == desired.content,
            Self::Unknown(_) => false,
        }
    }
}

impl FileOp {
    /// The file that it changes.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Write(path, _) | Self::Remove(path) => path,
        }
    }
}

impl Operation for FileOp {
    fn name(&self) -> &'static str {
        match self {
            Self::Write(..) => "write file",
            Self::Remove(_) => "remove file",
        }
    }

    fn is_delete(&self) -> bool {
        match self {
            Self::Write(..) => false,
            Self::Remove(_) => true,
        }
    }
}

impl fmt::Display for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.path().display())
    }
}

impl fmt::Display for NoFindings {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(files: &[(&str, &str)]) -> DesiredFiles {
        let file = |content: &str| DesiredFile { content: content.to_owned(), writing: Writing::Plain };
        files.iter().map(|(path, content)| (PathBuf::from(path), file(content))).collect()
    }

    fn observed(files: &[(&str, Option<&str>)]) -> BTreeMap<PathBuf, ObservedFile> {
        let unknown = || ObservedFile::Unknown("it is a pipe".to_owned());
        let found =
            |content: &Option<&str>| content.map_or_else(unknown, |text| ObservedFile::Content(text.to_owned()));
        files.iter().map(|(path, content)| (PathBuf::from(path), found(content))).collect()
    }

    #[test]
    fn files_that_differ_are_written_and_those_in_scope_that_are_not_desired_are_removed() {
        let desired = desired(&[("/a", "1"), ("/b", "2"), ("/c", "3"), ("/d", "4")]);
        let mut host = observed(&[("/a", Some("1")), ("/b", Some("9")), ("/c", None), ("/old", Some("x"))]);
        let plan = Files::plan(&host, &desired);
        let ops: Vec<String> = plan.ops.iter().map(ToString::to_string).collect();
        assert_eq!(ops, ["write file /b", "write file /c", "write file /d", "remove file /old"]);
        let told: Vec<String> = Files::differences(&host, &desired).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                r#"file /b has line 1: "9", and should have "2""#,
                "file /c cannot be compared: it is a pipe",
                "file /d is missing",
                "file /old should not be there",
            ]
        );
        plan.ops.iter().for_each(|op| Files::apply(&mut host, op));
        assert_eq!(Files::plan(&host, &desired), Plan::default());
        assert_eq!(Files::differences(&host, &desired), []);
    }

    #[test]
    fn a_file_that_differs_is_told_by_its_first_line_that_does() {
        let cases = [
            ("A=1\nB=2\n", "A=1\nB=3\n", r#"has line 2: "B=2", and should have "B=3""#),
            ("A=1\n", "A=1\nB=3\n", r#"lacks line 2: "B=3""#),
            ("A=1\nB=3\n", "A=1\n", r#"has line 2: "B=3", and should end before it"#),
            ("A=1", "A=1\n", "differs in its line ends"),
        ];
        for (content, desired, told) in cases {
            assert_eq!(ObservedFile::Content(content.to_owned()).unlike(desired), told);
        }
    }
}
