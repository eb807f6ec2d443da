//! The rules that a flowtable adds to the table.

use super::*;

/// Our table on a host with these links.
fn table_with(flowtable: bool, hookable: &[&str]) -> DesiredTable {
    let hookable = hookable.iter().map(|link| name(link)).collect();
    let facts = HostFacts { bridges: [name("docker0")].into(), hookable, ..HostFacts::default() };
    let policy = FirewallPolicy { flowtable, ..policy(true) };
    wanted_around(&policy, &[2], &facts).table.unwrap()
}

#[test]
fn without_the_switch_or_the_links_it_needs_nothing_of_it_is_there() {
    let links = ["docker0", "flannel.1", "flannel-v6.1"];
    let without = table_with(false, &[]);
    assert_eq!(table_with(false, &links), without);
    for missing in [&[][..], &["docker0"], &["flannel.1", "flannel-v6.1"]] {
        assert_eq!(table_with(true, missing), without, "{missing:?}");
    }
    assert!(!nft::put_table(&without).contains("flow add"));
    let with = table_with(true, &links);
    let put = ObservedTable::from(&with);
    assert!(!put.is_built_as(&without) && put.is_built_as(&with));
    // All else is as it was.
    let chains: Vec<&String> = with.chains.keys().filter(|name| !without.chains.contains_key(*name)).collect();
    assert_eq!(chains, ["emerging-v4", "emerging-v6", "flows"]);
    assert!(without.chains.iter().all(|(name, chain)| with.chains.get(name) == Some(chain)));
}

#[test]
fn what_was_answered_between_containers_and_the_overlay_is_put_into_it() {
    let text = nft::put_table(&table_with(true, &["docker0", "flannel.1"]));
    let lines = text.lines().filter(|line| line.contains("flow") || line.contains("emerging"));
    let lines: Vec<&str> = lines.map(|line| line.split(" comment ").next().unwrap()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    add flowtable inet wire-agent overlay { hook ingress priority 0; devices = { "docker0", "flannel.1" }; }
    add chain inet wire-agent emerging-v4 { type filter hook ingress device "flannel.1" priority -1; policy accept; }
    add chain inet wire-agent flows { type filter hook forward priority 300; policy accept; }
    add rule inet wire-agent emerging-v4 meta priority != 7769:0 counter name "strangers" drop
    add rule inet wire-agent flows oifname "flannel.1" ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 meta l4proto { tcp, udp } ct state established flow add @overlay
    add rule inet wire-agent flows iifname "flannel.1" ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 meta l4proto { tcp, udp } ct state established flow add @overlay
    "#);
}

#[test]
fn one_without_a_link_that_is_there_or_with_flags_is_another_one() {
    let links = ["docker0", "flannel.1", "flannel-v6.1"];
    let want = table_with(true, &links);
    let change = |change: fn(&mut Flowtable)| {
        let mut have = ObservedTable::from(&want);
        change(have.flowtables.get_mut("overlay").unwrap());
        let have = ObservedFirewall { table: Some(have), ..ObservedFirewall::default() };
        plan(&have, &DesiredFirewall { table: Some(want.clone()), ..DesiredFirewall::default() }).ops
    };
    assert_eq!(change(|_| {}), []);
    // The state that the kernel leaves when the device was created again.
    assert_eq!(
        change(|table| table.devices.retain(|device| *device != name("flannel.1"))),
        [FirewallOp::PutTable(want.clone())]
    );
    assert_eq!(change(|table| table.flags = 1), [FirewallOp::PutTable(want.clone())]);
}
