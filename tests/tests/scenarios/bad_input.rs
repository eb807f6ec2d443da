//! Bad input is refused by name, and a healthy peer added after it is programmed within a second.

use std::{collections::BTreeMap, time::Duration};

use wire_tests::{Agent, AgentSpec, Etcd, Family, Refused, Result, check, eventually, lab};

use crate::cluster::{DUAL, Node, PROMPT, START, V4, cluster, device, exact, peer, phase};

#[test]
fn a_bad_network_config_ends_the_first_start_with_status_78_and_its_name() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    let host = lab.host("a")?;
    let vxlan = r#""Backend":{"Type":"vxlan"}"#;
    for (config, because) in [
        ("not json".to_owned(), "not JSON"),
        ("[]".to_owned(), "no JSON object"),
        (format!("{{{vxlan}}}"), "no Network"),
        (format!(r#"{{"Network":"10.5.0.0/16","SubnetLen":8,{vxlan}}}"#), "SubnetLen is 8"),
        (format!(r#"{{"Network":"10.5.0.0/16","SubnetLen":31,{vxlan}}}"#), "SubnetLen is 31"),
        (format!(r#"{{"Network":"10.5.0.0/24","SubnetLen":25,{vxlan}}}"#), "SubnetLen is 25"),
        (
            format!(r#"{{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0",{vxlan}}}"#),
            "SubnetMin is 10.5.9.0",
        ),
        (format!(r#"{{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0",{vxlan}}}"#), "SubnetMin"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}"#.to_owned(), "Backend.VNI"),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#.to_owned(),
            "Backend.VNI is 16777216",
        ),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"pigeon"}}"#.to_owned(), "pigeon"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#.to_owned(), "not in this version"),
    ] {
        etcd.put_config(&config)?;
        let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
        let status = agent.wait(START)?;
        check(status.code() == Some(78), || format!("{config}: {status}\n{}", agent.log()))?;
        check(agent.log().contains(because), || format!("{config}: no {because:?} in\n{}", agent.log()))?;
    }
    Ok(())
}

#[test]
fn a_config_that_goes_bad_while_running_is_reported_and_never_applied() -> Result {
    let lab = lab!();
    let (etcd, [node]) = cluster::<1>(&lab, V4)?;
    etcd.put_config("not json")?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains("not JSON"), || reason)?;
    etcd.put_config(r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan"}}"#)?;
    eventually(PROMPT, || {
        let reason = node.agent.status()?.reason.unwrap_or_default();
        check(reason.contains("restart"), || reason)
    })?;
    let newcomer = peer(20, &[Family::V4]);
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(PROMPT, || exact(&etcd, &[&node], &[Family::V4]))?;
    etcd.put_config(V4)?;
    phase(&node.agent, "ready").map(drop)
}

/// A key under subnets/, a value, and the kind of its refusal.
fn bad_leases(own_public: &str) -> Vec<(Vec<u8>, Vec<u8>, &'static str)> {
    let good = |public: &str, mac: &str| {
        format!(
            r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        )
    };
    let (ip, mac) = ("172.20.0.77", "02:cc:00:00:00:01");
    let value = |text: String| text.into_bytes();
    let mut rows: Vec<(Vec<u8>, Vec<u8>, &str)> = vec![
        (b"10.5.70.0-24".into(), b"xx{".into(), "value"),
        (b"10.5.71.0-24".into(), b"".into(), "value"),
        (b"10.5.72.0-24".into(), b"[]".into(), "value"),
        (b"10.5.73.0-24".into(), b"null".into(), "value"),
        (b"10.5.74.0-24".into(), vec![b'x'; 1_500_000], "value"),
        (b"10.5.75.0-24".into(), b"\xff\xfe\x00".into(), "value"),
        (b"10.5.76.0-24".into(), value(good(ip, "zz:cc:00:00:00:01")), "value"),
        (b"10.5.77.0-24".into(), value(good(ip, "02:cc")), "value"),
        (b"10.5.78.0-24".into(), value(good(ip, "ff:ff:ff:ff:ff:ff")), "mac"),
        (b"10.5.79.0-24".into(), value(good(ip, "00:00:00:00:00:00")), "mac"),
        (b"10.5.80.0-24".into(), value(good("0.0.0.0", mac)), "value"),
        (b"10.5.81.0-24".into(), value(good(own_public, mac)), "own-ip"),
        (b"10.5.82.0-24".into(), value(good("127.0.0.1", mac)), "public-ip"),
        (b"10.5.83.0-24".into(), value(good("224.0.0.1", mac)), "public-ip"),
        (b"10.5.84.0-24".into(), value(good("255.255.255.255", mac)), "public-ip"),
        (b"10.5.85.0-24".into(), value(good("10.5.1.1", mac)), "public-ip"),
        (b"192.168.64.0-24".into(), value(good(ip, mac)), "subnet"),
        (b"0.0.0.0-0".into(), value(good(ip, mac)), "subnet"),
        (b"10.5.0.0-8".into(), value(good(ip, mac)), "key"),
        (b"nonsense".into(), value(good(ip, mac)), "key"),
        (b"10.5.86.0-24&".into(), value(good(ip, mac)), "key"),
        (b"10.5.87.\xff-24".into(), value(good(ip, mac)), "key"),
    ];
    rows.sort();
    rows
}

#[test]
fn each_bad_lease_is_refused_by_name_and_hides_no_healthy_peer() -> Result {
    let lab = lab!();
    let (mut etcd, [mut node, other]) = cluster::<2>(&lab, V4)?;
    let prefix = format!("{}/subnets/", Etcd::PREFIX);
    let rows = bad_leases(&node.host.v4().to_string());
    let mut gateway = etcd.gateway()?;
    let known = other_peer(&node, &other)?;
    for (number, (name, value, kind)) in rows.iter().enumerate() {
        let key: Vec<u8> = prefix.bytes().chain(name.iter().copied()).collect();
        gateway.put(&key, value)?;
        let healthy = peer(20 + u16::try_from(number).unwrap(), &[Family::V4]);
        gateway.put(healthy.key().as_bytes(), healthy.value().as_bytes())?;
        let what = || format!("after {}", String::from_utf8_lossy(name));
        let mut expected = vec![known.clone()];
        expected.extend(
            (0..=number)
                .filter_map(|number| peer(20 + u16::try_from(number).unwrap(), &[Family::V4]).expected(Family::V4)),
        );
        eventually(PROMPT, || wire_tests::expect_peers(&node.host, device(Family::V4), Family::V4, &expected))
            .map_err(|error| wire_tests::LabError::Wrong(format!("{}: {error:?}", what())))?;
        let refused = node.agent.peers()?.refused;
        // A key that is no UTF-8 is shown as far as it can be.
        let shown = String::from_utf8_lossy(name).split('\u{fffd}').next().map(str::to_owned).unwrap_or_default();
        let row =
            refused.iter().find(|refused| refused.key.rsplit('/').next().is_some_and(|key| key.starts_with(&shown)));
        check(row.is_some_and(|row: &Refused| row.kind == *kind && !row.reason.is_empty()), || {
            format!("{}: {row:?}", what())
        })?;
    }
    refuses(&node, rows.len(), 1)?;

    // Listed again, none of them is named again.
    etcd.kill(0);
    etcd.restart(0)?;
    let last = peer(20 + u16::try_from(rows.len()).unwrap(), &[Family::V4]);
    etcd.put(&last.key(), &last.value())?;
    let knows = |node: &Node| check(node.agent.peers()?.peers.len() == rows.len() + 2, || node.agent.log());
    eventually(START, || knows(&node))?;
    refuses(&node, rows.len(), 1)?;

    // A new start refuses the same, and names each once.
    node.agent.terminate()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    eventually(PROMPT, || knows(&node))?;
    refuses(&node, rows.len(), 2)
}

/// Checks that so many entries are refused, and none was named more than once in a start.
fn refuses(node: &Node, entries: usize, starts: usize) -> Result {
    /// So many lines are written at once: strangers must not fill the log.
    const LINES: usize = 20;
    let counted = node.agent.status()?.rest["refused"].clone();
    let total: u64 = counted.as_object().unwrap().values().filter_map(serde_json::Value::as_u64).sum();
    check(total == entries as u64, || format!("{entries} bad rows, but {counted}"))?;
    let log = node.agent.log();
    let lines = log.lines().filter(|line| line.contains("lease refused"));
    let mut named = BTreeMap::new();
    lines.for_each(|line| *named.entry(line.split_once(" key=").map(|(_, rest)| rest)).or_insert(0) += 1);
    let right = named.len() >= LINES.min(entries) && named.values().all(|times| *times <= starts);
    check(right && named.values().any(|times| *times == starts), || format!("{named:#?}, {starts} starts"))
}

fn other_peer(node: &Node, other: &Node) -> Result<wire_tests::ExpectedPeer> {
    let mac = other.host.kernel().link(device(Family::V4))?.unwrap().address;
    let _ = node;
    Ok(wire_tests::ExpectedPeer { subnet: other.vtep(Family::V4)?, len: 24, public: other.host.v4().into(), mac })
}

#[test]
fn the_underlays_own_subnet_cannot_be_led_into_the_overlay() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"192.168.0.0/16","SubnetMax":"192.168.15.0","Backend":{"Type":"vxlan"}}"#)?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    for name in ["192.168.64.0-24", "192.168.64.0-25", "192.168.64.128-26"] {
        let value = r#"{"PublicIP":"172.20.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:cc:00:00:00:01"}}"#;
        etcd.put(&format!("{}/subnets/{name}", Etcd::PREFIX), value)?;
        eventually(PROMPT, || {
            let refused = node.agent.peers()?.refused;
            check(refused.iter().any(|row| row.key.ends_with(name) && row.kind == "overlap"), || format!("{refused:?}"))
        })?;
    }
    wire_tests::expect_peers(&node.host, device(Family::V4), Family::V4, &[])
}

#[test]
fn a_lease_is_refused_while_another_link_of_the_host_has_an_address_in_it() -> Result {
    let lab = lab!();
    let (etcd, [node, other]) = cluster::<2>(&lab, V4)?;
    let overlap = format!("{}/32 dev lo", other.vtep(Family::V4)?);
    node.host.namespace().ip(&format!("address add {overlap}"))?;
    eventually(PROMPT, || {
        let refused = node.agent.peers()?.refused;
        check(refused.iter().any(|row| row.kind == "overlap"), || format!("{refused:?}"))
    })?;
    node.host.namespace().ip(&format!("address delete {overlap}"))?;
    eventually(PROMPT, || exact(&etcd, &[&node, &other], &[Family::V4])).map(drop)
}

#[test]
fn without_cap_net_admin_it_ends_with_status_77_and_the_remedy() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    let mut spec = AgentSpec::new(etcd.agent_flags());
    spec.wrapper = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"].map(str::to_owned).to_vec();
    let mut agent = Agent::spawn(&lab.host("a")?, spec)?;
    let status = agent.wait(START)?;
    check(status.code() == Some(77), || format!("{status}\n{}", agent.log()))?;
    check(agent.log().contains("CAP_NET_ADMIN"), || agent.log())
}

#[test]
fn an_interface_that_no_link_can_be_ends_it_with_status_68() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = lab.host("a")?;
    for never in ["lo", "127.0.0.1", "::1", "0.0.0.0", "ff02::1", "a-name-that-is-too-long", "eth0/1"] {
        let mut spec = AgentSpec::new(etcd.agent_flags());
        spec.flags.retain(|flag| !flag.starts_with("--iface"));
        let mut agent = Agent::spawn(&host, spec.flag(&format!("--iface={never}")))?;
        let status = agent.wait(START)?;
        let told = status.code() == Some(68) && agent.log().contains(&format!("--iface={never}"));
        check(told, || format!("{never}: {status}\n{}", agent.log()))?;
    }
    Ok(())
}

#[test]
fn etcd_away_at_the_start_and_a_config_that_is_late_are_waited_for() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    etcd.kill(0);
    let mut agent = Agent::spawn(&lab.host("a")?, AgentSpec::new(etcd.agent_flags()))?;
    let reason = phase(&agent, "waiting")?;
    eventually(START, || {
        let reason = agent.status()?.reason.unwrap_or_default();
        check(reason.contains("etcd"), || format!("it says {reason:?}, first {reason:?}"))
    })?;
    etcd.restart(0)?;
    eventually(Duration::from_secs(10), || {
        let reason = agent.status()?.reason.unwrap_or_default();
        check(reason.contains("/coreos.com/network/config"), || format!("it says {reason:?} after {reason:?}"))
    })
    .map_err(|error| wire_tests::LabError::Wrong(format!("{error:?}, first {reason}")))?;
    etcd.put_config(DUAL)?;
    eventually(PROMPT, || check(agent.ready_after().is_some(), || agent.log()))?;
    agent.wait_ready(START).map(drop)
}
