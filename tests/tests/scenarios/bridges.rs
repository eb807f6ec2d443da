//! Docker's bridge and our subnet: named where they do not match, and left alone.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use wire_tests::{
    Agent, AgentSpec, Dockerd, Etcd, Family, Host, PeerLease, Result, check, docker_options, eventually, lab,
    run_binary,
};

use crate::{
    cluster::{Node, START, V4, phase},
    seat::{BACK, Seat},
};

/// How long a look at bridges may take to show: it may just have begun, the next comes [`BACK`] later and its answer is told later still.
const NOTICED: Duration = BACK.saturating_mul(4);

/// The address of Docker's bridge with its length, and the rest of what `status` says is wrong.
fn said_of_bridge(agent: &Agent) -> Result<(String, String)> {
    let mut said = (String::new(), String::new());
    eventually(NOTICED, || {
        let reason = agent.status()?.reason.unwrap_or_default();
        let bridge = reason.strip_prefix("bridge: docker0 has ").unwrap_or_default();
        let (has, rest) = bridge.split_once(", but this host leases ").unwrap_or_default();
        said = (has.to_owned(), rest.to_owned());
        check(!rest.is_empty(), || format!("it says {reason:?}"))
    })?;
    check(agent.status()?.phase == "degraded", || "its phase is another".to_owned())?;
    Ok(said)
}

#[test]
fn a_docker_that_runs_without_our_subnet_is_named_and_not_restarted() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = lab.host("a")?;
    let mut docker = Dockerd::start(&host, &["--bip=172.31.0.1/24".to_owned()])?;
    let pid = docker.pid()?;
    let node = Node::start(host, &etcd)?;
    // Without a container too.
    let (has, rest) = said_of_bridge(&node.agent)?;
    let leased = node.subnet(Family::V4)?.replace(".1/", ".0/");
    check(has == "172.31.0.1/24" && rest.starts_with(&leased), || format!("{has} and {rest}"))?;
    let file = node.agent.docker_opts_file();
    check(rest.contains(&format!("restart Docker with the options in {}", file.display())), || rest.clone())?;
    lab.rest(BACK);
    check(docker.pid()? == pid, || "Docker was restarted".to_owned())?;
    let logged = node.agent.log().matches(": docker0 has 172.31.0.1/24").count();
    check(logged == 1, || format!("logged {logged} times\n{}", node.agent.log()))?;

    docker.restart(&docker_options(&file)?)?;
    phase(&node.agent, "ready")?;
    // Nothing is wrong where Docker is not there, though its bridge has stayed.
    docker.restart(&["--bip=172.31.0.1/24".to_owned()])?;
    said_of_bridge(&node.agent)?;
    drop(docker);
    node.host.namespace().ip("link show docker0")?;
    phase(&node.agent, "ready").map(drop)
}

#[test]
fn a_subnet_that_changes_while_docker_runs_leaves_its_bridge_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let mut seat = Seat::new(lab.host("a")?, &etcd, &[])?;
    check(seat.node.agent.status()?.phase == "ready", || seat.node.agent.log())?;
    let former = seat.node.subnet(Family::V4)?;
    // Another host gets the subnet while this one's agent is away for longer than its lease.
    seat.node.agent.terminate()?;
    let lease = &etcd.leases()?[0];
    etcd.delete(&lease.key())?;
    let peer = PeerLease {
        subnet: former.split_once(".1/").map(|(net, _)| format!("{net}.0")).unwrap().parse().unwrap(),
        ..PeerLease::numbered(20)
    };
    etcd.put(&peer.key(), &peer.value())?;
    seat.node.agent.restart()?;
    seat.node.agent.wait_ready(START)?;
    let now = seat.node.subnet(Family::V4)?;
    check(now != former, || format!("it is still {now}"))?;
    let (has, rest) = said_of_bridge(&seat.node.agent)?;
    check(has == former && rest.starts_with(&now.replace(".1/", ".0/")), || format!("{has} and {rest}"))
}

#[test]
fn an_mtu_that_is_too_large_is_a_warning() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let node = Node::with(lab.host("a")?, AgentSpec::new(etcd.agent_flags()))?;
    let bip = format!("--bip={}", node.subnet(Family::V4)?);
    let mut docker = Dockerd::start(&node.host, &[bip])?;
    let _container = docker.run()?;
    eventually(NOTICED, || {
        let status = node.agent.status()?;
        let said = status.rest["warnings"].to_string();
        check(status.phase == "ready" && said.contains("docker0 has MTU 1500, but the overlay has 1450"), || {
            format!("{}: {said}", status.phase)
        })
    })
    .map(drop)
}

#[test]
fn a_bridge_that_no_rule_can_name_is_named_in_a_warning_until_it_has_another_name() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    let address = node.subnet(Family::V4)?;
    node.host.namespace().sh(&format!("ip link add 'br*' type bridge; ip address add {address} dev 'br*'"))?;
    let looks = |warned: bool, bridges: &str| {
        let status = node.agent.status()?;
        let said = status.rest["warnings"].to_string();
        let set = node.host.namespace().sh("nft list set inet wire-agent bridges")?;
        let right =
            said.contains("no nftables rule can name br*") == warned && set.contains(bridges) && !set.contains('*');
        check(right && status.phase == "ready", || format!("{}: {said}\n{set}", status.phase))
    };
    eventually(NOTICED, || looks(true, "bridges"))?;
    lab.rest(BACK);
    let logged = node.agent.log().matches("no nftables rule can name br*").count();
    check(logged == 1, || format!("logged {logged} times"))?;
    node.host.namespace().sh("ip link set 'br*' name br-1")?;
    eventually(NOTICED, || looks(false, "\"br-1\"")).map(drop)
}

/// Writes dockerd's settings, and says in which folder and file.
fn put_settings(host: &Host, settings: &str) -> (PathBuf, PathBuf) {
    let dir = Dockerd::settings_dir(host);
    let file = dir.join("daemon.json");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(&file, settings).unwrap();
    (dir, file)
}

/// Shows a folder to what follows as the one where dockerd's settings lie.
pub(crate) fn with_settings(dir: &Path) -> Vec<String> {
    let script = format!("mkdir -p /etc/docker; mount --bind {} /etc/docker; exec \"$@\"", dir.display());
    ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"].map(str::to_owned).into()
}

#[test]
fn settings_of_docker_that_clash_are_named_and_merged_they_start_it_with_our_subnet() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = lab.host("a")?;
    let settings = r#"{ "labels":["kept=yes"], "bip":"172.30.0.1/24",  "mtu":1500 }"#;
    let (dir, file) = put_settings(&host, settings);
    let spec = AgentSpec { wrapper: with_settings(&dir), ..AgentSpec::new(etcd.agent_flags()).flag("--ip-masq") };
    let node = Node::with(host, spec)?;
    let clash = "/etc/docker/daemon.json sets bip, mtu to other values than this host's subnet needs";
    check(node.agent.log().contains(clash), || node.agent.log())?;
    let warnings = || Ok(node.agent.status()?.rest["warnings"].to_string());
    eventually(NOTICED, || {
        let said = warnings()?;
        check(said.contains(clash), || said)
    })?;
    check(node.agent.status()?.phase == "ready", || "no Docker, no fault".to_owned())?;
    let env = node.agent.subnet_file().display().to_string();
    let print = ["docker-opts", "-f", &env, "-d", "-"].map(str::to_owned);
    let words = [with_settings(&dir), vec![wire_tests::binary()?.display().to_string()], print.into()].concat();
    let printed = node.host.namespace().command(&words[0]).args(&words[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&printed.stderr);
    check(said.contains(clash), || format!("docker-opts says {said:?}"))?;

    // What it says of dockerd is so.
    let options = docker_options(&node.agent.docker_opts_file())?;
    let refusal = Dockerd::start(&node.host, &options).map(drop).unwrap_err().to_string();
    check(refusal.contains("specified both as a flag and in the configuration file"), || refusal)?;

    let path = file.display().to_string();
    let merged = run_binary(None, &["docker-opts", "-f", &env, "--daemon-json", &path])?;
    check(merged.status.success(), || format!("{merged:?}"))?;
    let bip = node.subnet(Family::V4)?;
    let now = std::fs::read_to_string(&file).unwrap();
    let wanted = format!(r#"{{ "labels":["kept=yes"], "bip":"{bip}",  "mtu":1450, "ip-masq": false }}"#);
    check(now == wanted, || now)?;
    let mut docker = Dockerd::start(&node.host, &[])?;
    let bridge = node.host.kernel().addresses("docker0")?;
    let has = bridge.iter().any(|address| format!("{}/{}", address.local, address.len) == bip);
    check(has, || format!("docker0 has {bridge:?}"))?;
    let mtu = docker.run()?.exec("cat /sys/class/net/eth0/mtu")?;
    check(mtu.trim() == "1450", || format!("a container's MTU is {mtu}"))?;
    let label = docker.docker(&["info", "--format", "{{.Labels}}"])?;
    check(label.contains("kept=yes"), || format!("the labels are {label}"))?;
    let rules = node.host.namespace().sh("iptables -t nat -S POSTROUTING")?;
    check(!rules.contains("! -o docker0 -j MASQUERADE"), || rules)?;
    eventually(NOTICED, || {
        let said = warnings()?;
        check(said == "[]", || said)
    })?;
    phase(&node.agent, "ready").map(drop)
}

#[test]
fn a_bridge_of_the_operators_that_bars_our_options_is_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = lab.host("a")?;
    let settings = r#"{"bridge": "none"}"#;
    let (dir, file) = put_settings(&host, settings);
    let spec = AgentSpec { wrapper: with_settings(&dir), ..AgentSpec::new(etcd.agent_flags()) };
    let node = Node::with(host, spec)?;
    let clash = "daemon.json sets bridge to none, and dockerd refuses to start if bip is set too";
    eventually(NOTICED, || {
        let said = node.agent.status()?.rest["warnings"].to_string();
        check(said.contains(clash), || said)
    })?;
    check(node.agent.log().matches(clash).count() == 1, || node.agent.log())?;

    // What it says of dockerd is so, and nothing that it refuses is merged.
    let options = docker_options(&node.agent.docker_opts_file())?;
    let refusal = Dockerd::start(&node.host, &options).map(drop).unwrap_err().to_string();
    check(refusal.contains("mutually exclusive"), || refusal)?;
    let (env, path) = (node.agent.subnet_file().display().to_string(), file.display().to_string());
    let merged = run_binary(None, &["docker-opts", "-f", &env, "--daemon-json", &path])?;
    let said = String::from_utf8_lossy(&merged.stderr);
    check(merged.status.code() == Some(1) && said.contains(clash), || format!("{merged:?}"))?;
    let now = std::fs::read_to_string(&file).unwrap();
    check(now == settings, || now)
}
