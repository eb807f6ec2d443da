//! The route of a trace is the one that `ip route get` names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::IpAddr,
    process::Command,
};

use wire_state::{Entry, Hop, HostState, NextHop, Outcome, Packet, trace};
use wire_tests::{AgentSpec, Etcd, Family, Host, LabError, Leg, Result, check, lab};

use super::{Random, held::Reader};
use crate::cluster::{DUAL, Node, put_peers, settle};

const PAIRS: usize = 1000;

/// The way of a packet, as far as both tell it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Local,
    /// The gateway, if there is one, and the link.
    Hop(Option<IpAddr>, String),
    Refused,
}

/// A packet: its addresses, and the link that it comes in by.
struct Pair {
    to: IpAddr,
    from: IpAddr,
    incoming: Option<&'static str>,
}

#[test]
fn the_route_of_a_trace_is_the_one_that_the_kernel_takes() -> Result {
    let lab = lab!();
    let mut random = Random::from_environment();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let mut node = Node::with(lab.host("a")?, AgentSpec::new(etcd.agent_flags()))?;
    put_peers(&etcd, 40, &Family::ALL)?;
    settle(&etcd, &[&node], &Family::ALL)?;
    let subnets = [node.subnet(Family::V4)?, node.subnet(Family::V6)?];
    let leg = Leg::new(&node.host, &subnets, 1450)?;
    // It would remove foreign routes in the overlay that are in its way.
    node.agent.kill();
    add_foreign_routes(&node.host)?;
    let mut reader = Reader::new();
    reader.read(&node.host)?;
    let mut seen = BTreeMap::new();
    for family in Family::ALL {
        let own = [leg.address(family)?, node.vtep(family)?, node.host.on_underlay(family)];
        let pairs: Vec<Pair> = (0..PAIRS / 2).map(|_| pair(&mut random, family, own)).collect();
        let kernels = by_the_kernel(&node.host, family, &pairs)?;
        for (Pair { to, from, incoming }, kernels) in pairs.iter().zip(kernels) {
            let traced = by_trace(&reader.state(), &pair_entry(*incoming), *from, *to)?;
            check(traced == kernels, || {
                format!("{to} from {from} iif {incoming:?}: {traced:?}, the kernel {kernels:?}")
            })?;
            *seen.entry(kernels).or_insert(0) += 1;
        }
    }
    // Each kind of route was met.
    let met =
        |is_it: &dyn Fn(&Way) -> bool| seen.iter().filter(|(way, _)| is_it(way)).map(|(_, count)| *count).sum::<u32>();
    check(met(&|way| *way == Way::Local) > 20, || format!("{seen:?}"))?;
    check(met(&|way| *way == Way::Refused) > 20, || format!("{seen:?}"))?;
    check(met(&|way| matches!(way, Way::Hop(Some(_), link) if link.starts_with("flannel"))) > 50, || {
        format!("{seen:?}")
    })?;
    check(met(&|way| matches!(way, Way::Hop(None, link) if link == "leg0")) > 20, || format!("{seen:?}"))?;
    check(met(&|way| *way == Way::Hop(Some([192, 168, 64, 9].into()), "eth0".to_owned())) > 5, || format!("{seen:?}"))
}

/// Routes of others: in a leased subnet, in a second table that rules name, and some that drop.
fn add_foreign_routes(host: &Host) -> Result {
    let v4 = [
        "route add 10.5.100.128/25 via 192.168.64.9 dev eth0",
        "route add 10.5.101.0/26 via 192.168.64.8 dev eth0 metric 5",
        "route add 10.5.101.0/26 via 192.168.64.7 dev eth0 metric 3",
        "route add blackhole 10.5.102.0/24 metric 50",
        "route add blackhole 10.5.102.64/26",
        "route add unreachable 10.5.103.0/28",
        "route add prohibit 10.5.104.0/27",
        "route add throw 10.5.105.0/27 table 77",
        "route add 10.5.105.0/24 via 192.168.64.9 dev eth0 table 77",
        "route add blackhole 10.5.106.0/24 table 77",
        "rule add from 10.5.0.0/16 lookup 77 priority 1000",
        "rule add to 10.5.107.0/24 prohibit priority 1001",
        "rule add iif leg0 to 10.5.108.0/24 lookup 78 priority 1002",
        "route add default via 192.168.64.9 dev eth0 table 78",
    ];
    let v6 = [
        "-6 route add fd00:5:564:80::/57 via fd64::9 dev eth0",
        "-6 route add blackhole fd00:5:565::/68",
        "-6 route add unreachable fd00:5:566::/70",
        "-6 route add throw fd00:5:567::/66 table 77",
        "-6 route add fd00:5:567::/64 via fd64::9 dev eth0 table 77",
        "-6 rule add from fd00:5::/32 lookup 77 priority 1000",
    ];
    v4.iter().chain(&v6).try_for_each(|line| host.namespace().ip(line).map(drop))
}

/// A random packet. Half of the destinations are near the routes of others.
fn pair(random: &mut Random, family: Family, own: [IpAddr; 3]) -> Pair {
    let near = 96 + random.below(14);
    let number = if random.below(2) == 0 { near } else { 90 + random.below(60) };
    let last = u16::try_from(random.below(256)).unwrap_or_default();
    let inside = match family {
        Family::V4 => IpAddr::from([10, 5, u8::try_from(number).unwrap_or_default(), last.to_be_bytes()[1]]),
        Family::V6 => {
            let number = u16::try_from(0x500 + number).unwrap_or_default();
            IpAddr::from([0xfd00, 5, number, 0, last << 8, 0, 0, last])
        }
    };
    let outside = match family {
        Family::V4 => IpAddr::from([10, 77, 0, 9]),
        Family::V6 => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, 9]),
    };
    let to = match random.below(12) {
        0 => own[0],
        1 => own[1],
        2 => own[2],
        3 => outside,
        _ => inside,
    };
    // Only a packet that comes in by a link may have any source.
    match random.below(3) {
        0 => Pair { to, from: *random.one_of(&own[1..]), incoming: None },
        1 => Pair { to, from: *random.one_of(&[inside, outside, own[0], own[2]]), incoming: Some("leg0") },
        _ => Pair { to, from: own[0], incoming: Some("leg0") },
    }
}

fn pair_entry(incoming: Option<&str>) -> Entry {
    incoming.map_or(Entry::Here, |link| Entry::Link(link.parse().expect("a valid name")))
}

fn by_trace(host: &HostState<'_>, entry: &Entry, from: IpAddr, to: IpAddr) -> Result<Way> {
    let unfiltered = HostState { firewall: None, ..*host };
    let way = trace(&unfiltered, &Packet::new(from, to), *entry);
    let first = way.hops.iter().find_map(|hop| match hop {
        Hop::Route(_, NextHop::Gateway { gateway, link, .. }) => Some(Way::Hop(Some(*gateway), link.to_string())),
        Hop::Route(_, NextHop::Link(link)) => Some(Way::Hop(None, link.to_string())),
        Hop::Route(_, NextHop::Blackhole)
        | Hop::Arrived(_)
        | Hop::LetIn(_)
        | Hop::Accepted(..)
        | Hop::Answers { .. }
        | Hop::BridgeFdb(..)
        | Hop::Behind(..)
        | Hop::BridgeFloods(..)
        | Hop::Masqueraded(_)
        | Hop::Neighbour(..)
        | Hop::Fdb(..)
        | Hop::Flooded(..)
        | Hop::Forward(..)
        | Hop::Encapsulated(_)
        | Hop::Decapsulated(..) => None,
    });
    match (first, &way.outcome) {
        (Some(first), _) => Ok(first),
        (None, Outcome::Delivered(_)) => Ok(Way::Local),
        (None, Outcome::Dropped(_)) => Ok(Way::Refused),
        (None, Outcome::Sent(_) | Outcome::Unknown(_)) => Err(LabError::Wrong(format!("{to} from {from}: {way:?}"))),
    }
}

/// Asks the kernel for all routes in one run of `ip`, which goes on after each refusal and names the line.
fn by_the_kernel(host: &Host, family: Family, pairs: &[Pair]) -> Result<Vec<Way>> {
    let mut lines = String::new();
    for Pair { to, from, incoming } in pairs {
        let incoming = incoming.map(|link| format!(" iif {link}")).unwrap_or_default();
        let _ = writeln!(lines, "route get {to} from {from}{incoming}");
    }
    let file = host.dir().join(format!("batch-{family}"));
    fs::write(&file, lines).map_err(LabError::io("cannot write the batch"))?;
    let mut command = Command::new("ip");
    command.args(["-n", host.namespace().name(), "-o", "-force", "-batch"]).arg(&file);
    let output = command.output().map_err(LabError::io("cannot run ip"))?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let failed = errors.lines().filter_map(|line| line.rsplit_once(':')?.1.trim().parse::<usize>().ok());
    let refused: BTreeSet<usize> = failed.collect();
    let mut answers = text.lines();
    let ways = (1..=pairs.len()).map(|number| match refused.contains(&number) {
        true => Some(Way::Refused),
        false => answers.next().map(way_in),
    });
    let ways: Option<Vec<Way>> = ways.collect();
    let all_read = answers.next().is_none();
    ways.filter(|_| all_read).ok_or_else(|| LabError::Wrong(format!("ip has answered other than asked: {errors}")))
}

/// The way in an answer: `10.5.100.5 from 10.5.0.2 via 10.5.100.0 dev flannel.1 …`.
fn way_in(answer: &str) -> Way {
    let words: Vec<&str> = answer.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|found| *found == word).and_then(|at| words.get(at + 1));
    match words.first() {
        Some(&"local" | &"anycast") => Way::Local,
        Some(&"unreachable" | &"blackhole" | &"prohibit" | &"throw") => Way::Refused,
        _ => {
            let link = after("dev").copied().unwrap_or_default().to_owned();
            Way::Hop(after("via").and_then(|gateway| gateway.parse().ok()), link)
        }
    }
}
