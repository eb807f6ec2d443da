//! Sentences about the parts of our table of nftables.

use super::*;
use crate::{ChainPolicy, ObservedBaseChain};

/// The sentence about the table after it was changed.
fn told_of_table(change: impl FnOnce(&mut ObservedTable)) -> String {
    told_after(|have| change(have.table.as_mut().unwrap()))
}

fn told_of_chain(change: impl FnOnce(&mut ObservedBaseChain)) -> String {
    told_of_table(|table| change(table.chains.get_mut("incoming").unwrap()))
}

fn told_of_rules(change: impl FnOnce(&mut Vec<ObservedRule>)) -> String {
    told_of_chain(|chain| change(&mut chain.rules))
}

fn told_of_set(set: &str, change: impl FnOnce(&mut Set)) -> String {
    told_of_table(|table| change(table.sets.get_mut(set).unwrap()))
}

fn told_of_flowtable(change: impl FnOnce(&mut Flowtable)) -> String {
    told_of_table(|table| change(table.flowtables.get_mut("overlay").unwrap()))
}

#[test]
fn a_table_is_named_alone() {
    assert_eq!(told_after(|have| have.table = None), "table inet wire-agent is missing");
    assert_eq!(
        told_of_table(|table| table.flags = 1),
        "table inet wire-agent is dormant, and should not be: none of its rules has an effect"
    );
    assert_eq!(told_of_table(|table| table.flags = 2), "table inet wire-agent has the flags 0x2, and should have 0x0");
}

#[test]
fn a_chain_is_named_with_its_place_and_policy() {
    let chain = "chain incoming of inet wire-agent";
    assert_eq!(told_of_table(|table| table.chains.clear()), format!("{chain} is missing, and 3 rules in it"));
    assert_eq!(
        told_of_table(|table| {
            let other = table.chains["incoming"].clone();
            table.chains.insert("other".to_owned(), other);
        }),
        "chain other of inet wire-agent should not be there"
    );
    assert_eq!(
        told_of_chain(|chain| chain.attachment = None),
        format!("{chain} is at none of our places, and should be at filter input priority -10")
    );
    assert_eq!(
        told_of_chain(|chain| chain.attachment = Some(Attachment::ingress(name("eth0"), 5))),
        format!("{chain} is at filter ingress priority 5 of eth0, and should be at filter input priority -10")
    );
    assert_eq!(
        told_of_chain(|chain| chain.policy = ChainPolicy::Drop),
        format!("{chain} has the policy drop, and should have accept: packets that no rule matches are dropped")
    );
}

#[test]
fn a_rule_is_named_by_its_purpose() {
    assert_eq!(told_of_rules(|rules| drop(rules.remove(1))), "rule 2 of chain incoming (let in before) is missing");
    assert_eq!(
        told_of_rules(|rules| rules[0] = ObservedRule::Altered),
        "rule 1 of chain incoming (strangers) was altered by somebody else, and should be as before"
    );
    assert_eq!(
        told_of_rules(|rules| rules[2] = ObservedRule::Marked(Rule::new("peers", "of old".to_owned()).mark)),
        "rule 3 of chain incoming (peers) is of another version, and should be replaced"
    );
    assert_eq!(
        told_of_rules(|rules| rules.rotate_left(1)),
        "rule 1 of chain incoming (strangers) is out of order, as number 3 of its chain"
    );
}

#[test]
fn a_rule_that_should_not_be_there_is_named_with_who_put_it_there() {
    assert_eq!(
        told_of_rules(|rules| rules.insert(0, ObservedRule::Unmarked)),
        "rule found as number 1 in chain incoming was put there by somebody else, and should not be there"
    );
    assert_eq!(
        told_of_rules(|rules| rules.push(ObservedRule::Altered)),
        "rule found as number 4 in chain incoming was altered by somebody else, and should not be there"
    );
    assert_eq!(
        told_of_rules(|rules| rules.push(ObservedRule::Marked(rule("former").mark))),
        "rule found as number 4 in chain incoming (former) should not be there"
    );
    assert_eq!(
        told_of_rules(|rules| rules.push(rules[2].clone())),
        "rule found as number 4 in chain incoming (peers) should not be there"
    );
}

#[test]
fn a_set_is_named_with_its_content() {
    assert_eq!(
        told_of_table(|table| drop(table.sets.remove("peers-v4"))),
        "set peers-v4 of inet wire-agent is missing, and 1 element in it"
    );
    assert_eq!(
        told_of_table(|table| {
            table.sets.insert("old".to_owned(), Set { kind: SetKind::Links, elements: imbl::OrdSet::new() });
        }),
        "set old of inet wire-agent should not be there"
    );
    let cases = [
        (SetKind::Links, "names of links"),
        (SetKind::Leases(Family::V6), "IPv6 subnets of hosts"),
        (SetKind::Subnets(Family::V4, 24), "IPv4 subnets of hosts of length 24"),
        (SetKind::Seen(Family::V4), "IPv4 addresses seen in packets"),
        (SetKind::Claims(Family::V4), "IPv4 sources seen in packets"),
    ];
    for (kind, words) in cases {
        assert_eq!(
            told_of_set("peers-v4", |set| set.kind = kind),
            format!("set peers-v4 of inet wire-agent is for {words}, and should be for IPv4 addresses")
        );
    }
}

#[test]
fn an_element_is_named_with_the_sender_whose_packets_it_concerns() {
    assert_eq!(
        told_of_set("leases-v4", |set| set.elements.clear()),
        "element 10.5.3.0/24 of 192.0.2.3 in set leases-v4 is missing: packets from 10.5.3.0/24 of host 192.0.2.3 are dropped"
    );
    assert_eq!(
        told_of_set("subnets-v4-24", |set| {
            set.elements.insert(Element::Subnet(host(9), subnet(9)));
        }),
        "element 10.5.9.0/24 of 192.0.2.9 in set subnets-v4-24 should not be there: packets from 10.5.9.0/24 of host \
         192.0.2.9 are accepted"
    );
    assert_eq!(told_of_set("bridges", |set| set.elements.clear()), "element docker0 in set bridges is missing");
    // Inner sources are checked too, so that the address alone decides nothing.
    assert_eq!(told_of_set("peers-v4", |set| set.elements.clear()), "element 192.0.2.3 in set peers-v4 is missing");
}

#[test]
fn where_only_addresses_are_checked_an_element_decides_about_packets() {
    let mut want = wanted();
    want.table.as_mut().unwrap().sets.remove("leases-v4");
    let mut have = held(&want);
    let elements = &mut have.table.as_mut().unwrap().sets.get_mut("peers-v4").unwrap().elements;
    *elements = [Element::Address(host(9))].as_slice().into();
    assert_eq!(
        told(&have, &want),
        [
            "element 192.0.2.3 in set peers-v4 is missing: packets from 192.0.2.3 are dropped",
            "element 192.0.2.9 in set peers-v4 should not be there: packets from 192.0.2.9 are accepted",
        ]
    );
}

#[test]
fn counters_and_flowtables_are_named() {
    let overlay = "flowtable overlay of inet wire-agent";
    assert_eq!(told_of_table(|table| table.counters.clear()), "counter spoofed of inet wire-agent is missing");
    assert_eq!(
        told_of_table(|table| {
            table.counters.insert("old".to_owned());
        }),
        "counter old of inet wire-agent should not be there"
    );
    assert_eq!(told_of_table(|table| table.flowtables.clear()), format!("{overlay} is missing"));
    assert_eq!(
        told_of_table(|table| drop(table.flowtables.insert("old".to_owned(), Flowtable::default()))),
        "flowtable old of inet wire-agent should not be there"
    );
    assert_eq!(
        told_of_flowtable(|flowtable| flowtable.flags = 1),
        format!("{overlay} has the flags 0x1, and should have 0x0")
    );
    assert_eq!(
        told_of_flowtable(|flowtable| flowtable.priority = 5),
        format!("{overlay} has the priority 5, and should have 0")
    );
    assert_eq!(told_of_flowtable(|flowtable| flowtable.devices.clear()), format!("{overlay} lacks eth0, flannel.1"));
    assert_eq!(
        told_of_flowtable(|flowtable| {
            flowtable.devices.insert(name("eth1"));
        }),
        format!("{overlay} has eth1, and should not")
    );
}
