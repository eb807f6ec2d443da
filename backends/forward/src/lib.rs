//! Moving packets between a TUN device and a UDP socket, for kernels that do not encapsulate themselves.
//!
//! Flow out: `egress` reads from the device, looks up the peer (`table`), cuts large packets (`split`), puts the
//! framing before them (`framing`), joins what goes to one peer (`queue`) and sends it (`udp`). Flow in: `ingress`
//! receives, checks, passes marks of congestion on (`ecn`), joins packets of one flow (`coalesce`) and writes them to the device (`tun`). A `worker` is a
//! thread that does both; an `engine` is a device with its workers; the [`Forwarder`] has all engines, and is what the
//! dataplane reads and writes like the kernel itself.
//!
//! Off the async runtime. Knows nothing of leases. Payload is copied by the kernel only.
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
