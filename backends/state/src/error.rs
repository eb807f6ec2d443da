//! What can go wrong between us and the kernel.

use std::io;

use nix::errno::Errno;

/// A read that failed, or a socket that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel does not answer, or refuses.
    #[error("cannot read {what} from the kernel")]
    Read {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Changes made while we read, again and again.
    #[error("{what} changed each time they were read")]
    Unsteady {
        /// What was asked for.
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
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// What the kernel says about it, where it says something.
    pub detail: Option<String>,
    /// The error's number.
    #[source]
    pub source: io::Error,
}

/// Kinds of failure, as far as they matter to who reads of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// Something is there already (`EEXIST`).
    Exists,
    /// Nothing is there (`ENOENT`, `ESRCH`, `EADDRNOTAVAIL`).
    Absent,
    /// The device is gone (`ENODEV`, `ENXIO`).
    NoDevice,
    /// We may not (`EPERM`, `EACCES`): `CAP_NET_ADMIN` is missing, or what the kernel says.
    Permission,
    /// The kernel cannot do that (`EOPNOTSUPP`): for a link, its module is missing.
    Unsupported,
    /// The device is busy (`EBUSY`).
    Busy,
    /// No memory for it (`ENOBUFS`, `ENOMEM`).
    NoBuffers,
    /// No reply came: it may or may not have been done.
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
    /// Whether nothing is known but that the right to do it is missing: `EPERM` alone says so, `EACCES` has many causes.
    fn is_unexplained(&self) -> bool {
        self.detail.is_none() && self.source.raw_os_error() == Some(Errno::EPERM as i32)
    }

    /// An error of the operating system, with what else is known of it.
    #[must_use]
    pub fn new(source: io::Error, detail: Option<String>) -> Self {
        Self { kind: ErrorKind::of(&source), detail, source }
    }

    /// A program that could not do what was asked of it.
    #[must_use]
    pub fn program(kind: ErrorKind, detail: String, source: io::Error) -> Self {
        Self { kind, detail: Some(detail), source }
    }

    /// An error number of the kernel.
    #[must_use]
    pub fn of(errno: Errno) -> Self {
        Self::new(errno.into(), None)
    }

    /// The kernel lacks what is needed; `detail` says what.
    #[must_use]
    pub fn unsupported(detail: &str) -> Self {
        Self::new(Errno::EOPNOTSUPP.into(), Some(detail.to_owned()))
    }

    /// The same again, for another operation that shares its fate.
    #[must_use]
    pub fn again(&self) -> Self {
        let source = self
            .source
            .raw_os_error()
            .map_or_else(|| io::Error::new(self.source.kind(), self.source.to_string()), io::Error::from_raw_os_error);
        Self { kind: self.kind, detail: self.detail.clone(), source }
    }
}
