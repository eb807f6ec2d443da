//! Netlink for the crates that talk to the kernel: a request socket, batches with one acknowledgement, and a reader of
//! attributes.
//!
//! Knows nothing of links or rules: the callers build and interpret the messages.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod attribute;
#[cfg(any(test, feature = "lab"))]
pub mod lab;
mod passed;
mod socket;

pub use passed::cookie;
pub use socket::{Batch, LONGEST_DATAGRAM, Netlink, RECEIVE_BUFFER, force_buffer};
