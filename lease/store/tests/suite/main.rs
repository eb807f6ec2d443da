//! The crate from outside: one set of contract tests on the simulated store and on a real etcd, and etcd's own ways.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod contract;
mod etcd;
mod one_client;
