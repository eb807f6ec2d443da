//! Another wall clock for a single process, by the package libfaketime.

use std::{fs, path::PathBuf};

use crate::{LabError, Result};

/// Its library for programs with threads, for `LD_PRELOAD`.
///
/// # Errors
/// Where it is not installed.
pub fn faketime() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.ok_or_else(|| LabError::Machine("there is no libfaketimeMT.so.1: `make deps` installs it".to_owned()))
}
