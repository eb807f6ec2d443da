//! Saving: a line in the journal, or a new base once the journal would be longer than the base. So what is written for
//! a change is bounded on average, whatever the number of leases.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
    time::SystemTime,
};

use wire_lease::LeaseTable;
use wire_store::Random;

use super::{
    LastKnownFile,
    base::{self, Leases, NewBase},
    journal::{Changes, Sum},
};
use crate::{files::WriteError, ports::Disk};

/// The config and the way to etcd with which this host has joined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The network config as it was read.
    pub(crate) config: String,
    /// The addresses at which etcd is reached.
    pub(crate) endpoints: Vec<IpAddr>,
}

/// The state to save.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) joined: Arc<Joined>,
    pub(super) table: Arc<LeaseTable>,
}

/// The content of both files.
#[derive(Debug)]
pub(super) struct Saved {
    state: State,
    base_len: u64,
    /// The time of the base's last change, by which another program's base is noticed.
    base_time: SystemTime,
    /// The length of all lines.
    journal_len: u64,
    journal_sum: Sum,
    /// A write that failed may have left something after the lines, even a whole line.
    is_torn: bool,
}

impl LastKnownFile {
    /// Saves a table with the current time. If the files have the same already, only that time changes.
    ///
    /// # Errors
    /// When neither journal nor base can be written. What was saved before is unchanged.
    pub(super) fn save(&self, disk: &impl Disk, random: &Random, state: &State) -> Result<(), WriteError> {
        let mut saved = self.lock();
        if saved.is_none() {
            *saved = self.find_equal(disk, state);
        }
        let is_appended = saved.as_mut().is_some_and(|saved| self.append(disk, saved, state));
        if !is_appended {
            *saved = self.write_base(disk, random, state)?;
        }
        Ok(())
    }

    /// Writes a base with all that the journal has, for a release that reads no journal.
    pub(super) fn fold(&self, disk: &impl Disk, random: &Random) {
        let mut saved = self.lock();
        if let Some(Saved { state, journal_len: 1.., .. }) = &*saved
            // After an error, the journal still has it.
            && let Ok(folded) = self.write_base(disk, random, state)
        {
            *saved = folded;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Saved>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier process has saved, if it equals what is to be saved and needs no journal.
    fn find_equal(&self, disk: &impl Disk, state: &State) -> Option<Saved> {
        if disk.modified(&self.journal).is_ok() {
            return None;
        }
        let id = base::read_id(disk.open(&self.base).ok()?).ok()?;
        let base_time = disk.modified(&self.base).ok()?;
        let base_len = self.new_base(&id, state, |base| base.len_if_held(disk.open(&self.base)?)).ok()??;
        let journal_sum = Sum::of_base(&id);
        Some(Saved { state: state.clone(), base_len, base_time, journal_len: 0, journal_sum, is_torn: false })
    }

    /// Appends what differs from the last save. False if that is not possible, or a new base is better.
    fn append(&self, disk: &impl Disk, saved: &mut Saved, state: &State) -> bool {
        if saved.state.joined != state.joined || !self.are_there(disk, saved) {
            return false;
        }
        let changes = Changes::between(&self.prefix, &saved.state.table, &state.table);
        let Some(changes) = changes else { return false };
        if changes.is_empty() && !saved.is_torn {
            self.touch(disk, saved);
            return true;
        }
        let (line, journal_sum) = changes.line(saved.journal_sum);
        let journal_len = saved.journal_len + line.len() as u64;
        if journal_len > saved.base_len {
            return false;
        }
        saved.is_torn = disk.append(&self.journal, saved.journal_len, &line).is_err();
        if !saved.is_torn {
            *saved = Saved { state: state.clone(), journal_len, journal_sum, ..*saved };
        }
        !saved.is_torn
    }

    /// Whether nobody has removed a file or replaced the base since.
    fn are_there(&self, disk: &impl Disk, saved: &Saved) -> bool {
        let base_time = disk.modified(&self.base).ok();
        base_time == Some(saved.base_time) && (saved.journal_len == 0 || disk.modified(&self.journal).is_ok())
    }

    /// The base keeps the time since when it is not the whole state: a release that reads no journal tells people that.
    fn touch(&self, disk: &impl Disk, saved: &mut Saved) {
        if saved.journal_len > 0 {
            return disk.touch(&self.journal);
        }
        disk.touch(&self.base);
        if let Ok(time) = disk.modified(&self.base) {
            saved.base_time = time;
        }
    }

    /// Writes a base without a journal. `None` if it is not known what was written.
    fn write_base(&self, disk: &impl Disk, random: &Random, state: &State) -> Result<Option<Saved>, WriteError> {
        let id = format!("{:016x}", u64::from_be_bytes(random.bytes()));
        // Not flushed: if a power cut damages a file, that is noticed, and the next start waits for etcd as without a
        // file, or goes by an older state.
        let base_len = self.new_base(&id, state, |base| disk.put_in_pieces(&self.base, |file| base.write(file)))?;
        self.forget_journal(disk);
        let Ok(base_time) = disk.modified(&self.base) else { return Ok(None) };
        let journal_sum = Sum::of_base(&id);
        Ok(Some(Saved { state: state.clone(), base_len, base_time, journal_len: 0, journal_sum, is_torn: false }))
    }

    /// A journal that stays beside the new base is not read, and the next line replaces it.
    fn forget_journal(&self, disk: &impl Disk) {
        let journal: &Path = &self.journal;
        if disk.modified(journal).is_ok() {
            let _ = disk.remove(journal);
        }
    }

    fn new_base<T>(&self, id: &str, State { joined, table }: &State, then: impl FnOnce(NewBase<'_>) -> T) -> T {
        let prefix = self.prefix.to_string();
        let leases = Leases { prefix: &self.prefix, table };
        then(NewBase { id, prefix: &prefix, config: &joined.config, endpoints: &joined.endpoints, leases })
    }
}
