//! The bare client's process: lists, writes what it found to the kernel, then watches and writes each change.

use std::{
    collections::BTreeMap,
    env,
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_packet_core::NLM_F_DUMP;
use serde_json::{Value, json};
use wire_netlink::{Batch, Netlink};
use wire_store::{Event, KeyValue, LeaseStore, Revision, WatchStream};
use wire_tests::{LabError, Result};

use super::{
    DEVICE,
    messages::{
        AF_BRIDGE, AF_UNSPEC, Body, Elements, Entry, GET_LINK, GET_NEIGHBOUR, GET_NEXTHOP, GET_ROUTE, elements,
    },
};
use crate::writer::{open, wrong};

/// The argument that makes this program the bare client.
pub(crate) const ARGUMENT: &str = "bare-client";
/// As many routes as the agent writes without nexthop objects.
const PLAIN_ROUTES: usize = 512;
/// NETLINK_NETFILTER.
const NETFILTER: isize = 12;
/// Entries of one batch at the start.
const AT_ONCE: usize = 1_000;

/// What the client writes of each lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// FDB entry, neighbour and route.
    Entries,
    /// The route alone, with the host as the gateway on the underlay's link.
    Routes,
    /// The elements of two sets of nftables.
    Elements,
    /// Nothing: it lists the leases, dumps the kernel's tables and ends.
    Read,
}

impl Job {
    const ALL: [Self; 4] = [Self::Entries, Self::Routes, Self::Elements, Self::Read];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Routes => "routes",
            Self::Elements => "elements",
            Self::Read => "read",
        }
    }
}

/// `bench bare-client JOB URL PREFIX-TO-LIST PREFIX-TO-WATCH`.
pub(crate) fn main() -> Result {
    let words: Vec<String> = env::args().skip(2).collect();
    let [job, url, list, watch] = words.as_slice() else {
        return Err(LabError::Wrong(format!("bench {ARGUMENT} wants four words, not {words:?}")));
    };
    let job = Job::ALL.into_iter().find(|one| one.word() == job);
    let job = job.ok_or_else(|| LabError::Wrong(format!("no job is called {words:?}")))?;
    let began = Instant::now();
    let (runtime, store) = open(url)?;
    let listing = runtime.block_on(store.list(list.as_bytes())).map_err(wrong)?;
    let listed = began.elapsed();
    let count = listing.entries.len();
    if job == Job::Read {
        let read = dump_all()?;
        println!(
            "{}",
            json!({ "leases": count, "entries": read, "listed": millis(listed), "done": millis(began.elapsed()) })
        );
        return Ok(());
    }
    let mut target = Target::open(job)?;
    target.fill(listing.entries)?;
    println!("{}", json!({ "leases": count, "listed": millis(listed), "done": millis(began.elapsed()) }));
    runtime.block_on(follow(&store, watch.as_bytes(), listing.revision, target))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn follow(store: &impl LeaseStore, prefix: &[u8], from: Revision, mut target: Target) -> Result {
    let mut watch = store.watch(prefix, Revision(from.0 + 1)).await.map_err(wrong)?;
    println!("{}", json!({ "watching": true }));
    loop {
        let batch = watch.next().await.map_err(wrong)?;
        target.apply(batch.events)?;
    }
}

/// What it writes to. It remembers what it wrote for a key's name, since a deletion in etcd does not say it.
struct Target {
    job: Job,
    netlink: Netlink,
    device: u32,
    written: BTreeMap<Vec<u8>, Entry>,
    plain: usize,
    next_id: u32,
}

impl Target {
    fn open(job: Job) -> Result<Self> {
        let device = if job == Job::Routes { "eth0" } else { DEVICE };
        let (device, protocol) = (nix::net::if_::if_nametoindex(device).unwrap_or(0), NETFILTER);
        let netlink = if job == Job::Elements { Netlink::of(protocol) } else { Netlink::open() };
        Ok(Self { job, netlink: netlink.map_err(wrong)?, device, written: BTreeMap::new(), plain: 0, next_id: 1 })
    }

    /// Writes the leases that were there.
    fn fill(&mut self, leases: Vec<KeyValue>) -> Result {
        let mut batch = Batch::default();
        for (number, lease) in leases.into_iter().enumerate() {
            let Some(entry) = self.entry(&lease, None) else { continue };
            if matches!(self.job, Job::Entries | Job::Routes) {
                entry.add(&mut batch, self.device);
                if number % AT_ONCE == AT_ONCE - 1 {
                    self.send(std::mem::take(&mut batch))?;
                }
            }
            self.written.insert(name(&lease.key), entry);
        }
        match self.job {
            Job::Entries | Job::Routes => self.send(batch),
            Job::Elements => {
                let all: Vec<&Entry> = self.written.values().collect();
                let mut batch = elements(Elements::Add, DEVICE, &all);
                self.netlink.transact(&mut batch).map_err(wrong)
            }
            Job::Read => Ok(()),
        }
    }

    fn apply(&mut self, events: Vec<Event>) -> Result {
        if self.job == Job::Elements {
            return events.into_iter().try_for_each(|event| self.apply_to_sets(event));
        }
        let mut batch = Batch::default();
        for event in events {
            let old = self.written.remove(&name(event.key()));
            match (event, old) {
                (Event::Put(lease), old) => {
                    let Some(entry) = self.entry(&lease, old.as_ref()) else { continue };
                    match &old {
                        Some(old) => entry.change(&mut batch, self.device, old),
                        None => entry.add(&mut batch, self.device),
                    }
                    self.written.insert(name(&lease.key), entry);
                }
                (Event::Delete { .. }, Some(old)) => {
                    self.plain -= usize::from(old.nexthop.is_none() && !old.is_gateway);
                    old.remove(&mut batch, self.device);
                }
                (Event::Delete { .. }, None) => {}
            }
        }
        self.send(batch)
    }

    fn apply_to_sets(&mut self, event: Event) -> Result {
        let old = self.written.remove(&name(event.key()));
        if let Some(old) = &old {
            self.netlink.transact(&mut elements(Elements::Delete, DEVICE, &[old])).map_err(wrong)?;
        }
        if let Event::Put(lease) = event
            && let Some(entry) = self.entry(&lease, old.as_ref())
        {
            self.netlink.transact(&mut elements(Elements::Add, DEVICE, &[&entry])).map_err(wrong)?;
            self.written.insert(name(&lease.key), entry);
        }
        Ok(())
    }

    fn send(&mut self, mut batch: Batch) -> Result {
        self.netlink.send(&mut batch).into_iter().collect::<std::result::Result<(), _>>().map_err(wrong)
    }

    /// What the kernel is to hold for a lease; its route keeps the form it has.
    fn entry(&mut self, lease: &KeyValue, old: Option<&Entry>) -> Option<Entry> {
        let mut entry = parse(lease, self.job == Job::Routes)?;
        entry.nexthop = match (old, entry.subnet) {
            _ if entry.is_gateway => None,
            (Some(old), _) => old.nexthop,
            (None, IpAddr::V4(_)) if self.plain >= PLAIN_ROUTES => {
                self.next_id += 1;
                Some(self.next_id)
            }
            (None, IpAddr::V4(_) | IpAddr::V6(_)) => {
                self.plain += 1;
                None
            }
        };
        Some(entry)
    }
}

/// The last part of a key: the same lease has it in either network.
fn name(key: &[u8]) -> Vec<u8> {
    key.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec()
}

/// Reads a lease of one family without a check; `None`: it is none.
fn parse(lease: &KeyValue, is_gateway: bool) -> Option<Entry> {
    let key = std::str::from_utf8(&lease.key).ok()?;
    let (subnet, len) = key.rsplit('/').next()?.rsplit_once('-')?;
    let value: Value = serde_json::from_slice(&lease.value).ok()?;
    let subnet: IpAddr = subnet.parse().ok()?;
    let (public, data) = match subnet {
        IpAddr::V4(_) => (&value["PublicIP"], &value["BackendData"]),
        IpAddr::V6(_) => (&value["PublicIPv6"], &value["BackendV6Data"]),
    };
    let mut mac = [0; 6];
    // A host that is a gateway itself has no MAC in its lease.
    for (byte, text) in mac.iter_mut().zip(data["VtepMAC"].as_str().or(is_gateway.then_some(""))?.split(':')) {
        *byte = if text.is_empty() { 0 } else { u8::from_str_radix(text, 16).ok()? };
    }
    Some(Entry {
        subnet,
        len: len.parse().ok()?,
        public: public.as_str()?.parse().ok()?,
        mac,
        nexthop: None,
        is_gateway,
    })
}

/// Dumps links, neighbours, FDB entries, nexthop objects and routes, and counts them.
fn dump_all() -> Result<usize> {
    let mut netlink = Netlink::open().map_err(wrong)?;
    let mut count = 0;
    // The headers: struct ifinfomsg, ndmsg twice, nhmsg, rtmsg.
    for (what, kind, header) in [
        ("links", GET_LINK, [AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_slice()),
        ("neighbours", GET_NEIGHBOUR, &[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("FDB entries", GET_NEIGHBOUR, &[AF_BRIDGE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("nexthop objects", GET_NEXTHOP, &[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0]),
        ("routes", GET_ROUTE, &[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let request = |batch: &mut Batch, flags: u16| batch.push(kind, flags | NLM_F_DUMP, &Body::new(header));
        count += netlink.dump(what, &request, |_| Some(())).map_err(wrong)?.len();
    }
    Ok(count)
}
