//! One more network on a host that has many: from the command to the last entry, beside its messages sent bare.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use wire_netlink::{Batch, Netlink};
use wire_store::Write;
use wire_tests::{Agent, Change, Etcd, Host, Lab, LabError, Monitor, Result, check, wait_quiet};

use super::{CONFIG, alone, last_entry, network};
use crate::{
    bare::{Endpoint, Endpoints, NewNetwork},
    options::Options,
    report::{Goal, Report, Yardstick, millis_between},
    stage::LIMIT,
    writer::{Writer, wrong},
};

/// The networks that the host has.
const NETWORKS: usize = 500;
/// The commands that are given at a time to make them.
const ASKERS: usize = 4;
/// The number of turns in which one more is made.
const TURNS: usize = 40;
/// The addresses of the other member's block.
const BLOCK: u8 = 32;
/// The messages about them: two FDB entries and a neighbour for each.
const MESSAGES: usize = BLOCK as usize * 3;
/// The identity of the other member.
const OTHER: &str = "000000000000000000000000000000ff";
const PUBLIC: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 9);
/// The indices that the bare batches give their links: those of the network that comes and goes, and from which on those of the others.
const FIRST_INDEX: u32 = 7_000;
const FIRST_OF_OTHERS: u32 = 10_000;
/// The names of the links of the network that comes and goes.
const NAMES: [&str; 2] = ["bare", "bare-vx"];

/// One network more: the agent's on a host that has none, in turns with the bare messages to another such host; and the agent's beside 500, in turns
/// with the bare messages to both, that host and one that has the devices, entries and rules of 500.
pub(crate) fn many(options: &Options, report: &mut Report) -> Result {
    let lab = Lab::new()?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(CONFIG)?;
    let (networks, turns) = (options.networks(NETWORKS), options.networks(TURNS));
    let records: Vec<Write> = (0..=networks).flat_map(records).collect();
    Writer::start(&etcd).write_all(&records)?;
    let (host, agent, monitor) = alone(&lab, &etcd, "agent")?;
    let empty = Bare::on(lab.host("empty")?)?;
    let (mut alone, mut among) = (Ours::default(), Ours::default());
    let [mut in_empty, mut in_empty_later, mut in_full] = [const { Vec::new() }; 3];
    for _ in 0..turns {
        alone.one_more(&agent, &monitor, networks)?;
        in_empty.push(empty.one_more(networks)?);
    }
    expose_all(&agent, networks)?;
    let full = lab.host("full")?;
    copy(&host, &full, networks)?;
    let full = Bare::on(full)?;
    wait_quiet(&monitor, Duration::from_millis(500), LIMIT)?;
    for _ in 0..turns {
        among.one_more(&agent, &monitor, networks)?;
        in_full.push(full.one_more(networks)?);
        in_empty_later.push(empty.one_more(networks)?);
    }
    let said = agent.compare(&["verify"])?;
    check(said.is_silent(), || format!("verify: {said:?}"))?;
    let [in_empty, in_empty_later] =
        [&in_empty, &in_empty_later].map(|times| Yardstick { name: "bare messages beside 0", times });
    let in_full = Yardstick { name: "bare messages beside as many", times: &in_full };
    let mark = |others: usize| format!("one network more beside {others}: from expose to the last entry");
    report.against(mark(0), &alone.whole, &in_empty, Goal::default());
    report.against(mark(networks), &among.whole, &in_full, Goal::default());
    let mark =
        |others: usize| format!("the same beside {others}, in the kernel: from its first link to the last entry");
    report.against(mark(0), &alone.in_kernel, &in_empty, Goal::default());
    report.against(mark(networks), &among.in_kernel, &in_full, Goal::ours("≤ 2 ×"));
    report.against(mark(networks), &among.in_kernel, &in_empty_later, Goal::default());
    Ok(())
}

/// Has the host take part in so many networks, with a few commands at a time.
fn expose_all(agent: &Agent, networks: usize) -> Result {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(|| expose_next(agent, &next, networks))).collect();
        askers.into_iter().try_for_each(|asker| asker.join().expect("a thread that does not panic"))
    })
}

/// Has the host take part in the next network, until there are so many.
fn expose_next(agent: &Agent, next: &AtomicUsize, networks: usize) -> Result {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= networks {
            return Ok(());
        }
        network(agent, &format!("expose m{number}"))?;
    }
}

/// The times of the agent.
#[derive(Default)]
struct Ours {
    whole: Vec<f64>,
    /// The part from the first message about the network's bridge on.
    in_kernel: Vec<f64>,
}

impl Ours {
    /// Measures a network that this host joins and leaves again.
    fn one_more(&mut self, agent: &Agent, monitor: &Monitor, number: usize) -> Result {
        monitor.forget();
        let asked = Instant::now();
        network(agent, &format!("expose m{number}"))?;
        let last = last_entry(monitor, MESSAGES)?;
        self.whole.push(millis_between(asked, last));
        self.in_kernel.push(millis_between(first_link(monitor)?, last));
        network(agent, &format!("hide m{number}"))?;
        wait_quiet(monitor, Duration::from_millis(100), LIMIT)
    }
}

/// The time of the first message about a bridge.
fn first_link(monitor: &Monitor) -> Result<Instant> {
    let changes = monitor.naming(&[b"wb.".to_vec()])?;
    let first = changes.iter().find(|change| change.kind == Change::NEW_LINK).map(|change| change.at);
    first.ok_or_else(|| LabError::Wrong("no message about a bridge".to_owned()))
}

fn vni(number: usize) -> u32 {
    10_000 + u32::try_from(number).expect("some hundred networks")
}

/// The pool of a network.
fn pool(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).expect("some hundred networks");
    Ipv4Addr::from_bits((11 << 24) + (number << 12))
}

/// The addresses of the other member.
fn endpoints(number: usize) -> impl Iterator<Item = Endpoint> {
    let first = pool(number).to_bits() + 256;
    (0..u32::from(BLOCK)).map(move |host| {
        let address = Ipv4Addr::from_bits(first + host);
        let [a, b, c, d] = address.octets();
        Endpoint { address: address.into(), mac: [0x02, 0x57, a, b, c, d], public: PUBLIC.into() }
    })
}

/// The records of a network with one member.
fn records(number: usize) -> Vec<Write> {
    let put = |key: String, value: String| Write::Put {
        key: format!("{}/wire/{key}", Etcd::PREFIX).into_bytes(),
        value: value.into_bytes(),
        lease: None,
    };
    let (vni, pool, first) = (vni(number), pool(number), Ipv4Addr::from_bits(pool(number).to_bits() + 256));
    let record = format!(
        r#"{{"VNI":{vni},"IPv4":{{"Pool":"{pool}/20","Block":27}},"Internal":false,"Broadcast":true,"MTU":0,"Labels":{{}},"Created":"2026-01-31T12:00:00Z"}}"#
    );
    let member = format!(r#"{{"PublicIP":"{PUBLIC}","PublicIPv6":null,"Port":8472,"Own":{{"IPv4":"{first}"}}}}"#);
    vec![
        put(format!("networks/m{number}"), record),
        put(format!("vnis/{vni}"), format!(r#"{{"Network":"m{number}"}}"#)),
        put(format!("members/m{number}/{OTHER}"), member),
        put(format!("blocks/m{number}/{first}-27"), format!(r#"{{"Host":"{OTHER}"}}"#)),
    ]
}

/// A host whose kernel gets the bare messages.
struct Bare {
    host: Host,
    heard: Monitor,
}

impl Bare {
    fn on(host: Host) -> Result<Self> {
        Ok(Self { heard: Monitor::listen(host.namespace())?, host })
    }

    /// The time of the devices, addresses and entries of a network as one batch. They are gone afterwards.
    fn one_more(&self, number: usize) -> Result<f64> {
        self.heard.forget();
        let links = Endpoints { bridge: FIRST_INDEX, device: FIRST_INDEX + 1 };
        let local = IpAddr::V4(self.host.v4());
        let began = Instant::now();
        self.host.namespace().inside(|| send(local, number, NAMES, links)).and_then(|sent| sent)?;
        let took = millis_between(began, last_entry(&self.heard, MESSAGES)?);
        for name in NAMES.iter().rev() {
            self.host.namespace().ip(&format!("link delete {name}"))?;
        }
        wait_quiet(&self.heard, Duration::from_millis(100), LIMIT)?;
        Ok(took)
    }
}

/// Gives a host the devices and entries of so many networks, and the rules of the table `inet` that another host has for them: what `nft` lists of the
/// table for bridges, it does not read again.
fn copy(from: &Host, to: &Host, networks: usize) -> Result {
    let local = IpAddr::V4(to.v4());
    let send_all = || {
        (0..networks).zip((FIRST_OF_OTHERS..).step_by(2)).try_for_each(|(number, bridge)| {
            let vni = vni(number);
            send(local, number, [&format!("wb.{vni}"), &format!("wv.{vni}")], Endpoints { bridge, device: bridge + 1 })
        })
    };
    to.namespace().inside(send_all).and_then(|sent| sent)?;
    let rules = format!("nft list table inet wire-agent | nsenter --net={} nft -f -", to.namespace().path().display());
    from.namespace().sh(&rules).map(drop)
}

fn send(local: IpAddr, number: usize, names: [&str; 2], links: Endpoints) -> Result {
    let parent = nix::net::if_::if_nametoindex("eth0").map_err(|_| LabError::Wrong("no eth0".to_owned()))?;
    let mut netlink = Netlink::open().map_err(wrong)?;
    let mut batch = Batch::default();
    let own = [1, BLOCK.into()].map(|host| IpAddr::V4(Ipv4Addr::from_bits(pool(number).to_bits() + host)));
    NewNetwork { names, links, parent, local, vni: vni(number), own: &own }.add(&mut batch);
    endpoints(number).for_each(|endpoint| links.add(&mut batch, &endpoint));
    netlink.send(&mut batch).into_iter().collect::<std::result::Result<(), _>>().map_err(wrong)
}
