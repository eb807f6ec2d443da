//! Row 8: etcd with TLS and passwords, and of three members.

use std::time::Duration;

use wire_tests::{Access, Etcd, Family, Lab, Result, check, eventually, lab};

use crate::cluster::{Node, START, V4, exact, peer, phase, promptly, settle};

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
    for member in 0..3 {
        etcd.kill(member);
        etcd.wait_ready(Duration::from_secs(10))?;
        let newcomer = peer(20 + u16::try_from(member).unwrap(), &[Family::V4]);
        etcd.put(&newcomer.key(), &newcomer.value())?;
        // The watch moves to another member in under a second where the machine is idle, and the put itself may have waited for an
        // election.
        eventually(Duration::from_secs(6), || exact(&etcd, &[&node], &[Family::V4]))?;
        node.agent.kill();
        node.agent.restart()?;
        node.agent.wait_ready(START)?;
        etcd.restart(member)?;
        settle(&etcd, &[&node], &[Family::V4])?;
    }
    phase(&node.agent, "ready").map(drop)
}
