//! The files of a host in memory.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use wire_agent::ports::{Disk, WriteError};
use wire_state::{
    DataplaneError, DesiredFile, Driver as _, ErrorKind, FileOp, Files, ObservedFile,
    sim::{FaultRates, Sim},
};

use crate::clocks::Clocks;

/// The folder whose files a reboot removes.
const RUN: &str = "/run";

/// The files of one process of the agent.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    files: Sim<Files>,
    times: Arc<Mutex<BTreeMap<PathBuf, SystemTime>>>,
    clocks: Clocks,
}

impl SimDisk {
    pub(crate) fn new(clocks: Clocks) -> Self {
        Self { files: Sim::new(BTreeMap::new()), times: Arc::default(), clocks }
    }

    /// The files of the next process.
    pub(crate) fn restarted(&self) -> Self {
        Self { files: self.files.restarted(), ..self.clone() }
    }

    pub(crate) fn crash(&self) {
        self.files.crash();
    }

    /// Fails operations and reads by chance.
    pub(crate) fn fail_by_chance(&self, rates: FaultRates, seed: u64) {
        self.files.fail_by_chance(rates, seed);
    }

    /// Removes what a reboot removes.
    pub(crate) fn reboot(&self) {
        self.files.edit(|files| files.retain(|path, _| !path.starts_with(RUN)));
    }

    /// A copy of all files, as a clone of the machine has them.
    pub(crate) fn copied(&self, clocks: Clocks) -> Self {
        let mut state = self.files.state();
        state.retain(|path, _| !path.starts_with(RUN));
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { files: Sim::new(state), times: Arc::new(Mutex::new(times)), clocks }
    }

    fn get(&self, path: &Path) -> Result<Option<ObservedFile>, DataplaneError> {
        let scope = [path.to_owned()].into();
        Ok(self.files.clone().read(&scope)?.remove(path))
    }

    fn apply(&self, op: FileOp) -> Result<(), WriteError> {
        let path = op.path().to_owned();
        let attempt = self.files.clone().apply(&[op]).pop().unwrap_or(Ok(()));
        attempt.map_err(|error| WriteError { path, source: error.source })
    }

    fn note_time(&self, path: &Path) {
        let now = self.clocks.time_of_day();
        self.times.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), now);
    }
}

impl Disk for SimDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.get(path).map_err(io::Error::other)? {
            Some(ObservedFile::Content(text)) => Ok(text.into_bytes()),
            Some(ObservedFile::Unknown(why)) => Err(io::Error::other(why)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn observe(&self, path: &Path) -> Option<ObservedFile> {
        self.get(path).unwrap_or_else(|error| Some(ObservedFile::Unknown(error.to_string())))
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn put(&self, path: &Path, file: &DesiredFile) -> Result<bool, WriteError> {
        if self.observe(path) == Some(ObservedFile::Content(file.content.clone())) {
            return Ok(false);
        }
        self.apply(FileOp::Write(path.to_owned(), file.clone()))?;
        self.note_time(path);
        Ok(true)
    }

    fn touch(&self, path: &Path) {
        self.note_time(path);
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.edit(|files| {
            let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            files.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<(), WriteError> {
        self.apply(FileOp::Remove(path.to_owned()))
    }
}

/// The kinds of errors that a planned fault of a file has.
pub(crate) const DISK_FULL: ErrorKind = ErrorKind::NoBuffers;
