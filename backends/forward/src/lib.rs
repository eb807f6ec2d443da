//! Moves packets between a TUN device and a UDP socket, for kernels that do not encapsulate themselves.
//!
//! Flow out: `egress` reads from the device, looks up the peer (`table`), segments large packets (`split`), writes the
//! framing before them (`framing`), joins datagrams to one peer (`queue`) and sends them (`udp`). Flow in: `ingress`
//! receives, checks, passes congestion marks on (`ecn`), joins packets of one flow (`coalesce`) and writes them to the
//! device (`tun`). A `worker` is a thread that does both; an `engine` is a device with its workers; the [`Forwarder`]
//! has all engines, and the dataplane reads and writes it like the kernel itself.
//!
//! Runs outside of the async runtime. Knows nothing of leases. Payload is copied by the kernel only.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod checksum;
mod coalesce;
mod counters;
mod ecn;
mod egress;
mod engine;
mod forwarder;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod icmp;
mod ingress;
mod packet;
mod parts;
mod queue;
mod split;
mod table;
mod tun;
mod udp;
mod unfinished;
mod vnet;
mod worker;

pub use forwarder::{Forwarder, Handle, Kept, TunnelSeen, Tunnels, Turn};
pub use worker::Fault;
