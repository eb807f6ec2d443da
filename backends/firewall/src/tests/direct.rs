//! The rules for packets without encapsulation.

use super::*;

fn direct(dual: bool) -> FirewallPolicy {
    FirewallPolicy { direct: Some(name("eth0")), ..policy(dual) }
}

/// The lines that rules have more with direct packets than without.
fn more(with: &DesiredFirewall, without: &DesiredFirewall) -> String {
    let (with, without) = (scripts(with), scripts(without));
    let known: BTreeSet<&str> = without.lines().collect();
    with.lines().filter(|line| !known.contains(line)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn direct_packets_of_peers_alone_are_let_in_and_marked_for_docker() {
    let facts = HostFacts { docker: DockerRules::Marked, ..HostFacts::default() };
    let with = wanted_over(&direct(true), &[2, 3], &facts, Some("eth0"));
    let without = wanted_over(&policy(true), &[2, 3], &facts, Some("eth0"));
    insta::assert_snapshot!(more(&with, &without));
}

#[test]
fn without_an_overlay_device_only_direct_packets_are_judged() {
    let own = peer(1, true).subnet;
    let peers = all_of(&[2, 3], true).into_iter();
    let want = direct(true).desired(own, &peers, &DualStack::default(), &HostFacts::default());
    insta::assert_snapshot!(scripts(&want));
}

fn keys_of(set: &crate::direct::DirectSet, leased: &str) -> Vec<String> {
    set.elements(leased.parse().unwrap()).map(|element| element.to_string()).collect()
}

#[test]
fn a_lease_of_another_length_counts_as_the_usual_subnets_it_is_or_is_in() {
    let set = crate::direct::DirectSet { name: "direct-v4-24".to_owned(), len: 24 };
    let keys = |leased: &str| keys_of(&set, leased);
    assert_eq!(keys("10.5.2.0/24"), ["10.5.2.0/24"]);
    assert_eq!(keys("10.5.2.0/23"), ["10.5.2.0/24", "10.5.3.0/24"]);
    assert_eq!(keys("10.5.2.64/26"), ["10.5.2.0/24"]);
    assert_eq!(keys("10.5.0.0/16").len(), 256);
    assert_eq!(keys("10.4.0.0/15").len(), 0);
}

#[test]
fn whoever_may_send_our_own_sources_never_come_from_outside() {
    let open = FirewallPolicy { senders: Senders::Anyone, ..direct(false) };
    let with = wanted_over(&open, &[2], &HostFacts::default(), Some("eth0"));
    let text = scripts(&with);
    assert!(text.contains("ip saddr 10.5.1.0/24 ip daddr 10.5.1.0/24 counter name \"spoofed\" drop"), "{text}");
    assert!(!text.contains("@direct"), "{text}");
}
