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
/// The indices that the bare batches give their links.
const FIRST_INDEX: u32 = 7_000;

/// One network more, in turns: the agent's beside 500, and the bare messages; first the agent's on a host that has none.
pub(crate) fn many(options: &Options, report: &mut Report) -> Result {
    let lab = Lab::new()?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(CONFIG)?;
    let (networks, turns) = (options.networks(NETWORKS), options.networks(TURNS));
    let records: Vec<Write> = (0..=networks).flat_map(records).collect();
    Writer::start(&etcd).write_all(&records)?;
    let (_host, agent, monitor) = alone(&lab, &etcd, "agent")?;
    let bare = lab.host("bare")?;
    let heard = Monitor::listen(bare.namespace())?;
    let [mut alone, mut among, mut theirs] = [const { Vec::new() }; 3];
    let [mut kernel_alone, mut kernel_among] = [const { Vec::new() }; 2];
    for _ in 0..turns {
        let (took, in_kernel) = one_more(&agent, &monitor, networks)?;
        alone.push(took);
        kernel_alone.push(in_kernel);
    }
    expose_all(&agent, networks)?;
    wait_quiet(&monitor, Duration::from_millis(500), LIMIT)?;
    for _ in 0..turns {
        let (took, in_kernel) = one_more(&agent, &monitor, networks)?;
        among.push(took);
        kernel_among.push(in_kernel);
        theirs.push(messages(&bare, &heard)?);
    }
    let said = agent.compare(&["verify"])?;
    check(said.is_silent(), || format!("verify: {said:?}"))?;
    let yardstick = Yardstick { name: "bare messages", times: &theirs };
    let mark = |others: usize| format!("one network more beside {others}: from expose to the last entry");
    report.against(mark(0), &alone, &yardstick, Goal::default());
    report.against(mark(networks), &among, &yardstick, Goal::ours("≤ 2 ×"));
    let mark =
        |others: usize| format!("the same beside {others}, in the kernel: from its first link to the last entry");
    report.against(mark(0), &kernel_alone, &yardstick, Goal::default());
    report.against(mark(networks), &kernel_among, &yardstick, Goal::default());
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

/// The time of a network that this host joins and leaves again, and the part of it from the first message about its bridge on.
fn one_more(agent: &Agent, monitor: &Monitor, number: usize) -> Result<(f64, f64)> {
    monitor.forget();
    let asked = Instant::now();
    network(agent, &format!("expose m{number}"))?;
    let last = last_entry(monitor, MESSAGES)?;
    let took = (millis_between(asked, last), millis_between(first_link(monitor)?, last));
    network(agent, &format!("hide m{number}"))?;
    wait_quiet(monitor, Duration::from_millis(100), LIMIT)?;
    Ok(took)
}

/// The time of the first message about a bridge.
fn first_link(monitor: &Monitor) -> Result<Instant> {
    let changes = monitor.naming(&[b"wb.".to_vec()])?;
    let first = changes.iter().find(|change| change.kind == Change::NEW_LINK).map(|change| change.at);
    first.ok_or_else(|| LabError::Wrong("no message about a bridge".to_owned()))
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
    let (vni, pool, first) = (10_000 + number, pool(number), Ipv4Addr::from_bits(pool(number).to_bits() + 256));
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

/// The time of the same devices, addresses and entries as one batch. They are gone afterwards.
fn messages(host: &Host, heard: &Monitor) -> Result<f64> {
    heard.forget();
    let local = IpAddr::V4(host.v4());
    let began = Instant::now();
    host.namespace().inside(|| send(local)).and_then(|sent| sent)?;
    let took = millis_between(began, last_entry(heard, MESSAGES)?);
    host.namespace().ip("link delete bare-vx")?;
    host.namespace().ip("link delete bare")?;
    wait_quiet(heard, Duration::from_millis(100), LIMIT)?;
    Ok(took)
}

fn send(local: IpAddr) -> Result {
    let parent = nix::net::if_::if_nametoindex("eth0").map_err(|_| LabError::Wrong("no eth0".to_owned()))?;
    let links = Endpoints { bridge: FIRST_INDEX, device: FIRST_INDEX + 1 };
    let mut netlink = Netlink::open().map_err(wrong)?;
    let mut batch = Batch::default();
    let own = [Ipv4Addr::from_bits(pool(0).to_bits() + 1), Ipv4Addr::from_bits(pool(0).to_bits() + 32)];
    NewNetwork { links, parent, local, vni: 10_000, own: &own.map(IpAddr::V4) }.add(&mut batch);
    endpoints(0).for_each(|endpoint| links.add(&mut batch, &endpoint));
    netlink.send(&mut batch).into_iter().collect::<std::result::Result<(), _>>().map_err(wrong)
}
