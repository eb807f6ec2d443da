//! A disk that becomes full, or whose process ends, after any byte.

use std::{
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use wire_state::{DesiredFile, ObservedFile, Writing, sim::SimFiles};

use super::text;
use crate::{files::WriteError, ports::Disk};

/// A disk in memory that takes so many bytes more; each operation counts as one more.
#[derive(Clone, Debug)]
pub(super) struct Limited {
    pub(super) files: SimFiles,
    pub(super) left: Arc<AtomicU64>,
    pub(super) written: Arc<AtomicU64>,
}

impl Limited {
    pub(super) fn new(left: u64) -> Self {
        let seconds = AtomicU64::new(1);
        let clock = move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.fetch_add(1, Ordering::Relaxed));
        Self { files: SimFiles::new(clock), left: Arc::new(AtomicU64::new(left)), written: Arc::default() }
    }

    /// How many of the bytes are taken.
    fn take(&self, bytes: usize) -> usize {
        let left = self.left.load(Ordering::Relaxed);
        let taken = left.min(bytes as u64);
        self.left.store(left - taken, Ordering::Relaxed);
        self.written.fetch_add(taken, Ordering::Relaxed);
        usize::try_from(taken).unwrap()
    }

    fn takes_all(&self, bytes: usize) -> io::Result<()> {
        if self.take(bytes) == bytes { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn append_taken(&self, path: &Path, len: u64, bytes: &[u8]) -> io::Result<()> {
        self.takes_all(1)?;
        let taken = self.take(bytes.len());
        self.files.append(path, len.try_into().unwrap(), &bytes[..taken])?;
        if taken == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

fn of_path(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    |source| WriteError { path: path.to_owned(), source }
}

impl Disk for Limited {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.read_at_most(path, usize::MAX)
    }

    fn open(&self, path: &Path) -> io::Result<impl io::Read> {
        self.read(path).map(io::Cursor::new)
    }

    fn observe(&self, path: &Path) -> Option<ObservedFile> {
        self.read(path).ok().map(|content| ObservedFile::Content(text(content)))
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        self.files.modified(path)
    }

    fn put(&self, path: &Path, file: &DesiredFile) -> Result<bool, WriteError> {
        self.put_in_pieces(path, |whole| whole.write_all(file.content.as_bytes())).map(|_| true)
    }

    fn put_in_pieces(
        &self,
        path: &Path,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<u64, WriteError> {
        let mut whole = Vec::new();
        let written = content(&mut whole)
            .and_then(|()| self.takes_all(whole.len() + 1))
            .and_then(|()| self.files.put(path, &whole, Writing::Plain));
        written.map(|()| whole.len() as u64).map_err(of_path(path))
    }

    fn append(&self, path: &Path, len: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.append_taken(path, len, bytes).map_err(of_path(path))
    }

    fn touch(&self, path: &Path) {
        let _ = self.takes_all(1).and_then(|()| self.files.touch(path));
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.takes_all(1).and_then(|()| self.files.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<(), WriteError> {
        self.takes_all(1).and_then(|()| self.files.remove(path)).map_err(of_path(path))
    }
}
