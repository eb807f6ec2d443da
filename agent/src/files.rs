//! Files for other programs: written completely or not at all, and only if they change.

mod append;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::{BufWriter, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

use wire_state::{Attempt, DataplaneError, DesiredFile, Driver, FileOp, Files, ObservedFile, OpError, Writing};

use self::append::append;
use crate::ports::Disk;

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub source: io::Error,
}

/// Writes `content` to `path`, mode 0644. True if it had to be written. A file with this content keeps its inode and
/// time; another file is replaced in one step, so that no reader sees a part.
///
/// # Errors
/// When a folder or the file cannot be written. The old file is then unchanged.
pub(crate) fn write_if_changed(path: &Path, content: &str, durable: Durable) -> Result<bool, WriteError> {
    if holds(path, content).unwrap_or(false) {
        return Ok(false);
    }
    let written = write(path, |file| file.write_all(content.as_bytes()), durable, None);
    written.map(|_| true).map_err(|source| WriteError { path: path.to_owned(), source })
}

/// True if a file holds exactly `content`. Reads no more than that length, and neither reads nor waits for anything but
/// a regular file.
fn holds(path: &Path, content: &str) -> io::Result<bool> {
    let file = open_without_waiting(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() != content.len() as u64 {
        return Ok(false);
    }
    let mut held = Vec::with_capacity(content.len());
    file.take(found.len() + 1).read_to_end(&mut held)?;
    Ok(held == content.as_bytes())
}

fn open_without_waiting(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

/// The files of this host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn open(&self, path: &Path) -> io::Result<impl Read> {
        fs::File::open(path)
    }

    fn observe(&self, path: &Path) -> Option<ObservedFile> {
        observe(path)
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        fs::metadata(path)?.modified()
    }

    fn put(&self, path: &Path, file: &DesiredFile) -> Result<bool, WriteError> {
        put(path, file)
    }

    fn put_in_pieces(
        &self,
        path: &Path,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<u64, WriteError> {
        let written = write(path, content, Durable::No, None);
        written.map_err(|source| WriteError { path: path.to_owned(), source })
    }

    fn append(&self, path: &Path, len: u64, bytes: &[u8]) -> Result<(), WriteError> {
        append(path, len, bytes).map_err(|source| WriteError { path: path.to_owned(), source })
    }

    fn touch(&self, path: &Path) {
        let _ = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), WriteError> {
        remove(path)
    }
}

/// Reads and writes the files of the resource [`Files`].
#[derive(Debug, Default)]
pub(crate) struct FileDriver<D>(pub(crate) D);

impl<D: Disk> Driver for FileDriver<D> {
    type Resource = Files;

    fn read(&mut self, scope: &BTreeSet<PathBuf>) -> Result<BTreeMap<PathBuf, ObservedFile>, DataplaneError> {
        Ok(scope.iter().filter_map(|path| Some((path.clone(), self.0.observe(path)?))).collect())
    }

    fn apply(&mut self, ops: &[FileOp]) -> Vec<Attempt> {
        ops.iter().map(|op| carry_out(&self.0, op).map_err(|error| OpError::new(error.source, None))).collect()
    }
}

/// The file; `None` if there is none.
fn observe(path: &Path) -> Option<ObservedFile> {
    match read_at_most(path, LARGEST_SETTINGS).map(String::from_utf8) {
        Ok(Ok(content)) => Some(ObservedFile::Content(content)),
        Ok(Err(_)) => Some(ObservedFile::Unknown("it is not UTF-8".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.is_symlink().then(|| ObservedFile::Unknown("it is a link to a file that does not exist".to_owned()))
        }
        Err(error) => Some(ObservedFile::Unknown(error.to_string())),
    }
}

fn carry_out(disk: &impl Disk, op: &FileOp) -> Result<(), WriteError> {
    match op {
        FileOp::Write(path, file) => disk.put(path, file).map(drop),
        FileOp::Remove(path) => disk.remove(path),
    }
}

/// Writes a file, unless it is as desired. True if it was written.
///
/// # Errors
/// When a folder or the file cannot be written. The old file is then unchanged.
fn put(path: &Path, DesiredFile { content, writing }: &DesiredFile) -> Result<bool, WriteError> {
    let durable = match writing {
        Writing::Plain => Durable::No,
        Writing::Durable => Durable::Yes,
        Writing::InPlace => return replace(path, content).map(|()| true),
    };
    write_if_changed(path, content, durable)
}

/// Writes `content` to a file of another program, in one step. Mode and owner stay, and a symbolic link still leads to
/// it. The content is on the disk when the call returns.
///
/// # Errors
/// When a folder or the file cannot be written. The old file is then unchanged.
pub(crate) fn replace(path: &Path, content: &str) -> Result<(), WriteError> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = fs::metadata(&real).ok();
    let written = write(&real, |file| file.write_all(content.as_bytes()), Durable::Yes, before.as_ref());
    written.map(drop).map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Reads a text file that another user may have written, without waiting for a pipe or reading a large file.
///
/// # Errors
/// When it is not a regular file of at most 64 KiB, or cannot be read.
pub(crate) fn read_small(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read_at_most(path, 1 << 16)?);
    text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The size limit for settings files, in bytes; real ones are far smaller.
pub(crate) const LARGEST_SETTINGS: u64 = 1 << 20;

/// The same for a file of at most so many bytes, whatever it holds.
///
/// # Errors
/// When it is no regular file, is larger, or cannot be read.
pub(crate) fn read_at_most(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let file = open_without_waiting(path)?;
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if !file.metadata()?.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        Err(wrong(format!("it is larger than {} KiB", largest >> 10)))
    } else {
        Ok(bytes)
    }
}

/// True if both paths name the same file, also through a symbolic or a hard link.
pub(crate) fn are_same(a: &Path, b: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    a == b || inode(a).is_some_and(|a| inode(b) == Some(a)) || real_path(a).is_some_and(|a| real_path(b) == Some(a))
}

/// The path without links in its folder. The file itself may be missing.
fn real_path(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
}

/// Removes a file that is there.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn remove(path: &Path) -> Result<(), WriteError> {
    fs::remove_file(path).map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Tells if a file must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// It is on the disk when the call returns.
    Yes,
    /// It may be lost in a power cut: it is in /run, or can be made again.
    No,
}

/// Writes a file in one step, and returns its length.
fn write(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    durable: Durable,
    like: Option<&fs::Metadata>,
) -> io::Result<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(folder)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    // Another thread may have a draft of the same file.
    static DRAFTS: AtomicU32 = AtomicU32::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = folder.join(format!(".{}.{}.{number}", name.to_string_lossy(), std::process::id()));
    let written = write_draft(&draft, content, durable, like).and_then(|len| fs::rename(&draft, path).map(|()| len));
    if written.is_err() {
        // Nobody needs the rest of the draft.
        let _ = fs::remove_file(&draft);
    }
    written
}

/// Makes a folder that others may read, whatever the umask is: what is in it has rights of its own.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

fn write_draft(
    draft: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    durable: Durable,
    like: Option<&fs::Metadata>,
) -> io::Result<u64> {
    let mode = like.map_or(0o644, |like| like.mode() & 0o7777);
    // An existing file may be a link that another user has put into their folder, or may be left by a process with the
    // same number.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode & 0o700).open(draft)?;
    let mut pages = BufWriter::new(&file);
    content(&mut pages)?;
    pages.flush()?;
    drop(pages);
    if let Some(like) = like {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
    }
    // Set regardless of the umask, because dockerd's unit and people read these files.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if durable == Durable::Yes {
        file.sync_all()?;
    }
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod contract;

#[cfg(test)]
mod tests {
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
    fn a_pipe_or_a_device_in_the_place_of_a_file_is_replaced_and_never_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subnet.env");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(write_if_changed(&path, "X=1\n", Durable::No).unwrap());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(write_if_changed(&path, "X=1\n", Durable::No).unwrap());
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "X=1\n");
    }

    #[test]
    fn only_a_small_regular_file_is_read_of_another_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subnet.env");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_small(&path).unwrap_err().to_string().contains("not a regular file"));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "x".repeat(1 << 16)).unwrap();
        assert_eq!(read_small(&path).unwrap().len(), 1 << 16);
        fs::write(&path, "x".repeat((1 << 16) + 1)).unwrap();
        assert!(read_small(&path).unwrap_err().to_string().contains("larger than 64 KiB"));
    }

    #[test]
    fn a_file_is_the_same_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "").unwrap();
        fs::write(path("b"), "").unwrap();
        fs::create_dir(path("d")).unwrap();
        std::os::unix::fs::symlink("a", path("link")).unwrap();
        fs::hard_link(path("a"), path("hard")).unwrap();
        for other in ["a", "./a", "d/../a", "link", "hard"] {
            assert!(are_same(&path("a"), &path(other)), "{other}");
        }
        assert!(are_same(&path("new"), &path("d/../new")));
        for other in ["b", "d/a", "new"] {
            assert!(!are_same(&path("a"), &path(other)), "{other}");
        }
    }

    #[test]
    fn a_link_to_nothing_is_there_and_is_replaced_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subnet.env");
        let link = || std::os::unix::fs::symlink(folder.path().join("none"), &path).unwrap();
        link();
        assert!(matches!(observe(&path), Some(ObservedFile::Unknown(_))));
        carry_out(&RealDisk, &FileOp::Remove(path.clone())).unwrap();
        assert!(!path.is_symlink() && observe(&path).is_none());
        link();
        let file = DesiredFile { content: "X=1\n".to_owned(), writing: Writing::Plain };
        carry_out(&RealDisk, &FileOp::Write(path.clone(), file)).unwrap();
        assert_eq!(observe(&path), Some(ObservedFile::Content("X=1\n".to_owned())));
        assert!(!path.is_symlink() && !folder.path().join("none").exists());
    }

    #[test]
    fn a_draft_that_is_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "X=1\n").unwrap();
        let draft = folder.path().join("draft");
        std::os::unix::fs::symlink(&elsewhere, &draft).unwrap();
        write_draft(&draft, |file| file.write_all(b"X=2\n"), Durable::No, None).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "X=1\n");
        assert_eq!(fs::read_to_string(&draft).unwrap(), "X=2\n");
        assert!(!draft.is_symlink());
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
