//! With a real dockerd on each host: containers reach each other and the outside, and are reached, by Docker's own
//! network and by networks of its users; and nothing of Docker notices a restart of the agent.

use std::{path::PathBuf, thread, time::Duration};

use nix::sys::signal::Signal;
use wire_tests::{AgentSpec, Etcd, Family, Host, Lab, LossMeter, Result, check, control_run, eventually, lab};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, families, path, settle},
    seat::{BACK, Seat, seats, seats_by, until_done},
};

#[test]
fn containers_reach_all_and_are_reached_where_forwarding_was_on_and_we_masquerade() -> Result {
    reach_all(&lab!(), &["--ip-masq"], Seat::new).map(drop)
}

#[test]
fn containers_reach_all_and_are_reached_where_forwarding_was_on_and_docker_masquerades() -> Result {
    reach_all(&lab!(), &[], Seat::new).map(drop)
}

#[test]
fn containers_reach_all_and_are_reached_where_forwarding_was_off_and_we_masquerade() -> Result {
    reach_all(&lab!(), &["--ip-masq"], Seat::of_former_docker).map(drop)
}

#[test]
fn containers_reach_all_and_are_reached_where_forwarding_was_off_and_docker_masquerades() -> Result {
    reach_all(&lab!(), &[], Seat::of_former_docker).map(drop)
}

#[test]
fn containers_reach_all_and_are_reached_on_networks_of_users_where_docker_has_none() -> Result {
    let own = |host, etcd: &Etcd, flags: &[&str]| Seat::with_own_network(host, etcd, flags, [&["--bridge=none"], &[]]);
    let (_etcd, seats) = reach_all(&lab!(), &["--ip-masq"], own)?;
    seats.iter().try_for_each(on_a_bridge_of_users)
}

#[test]
fn containers_reach_all_and_are_reached_on_networks_of_users_where_docker_has_another() -> Result {
    let own =
        |host, etcd: &Etcd, flags: &[&str]| Seat::with_own_network(host, etcd, flags, [&["--bip=172.31.0.1/24"], &[]]);
    let (_etcd, seats) = reach_all(&lab!(), &[], own)?;
    seats.iter().try_for_each(on_a_bridge_of_users)
}

/// Docker's drop between containers of one bridge comes behind ours where Docker is started after the agent, as it must be.
#[test]
fn containers_that_docker_keeps_apart_do_not_reach_each_other_and_peers_reach_them() -> Result {
    let lab = lab!();
    let dockerd: &[&str] = &["--bridge=none", "--experimental", "--ip6tables"];
    let apart: &[&str] = &["-o", "com.docker.network.bridge.enable_icc=false"];
    let (_etcd, [mut one, other]) =
        seats_by(&lab, DUAL, |host, etcd| Seat::with_own_network(host, etcd, &[], [dockerd, apart]))?;
    let second = one.run(&[])?;
    let rules = one.sh("iptables -S FORWARD; ip6tables -S FORWARD")?;
    let behind = |rules: &str| rules.find("-j WIRE-POLICY") < rules.find("-j DROP");
    let (v4, v6) = rules.rsplit_once("-P FORWARD").unwrap_or_default();
    check(behind(v4) && behind(v6) && v6.contains("-j DROP"), || format!("Docker's drops are not behind: {rules}"))?;
    for family in Family::ALL {
        let address = second.address(family)?;
        check(other.container.pings(address, 2), || format!("a peer's container does not reach {address}"))?;
        check(!one.container.pings(address, 1), || format!("the one beside it reaches {address}"))?;
    }
    Ok(())
}

/// Docker drops all that enters or leaves such a network, behind our chain that lets the overlay through.
#[test]
fn a_network_that_docker_keeps_internal_stays_closed_to_peers() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let dockerd: &[&str] = &["--bridge=none", "--experimental", "--ip6tables"];
    let [one, other] = lab.hosts::<2>()?;
    let one = Seat::with_own_network(one, &etcd, &[], [dockerd, &["--internal"]])?;
    let other = Seat::with_own_network(other, &etcd, &[], [dockerd, &[]])?;
    settle(&etcd, &[&one.node, &other.node], &Family::ALL)?;
    let namespace = format!("nsenter --net=/proc/{}/ns/net", one.container.pid()?);
    for (family, overlay) in Family::ALL.into_iter().zip(["10.5.0.0/16", "fd00:5::/32"]) {
        // Docker gives its containers no way out, but does not keep them from having one.
        let bridge = one.node.subnet(family)?;
        one.sh(&format!("{namespace} ip route add {overlay} via {}", bridge.split('/').next().unwrap_or_default()))?;
    }
    // As soon as Docker has said so.
    eventually(BACK, || {
        let rules = one.sh("iptables -S WIRE-FORWARD; ip6tables -S WIRE-FORWARD")?;
        check(rules.matches("-j RETURN").count() == 4, || rules)
    })?;
    reach_each_other(&one, &other, false)?;
    // That drop alone keeps them apart.
    one.sh("for t in iptables ip6tables; do $t -I FORWARD -i flannel+ -j ACCEPT; $t -I FORWARD -o flannel+ -j ACCEPT; done")?;
    reach_each_other(&one, &other, true)
}

/// Checks that the containers of two hosts reach each other, both ways and in both families, or that none does.
fn reach_each_other(one: &Seat, other: &Seat, expected: bool) -> Result {
    let mut asked = Vec::new();
    for family in Family::ALL {
        asked.push((&one.container, other.container.address(family)?));
        asked.push((&other.container, one.container.address(family)?));
    }
    // At once, since each waits for an answer that is not to come.
    let reached: Vec<_> = thread::scope(|scope| {
        let pings = asked.into_iter().map(|(from, address)| scope.spawn(move || (address, from.pings(address, 1))));
        pings.collect::<Vec<_>>().into_iter().map(|ping| ping.join().unwrap()).collect()
    });
    check(reached.iter().all(|(_, answered)| *answered == expected), || {
        format!("{reached:?}: {}", one.sh("iptables-save; ip6tables-save").unwrap_or_default())
    })
}

#[test]
fn an_operators_drop_counts_in_mangle_and_is_named_where_ours_comes_first() -> Result {
    let lab = lab!();
    let (_etcd, [one, other]) = seats(&lab, V4, &[])?;
    let (address, note) = (one.address()?, "does not drop traffic of the overlay");
    let warned = |expected: bool| {
        eventually(BACK * 2, || {
            let status = one.node.agent.status()?;
            let said = status.rest["warnings"].to_string();
            check(said.contains(note) == expected && status.phase == "ready", || format!("{}: {said}", status.phase))
        })
    };
    let rule = format!("-s 10.5.0.0/16 -d {address}/32 -p icmp -j DROP");
    one.sh(&format!("iptables -I DOCKER-USER -i eth9 -j DROP; iptables -I DOCKER-USER {rule}"))?;
    warned(true)?;
    let named = format!("-s 10.5.0.0/16 -d {address}/32 -p icmp -j DROP\\\" does not drop");
    let said = one.node.agent.status()?.rest["warnings"].to_string();
    check(said.contains(&named), || said)?;
    check(other.container.pings(address, 2), || format!("{address} is not reached"))?;
    // As README has it.
    one.sh(&format!("iptables -D DOCKER-USER {rule}; iptables -t mangle -A FORWARD {rule}"))?;
    check(!other.container.pings(address, 1), || format!("{address} is reached"))?;
    warned(false).map(drop)
}

/// As on CoreOS. What can be had in iptables is had there, until nft is there.
#[test]
fn containers_reach_all_and_are_reached_without_nft() -> Result {
    let (etcd, seats) = reach_all(&lab!(), &["--ip-masq"], |host, etcd, flags| {
        host.sysctl("net.ipv4.ip_forward", "1")?;
        let bin = programs(&host).display().to_string();
        host.namespace().sh(&format!(
            "mkdir {bin}; iptables -t nat -N FLANNEL-POSTRTG
             for program in iptables ip6tables; do for part in '' -save -restore; do ln -s $(command -v $program$part) {bin}; done; done"
        ))?;
        let wrapper = vec!["env".to_owned(), format!("PATH={bin}")];
        let spec = AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) };
        Seat::beside(Node::with(host, flags.iter().fold(spec, |spec, flag| spec.flag(flag)))?)
    })?;
    let [one, other] = &seats;
    let rules = || one.sh("nft list tables; iptables-save -t nat");
    let listed = rules()?;
    let right = listed.contains("WIRE-NAT") && !listed.contains("FLANNEL") && !listed.contains("inet wire-agent");
    check(right, || listed)?;
    let status = one.node.agent.ctl(&["status"])?;
    check(status.contains("nft is not installed: install nftables"), || status)?;

    one.sh(&format!("ln -s $(command -v nft) {}", programs(&one.node.host).display()))?;
    one.node.agent.signal(Signal::SIGHUP)?;
    // It joins anew, and that takes a busy machine its time.
    eventually(BACK * 3, || {
        let listed = rules()?;
        check(!listed.contains("WIRE-NAT") && listed.contains("inet wire-agent"), || listed)
    })?;
    settle(&etcd, &[&one.node, &other.node], &Family::ALL)?;
    one.connects(other)?;
    keeps_its_source(one, other)
}

/// Where the agent of a host finds programs.
fn programs(host: &Host) -> PathBuf {
    host.dir().join("bin")
}

/// The packet filter knows the bridge by its address alone.
fn on_a_bridge_of_users(seat: &Seat) -> Result {
    eventually(BACK * 4, || {
        let set = seat.sh("nft list set inet wire-agent bridges")?;
        check(set.contains("\"br-") && !set.contains("docker0"), || set)
    })?;
    let status = seat.node.agent.status()?;
    let warnings = &status.rest["warnings"];
    check(status.phase == "ready" && *warnings == serde_json::json!([]), || format!("{:?}: {warnings}", status.reason))
}

fn reach_all(
    lab: &Lab,
    flags: &[&str],
    seat: impl Fn(Host, &Etcd, &[&str]) -> Result<Seat>,
) -> Result<(Etcd, [Seat; 2])> {
    let (etcd, mut seats) = seats_by(lab, DUAL, |host, etcd| seat(host, etcd, flags))?;
    let [one, other] = &mut seats;
    eprintln!("docker {}", one.docker.docker(&["version", "--format", "{{.Server.Version}}"])?.trim());
    one.connects(other)?;
    other.connects(one)?;
    keeps_its_source(one, other)?;
    let outside = lab.host("outside")?;
    // Docker before 27 masquerades IPv4 alone.
    let masqueraded: &[Family] = if flags.contains(&"--ip-masq") { &Family::ALL } else { &[Family::V4] };
    for family in masqueraded {
        // The outside has no route to containers: without masquerading it could not answer.
        let leaked = lab.count(match family {
            Family::V4 => "ip saddr 10.5.0.0/16",
            Family::V6 => "ip6 saddr fd00:5::/32",
        })?;
        let address = outside.on_underlay(*family);
        check(one.container.pings(address, 2), || format!("no answer from {address} outside"))?;
        let leaked = leaked.packets()?;
        check(leaked == 0, || format!("{leaked} packets left with a container's address"))?;
    }
    publishes(one, other, &outside)?;
    Ok((etcd, seats))
}

/// Containers of other hosts see a container's own address.
fn keeps_its_source(one: &Seat, other: &Seat) -> Result {
    other.sh("nft add table inet probe; nft add chain inet probe c '{ type filter hook forward priority 400; }'")?;
    for family in families(DUAL) {
        let (ip, device, request) = match family {
            Family::V4 => ("ip", "flannel.1", "icmp type echo-request"),
            Family::V6 => ("ip6", "flannel-v6.1", "icmpv6 type echo-request"),
        };
        let source = one.container.address(*family)?;
        other.sh(&format!("nft add rule inet probe c iifname {device} {ip} saddr {source} {request} counter"))?;
        let target = other.container.address(*family)?;
        check(one.container.pings(target, 2), || format!("no answer from {target}"))?;
    }
    let counted = other.sh("nft list table inet probe; nft delete table inet probe")?;
    check(counted.matches("packets 2 ").count() == 2, || format!("the other host sees {counted}"))
}

/// A port that a container publishes is reached from containers of other hosts and from outside, the container's own from the
/// overlay.
fn publishes(one: &mut Seat, other: &Seat, outside: &Host) -> Result {
    let server = one.run(&["--publish", "5080:5080"])?;
    let listen = ["exec", "-d", server.name(), "sh", "-c", "while true; do echo served | nc -l -p 5080 -w 5; done"];
    one.docker.docker(&listen)?;
    let ask = |address| until_done(&format!("busybox nc -w 2 {address} 5080 < /dev/null"));
    let host = one.node.host.v4().into();
    for address in [host, server.address(Family::V4)?] {
        let answer = other.inside(&[], &ask(address))?;
        check(answer.contains("served"), || format!("{address}:5080 answers {answer:?}"))?;
    }
    let answer = outside.namespace().sh(&ask(host))?;
    check(answer.contains("served"), || format!("from outside {host}:5080 answers {answer:?}"))
}

#[test]
fn a_running_container_and_its_docker_do_not_notice_a_restart_of_the_agent() -> Result {
    let lab = lab!();
    let (_etcd, [mut one, other]) = seats(&lab, V4, &["--ip-masq"])?;
    let path = path(&lab, (&other.node.host, other.node.vtep(Family::V4)?), (&one.node.host, one.address()?));
    control_run(&path)?;
    let life = |seat: &Seat| Ok((seat.docker.pid()?, seat.container.inspect()?["State"].clone()));
    let before = life(&one)?;
    let meter = LossMeter::start(&path)?;
    one.node.agent.kill();
    thread::sleep(Duration::from_millis(500));
    one.node.agent.restart()?;
    one.node.agent.wait_ready(START)?;
    thread::sleep(PROMPT);
    one.node.agent.signal(Signal::SIGHUP)?;
    eventually(START, || check(one.node.agent.log().contains("joining anew"), || one.node.agent.log()))?;
    lab.rest(BACK);
    meter.stop_without_loss()?;
    let after = life(&one)?;
    check(after == before, || format!("{before:?} became {after:?}"))
}
