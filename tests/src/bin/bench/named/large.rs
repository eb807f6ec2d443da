//! A network of a thousand members and thirty thousand addresses: from the command to the last entry, beside the same entries as bare batches.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use wire_netlink::{Batch, Netlink};
use wire_store::Write;
use wire_tests::{Etcd, Host, Lab, LabError, Monitor, Result, check};

use super::{CONFIG, alone, last_entry, network};
use crate::{
    bare::{Endpoint, Endpoints},
    options::Options,
    report::{Goal, Report, Yardstick, millis_between},
    writer::{Writer, wrong},
};

/// The members, each with a block of /27.
const MEMBERS: u16 = 1_000;
/// The addresses of a block.
const BLOCK: u32 = 32;
/// The number of turns of each.
const TURNS: usize = 5;
/// The messages of one batch.
const AT_ONCE: usize = 1_000;
/// The bridge and the device of the bare batches.
const BRIDGE: &str = "bare";
const DEVICE: &str = "bare-vx";
const NAME: &str = "large";

/// A start in turns: the agent's, told to take part, and the bare batches', on new hosts.
pub(crate) fn large(options: &Options, report: &mut Report) -> Result {
    let lab = Lab::new()?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(CONFIG)?;
    let writer = Writer::start(&etcd);
    writer.write_all(&records())?;
    let messages = endpoints().count() * 3;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..options.networks(TURNS) {
        let (_host, agent, monitor) = alone(&lab, &etcd, &format!("agent{turn}"))?;
        monitor.forget();
        let asked = Instant::now();
        network(&agent, &format!("expose {NAME}"))?;
        ours.push(millis_between(asked, last_entry(&monitor, messages)?));
        let said = agent.compare(&["verify"])?;
        check(said.is_silent(), || format!("verify: {said:?}"))?;
        network(&agent, &format!("hide {NAME}"))?;
        drop(agent);
        theirs.push(bare(&lab.host(&format!("bare{turn}"))?, messages)?);
    }
    let mark = format!("a network of {MEMBERS} members and {} addresses: from expose to the last entry", messages / 3);
    let yardstick = Yardstick { name: "bare batches", times: &theirs };
    report.against(mark, &ours, &yardstick, Goal::ours("≤ 1.5 ×"));
    Ok(())
}

/// The records of the network and its members.
fn records() -> Vec<Write> {
    let put = |key: String, value: String| Write::Put {
        key: format!("{}/wire/{key}", Etcd::PREFIX).into_bytes(),
        value: value.into_bytes(),
        lease: None,
    };
    let network = r#"{"VNI":70000,"IPv4":{"Pool":"11.0.0.0/16","Block":27},"Internal":false,"Broadcast":false,"MTU":0,"Labels":{},"Created":"2026-01-31T12:00:00Z"}"#;
    let mut writes = vec![
        put(format!("networks/{NAME}"), network.to_owned()),
        put("vnis/70000".to_owned(), format!(r#"{{"Network":"{NAME}"}}"#)),
    ];
    for member in 1..=MEMBERS {
        let (host, first) = (format!("{member:032x}"), address(member, 0));
        let value =
            format!(r#"{{"PublicIP":"{}","PublicIPv6":null,"Port":8472,"Own":{{"IPv4":"{first}"}}}}"#, public(member));
        writes.push(put(format!("members/{NAME}/{host}"), value));
        writes.push(put(format!("blocks/{NAME}/{first}-27"), format!(r#"{{"Host":"{host}"}}"#)));
    }
    writes
}

fn public(member: u16) -> IpAddr {
    let [high, low] = member.to_be_bytes();
    Ipv4Addr::new(172, 20, high, low).into()
}

/// An address of a member's block. The first block has the gateway in it, and is nobody's.
fn address(member: u16, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((11 << 24) + u32::from(member) * BLOCK + number)
}

/// All addresses of the members.
fn endpoints() -> impl Iterator<Item = Endpoint> {
    let of_member = |member| (0..BLOCK).map(move |number| (member, address(member, number)));
    let all = (1..=MEMBERS).flat_map(of_member);
    all.map(|(member, address)| {
        let [a, b, c, d] = address.octets();
        Endpoint { address: address.into(), mac: [0x02, 0x57, a, b, c, d], public: public(member) }
    })
}

/// The time of the same entries, as batches in a process without anything else to do.
fn bare(host: &Host, messages: usize) -> Result<f64> {
    let monitor = Monitor::listen(host.namespace())?;
    let local = host.v4();
    let namespace = host.namespace();
    namespace.ip(&format!("link add {BRIDGE} type bridge"))?;
    namespace.ip(&format!("link add {DEVICE} type vxlan id 70000 local {local} dev eth0 dstport 8472 nolearning"))?;
    namespace.ip(&format!("link set {DEVICE} master {BRIDGE} up"))?;
    namespace.ip(&format!("link set {BRIDGE} up"))?;
    monitor.forget();
    let began = Instant::now();
    namespace.inside(send_all).and_then(|sent| sent)?;
    Ok(millis_between(began, last_entry(&monitor, messages)?))
}

fn send_all() -> Result {
    let index = |name: &str| nix::net::if_::if_nametoindex(name).map_err(|_| LabError::Wrong(format!("no {name}")));
    let links = Endpoints { bridge: index(BRIDGE)?, device: index(DEVICE)? };
    let mut netlink = Netlink::open().map_err(wrong)?;
    let all: Vec<Endpoint> = endpoints().collect();
    for some in all.chunks(AT_ONCE / 3) {
        let mut batch = Batch::default();
        some.iter().for_each(|endpoint| links.add(&mut batch, endpoint));
        netlink.send(&mut batch).into_iter().collect::<std::result::Result<(), _>>().map_err(wrong)?;
    }
    Ok(())
}
