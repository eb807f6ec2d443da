//! Files that others read: written whole or not at all, and only when they change.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub(crate) struct WriteError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Makes `path` hold `content`, mode 0644, and says whether it had to be written. A file that holds it already keeps
/// its inode and time; another is replaced in one step, so that no reader ever sees a part.
///
/// # Errors
/// When a folder or the file cannot be written. The old file is then as it was.
pub(crate) fn write_if_changed(path: &Path, content: &str, durable: Durable) -> Result<bool, WriteError> {
    let failed = |source| WriteError { path: path.to_owned(), source };
    if fs::read(path).is_ok_and(|held| held == content.as_bytes()) {
        return Ok(false);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    let draft = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = write_draft(&draft, content, durable).and_then(|()| fs::rename(&draft, path));
    if let Err(source) = written {
        // What is left of the draft is of no use to anyone.
        let _ = fs::remove_file(&draft);
        return Err(failed(source));
    }
    Ok(true)
}

/// Whether a file must outlive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// It is on the disk when the call returns.
    Yes,
    /// It may be lost with the power: it lies in /run, or can be made again.
    No,
}

fn write_draft(draft: &Path, content: &str, durable: Durable) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(draft)?;
    file.write_all(content.as_bytes())?;
    // The umask does not decide: dockerd's unit and people read these.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    if durable == Durable::Yes { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_that_holds_the_content_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/subnet.env");
        assert!(write_if_changed(&path, "X=1\n", Durable::No).unwrap());
        let before = fs::metadata(&path).unwrap();
        assert!(!write_if_changed(&path, "X=1\n", Durable::No).unwrap());
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
        assert_eq!(after.mode() & 0o777, 0o644);
        assert!(write_if_changed(&path, "X=2\n", Durable::Yes).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "X=2\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_stays_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        let error = write_if_changed(&path, "X=1\n", Durable::No).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the draft is gone");
    }
}
