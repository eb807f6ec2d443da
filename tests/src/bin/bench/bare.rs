//! The yardstick: a client with nothing between a watch on etcd and the kernel. For each event it sends the messages that the
//! kernel needs, as one batch; no admission, no table of what is desired, no plan, no status, nothing on disk.
//!
//! It is this program with another first argument: a process of its own, as the agent is.

mod client;
mod messages;

use std::{
    env,
    time::{Duration, Instant},
};

use serde_json::Value;
use wire_tests::{Etcd, Family, Host, LabError, Process, Result, check, eventually};

pub(crate) use client::{ARGUMENT, Job, main};
pub(crate) use messages::{Endpoint, Endpoints, NewNetwork};

use crate::leases::{Side, directory};

/// Its VXLAN device, and its table of nftables.
pub(crate) const DEVICE: &str = "bare";

/// The name of [`read_once`] in a report.
pub(crate) const READ_ONCE: &str = "one listing, one read of the kernel";

/// The time of a process that lists the leases, dumps the host's kernel once, and ends.
pub(crate) fn read_once(host: &Host, etcd: &Etcd, family: Family) -> Result<Duration> {
    let began = Instant::now();
    let mut bare = Bare::spawn(host, etcd, family, Job::Read)?;
    let status = bare.process.wait(Duration::from_secs(60))?;
    let took = began.elapsed();
    check(status.success(), || format!("the bare client ended with {status}: {}", bare.process.log()))?;
    Ok(took)
}

/// A bare client on a host of its own. Dropped, it is killed.
pub(crate) struct Bare {
    process: Process,
}

impl Bare {
    /// Makes the device or the sets that it writes to.
    pub(crate) fn prepare(host: &Host, family: Family, job: Job) -> Result {
        match job {
            Job::Entries => {
                let local = host.on_underlay(family);
                let options = format!("type vxlan id 1 local {local} dev eth0 dstport 8472 nolearning");
                host.namespace().ip(&format!("link add {DEVICE} {options}"))?;
                host.namespace().ip(&format!("link set {DEVICE} up")).map(drop)
            }
            Job::Elements => {
                let (address, pair) = match family {
                    Family::V4 => ("type ipv4_addr;", "typeof ip saddr . @th,336,24;"),
                    Family::V6 => ("type ipv6_addr;", "typeof ip6 saddr . @th,304,64;"),
                };
                let script = format!(
                    "nft 'add table inet {DEVICE}; add set inet {DEVICE} peers {{ {address} }}; \
                     add set inet {DEVICE} subnets {{ {pair} }};'"
                );
                host.namespace().sh(&script).map(drop)
            }
            Job::Read | Job::Routes => Ok(()),
        }
    }

    /// Starts it. It writes the leases of the agent's network at its start, and follows those of its own.
    pub(crate) fn spawn(host: &Host, etcd: &Etcd, family: Family, job: Job) -> Result<Self> {
        let program = env::current_exe().map_err(LabError::io("cannot tell which program this is"))?;
        let [list, watch] = Side::BOTH.map(|side| directory(side.prefix(), family));
        let words = [ARGUMENT.to_owned(), job.word().to_owned(), etcd.endpoints(), list, watch];
        let process = host.start(program, &words, "bare.log")?;
        Ok(Self { process })
    }

    /// Waits until it has written all it found; with `watching`, until it follows its network too.
    pub(crate) fn wait(&mut self, leases: usize, watching: bool) -> Result {
        eventually(Duration::from_secs(60), || {
            let log = self.process.log();
            let said: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            // Agents may have leases of their own.
            let count = said.iter().filter_map(|line| line["leases"].as_u64()).next_back();
            let enough = count.is_some_and(|count| count >= u64::try_from(leases).unwrap_or(u64::MAX));
            let ready = !watching || said.last().is_some_and(|line| line["watching"] == true);
            check(enough && ready, || format!("the bare client says: {log}"))
        })?;
        let ended = self.process.ended();
        check(ended.is_none_or(|status| status.success()), || format!("the bare client ended: {}", self.process.log()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}
