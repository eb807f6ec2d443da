//! The crate from outside: one set of contract tests on the simulated store and on a real etcd, and what is built on them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod allocate;
mod common;
mod config;
mod etcd;
mod follow;
mod hold;
mod store_contract;
mod values;
