//! The files of a host in memory, as the agent reads and writes them.

use std::{collections::BTreeSet, io, path::Path, time::SystemTime};

use wire_agent::ports::{Disk, WriteError};
use wire_state::{DesiredFile, Driver as _, ObservedFile, Writing, sim::SimFiles};

/// The size limit of a file, in bytes.
const LARGEST: usize = 1 << 24;

/// The files of one process of the agent.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(pub(crate) SimFiles);

impl Disk for SimDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read_at_most(path, LARGEST)
    }

    fn open(&self, path: &Path) -> io::Result<impl io::Read> {
        self.read(path).map(io::Cursor::new)
    }

    fn observe(&self, path: &Path) -> Option<ObservedFile> {
        let scope = BTreeSet::from([path.to_owned()]);
        match self.0.clone().read(&scope) {
            Ok(mut files) => files.remove(path),
            Err(error) => Some(ObservedFile::Unknown(error.to_string())),
        }
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        self.0.modified(path)
    }

    fn put(&self, path: &Path, file: &DesiredFile) -> Result<bool, WriteError> {
        let is_held = || self.observe(path) == Some(ObservedFile::Content(file.content.clone()));
        if file.writing != Writing::InPlace && is_held() {
            return Ok(false);
        }
        let written = self.0.put(path, file.content.as_bytes(), file.writing);
        written.map(|()| true).map_err(|source| WriteError { path: path.to_owned(), source })
    }

    fn put_in_pieces(
        &self,
        path: &Path,
        content: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<u64, WriteError> {
        let mut whole = Vec::new();
        let written = content(&mut whole).and_then(|()| self.0.put(path, &whole, Writing::Plain));
        written.map(|()| whole.len() as u64).map_err(|source| WriteError { path: path.to_owned(), source })
    }

    fn append(&self, path: &Path, len: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.0.append(path, len, bytes).map_err(|source| WriteError { path: path.to_owned(), source })
    }

    fn touch(&self, path: &Path) {
        let _ = self.0.touch(path);
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), WriteError> {
        self.0.remove(path).map_err(|source| WriteError { path: path.to_owned(), source })
    }
}
