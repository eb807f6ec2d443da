//! etcd away.

use std::fs;

use super::{DUAL, Scene, peers};
use crate::stage::SOON;
use wire_tests::{LabError, PeerLease};

pub(super) const SCENES: &[Scene] = &[Scene {
    name: "offline-boot",
    about: "the host boots while etcd is away, and goes by what is kept on its disk",
    config: DUAL,
    play: |stage| {
        stage.put(&peers().map(PeerLease::dual_stack))?;
        stage.join(&[])?;
        stage.terminate()?;
        stage.etcd.kill(0);
        stage.etcd_runs = false;
        let site = stage.first();
        // They lie in /run.
        for file in [site.agent.subnet_file(), site.agent.docker_opts_file()] {
            fs::remove_file(&file).map_err(LabError::io(format!("cannot remove {}", file.display())))?;
        }
        site.host.reboot()?;
        site.agent.restart()?;
        site.agent.wait_ready(SOON)?;
        site.says("degraded", "; traffic ")
    },
    has: &[
        ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
        ("h1 routes of IPv6", "fd00:5:564::/64 via fd00:5:564:: dev flannel-v6.1"),
        ("h1 nftables", "table inet wire-agent"),
        ("h1 files", "FLANNEL_SUBNET=10.5.1.1/24"),
        ("h1 status --json", "\"phase\": \"degraded\""),
        ("etcd", "away"),
    ],
    lacks: &[],
}];
