//! etcd with TLS and passwords, and of three members.

use std::{
    fs,
    time::{Duration, Instant},
};

use wire_tests::{Access, AgentSpec, Etcd, Family, Lab, LabError, Monitor, Result, check, eventually, lab, measured};

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
        measured("known-with-a-member-lost", last)?;
        check(last < PROMPT, || format!("member {member}: known after {last:?}\n{}", node.agent.log()))?;
        node.agent.kill();
        node.agent.restart()?;
        node.agent.wait_ready(START)?;
        etcd.restart(member)?;
        settle(&etcd, &[&node], &[Family::V4])?;
    }
    phase(&node.agent, "ready").map(drop)
}

/// The user `host`, with a password and the role that README gives it.
const USER: [&str; 6] = [
    "role add wire",
    "role grant-permission wire --prefix=true readwrite /coreos.com/network/subnets",
    "role grant-permission wire read /coreos.com/network/config",
    "role grant-permission wire --prefix=true readwrite /coreos.com/network/wire/",
    "user add host --new-user-password first",
    "user grant-role host wire",
];

#[test]
fn a_new_password_and_a_role_granted_again_are_taken_without_a_restart() -> Result {
    let lab = lab!();
    let etcd = Etcd::start_with(&lab, Access::Password, 1)?;
    etcd.put_config(V4)?;
    let root = |words: &str| etcd.ctl(&words.split(' ').collect::<Vec<_>>()).map(drop);
    USER.into_iter().try_for_each(root)?;
    let host = lab.host("a")?;
    let file = host.dir().join("password");
    let password = |text: &str| fs::write(&file, text).map_err(LabError::io("cannot write the password"));
    password("first\n")?;
    let flags = vec![
        format!("--etcd-endpoints={}", etcd.endpoints()),
        "--etcd-username=host".to_owned(),
        format!("--etcd-password-file={}", file.display()),
    ];
    let node = Node::with(host, AgentSpec::new(flags))?;
    let own = etcd.leases()?.first().map(wire_tests::Stored::key).unwrap_or_default();
    let newcomer = peer(20, &[Family::V4]);
    etcd.put(&newcomer.key(), &newcomer.value())?;
    settle(&etcd, &[&node], &[Family::V4])?;

    root("role revoke-permission wire --prefix=true /coreos.com/network/wire/")?;
    etcd.delete(&own)?;
    let told = phase(&node.agent, "degraded")?;
    let named = told.contains("readwrite on /coreos.com/network/wire/") && !told.contains("password");
    check(named, || told.clone())?;
    exact(&etcd, &[&node], &[Family::V4])?;
    root(USER[3])?;
    phase(&node.agent, "ready")?;

    ["user delete host", "user add host --new-user-password second", USER[5]].into_iter().try_for_each(root)?;
    etcd.delete(&own)?;
    let told = phase(&node.agent, "degraded")?;
    check(told.contains("check the user host and its password"), || told.clone())?;
    exact(&etcd, &[&node], &[Family::V4])?;
    password("second\n")?;
    phase(&node.agent, "ready")?;
    check(etcd.get(&own)?.is_some(), || format!("{own} is not held any more"))?;
    let log = node.agent.log();
    check(!log.contains("first") && !log.contains("second"), || format!("a password is in the log:\n{log}"))
}
