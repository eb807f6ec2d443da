//! Joining, and what a running host is told of others.

use nix::sys::signal::Signal;
use wire_tests::{Etcd, Family, PeerLease, Result, check, eventually, expect_all_leases};

use super::{Scene, V4, peer, peers};
use crate::stage::{SOON, Stage};

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "fresh-join",
        about: "a host joins a network of three peers",
        config: V4,
        play: |stage| {
            stage.put(&peers())?;
            stage.join(&[])
        },
        has: &[
            ("h1 links", "flannel.1: "),
            ("h1 addresses", "10.5.1.0/32"),
            ("h1 sysctls", "ipv4/ip_forward:1"),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 routes", "10.5.102.0/24 via 10.5.102.0 dev flannel.1"),
            ("h1 neighbours", "10.5.101.0 dev flannel.1 lladdr 02:aa:00:00:00:65 PERMANENT"),
            ("h1 fdb", "02:aa:00:00:00:65 dev flannel.1 dst 172.20.0.102 self permanent"),
            ("h1 nftables", "table inet wire-agent"),
            ("h1 iptables", "-A FORWARD -j WIRE-"),
            ("h1 rules", "lookup main"),
            ("h1 status --json", "\"phase\": \"ready\""),
            ("h1 peers --json", "10.5.101.0/24"),
            ("h1 config get --json", "10.5.0.0/16"),
            ("h1 files", "FLANNEL_SUBNET=10.5.1.1/24"),
            ("h1 files", "state.json file 644"),
            ("etcd", "/coreos.com/network/subnets/10.5.1.0-24 (lease LEASE-"),
        ],
        lacks: &[],
    },
    Scene {
        name: "rejoin",
        about: "it ends and joins again, and masquerades from then on",
        config: V4,
        play: |stage| {
            stage.put(&peers())?;
            stage.join(&["--ip-masq"])?;
            stage.terminate()?;
            stage.first().again()
        },
        has: &[
            ("ends and commands", "the agent ended by SIGTERM: exit status: 0"),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 nftables", "masquerade"),
            ("h1 status --json", "\"phase\": \"ready\""),
            ("h1 status --json", "\"written\": 0"),
            ("etcd", "/coreos.com/network/subnets/10.5.1.0-24 (lease LEASE-"),
        ],
        lacks: &[],
    },
    Scene {
        name: "leave",
        about: "the lease of one peer of three is revoked",
        config: V4,
        play: leave,
        has: &[
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 peers --json", "10.5.101.0/24"),
            ("h1 status --json", "\"phase\": \"ready\""),
        ],
        lacks: &[("h1 routes", "10.5.102.0"), ("h1 peers --json", "10.5.102.0"), ("h1 fdb", "02:aa:00:00:00:66")],
    },
    Scene {
        name: "sighup",
        about: "the network config changes, and the agent is told to read it by SIGHUP",
        config: V4,
        play: sighup,
        has: &[
            ("h1 links", "flannel.1: "),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 status --json", "\"phase\": \"degraded\""),
            ("h1 config get --json", "VNI"),
        ],
        lacks: &[("h1 links", "flannel.7")],
    },
    Scene {
        name: "changed-address",
        about: "the host gets another address on the underlay",
        config: V4,
        play: |stage| {
            stage.put(&peers())?;
            stage.join(&[])?;
            stage.first().host.change_address([192, 168, 64, 200].into())?;
            let lease = format!("{}/subnets/10.5.1.0-24", Etcd::PREFIX);
            eventually(SOON, || {
                let value = stage.etcd.get(&lease)?.map(|stored| stored.value()).unwrap_or_default();
                check(value.contains("192.168.64.200"), || value)
            })?;
            stage.first().phase("ready")
        },
        has: &[
            ("h1 links", "local 192.168.64.200"),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 status --json", "\"phase\": \"ready\""),
            ("etcd", "\"PublicIP\":\"192.168.64.200\""),
        ],
        lacks: &[("h1 status --json", "192.168.64.3\""), ("h1 nftables", "192.168.64.3 ")],
    },
    Scene {
        name: "full-range",
        about: "three hosts in a range of two subnets: the third waits",
        config: r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.2.0","Backend":{"Type":"vxlan"}}"#,
        play: full_range,
        has: &[
            ("h1 files", "FLANNEL_SUBNET=10.5.1.1/24"),
            ("h2 files", "FLANNEL_SUBNET=10.5.2.1/24"),
            ("h1 routes", "10.5.2.0/24 via 10.5.2.0 dev flannel.1"),
            ("h2 routes", "10.5.1.0/24 via 10.5.1.0 dev flannel.1"),
            ("h3 status --json", "\"phase\": \"waiting\""),
            ("h3 status --json", "ends in at most DURATION"),
        ],
        lacks: &[("h3 links", "flannel.1")],
    },
];

fn leave(stage: &mut Stage) -> Result {
    let [stays, too, leaves] = peers();
    stage.put(&[stays, too])?;
    stage.put(std::slice::from_ref(&leaves))?;
    stage.join(&[])?;
    let lease = stage.etcd.get(&leaves.key())?.map_or(0, |stored| stored.lease);
    stage.etcd.revoke(lease)?;
    eventually(SOON, || expect_all_leases(&stage.sites[0].host, &stage.etcd, Family::V4)).map(drop)
}

fn sighup(stage: &mut Stage) -> Result {
    stage.put(&peers())?;
    stage.join(&[])?;
    stage.etcd.put_config(&V4.replace(r#""Type":"vxlan""#, r#""Type":"vxlan","VNI":7"#))?;
    let site = stage.first();
    site.phase("degraded")?;
    site.agent.signal(Signal::SIGHUP)?;
    eventually(SOON, || check(site.agent.log().contains("joining anew"), || site.agent.log()))?;
    eventually(SOON, || {
        let status = site.agent.status()?;
        check(status.rest["dataplane"]["converged"] == true && status.subnet.is_some(), || format!("{status:?}"))
    })?;
    site.phase("degraded")
}

/// A lease of nobody's keeps the second subnet until the first is taken, so that each host gets the same one in each run.
fn full_range(stage: &mut Stage) -> Result {
    stage.put(&peers())?;
    let holder = PeerLease { subnet: [10, 5, 2, 0].into(), ..peer(3) };
    stage.put(std::slice::from_ref(&holder))?;
    stage.join(&[])?;
    stage.etcd.delete(&holder.key())?;
    stage.join(&[])?;
    for site in &stage.sites {
        eventually(SOON, || expect_all_leases(&site.host, &stage.etcd, Family::V4))?;
    }
    let third = stage.lab.host("h3")?;
    stage.spawn(third, &[])?;
    stage.sites[2].says("waiting", "ends in")
}
