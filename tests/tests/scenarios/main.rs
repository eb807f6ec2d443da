//! The scenarios: what wire-agent promises, each on real hosts (namespaces), a real etcd and, where it matters, a real dockerd.
//!
//! One binary, so that all of them share the machine's seats.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod adoption;
mod bad_input;
mod changes;
mod cluster;
mod containers;
mod etcd_access;
mod firewall;
mod full_range;
mod membership;
mod repair;
mod restart;
mod seat;
mod senders;
mod told;
