//! The helper of root is missing or killed: what is attached stays, and what needs the helper says how to start it.

use wire_tests::{Result, check, eventually, lab};

use crate::{
    attach_site::{Made, attach, ctl, has_link, helper, of_guest, port, refused, silent, sites, states},
    cluster::{START, V4},
};

#[test]
fn without_the_helper_attachments_stay_and_are_repaired_and_new_ones_name_the_remedy_until_it_is_back() -> Result {
    const REMEDY: &str = "start it with systemctl enable --now wire-agent-guests.socket";
    let lab = lab!();
    let (_etcd, mut sites) = sites::<2>(&lab, V4, false)?;
    ctl(&sites[0].node, "network create app")?;
    let (near, far) = (Made::of(&sites[0].node, "near")?, Made::of(&sites[1].node, "far")?);
    let late = Made::of(&sites[0].node, "late")?;
    attach(&sites[0].node, &format!("{} app", near.path()))?;
    let other = attach(&sites[1].node, &format!("{} app", far.path()))?;
    let socket = sites[0].node.agent.run_dir().join("guests.sock");
    let kept = format!("netns:{}", near.path());
    sites[0].helper.kill();
    // Killed, and then missing.
    for is_missing in [false, true] {
        if is_missing {
            std::fs::remove_file(&socket).map_err(wire_tests::LabError::io("cannot remove the helper's socket"))?;
        }
        let (status, said) = refused(&sites[0].node, &format!("attach {} app", late.path()))?;
        check(status == Some(69) && said.contains(REMEDY), || format!("{status:?} {said}"))?;
        check(states(&sites[0].node)? == [(kept.clone(), "attached".to_owned())], || {
            format!("{:?}", states(&sites[0].node))
        })?;
        // A link is made again by what was opened before.
        let node = &sites[0].node;
        node.host.namespace().ip(&format!("link delete {}", port(node, &kept)?))?;
        eventually(START, || near.pings(other[0]))?;
    }
    // Another agent has nothing open: the links stay, and it says what is missing.
    sites[0].node.agent.kill();
    sites[0].node.agent.restart()?;
    sites[0].node.agent.wait_ready(START)?;
    let says_remedy = || {
        let all = of_guest(&sites[0].node, &kept)?;
        let said = all[0]["reason"].as_str().unwrap_or_default();
        check(all[0]["state"] == "blocked" && said.contains(REMEDY), || format!("{all:?}"))
    };
    eventually(START, says_remedy)?;
    near.pings(other[0])?;
    let port = port(&sites[0].node, &kept)?;
    check(has_link(&sites[0].node, &port)?, || "the port is gone".to_owned())?;
    sites[0].helper = helper(&sites[0].node, "/nobody/listens.sock")?;
    let is_attached = || {
        let all = states(&sites[0].node)?;
        check(all == [(kept.clone(), "attached".to_owned())], || format!("{all:?}\n{}", sites[0].node.agent.log()))
    };
    eventually(START, is_attached)?;
    near.pings(other[0])?;
    let new = attach(&sites[0].node, &format!("{} app", late.path()))?;
    eventually(START, || far.pings(new[0]))?;
    silent(&sites)
}
