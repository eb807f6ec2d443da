//! Ways in which an agent ends, or leaves.

use wire_tests::{Family, PeerLease, Result, eventually, expect_all_leases};

use super::{DUAL, Scene, V4, peer, peers};
use crate::stage::{SOON, Stage};

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "kill",
        about: "it is killed; a peer leaves and another comes meanwhile; it starts again",
        config: V4,
        play: kill,
        has: &[
            ("ends and commands", "the agent ended by SIGKILL: signal: 9"),
            ("h1 routes", "10.5.103.0/24 via 10.5.103.0 dev flannel.1"),
            ("h1 status --json", "\"phase\": \"ready\""),
        ],
        lacks: &[("h1 routes", "10.5.102.0")],
    },
    Scene {
        name: "sigterm",
        about: "it is asked to end: what stays is recorded",
        config: V4,
        play: |stage| {
            stage.put(&peers())?;
            stage.join(&["--ip-blackhole-route"])?;
            stage.terminate()
        },
        has: &[
            ("ends and commands", "the agent ended by SIGTERM: exit status: 0"),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 routes", "blackhole 10.5.1.0/24"),
            ("h1 nftables", "table inet wire-agent"),
            ("h1 status --json", "exit: exit status: 69"),
            ("etcd", "/coreos.com/network/subnets/10.5.1.0-24 (lease LEASE-"),
        ],
        lacks: &[],
    },
    Scene {
        name: "drain",
        about: "it is refused while the agent runs, then the host leaves the network",
        config: DUAL,
        play: |stage| {
            stage.put(&peers().map(PeerLease::dual_stack))?;
            stage.join(&["--ip-masq"])?;
            stage.command("drain")?;
            stage.terminate()?;
            stage.command("drain")
        },
        has: &[
            ("ends and commands", "wire-agent drain: exit status: 75"),
            ("ends and commands", "wire-agent drain: exit status: 0"),
            ("h1 links", "eth0"),
            ("etcd", "/coreos.com/network/subnets/10.5.100.0-24"),
        ],
        lacks: &[
            ("h1 links", "flannel"),
            ("h1 routes", "10.5."),
            ("etcd", "/subnets/10.5.1.0-24"),
            ("h1 files", "subnet.env"),
        ],
    },
    Scene {
        name: "hand-back",
        about: "among so many peers that routes have nexthop objects, it is refused, then all is in flannel's form",
        config: r#"{"Network":"10.0.0.0/8","SubnetMin":"10.0.1.0","SubnetMax":"10.0.1.0","Backend":{"Type":"vxlan"}}"#,
        play: hand_back,
        has: &[
            ("ends and commands", "routes with a nexthop object"),
            ("ends and commands", "wire-agent hand-back: exit status: 75"),
            ("ends and commands", "wire-agent hand-back: exit status: 0"),
            ("h1 routes", "10.7.8.0/24 via 10.7.8.0 dev flannel.1"),
        ],
        lacks: &[("ends and commands", "\n0 routes with"), ("h1 routes", "nhid"), ("h1 links", "no such link")],
    },
];

fn kill(stage: &mut Stage) -> Result {
    stage.put(&peers())?;
    stage.join(&[])?;
    stage.kill()?;
    stage.etcd.delete(&peer(2).key())?;
    stage.put(&[peer(3)])?;
    stage.first().again()?;
    eventually(SOON, || expect_all_leases(&stage.sites[0].host, &stage.etcd, Family::V4)).map(drop)
}

fn hand_back(stage: &mut Stage) -> Result {
    let peers: Vec<PeerLease> = (1..=520).map(PeerLease::numbered).collect();
    stage.put(&peers)?;
    stage.join(&[])?;
    eventually(SOON, || expect_all_leases(&stage.sites[0].host, &stage.etcd, Family::V4))?;
    let routes = stage.first().host.kernel().routes_through("flannel.1", Family::V4)?;
    let count = routes.iter().filter(|route| route.nexthop.is_some()).count();
    stage.said.push(format!("{count} routes with a nexthop object\n"));
    stage.command("hand-back")?;
    stage.terminate()?;
    stage.command("hand-back")
}
