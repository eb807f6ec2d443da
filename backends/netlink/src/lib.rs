//! Netlink as the other crates speak it: a socket for requests, batches that are answered once, attributes one by one.
//!
//! Knows neither links nor rules: what the messages say is their senders' to know.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod attribute;
#[cfg(any(test, feature = "lab"))]
pub mod lab;
mod socket;

pub use socket::{Batch, LONGEST_DATAGRAM, Netlink, RECEIVE_BUFFER, force_buffer};
