//! A process that is another user's, for the agent, which cannot see it (`ProtectProc=invisible`): the helper opens its file.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use nix::errno::Errno;

/// A process, by its file `stat`: it is never another one that gets its number later, and says no more than whether it is there.
#[derive(Debug)]
pub(crate) struct Process {
    started: u64,
    stat: File,
}

impl Process {
    /// # Errors
    /// When there is none with this number.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let stat = File::open(format!("/proc/{pid}/stat"))?;
        Ok(Self { started: start_in(&stat)?, stat })
    }

    /// The one whose file was passed, with the time of its start.
    pub(super) fn passed(started: u64, stat: OwnedFd) -> Self {
        Self { started, stat: stat.into() }
    }

    pub(super) fn into_passed(self) -> OwnedFd {
        self.stat.into()
    }

    /// When it was started, in clock ticks since the kernel's start: field 22 of proc_pid_stat(5).
    pub(crate) const fn started(&self) -> u64 {
        self.started
    }

    /// True once it has ended and its parent knows of it.
    pub(crate) fn has_ended(&self) -> bool {
        start_in(&self.stat).is_err_and(|error| error.raw_os_error() == Some(Errno::ESRCH as i32))
    }
}

/// The second field, the name, may have blanks and parentheses.
fn start_in(stat: &File) -> io::Result<u64> {
    // Longer than any: 52 numbers, and a name of 64 bytes at most.
    let mut text = [0; 2048];
    let len = stat.read_at(&mut text, 0)?;
    let text = String::from_utf8_lossy(&text[..len]);
    let field = text.rsplit_once(')').and_then(|(_, fields)| fields.split_ascii_whitespace().nth(19)?.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not tell when the process was started"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_file_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let later = Process::open(std::process::id()).unwrap();
        assert!(later.started() <= process.started() && later.started() > 0);
        let passed = Process::passed(process.started(), process.into_passed());
        assert!(!passed.has_ended() && !passed.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(passed.has_ended());
        assert!(Process::open(i32::MAX.cast_unsigned()).is_err());
    }
}
