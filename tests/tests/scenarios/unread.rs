//! A reader that has gone, as `head -1` has after a line, ends no command before its work is done, and no agent.

use std::{io::pipe, process::Command};

use wire_tests::{AgentSpec, Etcd, LabError, Result, binary, check, lab};

use crate::cluster::{Node, V4};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

#[test]
fn each_command_ends_with_its_own_status_whether_or_not_anybody_reads_what_it_says() -> Result {
    let lab = lab!();
    let env = lab.run().dir().join("subnet.env").display().to_string();
    std::fs::write(&env, "FLANNEL_SUBNET=10.5.7.1/24\n").map_err(LabError::io("cannot write subnet.env"))?;
    let nowhere = format!("--run-dir={}", lab.run().dir().join("none").display());
    let folder = lab.run().dir().join("generated").display().to_string();
    for (words, status) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["--no-such-flag"], 64),
        (&["config", "validate", CONFIG], 0),
        (&["config", "validate", "{}"], 78),
        (&["docker-opts", "-f", &env, "-d", "-"], 0),
        (&["docker-opts", "-f", "/nowhere", "-d", "-"], 1),
        (&["generate", &folder], 0),
        (&[&nowhere, "status"], 69),
        (&[&nowhere, "peers", "--json"], 69),
    ] {
        let unread = || pipe().map(|(_, writer)| writer).map_err(LabError::io("cannot make a pipe"));
        let mut command = Command::new(binary()?);
        let ended = command.args(words).stdout(unread()?).stderr(unread()?).status();
        let code = ended.map_err(LabError::io("cannot run wire-agent"))?.code();
        check(code == Some(status), || format!("{words:?}: {code:?} instead of {status}"))?;
    }
    Ok(())
}

#[test]
fn an_agent_whose_log_nobody_reads_any_more_runs_on_and_answers() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let wrapper = ["bash", "-c", "exec \"$@\" 2> >(exec true)", "bash"].map(str::to_owned).into();
    let mut node = Node::with(lab.host("a")?, AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) })?;
    node.host.namespace().sh("sleep 0.2; nft flush ruleset")?;
    node.agent.spec_mut().wrapper.clear();
    for word in ["status", "peers"] {
        let unread = node.agent.run_unread(word)?;
        check(unread.success(), || format!("{word}: {unread}"))?;
    }
    check(node.agent.is_running(), || "it has ended".to_owned())
}
