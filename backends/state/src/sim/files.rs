//! The resource `Files` in memory.

use std::{collections::BTreeSet, path::PathBuf};

use super::Simulated;
use crate::{ErrorKind, FileOp, Files, Resource};

impl Simulated for Files {
    fn refusal(observed: &<Self as Resource>::Observed, op: &FileOp) -> Option<ErrorKind> {
        match op {
            FileOp::Write(..) => None,
            FileOp::Remove(path) => (!observed.contains_key(path)).then_some(ErrorKind::Absent),
        }
    }

    fn within(observed: &<Self as Resource>::Observed, scope: &BTreeSet<PathBuf>) -> <Self as Resource>::Observed {
        let is_in = |path: &PathBuf| scope.contains(path);
        observed.iter().filter(|(path, _)| is_in(path)).map(|(path, file)| (path.clone(), file.clone())).collect()
    }
}
