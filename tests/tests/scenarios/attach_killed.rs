//! The agent is killed under many attaches at a time: what was answered stands.

use std::{collections::BTreeSet, net::IpAddr, thread};

use nix::sys::signal::Signal;
use serde_json::Value;
use wire_tests::{LabError, Result, check, eventually, lab};

use crate::{
    attach_site::{Made, addresses, ctl, json, of_guest, silent, sites, states},
    cluster::{Node, START, V4},
};

const GUESTS: usize = 50;

/// The answer to a command: the addresses, of which there are none while it waits.
struct Answer {
    guest: String,
    addresses: Vec<IpAddr>,
}

/// Attaches all at a time. Returns the answers of those that were kept, and the number of others.
fn attach_all(node: &Node, guests: &[Made], meanwhile: impl FnOnce() -> Result) -> Result<(Vec<Answer>, usize)> {
    let attach = |guest: &Made| -> Result<Option<Answer>> {
        let output = node.agent.run_with_its_flags(&format!("attach {} app --json", guest.path()))?;
        if !matches!(output.status.code(), Some(0 | 4)) {
            return Ok(None);
        }
        let unread = |error| LabError::Wrong(format!("attach: {error}: {output:?}"));
        let reply: Value = serde_json::from_slice(&output.stdout).map_err(unread)?;
        Ok(Some(Answer { guest: format!("netns:{}", guest.path()), addresses: addresses(&reply["attachment"]) }))
    };
    let (answers, done) = thread::scope(|scope| {
        let running: Vec<_> = guests.iter().map(|guest| scope.spawn(|| attach(guest))).collect();
        let done = meanwhile();
        let answers: Vec<_> = running.into_iter().map(|one| one.join().expect("it does not panic")).collect();
        (answers, done)
    });
    done?;
    let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
    let kept: Vec<Answer> = answers.into_iter().flatten().collect();
    let others = guests.len() - kept.len();
    Ok((kept, others))
}

#[test]
fn of_fifty_attaches_at_a_time_each_that_was_answered_before_the_agent_was_killed_stands() -> Result {
    let lab = lab!();
    let (_etcd, mut sites) = sites::<1>(&lab, V4, false)?;
    ctl(&sites[0].node, "network create app")?;
    let made = (0..GUESTS).map(|number| Made::of(&sites[0].node, &format!("g{number}"))).collect::<Result<Vec<_>>>()?;
    let node = &sites[0].node;
    let kill = || {
        let some = || {
            let attached = states(node).unwrap_or_default().iter().filter(|(_, state)| state == "attached").count();
            check(attached > 2, || format!("{attached} are attached"))
        };
        let begun = eventually(START, some);
        node.agent.signal(Signal::SIGKILL)?;
        begun.map(drop)
    };
    let (answered, _) = attach_all(node, &made, kill)?;
    println!("{} of {GUESTS} were answered", answered.len());
    let node = &mut sites[0].node;
    node.agent.kill();
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    let node = &sites[0].node;
    for Answer { guest, addresses: told } in &answered {
        let stands = || {
            let all = of_guest(node, guest)?;
            let has = all.first().map(addresses).unwrap_or_default();
            let is_told = told.is_empty() || has == *told;
            check(all.len() == 1 && all[0]["state"] == "attached" && is_told, || format!("told {told:?}: {all:?}"))
        };
        eventually(START, stands)?;
    }
    // All at a time again: nobody is refused since the helper has too much to do.
    let (kept, others) = attach_all(node, &made, || Ok(()))?;
    check(others == 0 && kept.len() == GUESTS, || format!("{others} were refused\n{}", node.agent.log()))?;
    let all_attached = || {
        let all = json(node, "attachments")?;
        let all = all.as_array().cloned().unwrap_or_default();
        let given: Vec<IpAddr> = all.iter().flat_map(addresses).collect();
        let apart: BTreeSet<IpAddr> = given.iter().copied().collect();
        let attached = all.iter().filter(|one| one["state"] == "attached").count();
        check((attached, given.len(), apart.len()) == (GUESTS, GUESTS, GUESTS), || {
            format!("{attached} attached, {given:?}\n{}", node.agent.log())
        })
    };
    eventually(START, all_attached)?;
    silent(&sites)?;
    drop(made);
    Ok(())
}
