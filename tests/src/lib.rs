//! The lab: hosts as network namespaces, real etcd, real dockerd, the agent as a process; and, in `tests/`, the scenarios on it.
//!
//! Flow: [`lab!`] begins a test with a [`Lab`], which is an [`Underlay`]; that gives [`Host`]s; on them run [`Etcd`],
//! [`Agent`] and [`Dockerd`]. What happens is read by [`Kernel`], [`Monitor`] and [`LossMeter`], and judged by
//! [`expect_peers`] inside [`eventually`]. All of it disappears with the [`Run`] when the test ends, also by a panic.
//!
//! This crate knows the agent only by its command line, files and sockets, and never uses its code to read the kernel or etcd.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod agent;
mod answers;
mod base64;
mod command;
mod docker;
mod error;
mod etcd;
mod gateway;
mod host;
mod kernel;
mod lab;
mod loss;
mod monitor;
mod notify;
mod peer;
mod pki;
mod run;
mod trace;
mod underlay;
mod wait;

pub use agent::{Agent, AgentSpec, binary, run_binary};
pub use answers::{Peer, Peers, Refused, Status};
pub use command::{Namespace, Process};
pub use docker::{Container, Dockerd, docker_options};
pub use error::{LabError, Result, check};
pub use etcd::{Access, Etcd, Stored};
pub use gateway::Gateway;
pub use host::Host;
pub use kernel::{Address, FdbEntry, Kernel, Link, LinkInfo, Neighbour, Route};
pub use lab::{Lab, Share};
pub use loss::{Loss, LossMeter, Path, control_run};
pub use monitor::{Change, Monitor, wait_quiet};
pub use peer::{ExpectedPeer, PeerLease, expect_all_leases, expect_peers};
pub use pki::Pki;
pub use run::{Run, namespaces_of, processes_in, remove};
pub use underlay::{Fault, Underlay};
pub use wait::{eventually, steadily};
pub use wire_lease::Family;
