//! The files of a host in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use nix::errno::Errno;

use super::{FaultRates, Faults, errno};
use crate::{
    Attempt, DataplaneError, DesiredFile, Driver, ErrorKind, FileOp, Files, ObservedFile, OpError, Operation, Writing,
};

/// The files of a host, for one process of the agent. Clones belong to the same process; see [`SimFiles::restarted`].
#[derive(Clone, Debug)]
pub struct SimFiles {
    disk: Arc<Mutex<Disk>>,
    process: u64,
}

/// A file of [`SimFiles`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimFile {
    /// Its whole content.
    pub content: Vec<u8>,
    /// The time of its last change.
    pub modified: SystemTime,
}

/// Why no file can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The disk is full (`ENOSPC`).
    Full,
    /// The disk is mounted read-only (`EROFS`).
    ReadOnly,
}

struct Disk {
    files: BTreeMap<PathBuf, SimFile>,
    /// The files as a power cut leaves them.
    synced: BTreeMap<PathBuf, SimFile>,
    clock: Box<dyn Fn() -> SystemTime + Send>,
    fault: Option<DiskFault>,
    faults: Faults,
    /// The number of the process that may write; `None` if it has ended.
    process: Option<u64>,
    processes: u64,
}

/// The folder whose files no boot finds again.
const VOLATILE: &str = "/run";

/// The longest file that the driver reads, in bytes.
const LONGEST: usize = 1 << 20;

impl SimFiles {
    /// An empty disk; `clock` gives the times of changes.
    pub fn new(clock: impl Fn() -> SystemTime + Send + 'static) -> Self {
        let disk = Disk {
            files: BTreeMap::new(),
            synced: BTreeMap::new(),
            clock: Box::new(clock),
            fault: None,
            faults: Faults::default(),
            process: Some(0),
            processes: 1,
        };
        Self { disk: Arc::new(Mutex::new(disk)), process: 0 }
    }

    /// The handle of the next process. The one before has ended, if it had not yet.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let mut disk = self.lock();
        let process = disk.processes;
        disk.processes += 1;
        disk.process = Some(process);
        disk.faults.crash_after = None;
        Self { disk: self.disk.clone(), process }
    }

    /// Reads a file of at most `largest` bytes.
    ///
    /// # Errors
    /// If it does not exist, is larger, or by a fault.
    pub fn read_at_most(&self, path: &Path, largest: usize) -> io::Result<Vec<u8>> {
        let mut disk = self.lock();
        if disk.faults.of_read() {
            return Err(Errno::EIO.into());
        }
        if disk.is_folder(path) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
        }
        if disk.is_below_file(path) {
            return Err(Errno::ENOTDIR.into());
        }
        let file = disk.files.get(path).ok_or_else(absent)?;
        if file.content.len() > largest {
            let why = format!("it is larger than {} KiB", largest >> 10);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(file.content.clone())
    }

    /// The time of the last change of a file.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        let disk = self.lock();
        disk.files.get(path).map(|file| file.modified).ok_or_else(absent)
    }

    /// Writes a whole file, unless it has this content; one that is written in place is written anyhow. After an error, the old file is
    /// there unchanged.
    ///
    /// # Errors
    /// If it is a folder, or below a file; by a fault, or if the process has ended.
    pub fn put(&self, path: &Path, content: &[u8], writing: Writing) -> io::Result<()> {
        let mut disk = self.lock();
        let lost = disk.may_change(self.process, "write file")?;
        if writing != Writing::InPlace && disk.files.get(path).is_some_and(|file| file.content == content) {
            return lost;
        }
        disk.can_be_written(path)?;
        let file = SimFile { content: content.to_vec(), modified: (disk.clock)() };
        disk.files.insert(path.to_owned(), file);
        match writing {
            Writing::Plain => {}
            Writing::Durable | Writing::InPlace => disk.sync(path),
        }
        lost
    }

    /// Cuts a file off after `len` bytes, and appends `bytes`; with `len` 0, a missing file is made. After an error, or
    /// when the process ends within, the first half of `bytes` is there.
    ///
    /// # Errors
    /// If the file is shorter, is a folder, or is in none; by a fault, or if the process has ended.
    pub fn append(&self, path: &Path, len: usize, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        let is_writable = disk.process == Some(self.process) && disk.fault != Some(DiskFault::ReadOnly);
        let outcome = disk.may_change(self.process, "append file");
        if outcome.is_err() && !is_writable {
            return outcome?;
        }
        disk.can_be_appended(path, len)?;
        let now = (disk.clock)();
        let file = disk.files.entry(path.to_owned()).or_insert(SimFile { content: Vec::new(), modified: now });
        file.content.truncate(len);
        let written = if outcome.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        file.content.extend_from_slice(written);
        file.modified = now;
        outcome?
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If it does not exist, by a fault, or if the process has ended.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        let lost = disk.may_change(self.process, "remove file")?;
        if disk.is_folder(path) {
            return Err(Errno::EISDIR.into());
        }
        disk.files.remove(path).ok_or_else(absent)?;
        disk.sync(path);
        lost
    }

    /// Renames a file, and replaces an existing one in one step.
    ///
    /// # Errors
    /// If it or the new folder does not exist, by a fault, or if the process has ended.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        let lost = disk.may_change(self.process, "rename file")?;
        // A folder is there as long as a file is in it.
        if from.parent() != to.parent() && !to.parent().is_some_and(|folder| disk.is_folder(folder)) {
            return Err(absent());
        }
        let file = disk.files.remove(from).ok_or_else(absent)?;
        disk.files.insert(to.to_owned(), file);
        disk.sync(from);
        disk.sync(to);
        lost
    }

    /// Sets the time of the last change of a file to now.
    ///
    /// # Errors
    /// If it does not exist, by a fault, or if the process has ended.
    pub fn touch(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        let lost = disk.may_change(self.process, "touch file")?;
        let now = (disk.clock)();
        disk.files.get_mut(path).ok_or_else(absent)?.modified = now;
        lost
    }

    /// All files, for comparison.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, SimFile> {
        self.lock().files.clone()
    }

    /// Changes the files as another program would.
    pub fn edit(&self, change: impl FnOnce(&mut BTreeMap<PathBuf, SimFile>)) {
        let mut disk = self.lock();
        change(&mut disk.files);
        disk.synced = disk.files.clone();
    }

    /// Makes all writes fail, or none with `None`.
    pub fn set_fault(&self, fault: Option<DiskFault>) {
        self.lock().fault = fault;
    }

    /// Makes the next operation of that name (`write file`, `append file`, `remove file`, `rename file`, `touch file`) fail. If the error is
    /// [`ErrorKind::Lost`], the operation is carried out nonetheless.
    pub fn fail_next(&self, op: &'static str, error: ErrorKind) {
        self.lock().faults.plan(op, error);
    }

    /// Makes operations and reads fail by chance, drawn from `seed`.
    pub fn fail_by_chance(&self, rates: FaultRates, seed: u64) {
        self.lock().faults.set_rates(rates, seed);
    }

    /// Ends the process after `ops` more operations.
    pub fn crash_after(&self, ops: usize) {
        self.lock().faults.crash_after = Some(ops);
    }

    /// Ends the process that uses this disk.
    pub fn crash(&self) {
        self.lock().process = None;
    }

    /// Whether the process of this handle has ended.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.lock().process != Some(self.process)
    }

    /// Restarts the host in order: all is written to the disk, and the files in `/run` are gone.
    pub fn reboot(&self) {
        let mut disk = self.lock();
        disk.synced = disk.files.clone();
        disk.start_anew();
    }

    /// Restarts the host after a power cut: what was not written durably is as before, and the files in `/run` are gone.
    pub fn power_cut(&self) {
        self.lock().start_anew();
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file as the driver reads it; `None` if there is none.
    fn observe(&self, path: &Path) -> Option<ObservedFile> {
        match self.read_at_most(path, LONGEST).map(String::from_utf8) {
            Ok(Ok(content)) => Some(ObservedFile::Content(content)),
            Ok(Err(_)) => Some(ObservedFile::Unknown("it is not UTF-8".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(ObservedFile::Unknown(error.to_string())),
        }
    }
}

impl Disk {
    /// Whether an operation of that process is carried out; within, the error that it returns nonetheless.
    fn may_change(&mut self, process: u64, op: &'static str) -> io::Result<io::Result<()>> {
        if self.process == Some(process) && self.faults.ends_before_op() {
            self.process = None;
        }
        if self.process != Some(process) {
            return Err(Errno::ESHUTDOWN.into());
        }
        match self.fault {
            Some(DiskFault::Full) if op != "remove file" => return Err(Errno::ENOSPC.into()),
            Some(DiskFault::ReadOnly) => return Err(Errno::EROFS.into()),
            Some(DiskFault::Full) | None => {}
        }
        match self.faults.of_op(op) {
            None => Ok(Ok(())),
            Some(ErrorKind::Lost) => Ok(Err(errno(ErrorKind::Lost).into())),
            Some(kind) => Err(errno(kind).into()),
        }
    }

    fn is_folder(&self, path: &Path) -> bool {
        let after = (Bound::Excluded(path), Bound::Unbounded);
        let mut below = self.files.range::<Path, _>(after).take_while(|(other, _)| other.starts_with(path));
        below.next().is_some()
    }

    fn is_below_file(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|folder| self.files.contains_key(folder))
    }

    /// The errors are those of mkdir(2) for the folders, and of rename(2) for the file.
    fn can_be_written(&self, path: &Path) -> io::Result<()> {
        if path.parent().is_some_and(|folder| self.files.contains_key(folder)) {
            Err(Errno::EEXIST.into())
        } else if self.is_below_file(path) {
            Err(Errno::ENOTDIR.into())
        } else if self.is_folder(path) {
            Err(Errno::EISDIR.into())
        } else {
            Ok(())
        }
    }

    /// The errors are those of open(2).
    fn can_be_appended(&self, path: &Path, len: usize) -> io::Result<()> {
        if self.is_folder(path) {
            return Err(Errno::EISDIR.into());
        }
        if self.is_below_file(path) {
            return Err(Errno::ENOTDIR.into());
        }
        match self.files.get(path) {
            Some(file) if file.content.len() < len => Err(io::ErrorKind::InvalidData.into()),
            Some(_) => Ok(()),
            // A folder is there as long as a file is in it.
            None if len == 0 && path.parent().is_some_and(|folder| self.is_folder(folder)) => Ok(()),
            None => Err(absent()),
        }
    }

    /// Writes the present state of a path to the disk.
    fn sync(&mut self, path: &Path) {
        match self.files.get(path) {
            Some(file) => drop(self.synced.insert(path.to_owned(), file.clone())),
            None => drop(self.synced.remove(path)),
        }
    }

    fn start_anew(&mut self) {
        self.process = None;
        self.synced.retain(|path, _| !path.starts_with(VOLATILE));
        self.files = self.synced.clone();
    }
}

impl Driver for SimFiles {
    type Resource = Files;

    fn read(&mut self, scope: &BTreeSet<PathBuf>) -> Result<BTreeMap<PathBuf, ObservedFile>, DataplaneError> {
        Ok(scope.iter().filter_map(|path| Some((path.clone(), self.observe(path)?))).collect())
    }

    fn apply(&mut self, ops: &[FileOp]) -> Vec<Attempt> {
        ops.iter().map(|op| self.carry_out(op).map_err(|error| OpError::new(error, None))).collect()
    }
}

impl SimFiles {
    fn carry_out(&self, op: &FileOp) -> io::Result<()> {
        debug_assert!(matches!(op.name(), "write file" | "remove file"));
        match op {
            FileOp::Write(path, DesiredFile { content, writing }) => self.put(path, content.as_bytes(), *writing),
            FileOp::Remove(path) => self.remove(path),
        }
    }
}

fn absent() -> io::Error {
    Errno::ENOENT.into()
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("files", &self.files.keys()).field("fault", &self.fault).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
