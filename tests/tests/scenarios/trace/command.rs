//! The command `wire-agent trace`, as a person uses it.

use serde_json::Value;
use wire_tests::{Comparison, Family, LabError, Result, check, lab};

use crate::{cluster::Node, verify::settled};

fn traced(node: &Node, words: &[&str]) -> Result<Comparison> {
    node.agent.compare(&[&["trace"], words].concat())
}

fn expect_last(answer: &Comparison, status: i32, line: &str) -> Result {
    check(answer.status == Some(status), || format!("{answer:?}"))?;
    check(answer.lines().last() == Some(line), || format!("{answer:?}"))
}

#[test]
fn a_packet_is_followed_to_its_peer_and_its_drop_is_the_last_line() -> Result {
    let lab = lab!();
    let (_etcd, mut node) = settled(&lab)?;
    let answer = traced(&node, &["10.5.100.9"])?;
    check(answer.status == Some(0), || format!("{answer:?}"))?;
    for part in [
        "route 10.5.100.0/24 via 10.5.100.0 dev flannel.1",
        "neighbour 10.5.100.0",
        "FDB entry of ",
        "VNI 1",
        "sent to ",
    ] {
        check(answer.text.contains(part), || format!("{part}: {answer:?}"))?;
    }
    let json = traced(&node, &["10.5.100.9", "--port", "53/udp", "--json"])?;
    let report: Value = serde_json::from_str(&json.text).map_err(|error| LabError::Wrong(error.to_string()))?;
    check(report["outcome"]["kind"] == "sent", || format!("{report}"))?;
    check(report["sent"]["udp_port"] == 8472, || format!("{report}"))?;
    node.agent.kill();
    node.host.namespace().ip("neigh del 10.5.100.0 dev flannel.1")?;
    let answer = traced(&node, &["10.5.100.9"])?;
    expect_last(&answer, 1, "dropped: no neighbour entry for 10.5.100.0 on flannel.1")?;
    node.host.namespace().sh("nft add table inet foreign")?;
    let answer = traced(&node, &["10.5.100.9"])?;
    check(answer.text.contains("not looked at: table inet foreign"), || format!("{answer:?}"))?;
    let own = node.vtep(Family::V4)?.to_string();
    expect_last(&traced(&node, &[&own])?, 0, &format!("delivered: {own} is an address of this host"))
}

#[test]
fn what_cannot_be_followed_ends_with_another_status() -> Result {
    let lab = lab!();
    let (_etcd, node) = settled(&lab)?;
    let families = traced(&node, &["10.5.100.9", "--from", "fd00:5::1"])?;
    check(families.status == Some(64), || format!("{families:?}"))?;
    node.host.namespace().ip("rule add fwmark 7 lookup 77")?;
    let marked = traced(&node, &["10.5.100.9"])?;
    check(marked.status == Some(69), || format!("{marked:?}"))?;
    check(marked.lines().last().is_some_and(|line| line.contains("fwmark")), || format!("{marked:?}"))
}
