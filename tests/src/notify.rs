//! The service manager's side of sd_notify(3): what an agent says, and when.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{LabError, Result};

/// A notify socket and all it has heard.
#[derive(Debug)]
pub(crate) struct Notifications {
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
    closed: Arc<AtomicBool>,
}

impl Notifications {
    /// Binds the socket and listens on a thread until dropped.
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        // One from an agent before this one.
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path).map_err(LabError::io(format!("cannot bind {}", path.display())))?;
        socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(LabError::io("cannot set a timeout"))?;
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let closed: Arc<AtomicBool> = Arc::default();
        let (log, stop) = (Arc::clone(&heard), Arc::clone(&closed));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                // An error is the timeout: time to look whether to stop.
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let at = Instant::now();
                let text = String::from_utf8_lossy(&buffer[..length]);
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.extend(text.lines().map(|line| (at, line.to_owned())));
            }
        });
        Ok(Self { heard, closed })
    }

    /// When a line was heard first.
    pub(crate) fn first(&self, line: &str) -> Option<Instant> {
        self.heard().iter().find(|(_, heard)| heard == line).map(|(at, _)| *at)
    }

    /// How often a line was heard.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.heard().iter().filter(|(_, heard)| heard == line).count()
    }

    /// The last value of a variable.
    pub(crate) fn last_value(&self, name: &str) -> Option<String> {
        let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        self.heard().iter().rev().find_map(|(_, line)| value(line))
    }

    /// Forgets all that was heard.
    pub(crate) fn forget(&self) {
        self.heard().clear();
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, String)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}
