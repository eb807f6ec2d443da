//! `wire-agent network` on hosts of a real underlay, against a real etcd.

use serde_json::Value;
use wire_tests::{Etcd, Host, Result, check, lab, run_binary};

/// The output of a command, and its status.
struct Answer {
    status: Option<i32>,
    out: String,
    err: String,
}

fn network(etcd: &Etcd, host: &Host, words: &[&str]) -> Result<Answer> {
    let flags = [format!("--etcd-endpoints={}", etcd.endpoints()), format!("--etcd-prefix={}", Etcd::PREFIX)];
    let all: Vec<&str> = flags.iter().map(String::as_str).chain(["network"]).chain(words.iter().copied()).collect();
    let output = run_binary(Some(host.namespace()), &all)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Answer { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}{}", answer.out, answer.err))
}

fn refused(answer: &Answer, status: i32, reason: &str) -> Result {
    check(answer.status == Some(status) && answer.err.contains(reason), || {
        format!("{:?}: {}", answer.status, answer.err)
    })
}

#[test]
fn a_network_is_made_shown_changed_and_removed_by_commands_of_any_host() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#)?;
    let (one, other) = (lab.host("a")?, lab.host("b")?);

    let made = network(&etcd, &one, &["create", "app", "--ipv6", "--label", "tier=web", "--json"])?;
    let record = json(&made);
    assert_eq!((&record["name"], &record["labels"]["tier"]), (&"app".into(), &"web".into()), "{}", made.out);
    assert!(record["vni"].as_u64().is_some_and(|vni| vni >= 4096));
    assert!(record["ipv4"]["pool"].as_str().is_some_and(|pool| pool.starts_with("10.") && pool.ends_with("/20")));
    assert!(record["ipv6"]["pool"].as_str().is_some_and(|pool| pool.starts_with("fd57:") && pool.ends_with("/64")));
    refused(&network(&etcd, &other, &["create", "app"])?, 1, "there is a network app already")?;
    let second = json(&network(&etcd, &other, &["create", "web", "--json"])?);
    assert_ne!((&second["ipv4"], &second["vni"]), (&record["ipv4"], &record["vni"]));

    let all = json(&network(&etcd, &other, &["ls", "--json"])?);
    let names: Vec<&str> = all.as_array().unwrap().iter().filter_map(|network| network["name"].as_str()).collect();
    assert_eq!(names, ["default", "app", "web"]);
    let listed = network(&etcd, &other, &["ls"])?;
    check(listed.out.contains("10.5.0.0/16") && listed.out.contains("admitted"), || listed.out.clone())?;
    let inspected = network(&etcd, &other, &["inspect", "app"])?;
    check(inspected.out.contains("labels tier      web"), || inspected.out.clone())?;
    refused(&network(&etcd, &other, &["inspect", "none"])?, 1, "there is no network none")?;

    let changed = network(&etcd, &other, &["update", "app", "--broadcast=false", "--remove-label=tier", "--json"])?;
    assert_eq!(
        (&json(&changed)["broadcast"], json(&changed)["labels"].as_object().map(serde_json::Map::len)),
        (&false.into(), Some(0))
    );
    refused(&network(&etcd, &other, &["update", "app"])?, 64, "nothing to change is given")?;

    // A host with a container on it keeps it.
    let member = format!("{}/wire/members/app/{:032x}", Etcd::PREFIX, 7);
    etcd.put(&member, r#"{"PublicIP":"192.0.2.7","Port":8472}"#)?;
    refused(&network(&etcd, &one, &["rm", "app", "web"])?, 1, "in use on 192.0.2.7")?;
    assert_eq!(network(&etcd, &one, &["rm", "--force", "app"])?.out, "app is removed\n");
    let left: Vec<String> = etcd
        .list(&format!("{}/wire/", Etcd::PREFIX))?
        .into_iter()
        .map(|stored| String::from_utf8(stored.key).unwrap())
        .collect();
    check(left.iter().all(|key| key.contains("/wire/vnis/") || key.ends_with("/wire/networks-changed")), || {
        format!("{left:?}")
    })
}

#[test]
fn a_network_that_cannot_be_is_refused_by_a_sentence_and_nothing_is_written() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#)?;
    let host = lab.host("a")?;
    host.exec("ip route add blackhole 10.200.0.0/16")?;
    for (words, status, reason) in [
        (&["create", "app", "-o", "encrypted"][..], 64, "does not encrypt the packets of a network"),
        (&["create", "default"], 1, "\"default\" is the flat network"),
        (&["rm", "default"], 1, "\"default\" is the flat network"),
        (&["create", "a/b"], 64, "is no network name"),
        (&["create", "app", "--subnet=10.5.64.0/20"], 1, "overlaps 10.5.0.0/16, the flat network"),
        (&["create", "app", "--subnet=10.200.0.0/20"], 1, "overlaps 10.200.0.0/16, a route of this host"),
        (&["create", "app", "--subnet=10.201.0.0/30"], 64, "from /8 to /29"),
        (&["create", "app", "--mtu=20"], 64, "from 68 to 65535"),
        (&["rm", "none"], 1, "there is no network none"),
    ] {
        refused(&network(&etcd, &host, words)?, status, reason)?;
    }
    let left = etcd.list(&format!("{}/wire/", Etcd::PREFIX))?;
    check(left.is_empty(), || format!("{} keys", left.len()))
}
