//! Classifies the errors of etcd and of the transport.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the errors of libraries get new variants, which are treated like all others"
)]

use std::{error::Error as StdError, fmt};

use etcd_client::Error;
use tonic::Code;
use wire_net::chain;

use super::{member::MemberError, permission::Asked, settings::EtcdSettingsError};
use crate::StoreError;

type Source = Box<dyn StdError + Send + Sync>;

/// The classes of etcd_client's errors, by the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// This member is unavailable; another one may answer.
    MemberAway,
    /// No answer in time, or a broken stream.
    NoAnswer,
    /// A certificate is not trusted, or a TLS file cannot be used.
    Insecure,
    /// The token is invalid or missing: log in again.
    NoToken,
    /// etcd refuses this user and password.
    WrongUser,
    /// The user lacks a permission.
    Forbidden,
    /// etcd has authentication disabled.
    NoAuthentication,
    /// Any other error.
    Refused,
}

impl ErrorClass {
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
        if let Some(error) = member_error(status) {
            return match error {
                error if error.is_refusal() => Self::Insecure,
                error if error.is_unsent() => Self::MemberAway,
                _ => Self::NoAnswer,
            };
        }
        let text = status.message();
        match status.code() {
            Code::Unauthenticated => Self::NoToken,
            Code::PermissionDenied => Self::Forbidden,
            // A JWT issued before a change of users or roles.
            Code::InvalidArgument if text.contains("revision of auth store is old") => Self::NoToken,
            Code::InvalidArgument if text.contains("user name is empty") => Self::NoToken,
            Code::InvalidArgument if text.contains("authentication failed") => Self::WrongUser,
            Code::FailedPrecondition if text.contains("authentication is not enabled") => Self::NoAuthentication,
            Code::Unavailable => Self::MemberAway,
            Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal | Code::Aborted => Self::NoAnswer,
            _ => Self::Refused,
        }
    }
}

/// The error of a call, or of the login before it.
#[derive(Debug)]
pub(super) enum CallError {
    /// An answer of etcd, or an error of the transport.
    Etcd(Error),
    /// The password file cannot be used.
    Password(EtcdSettingsError),
}

impl CallError {
    pub(super) fn class(&self) -> ErrorClass {
        match self {
            Self::Etcd(error) => ErrorClass::of(error),
            Self::Password(_) => ErrorClass::WrongUser,
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Etcd(error)
    }
}

pub(super) fn store_error(asked: &Asked, user: Option<&str>, error: CallError) -> StoreError {
    let operation = asked.operation;
    let error = match error {
        CallError::Etcd(error) => error,
        CallError::Password(error) => {
            let remedy = "its user cannot log in".to_owned();
            return StoreError::Unauthorised { operation, remedy, source: error.into() };
        }
    };
    let class = ErrorClass::of(&error);
    let source = Source::from(WithoutMetadata(error));
    let refused = |remedy, source| StoreError::Unauthorised { operation, remedy, source };
    match class {
        ErrorClass::MemberAway | ErrorClass::NoAnswer => StoreError::Unavailable { operation, source: Some(source) },
        ErrorClass::Insecure => StoreError::Insecure { operation, source },
        ErrorClass::NoToken | ErrorClass::WrongUser => refused(login_remedy(user), source),
        ErrorClass::Forbidden => refused(asked.remedy(user), source),
        ErrorClass::NoAuthentication | ErrorClass::Refused => StoreError::Refused { operation, source },
    }
}

fn login_remedy(user: Option<&str>) -> String {
    match user {
        Some(name) => format!("check the user {name} and its password"),
        None => "it asks for a user: give --etcd-username and --etcd-password-file".to_owned(),
    }
}

/// Converts the reason with which etcd cancelled a watch.
pub(super) fn cancelled(asked: &Asked, user: Option<&str>, reason: &str) -> StoreError {
    let (operation, source) = (asked.operation, Source::from(reason));
    if reason.contains("permission denied") {
        StoreError::Unauthorised { operation, remedy: asked.remedy(user), source }
    } else if reason.contains("auth") {
        StoreError::Unauthorised { operation, remedy: login_remedy(user), source }
    } else {
        StoreError::Unavailable { operation, source: Some(source) }
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

/// etcd_client's error text for a lease that etcd does not know.
const LEASE_GONE_ON_KEEP_ALIVE: &str = "lease not found";

/// Finds the connection error behind a status, if there is one.
fn member_error(status: &tonic::Status) -> Option<&MemberError> {
    let mut next = status.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<MemberError>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// etcd_client's error without the metadata and debug output that tonic's Display adds. Keeps the source.
#[derive(Debug)]
struct WithoutMetadata(Error);

impl fmt::Display for WithoutMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Error::GRpcStatus(status) => match member_error(status) {
                Some(error) => error.fmt(f),
                None => write!(f, "{:?}: {}", status.code(), status.message()),
            },
            other => other.fmt(f),
        }
    }
}

impl StdError for WithoutMetadata {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            Error::GRpcStatus(status) => match member_error(status) {
                Some(error) => error.source(),
                None => status.source(),
            },
            Error::TransportError(error) => error.source(),
            _ => None,
        }
    }
}
