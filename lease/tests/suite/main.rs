//! The crate from outside, on the simulated store and on a real etcd.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod allocate;
#[path = "../../store/tests/suite/common.rs"]
mod common;
mod config;
mod folder;
mod follow;
mod hold;
mod named;
mod values;
