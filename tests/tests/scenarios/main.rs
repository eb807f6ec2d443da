//! The scenarios: what wire-agent promises, each on real hosts (namespaces), a real etcd and, where it matters, a real dockerd.
//!
//! One binary, so that all of them share the machine's seats.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod adoption;
mod arriving;
mod asleep;
mod backend_change;
mod backup;
mod bad_input;
mod blocked;
mod bridges;
mod changes;
mod choice;
mod churn;
mod clones;
mod cluster;
mod containers;
mod credentials;
mod datapath;
mod docker;
mod drain;
mod ends;
mod etcd_access;
mod etcd_away;
mod files;
mod firewall;
mod firewall_lacking;
mod forward_correct;
mod forward_fallback;
mod forward_hostile;
mod forward_interop;
mod forward_marks;
mod forward_restart;
mod forward_told;
mod full_range;
mod held;
mod hold_down;
mod host_gw;
mod joining;
mod let_in;
mod listeners;
mod membership;
mod networks;
mod offline;
mod repair;
mod restart;
mod seat;
mod senders;
mod tagged;
mod told;
mod trace;
mod unread;
mod verify;
mod verify_damage;
mod watchdog;
mod way_to_etcd;
