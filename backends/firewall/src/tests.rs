mod any;
mod apart;
mod beside;
mod direct;
mod flowtable;
mod from_peers;
pub(crate) mod ipip;
mod judged;
mod traced;

use std::collections::BTreeSet;

use proptest::prelude::*;
use wire_net::{DualStack, Family, LinkName, Mtu, NetworkName, Pool, Subnet, Vni};
use wire_state::{
    ChainName, ChainTable, ChainTableKind, DesiredFirewall, DesiredKind, DesiredLink, DesiredNet, DesiredTable,
    DesiredVxlan, Element, Firewall, FirewallOp, FlannelRules, Flowtable, InternalBridge, KernelKind, LinkRef,
    ObservedFirewall, ObservedTable, Operation as _, Plan, Resource as _, Rule,
};

use super::*;

fn plan(have: &ObservedFirewall, want: &DesiredFirewall) -> Plan<Firewall> {
    Firewall::plan(have, want)
}

/// The packet filter of a host on which `want` was put, and on which others use the table `raw`.
fn put(want: &DesiredFirewall) -> ObservedFirewall {
    let used = Family::ALL.map(|family| ChainTable { family, kind: ChainTableKind::Raw }).into();
    let mut have = ObservedFirewall { used, ..ObservedFirewall::default() };
    plan(&have, want).ops.iter().for_each(|op| have.apply(op));
    have
}

pub(crate) fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

pub(crate) fn peer(number: u8, dual: bool) -> Peer {
    let v4 = Some(format!("10.5.{number}.0/24").parse().unwrap());
    let v6 = dual.then(|| format!("fd00:5:0:{number}::/64").parse().unwrap());
    let public = DualStack {
        v4: Some(format!("192.0.2.{number}").parse().unwrap()),
        v6: dual.then(|| format!("2001:db8::{number}").parse().unwrap()),
    };
    Peer { subnet: Subnet::new(DualStack { v4, v6 }).unwrap(), public }
}

pub(crate) fn all_of(peers: &[u8], dual: bool) -> Vec<Peer> {
    peers.iter().map(|number| peer(*number, dual)).collect()
}

fn pool(network: &str, subnet_len: u8, min: &str, max: &str) -> Pool {
    Pool { network: network.parse().unwrap(), subnet_len, min: min.parse().unwrap(), max: max.parse().unwrap() }
}

/// A policy whose network has hosts in it, beside the range that is leased.
pub(crate) fn bounded() -> FirewallPolicy {
    let v6 = Some(pool("2001:db8::/32", 64, "2001:db8:10::/64", "2001:db8:99::/64"));
    let v4 = Some(pool("192.0.0.0/16", 24, "192.0.10.0/24", "192.0.99.0/24"));
    FirewallPolicy { pools: DualStack { v4, v6 }, ..policy(true) }
}

pub(crate) fn policy(dual: bool) -> FirewallPolicy {
    let v6 = dual.then(|| pool("fd00:5::/32", 64, "fd00:5:0:1::/64", "fd00:5:ffff:ffff::/64"));
    let pools = DualStack { v4: Some(pool("10.5.0.0/16", 24, "10.5.1.0/24", "10.5.255.0/24")), v6 };
    FirewallPolicy {
        network: NetworkName::default(),
        pools,
        masquerade: Masquerade::Random,
        forward: true,
        senders: Senders::Peers,
        flowtable: false,
        direct: None,
        beside: DualStack::default(),
    }
}

/// The devices that a backend wants.
pub(crate) fn devices(dual: bool) -> DesiredNet {
    devices_over(dual, None)
}

pub(crate) fn devices_over(dual: bool, parent: Option<&str>) -> DesiredNet {
    let parent = parent.map(|parent| LinkRef::Found(wire_state::samples::found(parent, 7)));
    let mut state = DesiredNet::default();
    let mut add = |device: &str, local: &str| {
        let local = Some(local.parse().unwrap());
        let kind = DesiredKind::Kernel(KernelKind::Vxlan(DesiredVxlan {
            parent,
            local,
            ..DesiredVxlan::new(Vni::new(1).unwrap())
        }));
        let link = DesiredLink::new(kind, Mtu(1450));
        state.links.insert(name(device), link);
    };
    add("flannel.1", "192.0.2.1");
    if dual {
        add("flannel-v6.1", "2001:db8::1");
    }
    state
}

/// The packet filter that this host, with lease 1, wants.
pub(crate) fn wanted(policy: &FirewallPolicy, peers: &[u8], bridges: &[&str]) -> DesiredFirewall {
    let bridges: BTreeSet<LinkName> = bridges.iter().map(|bridge| name(bridge)).collect();
    wanted_around(policy, peers, &HostFacts { bridges, ..HostFacts::default() })
}

pub(crate) fn wanted_around(policy: &FirewallPolicy, peers: &[u8], facts: &HostFacts) -> DesiredFirewall {
    wanted_over(policy, peers, facts, None)
}

/// The same, with devices that send through a link.
pub(crate) fn wanted_over(
    policy: &FirewallPolicy,
    peers: &[u8],
    facts: &HostFacts,
    parent: Option<&str>,
) -> DesiredFirewall {
    let dual = policy.pools.v6.is_some();
    policy.desired(
        peer(1, dual).subnet,
        &all_of(peers, dual).into_iter(),
        &OverlayDevice::of(&devices_over(dual, parent)),
        facts,
    )
}

/// The same, among this many peers.
pub(crate) fn wanted_with(policy: &FirewallPolicy, peers: u32) -> DesiredFirewall {
    DesiredFirewall::clone(among_many(policy, peers).firewall())
}

/// The rules among this many peers, to be brought forward.
pub(crate) fn among_many(policy: &FirewallPolicy, peers: u32) -> FirewallFromPeers {
    let all = (0..peers).map(one_of_many);
    let overlay = OverlayDevice::of(&devices(false));
    FirewallFromPeers::new(policy, peer(1, false).subnet, all, &overlay, &HostFacts::default())
}

/// One of up to 64 000 peers.
pub(crate) fn one_of_many(number: u32) -> Peer {
    let first = std::net::Ipv4Addr::from_bits(0x0b00_0000 + (number << 8));
    let v4 = wire_net::Prefix::new(first.into(), 24).ok();
    let public = std::net::Ipv4Addr::from_bits(0xc633_0000 + number).into();
    Peer { subnet: Subnet::new(DualStack { v4, v6: None }).unwrap(), public: DualStack { v4: Some(public), v6: None } }
}

/// All rules, as they are put on a host that has none.
fn scripts(want: &DesiredFirewall) -> String {
    let ops = plan(&ObservedFirewall::default(), want).ops;
    assert!(!ops.iter().any(FirewallOp::is_delete));
    ops.iter().map(script).collect()
}

fn script(op: &FirewallOp) -> String {
    match op {
        FirewallOp::PutTable(table) => nft::put_table(table),
        FirewallOp::DeleteTable(name) => nft::delete_table(name),
        FirewallOp::PutChains(table, changes) => format!("# {table}\n{}", iptables::put(*table, changes)),
        FirewallOp::DeleteChain(name, chain, _) | FirewallOp::DeleteAbandonedChain(name, chain, _) => {
            iptables::delete(name, chain)
        }
        FirewallOp::ChangeSets(..) => panic!("{op} goes over netlink"),
    }
}

#[test]
fn all_that_is_put_where_nothing_is() {
    insta::assert_snapshot!(scripts(&wanted(&policy(false), &[2, 3], &["docker0"])));
}

#[test]
fn the_other_family_is_the_same_with_other_words() {
    let both = scripts(&wanted(&policy(true), &[2, 3], &["docker0"]));
    let lines = |word: &str| both.lines().filter(|line| line.contains(word)).count();
    assert_eq!(lines("10.5."), lines("fd00:5:"));
    assert_eq!(lines("s-v4"), lines("s-v6"));
}

#[test]
fn each_choice_leaves_out_what_it_is_about() {
    let text = |change: fn(&mut FirewallPolicy)| {
        let mut policy = policy(false);
        change(&mut policy);
        scripts(&wanted(&policy, &[2], &["docker0"]))
    };
    let whole = text(|_| {});
    assert!(whole.contains("masquerade fully-random") && whole.contains("@peers-v4") && whole.contains("WIRE-"));
    assert!(!text(|policy| policy.masquerade = Masquerade::Plain).contains("fully-random"));
    let unmasked = text(|policy| policy.masquerade = Masquerade::Off);
    assert!(!unmasked.contains("224.0.0.0") && unmasked.contains("snat ip to ip saddr"));
    assert!(!text(|policy| policy.forward = false).contains("WIRE-"));
    let open = text(|policy| policy.senders = Senders::Anyone);
    assert!(!open.contains("peers-v4") && open.contains("containers"));
}

#[test]
fn what_containers_of_one_host_send_each_other_is_left_to_docker() {
    let firewall = wanted(&policy(true), &[2], &["docker0"]);
    for (family, own) in [(Family::V4, "10.5.1.0/24"), (Family::V6, "fd00:5:0:1::/64")] {
        let table = ChainTable { family, kind: ChainTableKind::Filter };
        let chain = |name: &str| &firewall.chains[&ChainName { table, name: name.to_owned() }].rules;
        let [first, accepts @ ..] = chain("WIRE-POLICY").as_slice() else { panic!("{firewall:?}") };
        assert!(first.starts_with(&format!("-s {own} -d {own} ")) && first.ends_with("-j RETURN"), "{first}");
        assert!(accepts.len() == 2 && accepts.iter().all(|rule| rule.ends_with("-j ACCEPT")), "{accepts:?}");
        // The others name a device, which such packets neither come from nor go to.
        let of_devices =
            chain("WIRE-FORWARD").iter().all(|rule| rule.contains(" -i flannel") || rule.contains(" -o flannel"));
        assert!(of_devices, "{firewall:?}");
    }
}

#[test]
fn a_host_in_the_network_beside_the_range_that_is_leased_is_no_container() {
    let policy = FirewallPolicy { senders: Senders::Anyone, ..bounded() };
    insta::assert_snapshot!(scripts(&wanted_around(&policy, &[2], &HostFacts::default())));
    let policy = FirewallPolicy { masquerade: Masquerade::Plain, forward: true, ..bounded() };
    let absent =
        HostFacts { support: Support { nftables: Nftables::Absent, ..Support::default() }, ..HostFacts::default() };
    insta::assert_snapshot!(scripts(&wanted_around(&policy, &[2], &absent)));
}

/// Docker's chains and an operator's, and remains of flanneld.
const LISTING: &str = r#"*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 10.5.1.2/32 ! -i docker0 -j DROP
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:WIRE-FORMER - [0:0]
:WIRE-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "wire-agent forward" -j WIRE-FORWARD
-A FORWARD -m comment --comment "kept, \" -j WIRE-FORMER" -j LOG --log-prefix "x -j WIRE-FORMER "
-A WIRE-FORWARD -s 10.5.0.0/16 -d 10.5.1.0/24 -i flannel.1 -j ACCEPT
-A WIRE-FORWARD -s 10.5.1.0/24 -d 10.5.0.0/16 -o flannel.1 -j ACCEPT
-A WIRE-FORMER -j ACCEPT
COMMIT
"#;

#[test]
fn what_others_put_in_front_of_ours_is_passed_and_what_flanneld_left_goes_last() {
    let mut have = ObservedFirewall::default();
    iptables::read(LISTING, Family::V4, &NetworkName::default(), &mut have);
    have.flannel_tables.insert(Family::V4);
    let want = wanted(&policy(false), &[2], &[]);
    let changes = plan(&have, &want);
    let ops: Vec<String> = changes.ops.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(ops.join("\n"), @"
    put table inet wire-agent: 4 chains, 33 rules
    put chains iptables raw: WIRE-RAW (1 rules) called from PREROUTING
    put chains iptables filter: WIRE-FORWARD called from DOCKER-USER called from FORWARD WIRE-POLICY (3 rules) called from FORWARD
    delete chain iptables filter WIRE-FORMER
    delete chain iptables nat FLANNEL-POSTRTG
    delete table ip flannel-ipv4
    ");
    assert_eq!(changes.findings.to_string(), "rules of Docker are there too\n");
    let input = changes.ops[1..changes.ops.len() - 1].iter().map(script).collect::<String>();
    let input: Vec<&str> = input.lines().filter(|line| !line.starts_with('#')).collect();
    insta::assert_snapshot!(input.join("\n"), @r#"
    *raw
    :WIRE-RAW - [0:0]
    -A WIRE-RAW -s 10.5.0.0/16 -d 10.5.1.0/24 -i flannel.1 -j ACCEPT
    -I PREROUTING 1 -j WIRE-RAW
    COMMIT
    *filter
    :WIRE-POLICY - [0:0]
    -A WIRE-POLICY -s 10.5.1.0/24 -d 10.5.1.0/24 -j RETURN
    -A WIRE-POLICY -s 10.5.0.0/16 -j ACCEPT
    -A WIRE-POLICY -d 10.5.0.0/16 -j ACCEPT
    -I DOCKER-USER 1 -j WIRE-FORWARD
    -D FORWARD -m comment --comment "wire-agent forward" -j WIRE-FORWARD
    -I FORWARD 1 -j WIRE-FORWARD
    -A FORWARD -j WIRE-POLICY
    COMMIT
    *filter
    :WIRE-FORMER - [0:0]
    -X WIRE-FORMER
    COMMIT
    *nat
    -D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
    :FLANNEL-POSTRTG - [0:0]
    -X FLANNEL-POSTRTG
    COMMIT
    "#);
    let mut after = have;
    changes.ops.iter().for_each(|op| after.apply(op));
    assert!(plan(&after, &want).ops.is_empty());
}

#[test]
fn what_flanneld_left_can_be_kept_when_ours_goes() {
    let mut have = put(&wanted(&policy(false), &[2], &[]));
    iptables::read(LISTING, Family::V4, &NetworkName::default(), &mut have);
    have.flannel_tables.insert(Family::V4);
    let nothing = DesiredFirewall { flannel: FlannelRules::Keep, ..DesiredFirewall::default() };
    let ops: Vec<String> = plan(&have, &nothing).ops.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(ops.join("\n"), @"
    delete chain iptables raw WIRE-RAW
    delete chain iptables filter WIRE-FORMER
    delete chain iptables filter WIRE-FORWARD
    delete chain iptables filter WIRE-POLICY
    delete table inet wire-agent
    ");
}

/// Rules that Docker 20.10 and 28 write for an internal bridge, beside rules that isolate other bridges.
const INTERNAL: &str = r#"*filter
:FORWARD ACCEPT [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-INTERNAL - [0:0]
:OPERATORS - [0:0]
-A DOCKER-ISOLATION-STAGE-1 ! -s 10.5.1.128/25 -o br-v4 -j DROP
-A DOCKER-ISOLATION-STAGE-1 ! -d 10.5.1.128/25 -i br-v4 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-INTERNAL ! -s fd00:5:0:1::/64 ! -i br-v6 -o br-v6 -j DROP
-A OPERATORS ! -s 10.5.1.0/25 -o br-operators -j DROP
COMMIT
"#;

#[test]
fn what_docker_keeps_internal_is_let_through_by_no_rule_of_ours() {
    let want = wanted(&policy(true), &[2], &["docker0"]);
    let mut have = ObservedFirewall::default();
    for family in Family::ALL {
        iptables::read(INTERNAL, family, &NetworkName::default(), &mut have);
        let names = |name: &str| have.internal_bridges.contains(&InternalBridge { family, name: name.to_owned() });
        assert!(names("br-v4") && names("br-v6") && !names("docker0") && !names("br-operators"));
    }
    have.internal_bridges.remove(&InternalBridge { family: Family::V6, name: "br-v4".to_owned() });
    let mut after = have.clone();
    plan(&have, &want).ops.iter().for_each(|op| after.apply(op));
    let filter = |family| ChainTable { family, kind: ChainTableKind::Filter };
    for (family, links) in [(Family::V4, ["br-v4", "br-v6"].as_slice()), (Family::V6, &["br-v6"])] {
        for name in ["WIRE-FORWARD", "WIRE-POLICY"] {
            let name = ChainName { table: filter(family), name: name.to_owned() };
            let (there, wanted) = (&after.chains[&name].rules, &want.chains[&name].rules);
            let returns = links.iter().flat_map(|link| ["-i", "-o"].map(|way| format!("{way} {link} ")));
            let first = returns.zip(there).all(|(start, rule)| rule.starts_with(&start) && rule.ends_with("-j RETURN"));
            assert!(first && there[links.len() * 2..] == *wanted, "{there:#?}");
        }
    }
    assert!(plan(&after, &want).ops.is_empty());
    after.internal_bridges.clear();
    let names: Vec<String> = plan(&after, &want).ops.iter().map(ToString::to_string).collect();
    let filters = ["iptables", "ip6tables"]
        .map(|program| format!("put chains {program} filter: WIRE-FORWARD (2 rules) WIRE-POLICY (3 rules)"));
    assert_eq!(names, filters);
}

#[test]
fn peers_that_come_and_go_change_a_set_and_nothing_else() {
    let state = |peers: &[u8]| wanted(&policy(false), peers, &[]);
    insta::assert_snapshot!(plan(&put(&state(&[2, 3])), &state(&[3, 4])), @"change sets inet wire-agent: peers-v4 +192.0.2.4 -192.0.2.2 subnets-v4-24 +10.5.4.0/24 of 192.0.2.4 -10.5.2.0/24 of 192.0.2.2");
}
