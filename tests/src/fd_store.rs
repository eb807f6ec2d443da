//! The service manager's store of descriptors, sd_pid_notify_with_fds(3): what an agent leaves there is handed to its next
//! start, sd_listen_fds(3).
#![expect(unsafe_code, reason = "a descriptor that came by its number has to be believed in")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

use crate::{LabError, Result};

/// Descriptors by name, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct FdStore(Vec<(String, OwnedFd)>);

/// The first number under which a program gets them, `SD_LISTEN_FDS_START`.
const FIRST: usize = 3;
/// Copies lie above all those.
const ABOVE: RawFd = 200;

impl FdStore {
    /// Does what a message asks for. `came` are the descriptors that came with it, new to this process.
    /// They are closed unless they are to be kept.
    pub(crate) fn take(&mut self, text: &str, came: Vec<RawFd>, keep: bool) {
        let came: Vec<OwnedFd> = came.into_iter().map(own).collect();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
        if keep && text.lines().any(|line| line == "FDSTORE=1") {
            self.0.extend(came.into_iter().map(|fd| (name.to_owned(), fd)));
        } else if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
            self.0.retain(|(kept, _)| kept != name);
        }
    }

    /// The words that start a program with all of them, none where there are none; and what must live until it was started, and no longer: every program
    /// that is started meanwhile gets it, too.
    pub(crate) fn hand_over(&self) -> Result<(Vec<String>, Vec<OwnedFd>)> {
        if self.0.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let copy = |(_, fd): &(String, OwnedFd)| fcntl(fd, FcntlArg::F_DUPFD(ABOVE)).map(own);
        let copies: nix::Result<Vec<OwnedFd>> = self.0.iter().map(copy).collect();
        let copies = copies.map_err(LabError::errno("cannot copy what an agent has left"))?;
        let moved = |(number, copy): (usize, &OwnedFd)| {
            let copy = copy.as_raw_fd();
            format!("{number}<&{copy} {copy}<&-")
        };
        let moves: Vec<String> = (FIRST..).zip(&copies).map(moved).collect();
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let script = format!(
            "exec {}; LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$@\"",
            moves.join(" "),
            names.len(),
            names.join(":")
        );
        Ok((["bash", "-c", &script, "bash"].map(str::to_owned).to_vec(), copies))
    }
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for this process, and nobody else has its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
