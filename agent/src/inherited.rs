//! Descriptors that systemd kept for us since an earlier run, sd_listen_fds(3).
#![expect(unsafe_code, reason = "a descriptor that came by its number has to be believed in")]

use std::{
    os::fd::{FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::warn;
use wire_forward::Kept;

use crate::notify::Stored;

/// The descriptors of an earlier run.
#[derive(Default)]
pub(crate) struct Inherited {
    /// Our copies of them.
    pub(crate) kept: Kept,
    /// The list of those that systemd still stores.
    pub(crate) stored: Stored,
}

/// Takes the descriptors that systemd kept. A second call gets none.
pub(crate) fn take() -> Inherited {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Inherited::default();
    }
    match sd_notify::listen_fds_with_names() {
        Ok(kept) => {
            // SAFETY: systemd opened these for this process (LISTEN_PID is checked), and only here are they taken, once.
            let kept: Vec<_> = kept.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect();
            let stored = Stored::inherited(kept.iter().map(|(name, _)| name.clone()));
            Inherited { kept: Kept::new(kept), stored }
        }
        Err(error) => {
            warn!(%error, "a descriptor that systemd kept cannot be used");
            Inherited::default()
        }
    }
}
