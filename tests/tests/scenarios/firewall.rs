//! Row 25: the packet filter comes back whatever is done to it, stands where it can win, and takes flannel's place.

use std::time::Instant;

use wire_tests::{
    AgentSpec, Etcd, Family, Host, Lab, Result, check, docker_options, eventually, lab, run_binary, steadily,
};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, cluster},
    seat::{BACK, Seat, seats},
};

/// All rules of ours, without counters and handles. What is called from Docker's chain goes with that.
fn ours(host: &Host) -> Result<String> {
    let listed = "nft -s list table inet wire-agent; for t in iptables ip6tables; do $t-save | grep WIRE | grep -v DOCKER-USER; done";
    host.namespace().sh(listed)
}

#[test]
fn what_anyone_flushes_is_back_within_five_seconds_and_only_while_the_agent_runs() -> Result {
    let lab = lab!();
    let (_etcd, [mut one, mut other]) = seats(&lab, DUAL, &["--ip-masq"])?;
    one.connects(&other)?;
    let whole = ours(&one.node.host)?;
    for flush in ["nft flush ruleset", "iptables -F; iptables -t raw -F; iptables -t nat -F; ip6tables -F"] {
        let start = Instant::now();
        one.sh(&format!("iptables -P FORWARD DROP; {flush}"))?;
        eventually(BACK, || {
            let now = ours(&one.node.host)?;
            check(now == whole, || format!("{now}\ninstead of\n{whole}"))
        })?;
        eprintln!("{flush}: back after {:?}", start.elapsed());
        one.connects(&other)?;
        other.connects(&one)?;
    }
    // A container started afterwards, by a Docker whose own rules are whole again.
    for seat in [&mut one, &mut other] {
        seat.docker.docker(&["rm", "--force", seat.container.name()])?;
        seat.docker.restart(&docker_options(&seat.node.agent.docker_opts_file())?)?;
        seat.container = seat.docker.run()?;
    }
    one.connects(&other)?;
    other.connects(&one)?;
    one.node.agent.terminate()?;
    one.sh("nft flush ruleset")?;
    steadily(BACK + PROMPT, || {
        let rules = one.sh("nft list ruleset; iptables-save")?;
        check(!rules.to_lowercase().contains("wire"), || format!("without the agent there are {rules}"))
    })
}

#[test]
fn a_restart_that_finds_its_rules_in_place_writes_none() -> Result {
    let lab = lab!();
    let (_etcd, [mut node, _other]) = cluster::<2>(&lab, DUAL)?;
    // With handles: a rule that was written again has another.
    let rules = |node: &Node| node.host.namespace().sh("nft -s -a list ruleset");
    let before = rules(&node)?;
    node.agent.terminate()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    std::thread::sleep(PROMPT);
    let after = rules(&node)?;
    check(before == after, || format!("{after}\ninstead of\n{before}"))?;
    let status = node.agent.status()?;
    let written = &status.rest["firewall"]["written"];
    check(written == 0, || format!("{written} changes of the packet filter"))
}

#[test]
fn while_nobody_changes_a_rule_no_program_is_run() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let [host] = lab.hosts::<1>()?;
    let trace = host.dir().join("programs");
    let words = format!("strace -D -f -e trace=execve -o {}", trace.display());
    let wrapper = words.split(' ').map(str::to_owned).collect();
    let node = Node::with(host, AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) })?;
    let programs = || std::fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains("execve(")).count();
    std::thread::sleep(PROMPT * 2);
    let before = programs();
    // Two looks at the least.
    std::thread::sleep(BACK * 2 + PROMPT);
    check(programs() == before, || format!("{} programs were run", programs() - before))?;
    node.host.namespace().sh("nft delete table inet wire-agent")?;
    eventually(BACK, || check(programs() > before, || "nothing was put back".to_owned())).map(drop)
}

#[test]
fn masqueraded_by_us_the_outside_sees_the_host_and_the_overlay_the_container() -> Result {
    sees_the_right_source(&lab!(), &["--ip-masq"])
}

#[test]
fn masqueraded_by_docker_the_outside_sees_the_host_and_the_overlay_the_container() -> Result {
    sees_the_right_source(&lab!(), &[])
}

fn sees_the_right_source(lab: &Lab, flags: &[&str]) -> Result {
    let (_etcd, [one, other]) = seats(lab, V4, flags)?;
    let outside = lab.host("outside")?;
    // The outside has no route to containers: without masquerading it could not answer.
    let leaked = lab.count("ip saddr 10.5.0.0/16")?;
    check(one.container.pings(outside.v4().into(), 2), || "no answer from outside".to_owned())?;
    let leaked = leaked.packets()?;
    check(leaked == 0, || format!("{leaked} packets left with a container's address"))?;
    other.sh(&format!(
        "nft add table ip probe; nft add chain ip probe c '{{ type filter hook forward priority 400; }}'
         nft add rule ip probe c iifname flannel.1 ip saddr {} icmp type echo-request counter",
        one.address()?
    ))?;
    check(one.container.pings(other.address()?, 2), || "no answer from the other container".to_owned())?;
    let counted = other.sh("nft list table ip probe")?;
    check(counted.contains("packets 2 "), || format!("the other host sees {counted}"))
}

#[test]
fn a_host_that_was_flannels_keeps_none_of_its_rules() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    host.namespace().sh(
        "iptables -t nat -N FLANNEL-POSTRTG; iptables -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
         iptables -t nat -A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment 'flanneld masq' -j MASQUERADE --random-fully
         iptables -N FLANNEL-FWD; iptables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD
         iptables -A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT
         iptables -A FORWARD -s 192.0.2.7 -j DROP; nft add table ip flannel-ipv4",
    )?;
    let node = Node::with(host, AgentSpec::new(etcd.agent_flags()).flag("--ip-masq"))?;
    let rules = node.host.namespace().sh("nft list ruleset")?;
    check(!rules.contains("FLANNEL-") && !rules.contains("flannel-ipv4"), || rules.clone())?;
    check(rules.contains("192.0.2.7") && rules.contains("masquerade fully-random"), || rules)
}

#[test]
fn a_host_that_is_handed_back_to_flannel_keeps_none_of_our_rules() -> Result {
    let lab = lab!();
    let (etcd, [mut node, other]) = cluster::<2>(&lab, DUAL)?;
    node.host.namespace().sh("iptables -A FORWARD -s 192.0.2.7 -j DROP")?;
    node.agent.terminate()?;
    let endpoints = format!("--etcd-endpoints={}", etcd.endpoints());
    let output = run_binary(Some(node.host.namespace()), &["hand-back", &endpoints])?;
    check(output.status.success(), || format!("{output:?}"))?;
    let rules = node.host.namespace().sh("nft list ruleset; iptables-save")?;
    check(!rules.to_lowercase().contains("wire") && rules.contains("192.0.2.7"), || rules)?;
    check(other.host.pings(node.vtep(Family::V4)?), || "traffic has stopped".to_owned())
}

/// What Docker 28 puts for each container and each bridge, also where the dockerd here is an older one.
fn drop_as_docker_28(seat: &Seat) -> Result {
    let address = seat.address()?;
    seat.sh(&format!(
        "iptables -t raw -A PREROUTING -d {address}/32 ! -i docker0 -j DROP; iptables -A DOCKER ! -i docker0 -o docker0 -j DROP"
    ))
    .map(drop)
}

#[test]
fn dockers_drops_stop_the_underlay_and_not_the_overlay() -> Result {
    let lab = lab!();
    let (_etcd, [mut one, other]) = seats(&lab, V4, &["--ip-masq"])?;
    eprintln!("docker {}", one.docker.docker(&["version", "--format", "{{.Server.Version}}"])?.trim());
    drop_as_docker_28(&one)?;
    drop_as_docker_28(&other)?;
    one.connects(&other)?;
    other.connects(&one)?;
    // A container of the underlay's own side has no lease: it comes in by eth0.
    let outside = lab.host("outside")?;
    outside.namespace().ip(&format!("route add 10.5.0.0/16 via {}", one.node.host.v4()))?;
    check(!outside.pings(one.address()?), || "the underlay reaches a container".to_owned())?;
    // Without ours nothing passes, so that this says something.
    one.node.agent.terminate()?;
    one.sh("iptables -t raw -F WIRE-RAW")?;
    check(!one.container.pings(other.address()?, 1), || "Docker's drops do not drop".to_owned())
}

#[test]
fn ports_that_a_container_publishes_are_reached_from_containers_of_other_hosts() -> Result {
    let lab = lab!();
    let (_etcd, [mut one, other]) = seats(&lab, V4, &["--ip-masq"])?;
    let server = one.docker.run_with(&["--publish", "5080:5080"])?;
    let listen = ["exec", "-d", server.name(), "sh", "-c", "while true; do echo served | nc -l -p 5080 -w 5; done"];
    one.docker.docker(&listen)?;
    for address in [one.node.host.v4().into(), server.address(Family::V4)?] {
        let ask =
            format!("for i in 1 2 3 4 5; do nc -w 2 {address} 5080 < /dev/null && exit 0; sleep 0.3; done; exit 1");
        let answer = other.inside(&[], &ask)?;
        check(answer.contains("served"), || format!("{address}:5080 answers {answer:?}"))?;
    }
    Ok(())
}

/// As a unit with a user of its own starts it. The lab's own folders are root's alone: into those it may look and write.
fn as_nobody(etcd: &Etcd) -> AgentSpec {
    let caps = "+net_admin,+dac_override";
    let words = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,{caps} --ambient-caps={caps} --bounding-set=-all,{caps}"
    );
    let wrapper = words.split(' ').map(str::to_owned).collect();
    AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()).flag("--ip-masq") }
}

#[test]
fn a_user_that_is_not_root_keeps_all_of_it() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let [host] = lab.hosts::<1>()?;
    let node = Node::with(host, as_nobody(&etcd))?;
    let rules = ours(&node.host)?;
    check(rules.contains("masquerade fully-random") && rules.contains("WIRE-RAW"), || rules)?;
    node.host.namespace().sh("nft flush ruleset")?;
    eventually(BACK, || ours(&node.host).map(drop)).map(drop)?;
    check(node.agent.status()?.phase == "ready", || format!("{:?}", node.agent.status()))
}

#[test]
fn iptables_legacy_without_root_is_refused_with_what_to_do_and_the_rest_goes_on() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    let bin = host.dir().join("legacy");
    host.namespace().sh(&format!(
        "mkdir -p {bin}; for t in '' -save -restore; do ln -s $(command -v iptables-legacy$t) {bin}/iptables$t; done",
        bin = bin.display()
    ))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let node = Node::with(host, as_nobody(&etcd).env("PATH", &path))?;
    let reason = crate::cluster::phase(&node.agent, "degraded")?;
    check(reason.contains("iptables-legacy, which works for root alone: run wire-agent as root"), || reason.clone())?;
    let said = node.agent.log().matches("the firewall is not as it should be").count();
    check(said == 1, || format!("said {said} times"))?;
    let table = node.host.namespace().sh("nft list table inet wire-agent")?;
    check(table.contains("masquerade"), || table)
}

#[test]
fn without_nft_the_agent_says_what_to_install_and_the_rest_goes_on() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    let bin = host.dir().join("bare");
    host.namespace().sh(&format!("mkdir -p {bin}", bin = bin.display()))?;
    let wrapper = vec!["env".to_owned(), format!("PATH={}", bin.display())];
    let spec = AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()).flag("--ip-masq") };
    let node = Node::with(host, spec)?;
    let reason = crate::cluster::phase(&node.agent, "degraded")?;
    for remedy in ["install nftables", "install iptables"] {
        check(reason.contains(remedy), || format!("{remedy} is not in {reason}"))?;
    }
    Ok(())
}
