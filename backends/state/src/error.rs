//! Errors of reading and changing a host's state.

use std::io;

use nix::errno::Errno;

/// The state could not be read, or a socket failed.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel does not answer, or refuses.
    #[error("cannot read {what} from the kernel")]
    Read {
        /// The kind of entry that was to be read, for people.
        what: &'static str,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The entries changed while they were read, each time that it was tried.
    #[error("{what} changed each time they were read")]
    Unsteady {
        /// The kind of entry that was to be read, for people.
        what: &'static str,
    },
    /// The monitor's socket failed.
    #[error("cannot receive notifications from the kernel")]
    Monitor(#[source] io::Error),
}

/// An operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", .kind.text(self.is_unexplained()), .detail.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
pub struct OpError {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// An explanation in words: the kernel's (`NLMSGERR_ATTR_MSG` of linux/netlink.h), a program's, or our own.
    pub detail: Option<String>,
    /// The error of the operating system.
    #[source]
    pub source: io::Error,
}

/// Kinds of failure, by what an operator can do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The entry exists already (`EEXIST`).
    Exists,
    /// The entry does not exist (`ENOENT`, `ESRCH`, `EADDRNOTAVAIL`).
    Absent,
    /// The device is gone (`ENODEV`, `ENXIO`).
    NoDevice,
    /// Not permitted (`EPERM`, `EACCES`): `CAP_NET_ADMIN` is missing, or for the reason in [`OpError::detail`].
    Permission,
    /// The kernel does not support it (`EOPNOTSUPP`): for a link, its module is missing.
    Unsupported,
    /// The device is busy (`EBUSY`).
    Busy,
    /// The kernel has no memory for it (`ENOBUFS`, `ENOMEM`).
    NoBuffers,
    /// The kernel did not reply (`EAGAIN`, `ETIMEDOUT`): the operation may or may not have been carried out.
    Lost,
    /// A program that is needed is not installed.
    NoProgram,
    /// A program that was run refused.
    Program,
    /// Anything else.
    Other,
}

impl ErrorKind {
    const fn text(self, is_unexplained: bool) -> &'static str {
        match self {
            Self::Exists => "it exists already",
            Self::Absent => "there is no such entry",
            Self::NoDevice => "the device is gone",
            Self::Permission if is_unexplained => "not allowed: the agent needs CAP_NET_ADMIN",
            Self::Permission => "not allowed",
            Self::Unsupported => "this kernel cannot do that: is the module loaded?",
            Self::Busy => "the device is busy",
            Self::NoBuffers => "the kernel has no memory for it",
            Self::Lost => "the kernel did not reply",
            Self::NoProgram => "a program is missing",
            Self::Program => "a program refused it",
            Self::Other => "the kernel refuses it",
        }
    }
}

impl ErrorKind {
    /// The kind of an error of the operating system.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EEXIST) => Self::Exists,
            Some(Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL) => Self::Absent,
            Some(Errno::ENODEV | Errno::ENXIO) => Self::NoDevice,
            Some(Errno::EPERM | Errno::EACCES) => Self::Permission,
            Some(Errno::EOPNOTSUPP) => Self::Unsupported,
            Some(Errno::EBUSY) => Self::Busy,
            Some(Errno::ENOBUFS | Errno::ENOMEM) => Self::NoBuffers,
            Some(Errno::EAGAIN | Errno::ETIMEDOUT) => Self::Lost,
            Some(_) | None => Self::Other,
        }
    }
}

impl OpError {
    /// Whether a missing capability is the only explanation: that is so for `EPERM` without a detail. `EACCES` has many causes.
    fn is_unexplained(&self) -> bool {
        self.detail.is_none() && self.source.raw_os_error() == Some(Errno::EPERM as i32)
    }

    /// An error of the operating system, with an explanation if there is one.
    #[must_use]
    pub fn new(source: io::Error, detail: Option<String>) -> Self {
        Self { kind: ErrorKind::of(&source), detail, source }
    }

    /// A failure of a program that was run.
    #[must_use]
    pub fn program(kind: ErrorKind, detail: String, source: io::Error) -> Self {
        Self { kind, detail: Some(detail), source }
    }

    /// An error number of the kernel.
    #[must_use]
    pub fn of(errno: Errno) -> Self {
        Self::new(errno.into(), None)
    }

    /// The kernel lacks a feature, which `detail` names.
    #[must_use]
    pub fn unsupported(detail: &str) -> Self {
        Self::new(Errno::EOPNOTSUPP.into(), Some(detail.to_owned()))
    }

    /// A copy of the error, for another operation that failed with it.
    #[must_use]
    pub fn again(&self) -> Self {
        let source = self
            .source
            .raw_os_error()
            .map_or_else(|| io::Error::new(self.source.kind(), self.source.to_string()), io::Error::from_raw_os_error);
        Self { kind: self.kind, detail: self.detail.clone(), source }
    }
}
