//! The lab: hosts as network namespaces, real etcd, real dockerd, the agent as a process; and, in `tests/`, the scenarios on it.
//!
//! Flow: [`lab!`] begins a test with a [`Lab`], which is an [`Underlay`]; that gives [`Host`]s; on them run [`Etcd`],
//! [`Agent`] and [`Dockerd`], and behind them lie [`Leg`]s. What happens is read by [`Kernel`], [`Monitor`], [`Capture`],
//! [`TrafficServer`] and [`LossMeter`], and judged by [`expect_peers`] inside [`eventually`]. All of it disappears with the [`Run`] when the test ends, also by a panic.
//!
//! This crate knows the agent only by its command line, files and sockets, and never uses its code to read the kernel or etcd. Only the
//! program `bench` has more: its yardstick is a client made of wire-store and wire-netlink.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod agent;
mod answers;
mod base64;
mod capture;
mod carried;
mod codepoints;
mod command;
mod comparison;
mod docker;
mod encapsulation;
mod error;
mod etcd;
mod faketime;
mod fd_store;
mod figures;
mod gateway;
mod guest;
mod host;
mod ip;
mod kernel;
mod lab;
mod large_network;
mod leg;
mod loss;
mod machine;
mod monitor;
mod notify;
mod one_packet;
mod packet;
mod peer;
mod pings;
mod pki;
mod programs;
mod run;
mod senders;
mod stat;
mod trace;
mod traffic;
mod underlay;
mod wait;

pub use agent::{Agent, AgentSpec};
pub use answers::{DatapathStatus, Peer, Peers, Refused, Status, Tunnel};
pub use capture::{Capture, Frame};
pub use carried::expect_carried;
pub use codepoints::carried_codepoints;
pub use command::{Namespace, Process, inside, output};
pub use comparison::Comparison;
pub use docker::{Container, Dockerd, docker_options};
pub use encapsulation::Encapsulation;
pub use error::{LabError, Result, check};
pub use etcd::{Access, Etcd, Stored};
pub use faketime::faketime;
pub use figures::{measured, median, percentile};
pub use gateway::Gateway;
pub use guest::{Guest, OTHER_FIREWALLS};
pub use host::Host;
pub use ip::{IPV4, IPV6, IpPacket, PROTOCOL_TCP, PROTOCOL_UDP};
pub use kernel::{Address, FdbEntry, Kernel, Link, LinkInfo, Neighbour, Route};
pub use lab::{Lab, Share};
pub use large_network::{LargeNetwork, LargeNetworkAddress};
pub use leg::Leg;
pub use loss::{Loss, LossMeter, Path, control_run, control_run_inside};
pub use machine::{Machine, MachineSpec};
pub use monitor::{Change, Monitor, wait_quiet};
pub use one_packet::{OnePacket, OnePacketSpec};
pub use packet::{Datagram, Vxlan};
pub use peer::{ExpectedPeer, PeerLease, expect_all_leases, expect_peers, expect_tunnel, peers_of};
pub use pings::{Pings, Seen};
pub use pki::Pki;
pub use programs::{binary, program, run_binary};
pub use run::{Run, namespaces_of, processes_in, remove};
pub use senders::expect_senders;
pub use stat::ProcessStat;
pub use traffic::{Exchange, TrafficServer};
pub use underlay::{Fault, Underlay};
pub use wait::{eventually, steadily};
pub use wire_net::Family;
