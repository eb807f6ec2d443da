//! Row 8: etcd with TLS and passwords, and of three members.

use std::time::{Duration, Instant};

use wire_tests::{Access, Etcd, Family, Lab, Monitor, Result, check, eventually, lab};

use crate::cluster::{Node, PROMPT, START, V4, device, exact, peer, phase, promptly, settle};

#[test]
fn the_agent_works_with_client_certificates() -> Result {
    works(&lab!(), Access::ClientCertificates)
}

#[test]
fn the_agent_works_with_a_ca_alone() -> Result {
    works(&lab!(), Access::CaAlone)
}

#[test]
fn the_agent_works_with_user_and_password() -> Result {
    works(&lab!(), Access::Password)
}

fn works(lab: &Lab, access: Access) -> Result {
    let etcd = Etcd::start_with(lab, access, 1)?;
    etcd.put_config(V4)?;
    let mut node = Node::start(lab.host("a")?, &etcd)?;
    let newcomer = peer(20, &[Family::V4]);
    promptly(|| etcd.put(&newcomer.key(), &newcomer.value()), || exact(&etcd, &[&node], &[Family::V4]))?;
    check(!node.agent.log().contains(Etcd::USER.1), || "the password is in the log".to_owned())?;
    node.agent.terminate()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    exact(&etcd, &[&node], &[Family::V4])
}

#[test]
fn one_of_three_members_may_die_whichever_it_is() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start_with(&lab, Access::Open, 3)?;
    etcd.put_config(V4)?;
    let mut node = Node::start(lab.host("a")?, &etcd)?;
    let index = node.host.kernel().link(device(Family::V4))?.unwrap().index;
    for member in 0..3 {
        let monitor = Monitor::listen(node.host.namespace())?;
        etcd.kill(member);
        // Until the others have elected one of them, nobody can be told anything.
        etcd.wait_ready(Duration::from_secs(10))?;
        let writes = monitor.writes(index)?;
        check(writes.is_empty(), || format!("member {member}: the kernel was written: {writes:?}"))?;
        let newcomer = peer(20 + u16::try_from(member).unwrap(), &[Family::V4]);
        let begun = Instant::now();
        etcd.put(&newcomer.key(), &newcomer.value())?;
        eventually(PROMPT * 6, || exact(&etcd, &[&node], &[Family::V4]))?;
        let last = monitor.changes()?.last().map(|change| change.at - begun).unwrap_or_default();
        println!("member {member}: a newcomer is known after {last:?}");
        check(last < PROMPT, || format!("member {member}: known after {last:?}\n{}", node.agent.log()))?;
        node.agent.kill();
        node.agent.restart()?;
        node.agent.wait_ready(START)?;
        etcd.restart(member)?;
        settle(&etcd, &[&node], &[Family::V4])?;
    }
    phase(&node.agent, "ready").map(drop)
}
