//! The agent in containers' network namespaces, which it cannot enter itself: that takes CAP_SYS_ADMIN, and to find them Docker's socket,
//! which is as good as root (docs/adr/0022-guests-helper.md).
//!
//! `serve` is the helper `wire-agent guests`, a process of root without etcd and without an async runtime. It opens what the agent needs in
//! a namespace (`open`) and passes it, and tells which containers run (`watch`, by `docker`). `client` is the agent's side. Both speak
//! `protocol`, in packets with descriptors (`packet`).

mod client;
mod docker;
mod guest;
mod open;
mod packet;
mod pending;
mod process;
pub(crate) mod protocol;
mod serve;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use self::{
    client::{Helper, HelperError, Reached, Running},
    guest::{ContainerId, Guest, Place},
    process::Process,
    protocol::{Why, Word},
    serve::{GuestsError, GuestsFlags, run},
};
