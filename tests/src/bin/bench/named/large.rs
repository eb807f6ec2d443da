//! A network of a thousand members and thirty thousand addresses: from the command to the last entry, beside the same entries as bare batches.

use std::time::Instant;

use wire_netlink::{Batch, Netlink};
use wire_tests::{Etcd, Host, Lab, LabError, LargeNetwork, LargeNetworkAddress, Monitor, Result, check};

use super::{CONFIG, alone, last_entry, network};
use crate::{
    bare::{Endpoint, Endpoints},
    options::Options,
    report::{Goal, Report, Yardstick, millis_between},
    writer::wrong,
};

/// A thousand members with 32 addresses each.
const NETWORK: LargeNetwork = LargeNetwork { members: 1_000 };
/// The number of turns of each.
const TURNS: usize = 5;
/// The messages of one batch.
const AT_ONCE: usize = 1_000;
/// The bridge and the device of the bare batches.
const BRIDGE: &str = "bare";
const DEVICE: &str = "bare-vx";

/// A start in turns: the agent's, told to take part, and the bare batches', on new hosts.
pub(crate) fn large(options: &Options, report: &mut Report) -> Result {
    let lab = Lab::new()?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(CONFIG)?;
    etcd.put_all(&NETWORK.records())?;
    let messages = endpoints().count() * 3;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..options.networks(TURNS) {
        let (_host, agent, monitor) = alone(&lab, &etcd, &format!("agent{turn}"))?;
        monitor.forget();
        let asked = Instant::now();
        network(&agent, &format!("expose {}", LargeNetwork::NAME))?;
        ours.push(millis_between(asked, last_entry(&monitor, messages)?));
        let said = agent.compare(&["verify"])?;
        check(said.is_silent(), || format!("verify: {said:?}"))?;
        network(&agent, &format!("hide {}", LargeNetwork::NAME))?;
        drop(agent);
        theirs.push(bare(&lab.host(&format!("bare{turn}"))?, messages)?);
    }
    let mark = format!(
        "a network of {} members and {} addresses: from expose to the last entry",
        NETWORK.members,
        messages / 3
    );
    let yardstick = Yardstick { name: "bare batches", times: &theirs };
    report.against(mark, &ours, &yardstick, Goal::ours("≤ 1.5 ×"));
    Ok(())
}

fn endpoints() -> impl Iterator<Item = Endpoint> {
    let endpoint =
        |LargeNetworkAddress { address, mac, public }| Endpoint { address: address.into(), mac, public: public.into() };
    NETWORK.addresses().map(endpoint)
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
