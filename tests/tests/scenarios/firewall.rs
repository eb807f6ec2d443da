//! The packet filter comes back whatever is done to it, stands where it can win, and takes flannel's place.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wire_tests::{
    Agent, AgentSpec, Etcd, Family, Host, Lab, LabError, PeerLease, Result, check, docker_options, eventually, lab,
    measured, run_binary, steadily,
};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, cluster, phase, put_peers},
    seat::{BACK, Seat, seats},
};

/// All rules of ours, without counters and handles. What is called from Docker's chain goes with that.
pub(crate) fn ours(host: &Host) -> Result<String> {
    let listed = "nft -s list table inet wire-agent; for t in iptables ip6tables; do $t-save | grep WIRE | grep -v 'DOCKER-USER\\|WIRE-RAW'; done";
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
        measured("rules-back", start.elapsed())?;
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
fn while_nobody_changes_a_rule_no_program_is_run_whoever_comes_and_goes() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let [host] = lab.hosts::<1>()?;
    // Each call of the kernel is slower while it is traced.
    const HEARD: Duration = Duration::from_secs(5);
    let trace = host.dir().join("programs");
    let words = format!("strace -D -f -e trace=execve -o {}", trace.display());
    let wrapper = words.split(' ').map(str::to_owned).collect();
    let node = Node::with(host, AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) })?;
    let programs = || std::fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains("execve(")).count();
    std::thread::sleep(PROMPT * 2);
    let before = programs();
    // Two looks at the least.
    lab.rest(BACK * 2 + PROMPT);
    let heard = |peer: &PeerLease| {
        let set = node.host.namespace().sh("nft list set inet wire-agent peers-v6")?;
        let address = peer.public_ipv6.map(|address| address.to_string());
        Ok::<_, LabError>(address.is_some_and(|address| set.contains(&address)))
    };
    let peers = put_peers(&etcd, 3, &Family::ALL)?;
    eventually(HEARD, || check(heard(&peers[0])? && heard(&peers[2])?, || "not all are let in".to_owned()))?;
    etcd.delete(&peers[0].key())?;
    eventually(HEARD, || check(!heard(&peers[0])? && heard(&peers[2])?, || "one is let in still".to_owned()))?;
    check(programs() == before, || format!("{} programs were run", programs() - before))?;
    node.host.namespace().sh("nft delete table inet wire-agent")?;
    eventually(BACK, || check(programs() > before, || "nothing was put back".to_owned())).map(drop)
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
    let (_etcd, [mut node, other]) = cluster::<2>(&lab, DUAL)?;
    node.host.namespace().sh("iptables -A FORWARD -s 192.0.2.7 -j DROP")?;
    node.agent.terminate()?;
    // Where it cannot do all, it does nothing, and says what needs no etcd.
    let run_dir = format!("--run-dir={}", node.agent.run_dir().display());
    let away = ["hand-back", &run_dir, "--etcd-endpoints=http://127.0.0.1:9"];
    let refused = run_binary(Some(node.host.namespace()), &away)?;
    let said = String::from_utf8_lossy(&refused.stderr);
    check(refused.status.code() == Some(69) && said.contains("hand-back --firewall-only"), || format!("{refused:?}"))?;
    let output = node.agent.run_with_its_flags("hand-back")?;
    check(output.status.success(), || format!("{output:?}"))?;
    let rules = node.host.namespace().sh("nft list ruleset; iptables-save")?;
    check(!rules.to_lowercase().contains("wire") && rules.contains("192.0.2.7"), || rules)?;
    check(other.host.reaches(node.vtep(Family::V4)?), || "traffic has stopped".to_owned())
}

#[test]
fn two_agents_that_undo_each_others_rules_are_named_by_both_until_one_ends() -> Result {
    let lab = lab!();
    let (etcd, [node, _other]) = cluster::<2>(&lab, V4)?;
    etcd.put("/second/config", r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan","VNI":2}}"#)?;
    let flags = etcd.agent_flags().into_iter().map(|flag| flag.replace(Etcd::PREFIX, "/second")).collect();
    let spec = AgentSpec { suffix: "-2", ..AgentSpec::new(flags) };
    let second = Agent::start(&node.host, spec)?;
    for agent in [&node.agent, &second] {
        let reason = phase(agent, "degraded")?;
        check(reason.contains("another wire-agent: it runs in this network namespace too"), || reason)?;
    }
    drop(second);
    phase(&node.agent, "ready")?;
    // One that joins anew is no other, and nor is what any user may call so.
    let socket =
        "socket(S, PF_UNIX, SOCK_STREAM, 0) && bind(S, pack_sockaddr_un(qq(\\0wire-agent/firewall/x))) && listen(S, 5)";
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs";
    node.host
        .namespace()
        .sh(&format!("{nobody} timeout 60 perl -MSocket -e '{socket} && sleep 60' > /dev/null 2>&1 &"))?;
    eventually(PROMPT * 5, || {
        let sockets = node.host.namespace().sh("cat /proc/net/unix")?;
        check(sockets.contains("@wire-agent/firewall/x"), || sockets)
    })?;
    node.agent.signal(Signal::SIGHUP)?;
    node.host.namespace().sh("sleep 1; nft flush ruleset")?;
    eventually(BACK, || node.host.namespace().sh("nft list table inet wire-agent").map(drop))?;
    steadily(BACK, || check(node.agent.status()?.phase == "ready", || node.agent.log()))
}

/// A host that was switched from one iptables to the other while it had our chains.
#[test]
fn what_is_ours_in_the_other_iptables_goes_while_the_agent_runs_and_when_it_is_handed_back() -> Result {
    let lab = lab!();
    let (_etcd, [mut node, _other]) = cluster::<2>(&lab, DUAL)?;
    let leave = || {
        node.host.namespace().sh("for t in iptables-legacy ip6tables-legacy; do
                $t -N WIRE-FORWARD; $t -A WIRE-FORWARD -j ACCEPT; $t -I FORWARD -j WIRE-FORWARD; $t -t raw -N WIRE-RAW
                $t -N WIREGUARD; $t -A FORWARD -j WIREGUARD
            done")
    };
    let left = || node.host.namespace().sh("iptables-legacy-save; ip6tables-legacy-save");
    let only_others = || {
        let rules = left()?;
        check(!rules.contains("WIRE-") && rules.matches("-A FORWARD -j WIREGUARD").count() == 2, || rules)
    };
    leave()?;
    node.host.namespace().sh("nft add table ip others")?;
    eventually(BACK, only_others)?;
    node.host.namespace().sh("for t in iptables-legacy ip6tables-legacy; do $t -F; $t -X; done")?;
    leave()?;
    let run_dir = format!("--run-dir={}", node.agent.run_dir().display());
    let words = ["hand-back", "--firewall-only", &run_dir];
    let refused = run_binary(Some(node.host.namespace()), &words)?;
    check(refused.status.code() == Some(75), || format!("while it runs: {refused:?}"))?;
    node.agent.terminate()?;
    let output = run_binary(Some(node.host.namespace()), &words)?;
    check(output.status.success(), || format!("{output:?}"))?;
    only_others()
}

/// The iptables of a family.
const fn tables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// What Docker 28 puts for each container and each bridge, also where the dockerd here is an older one, which has nothing in
/// ip6tables: there its chains come as a dockerd brings them when it starts, in front of everyone's.
pub(crate) fn drop_as_docker_28(seat: &Seat, family: Family) -> Result {
    let (t, address) = (tables(family), seat.container.address(family)?);
    seat.sh(&format!(
        "if {t} -N DOCKER 2>/dev/null; then
             {t} -P FORWARD DROP; {t} -I FORWARD -o docker0 -j DOCKER
             {t} -I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             {t} -N DOCKER-USER 2>/dev/null && {t} -A DOCKER-USER -j RETURN; {t} -I FORWARD -j DOCKER-USER
         fi
         {t} -t raw -A PREROUTING -d {address} ! -i docker0 -j DROP; {t} -A DOCKER ! -i docker0 -o docker0 -j DROP"
    ))
    .map(drop)
}

#[test]
fn dockers_drops_stop_the_underlay_and_not_the_overlay() -> Result {
    dockers_drops(&lab!(), V4, Family::V4)
}

#[test]
fn dockers_drops_of_ipv6_stop_the_underlay_and_not_the_overlay() -> Result {
    dockers_drops(&lab!(), DUAL, Family::V6)
}

fn dockers_drops(lab: &Lab, config: &str, family: Family) -> Result {
    let (_etcd, [mut one, other]) = seats(lab, config, &["--ip-masq"])?;
    eprintln!("docker {}", one.docker.docker(&["version", "--format", "{{.Server.Version}}"])?.trim());
    drop_as_docker_28(&one, family)?;
    drop_as_docker_28(&other, family)?;
    one.connects_over(family, &other)?;
    other.connects_over(family, &one)?;
    // A container of the underlay's own side has no lease: it comes in by eth0.
    let outside = lab.host("outside")?;
    let network = match family {
        Family::V4 => "10.5.0.0/16",
        Family::V6 => "fd00:5::/32",
    };
    outside.namespace().ip(&format!("route add {network} via {}", one.node.host.on_underlay(family)))?;
    check(!outside.pings(one.container.address(family)?), || "the underlay reaches a container".to_owned())?;
    // Without ours no connection comes in, so that this says something: each of the two places drops on its own.
    one.node.agent.terminate()?;
    let (t, target) = (tables(family), one.container.address(family)?);
    for (table, chain) in [("raw", "WIRE-RAW"), ("filter", "WIRE-FORWARD")] {
        let rules = one.sh(&format!("{t}-save -t {table} | grep -- '-A {chain} '; {t} -t {table} -F {chain}"))?;
        check(!other.container.pings(target, 1), || format!("Docker's drops do not drop without {chain}"))?;
        rules.lines().try_for_each(|rule| one.sh(&format!("{t} -t {table} {rule}")).map(drop))?;
        check(other.container.pings(target, 1), || format!("nothing passes with {chain} as it was"))?;
    }
    // And it is Docker's drops that the underlay fails at.
    one.sh(&format!("{t} -t raw -F PREROUTING; {t} -F DOCKER"))?;
    check(outside.reaches(target), || "the underlay has no way to a container".to_owned())
}
