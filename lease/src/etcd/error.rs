//! What etcd's and the transport's errors mean for a lease.

use std::error::Error as StdError;

use etcd_client::Error;
use tonic::Code;

use crate::{StoreError, chain};

type Source = Box<dyn StdError + Send + Sync>;

/// What can be done about an error of etcd_client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Another member may answer.
    MemberAway,
    /// No answer in time, or a stream that broke.
    NoAnswer,
    /// etcd does not want this user, or a certificate is not trusted.
    Unauthorised,
    /// etcd asks for no user at all.
    NoAuthentication,
    /// Anything else.
    Refused,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::GRpcStatus(status) => Self::of_status(status),
            Error::TransportError(_) | Error::IoError(_) => Self::MemberAway,
            Error::LeaseKeepAliveError(text) if text == LEASE_GONE_ON_KEEP_ALIVE => Self::Refused,
            Error::WatchError(_) | Error::LeaseKeepAliveError(_) => Self::NoAnswer,
            _ => Self::Refused,
        }
    }

    fn of_status(status: &tonic::Status) -> Self {
        let text = status.message();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Unauthorised,
            Code::InvalidArgument if text.contains("authentication failed") || text.contains("user name is empty") => {
                Self::Unauthorised
            }
            Code::FailedPrecondition if text.contains("authentication is not enabled") => Self::NoAuthentication,
            Code::Unavailable | Code::Unknown if chain(status).contains("certificate") => Self::Unauthorised,
            Code::Unavailable => Self::MemberAway,
            Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal | Code::Aborted => Self::NoAnswer,
            _ => Self::Refused,
        }
    }
}

pub(super) fn store_error(operation: &'static str, error: Error) -> StoreError {
    let fault = Fault::of(&error);
    let source = Source::from(Told(error));
    match fault {
        Fault::MemberAway | Fault::NoAnswer => StoreError::Unavailable { operation, source: Some(source) },
        Fault::Unauthorised => StoreError::Unauthorised { operation, source },
        Fault::NoAuthentication | Fault::Refused => StoreError::Refused { operation, source },
    }
}

/// A watch that etcd ended, for the reason it gave.
pub(super) fn cancelled(reason: &str) -> StoreError {
    let source = Source::from(reason);
    if reason.contains("permission denied") || reason.contains("auth") {
        StoreError::Unauthorised { operation: "watch", source }
    } else {
        StoreError::Unavailable { operation: "watch", source: Some(source) }
    }
}

pub(super) fn is_lease_gone(error: &(dyn StdError + 'static)) -> bool {
    let text = chain(error);
    text.contains("requested lease not found") || text.contains(LEASE_GONE_ON_KEEP_ALIVE)
}

pub(super) fn is_compacted(error: &(dyn StdError + 'static)) -> bool {
    chain(error).contains("required revision has been compacted")
}

pub(super) fn is_too_large(error: &(dyn StdError + 'static)) -> bool {
    chain(error).contains("message length too large")
}

/// What etcd_client says of a lease that etcd does not know.
const LEASE_GONE_ON_KEEP_ALIVE: &str = "lease not found";

/// etcd_client's error without what tonic's Display adds (metadata, nested debug output), its source kept.
#[derive(Debug)]
struct Told(Error);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Error::GRpcStatus(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            other => other.fmt(f),
        }
    }
}

impl StdError for Told {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            Error::GRpcStatus(status) => status.source(),
            Error::TransportError(error) => error.source(),
            _ => None,
        }
    }
}
