//! Our rules beside those of others: flanneld, Docker, an operator.

use wire_state::{DesiredFirewall, EmptyTables, ErrorKind, Failure, FirewallOp, Rule};

use super::{host_facts, reconciler, repair, ruleset, want};
use wire_netlink::lab::{in_namespace, run};

use crate::{
    DockerRules,
    tests::{policy, wanted_around},
};

#[test]
fn flannels_rules_go_once_ours_stand_and_nobody_elses_do() {
    in_namespace(|| {
        run("iptables -t nat -N FLANNEL-POSTRTG; iptables -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
             iptables -t nat -A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment 'flanneld masq' -j MASQUERADE --random-fully
             iptables -N FLANNEL-FWD; iptables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD
             iptables -A FLANNEL-FWD -s 10.5.0.0/16 -j ACCEPT; iptables -A FORWARD -s 192.0.2.7 -j DROP
             nft add table ip flannel-ipv4; nft add table ip6 flannel-ipv6; nft add table ip flannel-other");
        let mut reconciler = reconciler();
        let report = reconciler.round(&want(&[2]));
        assert!(report.converged, "{report:?}");
        let rest = ruleset();
        assert!(!rest.contains("FLANNEL") && !rest.contains("flannel-ipv"), "{rest}");
        assert!(rest.contains("flannel-other") && rest.contains("-A FORWARD -s 192.0.2.7/32 -j DROP"), "{rest}");
    });
}

#[test]
fn what_cannot_be_put_keeps_what_flanneld_left() {
    in_namespace(|| {
        run("nft add table ip flannel-ipv4");
        let mut want = want(&[2]);
        let broken = Rule::new("broken", "no such expression".to_owned());
        let table = want.table.as_mut().unwrap();
        table.chains.get_mut("sources").unwrap().rules.push(broken);
        let mut reconciler = reconciler();
        let report = reconciler.round(&want);
        assert!(!report.converged);
        let Failure::Op { error, .. } = &report.failures[1] else { panic!("{report:?}") };
        assert_eq!(error.kind, ErrorKind::Program);
        assert!(run("nft list tables").contains("flannel-ipv4"));
        // One that failed stops no other.
        assert!(run("iptables -S").contains("WIRE-FORWARD"));
    });
}

/// Docker's own order: it makes DOCKER-USER and puts its jumps in front of whatever is there.
#[test]
fn dockers_chains_are_passed_in_front_when_docker_starts_after_us() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        run(
            "iptables -N DOCKER; iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER; iptables -A DOCKER-USER -j RETURN",
        );
        assert!(repair(&mut reconciler, &want(&[2])).converged);
        let rules = run("iptables -S");
        let first =
            |chain: &str| rules.lines().find(|line| line.starts_with(&format!("-A {chain} "))).unwrap().to_owned();
        assert!(first("FORWARD").ends_with("-j WIRE-FORWARD"), "{rules}");
        assert!(first("DOCKER-USER").ends_with("-j WIRE-FORWARD"), "{rules}");
        assert_eq!(rules.matches("-j WIRE-FORWARD").count(), 2, "{rules}");
        assert_eq!(repair(&mut reconciler, &want(&[2])).written, 0);
    });
}

#[test]
fn the_chains_are_where_dockers_are() {
    in_namespace(|| {
        run("iptables-legacy -N DOCKER; iptables-legacy -N DOCKER-USER; iptables-legacy -A FORWARD -j DOCKER-USER");
        let mut reconciler = reconciler();
        let report = reconciler.round(&want(&[2]));
        assert!(report.converged, "{report:?}");
        assert!(run("iptables-legacy -S DOCKER-USER").contains("WIRE-FORWARD"));
        assert!(!run("iptables-nft -S").contains("WIRE"));
        // Docker has no chains of IPv6: there the host's default holds.
        assert!(run("ip6tables-nft -S").contains("WIRE-FORWARD"));
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want(&[2])).written, 0);
    });
}

#[test]
fn what_is_left_in_the_other_iptables_goes_and_what_others_have_there_stays() {
    in_namespace(|| {
        let ours = |variant: &str| {
            run(&format!("for t in iptables ip6tables; do $t-{variant}-save | grep WIRE || true; done")).lines().count()
        };
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        let whole = ours("nft");
        run("iptables-nft -A FORWARD -s 192.0.2.7 -j DROP");
        // Docker is switched, of IPv4 alone, and back.
        run("iptables-legacy -N DOCKER; iptables-legacy -A FORWARD -s 192.0.2.8 -j DROP");
        let preview = reconciler.preview(&want(&[2])).unwrap().to_string();
        assert!(preview.contains("\ndelete abandoned chain iptables filter WIRE-FORWARD\n"), "{preview}");
        assert_eq!((ours("nft"), ours("legacy")), (whole, 0));
        let report = reconciler.round(&want(&[2]));
        assert_eq!((report.removed, report.converged), (2, true), "{report:?}");
        assert_eq!((ours("nft"), ours("legacy")), (whole / 2, whole / 2));
        assert!(run("iptables-nft -S FORWARD").contains("192.0.2.7/32"));
        run("iptables-legacy -X DOCKER");
        let report = repair(&mut reconciler, &want(&[2]));
        assert_eq!((report.removed, report.converged), (2, true), "{report:?}");
        assert_eq!((ours("nft"), ours("legacy")), (whole, 0));
        assert!(run("iptables-legacy -S FORWARD").contains("192.0.2.8/32"));
        assert_eq!(repair(&mut reconciler, &want(&[2])).removed, 0);
    });
}

#[test]
fn what_is_left_in_the_other_iptables_stays_until_ours_stands() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        run("iptables-legacy -N DOCKER");
        let mut broken = want(&[2]);
        let rule = Rule::new("broken", "no such expression".to_owned());
        broken.table.as_mut().unwrap().chains.get_mut("sources").unwrap().rules.push(rule);
        assert!(!repair(&mut reconciler, &broken).converged);
        assert!(run("iptables-nft -S").contains("WIRE-FORWARD"));
        assert!(repair(&mut reconciler, &want(&[2])).converged);
        assert!(!run("iptables-nft -S").contains("WIRE"));
    });
}

#[test]
fn a_failure_in_the_other_iptables_alone_is_known_as_such() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        // The kernel deletes no chain that a map refers to, and iptables shows no maps.
        run(
            "iptables-legacy -N DOCKER; nft add map ip filter theirs '{ type ipv4_addr : verdict; elements = { 192.0.2.7 : jump WIRE-FORWARD }; }'",
        );
        let report = repair(&mut reconciler, &want(&[2]));
        let [Failure::Op { op: FirewallOp::DeleteAbandonedChain(name, ..), more: 0, .. }] = report.failures.as_slice()
        else {
            panic!("{report:?}")
        };
        assert_eq!(name.name, "WIRE-FORWARD");
        assert!(run("iptables-legacy -S").contains("WIRE-FORWARD"));
        // It holds up no other chain.
        assert!(!run("iptables-nft -S").contains("WIRE-POLICY"));
        run("nft delete map ip filter theirs");
        assert!(repair(&mut reconciler, &want(&[2])).converged);
        assert!(!run("nft list table ip filter").contains("WIRE"));
    });
}

#[test]
fn tables_that_are_empty_without_ours_are_deleted_if_desired() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        // Docker is switched, of IPv4 alone; an operator has a rule of IPv6.
        run("iptables-legacy -N DOCKER; ip6tables-nft -A FORWARD -s 2001:db8::7 -j DROP");
        let nothing = |empty_tables| DesiredFirewall { empty_tables, ..DesiredFirewall::default() };
        let mut before = crate::lab::reconciler();
        let preview = before.preview(&nothing(EmptyTables::Delete)).unwrap().to_string();
        for chain in ["abandoned chain iptables filter WIRE-FORWARD", "chain ip6tables filter WIRE-FORWARD"] {
            assert!(preview.contains(&format!("delete {chain}, and its table if that is empty\n")), "{preview}");
        }
        let report = before.round(&nothing(EmptyTables::Delete));
        assert!(report.converged, "{report:?}");
        assert_eq!(run("nft list tables").trim(), "table ip6 filter");
    });
}

/// As Docker 29's documentation has it; there was none to try.
#[test]
fn dockers_own_nftables_let_our_mark_pass_or_are_named() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let subnets = ["10.5.1.0/24".parse().unwrap()];
        run(
            "ip link add br-42 type bridge; ip addr add 10.5.1.1/26 dev br-42; ip link add dummy9 type bridge; ip addr add 10.9.1.1/24 dev dummy9",
        );
        let facts = host_facts(&mut reconciler, &subnets);
        assert_eq!(facts.bridges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["br-42"]);
        let links: Vec<_> = facts.links.iter().map(|link| (link.name.as_str(), link.is_bridge, link.is_used)).collect();
        assert_eq!(links, [("br-42", true, false), ("dummy9", true, false)]);
        assert_eq!(facts.links[1].addresses, [("10.9.1.1".parse().unwrap(), 24)]);
        assert_eq!(facts.docker, DockerRules::Iptables);
        run(
            "nft add table ip docker-bridges; nft add chain ip docker-bridges raw-PREROUTING '{ type filter hook prerouting priority raw; }'",
        );
        let facts = host_facts(&mut reconciler, &subnets);
        assert_eq!(facts.docker, DockerRules::Unmarked);
        run("nft add rule ip docker-bridges raw-PREROUTING meta mark '&' 0x1000 == 0x1000 counter accept");
        let facts = host_facts(&mut reconciler, &subnets);
        assert_eq!(facts.docker, DockerRules::Marked);
        let want = wanted_around(&policy(true), &[2], &facts);
        assert!(reconciler.round(&want).converged);
        assert_eq!(run("nft list chain inet wire-agent decapsulated | grep -c 'mark set'").trim(), "2");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want).written, 0);
    });
}

/// Rules that iptables-nft does not understand and leaves out of its output without a word.
#[test]
fn a_table_that_iptables_does_not_show_is_named_and_left_alone() {
    for (native, named) in [
        ("ct state established accept", "holds rules that iptables does not show"),
        ("meta skuid 7 accept", "unknown ipv4 meta key"),
    ] {
        in_namespace(move || {
            let mut reconciler = reconciler();
            assert!(reconciler.round(&want(&[2])).converged);
            run(&format!("nft insert rule ip filter FORWARD {native}"));
            let before = run("nft -s list table ip filter");
            for _ in 0..3 {
                let report = repair(&mut reconciler, &want(&[2]));
                assert!(!report.converged);
                let said: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
                assert!(said.concat().contains(named), "{said:?}");
            }
            assert_eq!(run("nft -s list table ip filter"), before);
            run(
                "nft delete rule ip filter FORWARD handle $(nft -a list chain ip filter FORWARD | sed -n 's/.*established.*handle //p; s/.*skuid.*handle //p')",
            );
            assert!(repair(&mut reconciler, &want(&[2])).converged);
        });
    }
}
