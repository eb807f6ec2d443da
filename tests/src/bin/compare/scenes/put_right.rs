//! What is wrong, or is made wrong, and what comes of it.

use std::collections::BTreeSet;

use wire_tests::{Change, Etcd, Family, LabError, Monitor, PeerLease, Result, check, eventually, expect_all_leases};

use super::{DUAL, Scene, V4, peer, peers};
use crate::stage::{SOON, Stage};

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "hostile-leases",
        about: "leases that are none, or lead where none may, among three good ones",
        config: V4,
        play: hostile,
        has: &[
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 routes", "10.5.103.0/24 via 10.5.103.0 dev flannel.1"),
            ("h1 peers --json", "\"kind\": \"value\""),
            ("h1 peers --json", "\"kind\": \"key\""),
            ("h1 peers --json", "\"kind\": \"own-ip\""),
            ("h1 peers --json", "\"kind\": \"public-ip\""),
            ("h1 peers --json", "\"kind\": \"mac\""),
            ("h1 peers --json", "\"kind\": \"subnet\""),
            ("etcd", "10.5.74.0-24"),
        ],
        lacks: &[("h1 routes", "10.5.7")],
    },
    Scene {
        name: "flushed-kernel",
        about: "routes, neighbours, FDB and forwarding are taken away, then the device",
        config: V4,
        play: flushed_kernel,
        has: &[
            ("ends and commands", "the device went and came back"),
            ("h1 links", "flannel.1: "),
            ("h1 addresses", "10.5.1.0/32"),
            ("h1 sysctls", "ipv4/ip_forward:1"),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 neighbours", "10.5.101.0 dev flannel.1 lladdr 02:aa:00:00:00:65 PERMANENT"),
            ("h1 status --json", "\"phase\": \"ready\""),
        ],
        lacks: &[],
    },
    Scene {
        name: "flushed-firewall",
        about: "all rules of nftables and iptables are taken away",
        config: DUAL,
        play: flushed_firewall,
        has: &[
            ("ends and commands", "the rules went and came back"),
            ("h1 nftables", "table inet wire-agent"),
            ("h1 nftables", "masquerade"),
            ("h1 iptables", "-A FORWARD -j WIRE-"),
            ("h1 ip6tables", "-A FORWARD -j WIRE-"),
            ("h1 status --json", "\"phase\": \"ready\""),
        ],
        lacks: &[],
    },
];

fn hostile(stage: &mut Stage) -> Result {
    stage.put(&peers())?;
    let host = stage.lab.host("h1")?;
    let good = |public: &str, mac: &str| {
        format!(
            r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        )
    };
    let (ip, mac, own) = ("172.20.0.77", "02:aa:00:00:01:01", host.v4().to_string());
    let rows: [(&[u8], String); 14] = [
        (b"10.5.70.0-24", "xx{".to_owned()),
        (b"10.5.71.0-24", String::new()),
        (b"10.5.72.0-24", "[]".to_owned()),
        (b"10.5.74.0-24", "x".repeat(100_000)),
        (b"10.5.76.0-24", good(ip, "zz:cc:00:00:00:01")),
        (b"10.5.78.0-24", good(ip, "ff:ff:ff:ff:ff:ff")),
        (b"10.5.80.0-24", good("0.0.0.0", mac)),
        (b"10.5.81.0-24", good(&own, mac)),
        (b"10.5.82.0-24", good("127.0.0.1", mac)),
        (b"10.5.85.0-24", good("10.5.1.1", mac)),
        (b"192.168.64.0-24", good(ip, mac)),
        (b"nonsense", good(ip, mac)),
        (b"10.5.86.0-24&", good(ip, mac)),
        (b"10.5.87.\xff-24", good(ip, mac)),
    ];
    stage.join_on(host, &[])?;
    let mut gateway = stage.etcd.gateway()?;
    let prefix = format!("{}/subnets/", Etcd::PREFIX);
    for (name, value) in &rows {
        let key: Vec<u8> = prefix.bytes().chain(name.iter().copied()).collect();
        gateway.put(&key, value.as_bytes())?;
    }
    // The last one tells that all before it have been seen.
    let last = peer(3);
    stage.put(std::slice::from_ref(&last))?;
    stage.first().shows("ip route", &last.subnet.to_string())
}

fn flushed_kernel(stage: &mut Stage) -> Result {
    stage.put(&peers())?;
    stage.join(&[])?;
    let holds = |stage: &Stage| {
        let host = &stage.sites[0].host;
        expect_all_leases(host, &stage.etcd, Family::V4)?;
        let state = host.namespace().sh("ip -o -4 address show dev flannel.1; cat /proc/sys/net/ipv4/ip_forward")?;
        check(state.contains("10.5.1.0/32") && state.ends_with("1\n"), || state)
    };
    eventually(SOON, || holds(stage))?;
    let monitor = Monitor::listen(stage.sites[0].host.namespace())?;
    // What the agent puts back meanwhile is no failure of a script that takes away.
    stage.sites[0].host.namespace().sh(
        "set +e; ip route flush dev flannel.1; ip neighbour flush nud permanent dev flannel.1; ip address flush dev flannel.1
         bridge fdb show dev flannel.1 | while read mac rest; do bridge fdb delete $mac dev flannel.1; done
         sysctl -qw net.ipv4.ip_forward=0; true",
    )?;
    eventually(SOON, || check(monitor.count(Change::DELETE_ROUTE).0 >= 3, || "no route went".to_owned()))?;
    eventually(SOON, || holds(stage))?;
    stage.said.push("the routes went and came back\n".to_owned());

    let number = |stage: &Stage| Ok(stage.sites[0].host.kernel().link("flannel.1")?.map(|link| link.index));
    let former = number(stage)?;
    stage.sites[0].host.namespace().ip("link delete flannel.1")?;
    eventually(SOON, || check(number(stage)? != former, || "the device did not go".to_owned()))?;
    eventually(SOON, || holds(stage))?;
    stage.said.push("the device went and came back\n".to_owned());
    stage.first().phase("ready")
}

fn flushed_firewall(stage: &mut Stage) -> Result {
    const RULES: &str = "nft -s list ruleset; iptables-save; ip6tables-save";
    stage.put(&peers().map(PeerLease::dual_stack))?;
    stage.join(&["--ip-masq"])?;
    let listed = |stage: &Stage| {
        let text = stage.sites[0].host.namespace().sh(RULES)?;
        // Comments have the time, chains their counts.
        let lines = text.lines().filter(|line| !line.starts_with(['#', ':']));
        Ok::<_, LabError>(lines.map(str::to_owned).collect::<BTreeSet<_>>())
    };
    let mut whole = listed(stage)?;
    eventually(SOON, || {
        let now = listed(stage)?;
        let same = now == whole && now.iter().any(|line| line.contains("172.20.0.103"));
        whole = now;
        check(same, || format!("{whole:#?}"))
    })?;
    let written =
        |stage: &Stage| Ok::<_, LabError>(stage.sites[0].agent.status()?.rest["firewall"]["written"].as_u64());
    let before = written(stage)?;
    stage.sites[0].host.namespace().sh(
        "set +e; nft flush ruleset
         for t in iptables ip6tables; do for table in filter nat raw mangle; do $t -t $table -F; $t -t $table -X; done; done; true",
    )?;
    eventually(SOON, || check(written(stage)? > before, || format!("written as before: {before:?}")))?;
    eventually(SOON, || {
        let now = listed(stage)?;
        check(now == whole, || format!("{:#?}", now.symmetric_difference(&whole).collect::<Vec<_>>()))
    })?;
    stage.said.push("the rules went and came back\n".to_owned());
    stage.first().phase("ready")
}
