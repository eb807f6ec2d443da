//! The service manager's side of sd_notify(3): what an agent says, and when.

use std::{
    fs,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::{LabError, Result, fd_store::FdStore};

/// A notify socket and all it has heard.
#[derive(Debug)]
pub(crate) struct Notifications {
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
    stored: Arc<Mutex<FdStore>>,
    closed: Arc<AtomicBool>,
}

impl Notifications {
    /// Binds the socket and listens on a thread until dropped. Where nothing is to be stored, what is left is closed at once.
    pub(crate) fn listen(path: &Path, stores: bool) -> Result<Self> {
        // One from an agent before this one.
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path).map_err(LabError::io(format!("cannot bind {}", path.display())))?;
        socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(LabError::io("cannot set a timeout"))?;
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let (stored, closed): (Arc<Mutex<FdStore>>, Arc<AtomicBool>) = (Arc::default(), Arc::default());
        let (log, store, stop) = (Arc::clone(&heard), Arc::clone(&stored), Arc::clone(&closed));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                // An error is the timeout: time to look whether to stop.
                let Ok((length, came)) = receive(&socket, &mut buffer) else { continue };
                let at = Instant::now();
                let text = String::from_utf8_lossy(&buffer[..length]);
                store.lock().unwrap_or_else(PoisonError::into_inner).take(&text, came, stores);
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.extend(text.lines().map(|line| (at, line.to_owned())));
            }
        });
        Ok(Self { heard, stored, closed })
    }

    /// When a line was heard first.
    pub(crate) fn first(&self, line: &str) -> Option<Instant> {
        self.heard().iter().find(|(_, heard)| heard == line).map(|(at, _)| *at)
    }

    /// When a line was heard, each time.
    pub(crate) fn all(&self, line: &str) -> Vec<Instant> {
        self.heard().iter().filter(|(_, heard)| heard == line).map(|(at, _)| *at).collect()
    }

    /// The last value of a variable.
    pub(crate) fn last_value(&self, name: &str) -> Option<String> {
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        self.heard().iter().rev().find_map(|(_, line)| value(line))
    }

    /// What was left for a next start.
    pub(crate) fn stored(&self) -> std::sync::MutexGuard<'_, FdStore> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all that was heard.
    pub(crate) fn forget(&self) {
        self.heard().clear();
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, String)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message, its length and the descriptors that came with it.
#[allow(clippy::wildcard_enum_match_arm, reason = "a message may have any other part")]
fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> nix::Result<(usize, Vec<RawFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 8]);
    let mut into = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let came = message.cmsgs()?.filter_map(|part| match part {
        ControlMessageOwned::ScmRights(came) => Some(came),
        _ => None,
    });
    Ok((message.bytes, came.flatten().collect()))
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}
