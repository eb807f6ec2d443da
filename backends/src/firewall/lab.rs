//! On the real kernel, each test in a fresh network namespace of its own. What is there is checked through `nft` and
//! `iptables`.

mod senders;

use std::time::Duration;

use wire_lease::Family;

use super::{
    Element, FirewallDataplane, FirewallMonitor, Masquerade, Nftables, Senders, SetChange,
    netfilter::Netfilter,
    tests::{bounded, policy, wanted, wanted_around, wanted_with},
};
use crate::{
    ErrorKind, Failure, NetState, Reconciler, Scope,
    dataplane::tests::lab::{drop_privileges, in_namespace, run, runtime},
};

fn reconciler() -> Reconciler<FirewallDataplane> {
    Reconciler::new(FirewallDataplane::open(Family::ALL.to_vec()).unwrap(), Scope::default())
}

fn want(peers: &[u8]) -> NetState {
    NetState { firewall: wanted(&policy(true), peers, &["docker0"]), ..NetState::default() }
}

fn ruleset() -> String {
    run("nft -s list ruleset; iptables-save | grep -v '^#'; ip6tables-save | grep -v '^#'")
}

/// A round after somebody has changed something, as the agent makes it.
fn repair(reconciler: &mut Reconciler<FirewallDataplane>, want: &NetState) -> crate::Report {
    if reconciler.dataplane().has_changed() {
        reconciler.doubt();
    }
    reconciler.round(want)
}

#[test]
fn what_was_put_is_read_back_as_wanted_and_nothing_is_written_again() {
    in_namespace(|| {
        let mut first = reconciler();
        let report = first.round(&want(&[2, 3]));
        assert!(report.converged, "{report:?}");
        let whole = ruleset();
        // Somebody who knows nothing, as after a restart.
        let mut again = reconciler();
        let report = again.round(&want(&[2, 3]));
        assert!(report.converged && report.read_back, "{report:?}");
        assert_eq!((report.written, report.removed), (0, 0));
        assert!(!first.dataplane().has_changed() && !again.dataplane().has_changed());
        assert_eq!(ruleset(), whole);
        // All choices can be made and unmade in place.
        for masquerade in [Masquerade::Off, Masquerade::Plain] {
            for senders in [Senders::Anyone, Senders::Peers] {
                for forward in [false, true] {
                    let policy = super::FirewallPolicy { masquerade, senders, forward, ..policy(true) };
                    let want = NetState { firewall: wanted(&policy, &[2], &[]), ..NetState::default() };
                    assert!(again.round(&want).converged);
                    again.doubt();
                    let report = again.round(&want);
                    assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
                }
            }
        }
        assert!(again.round(&NetState::default()).converged);
        let rest = ruleset();
        assert!(!rest.to_lowercase().contains("wire"), "{rest}");
    });
}

#[test]
fn without_nftables_iptables_keeps_and_changes_sources() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let choices = [Masquerade::Random, Masquerade::Plain, Masquerade::Off]
            .map(|masquerade| [policy(true), bounded()].map(|policy| super::FirewallPolicy { masquerade, ..policy }));
        for policy in choices.into_iter().flatten() {
            let masquerade = policy.masquerade;
            let around = super::Surroundings { nftables: Nftables::Absent, ..super::Surroundings::default() };
            let want = NetState { firewall: wanted_around(&policy, &[2], &around), ..NetState::default() };
            assert!(reconciler.round(&want).converged);
            reconciler.doubt();
            let report = reconciler.round(&want);
            assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
            let masquerades = run("iptables -t nat -S WIRE-NAT").matches("MASQUERADE").count();
            assert_eq!(masquerades, if masquerade == Masquerade::Off { 0 } else { 2 });
        }
        // The table comes back, and they go.
        assert!(reconciler.round(&want(&[2])).converged);
        assert!(!ruleset().contains("WIRE-NAT"));
    });
}

#[test]
fn a_set_follows_the_peers_and_the_rules_stay() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2, 3])).converged);
        let rules = run("nft -a list table inet wire-agent | grep comment");
        let report = reconciler.round(&want(&[3, 4]));
        assert!(report.converged);
        assert_eq!(report.written, 1, "all sets in one transaction");
        assert!(!reconciler.dataplane().has_changed());
        assert_eq!(run("nft -a list table inet wire-agent | grep comment"), rules);
        let set = run("nft list set inet wire-agent peers-v4");
        assert!(set.contains("192.0.2.3, 192.0.2.4") && !set.contains("192.0.2.2"), "{set}");
    });
}

#[test]
fn sets_that_do_not_fit_into_one_message_are_changed_at_once_or_not_at_all() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let want = |peers| NetState { firewall: wanted_with(&policy(false), peers), ..NetState::default() };
        assert!(reconciler.round(&want(1)).converged);
        // 66 messages.
        let report = reconciler.round(&want(16_000));
        assert!(report.converged && report.written == 1, "{report:?}");
        assert!(!reconciler.dataplane().has_changed());
        reconciler.doubt();
        assert_eq!(reconciler.round(&want(16_000)).written, 0);
        // Taking out what is not there fails, and with it all else.
        let [there, absent] = ["198.51.0.9", "192.0.2.66"].map(|text| Element::Address(text.parse().unwrap()));
        let change = |remove| SetChange { add: [Element::Address([192, 0, 2, 77].into())].into(), remove };
        let change = |remove| [("peers-v4".to_owned(), change(remove))].into();
        let mut netfilter = Netfilter::open().unwrap();
        let error = netfilter.change_sets(&change([there, absent].into())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Absent);
        assert!(!reconciler.dataplane().has_changed());
        netfilter.change_sets(&change([there].into())).unwrap();
        assert!(repair(&mut reconciler, &want(16_000)).written == 1);
    });
}

/// What anyone may do to it, each a shell script.
const DAMAGES: [&str; 13] = [
    "nft flush ruleset",
    "nft delete table inet wire-agent",
    "nft add table inet wire-agent '{ flags dormant; }'",
    "nft flush chain inet wire-agent sources",
    "nft flush set inet wire-agent peers-v4",
    "nft add element inet wire-agent peers-v6 { 2001:db8::66 }",
    "nft insert rule inet wire-agent encapsulated-in accept",
    "nft flush chain inet wire-agent encapsulated-in; nft add rule inet wire-agent encapsulated-in accept comment \\\"strangers\\\"",
    "iptables -F",
    "ip6tables -t raw -F",
    "iptables -F WIRE-FORWARD",
    "ip6tables -I FORWARD 1 -s 2001:db8::7 -j DROP",
    "iptables -t raw -I PREROUTING 1 -d 10.5.1.2/32 ! -i docker0 -j DROP",
];

#[test]
fn whatever_anyone_does_to_it_is_seen_and_put_right() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let want = want(&[2, 3]);
        assert!(reconciler.round(&want).converged);
        let whole = ruleset();
        for damage in DAMAGES {
            let stranger = damage.contains("-I ");
            run(damage);
            let report = repair(&mut reconciler, &want);
            assert!(report.converged && report.written > 0, "{damage}: {report:?}");
            if stranger {
                run(&damage.replace("-I FORWARD 1", "-D FORWARD").replace("-I PREROUTING 1", "-D PREROUTING"));
            }
            let now = ruleset();
            // After a flush tables come back in another order.
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&now), sorted(&whole), "{damage}");
            repair(&mut reconciler, &want);
            assert!(!reconciler.dataplane().has_changed(), "{damage}");
        }
    });
}

#[test]
fn a_rule_that_was_altered_under_its_mark_is_put_right() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let want = want(&[2]);
        assert!(reconciler.round(&want).converged);
        let rule = run("nft -a list chain inet wire-agent encapsulated-in | grep 'nfproto ipv4 counter'");
        let (rule, handle) = rule.trim().split_once(" # handle ").unwrap();
        let altered = rule.replace(" drop ", " accept ").replace('"', "\\\"");
        run(&format!("nft replace rule inet wire-agent encapsulated-in handle {handle} {altered}"));
        assert!(repair(&mut reconciler, &want).written > 0);
        assert!(run("nft list chain inet wire-agent encapsulated-in").contains("\"strangers\" drop"));
    });
}

#[test]
fn the_monitor_hears_of_both_kinds_of_rules_and_the_echo_of_our_own_is_known() {
    in_namespace(|| {
        let runtime = runtime();
        let _inside = runtime.enter();
        let mut monitor = FirewallMonitor::open().unwrap();
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        let mut heard = || {
            let wait = tokio::time::timeout(Duration::from_millis(300), monitor.changed());
            runtime.block_on(async { wait.await.is_ok() })
        };
        assert!(heard() && !reconciler.dataplane().has_changed());
        assert!(!heard());
        for change in ["iptables -A FORWARD -s 192.0.2.7 -j DROP", "nft add table ip others"] {
            run(change);
            assert!(heard() && reconciler.dataplane().has_changed(), "{change}");
            reconciler.doubt();
            assert_eq!(reconciler.round(&want(&[2])).written, 0);
        }
    });
}

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
        let broken = super::Rule::new("broken", "no such expression".to_owned());
        let table = want.firewall.tables.get_mut(&super::TableName::Ours).unwrap();
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
        reconciler.doubt();
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
        assert_eq!(reconciler.dataplane().remove_from_other_iptables().unwrap(), 0);
        let whole = ours("nft");
        run("iptables-nft -A FORWARD -s 192.0.2.7 -j DROP");
        // Docker is switched, of IPv4 alone, and back.
        run("iptables-legacy -N DOCKER; iptables-legacy -A FORWARD -s 192.0.2.8 -j DROP");
        assert!(repair(&mut reconciler, &want(&[2])).converged);
        assert_eq!(ours("nft"), whole);
        assert_eq!(reconciler.dataplane().remove_from_other_iptables().unwrap(), 3);
        assert_eq!((ours("nft"), ours("legacy")), (whole / 2, whole / 2));
        assert!(run("iptables-nft -S FORWARD").contains("192.0.2.7/32"));
        run("iptables-legacy -X DOCKER");
        assert!(repair(&mut reconciler, &want(&[2])).converged);
        assert_eq!(reconciler.dataplane().remove_from_other_iptables().unwrap(), 3);
        assert_eq!((ours("nft"), ours("legacy")), (whole, 0));
        assert!(run("iptables-legacy -S FORWARD").contains("192.0.2.8/32"));
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
        let around = reconciler.dataplane().surroundings(&subnets).unwrap();
        assert_eq!(around.bridges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["br-42"]);
        let links: Vec<_> =
            around.links.iter().map(|link| (link.name.as_str(), link.is_bridge, link.is_used)).collect();
        assert_eq!(links, [("br-42", true, false), ("dummy9", true, false)]);
        assert_eq!(around.links[1].addresses, [("10.9.1.1".parse().unwrap(), 24)]);
        assert_eq!(around.docker, super::DockerRules::Iptables);
        run(
            "nft add table ip docker-bridges; nft add chain ip docker-bridges raw-PREROUTING '{ type filter hook prerouting priority raw; }'",
        );
        let around = reconciler.dataplane().surroundings(&subnets).unwrap();
        assert_eq!(around.docker, super::DockerRules::Unmarked);
        run("nft add rule ip docker-bridges raw-PREROUTING meta mark '&' 0x1000 == 0x1000 counter accept");
        let around = reconciler.dataplane().surroundings(&subnets).unwrap();
        assert_eq!(around.docker, super::DockerRules::Marked);
        let want = NetState { firewall: wanted_around(&policy(true), &[2], &around), ..NetState::default() };
        assert!(reconciler.round(&want).converged);
        assert_eq!(run("nft list chain inet wire-agent out-of-overlay | grep -c 'mark set'").trim(), "2");
        reconciler.doubt();
        assert_eq!(reconciler.round(&want).written, 0);
    });
}

#[test]
fn without_the_capability_each_part_says_so() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        drop_privileges();
        let report = reconciler.round(&want(&[2]));
        assert!(!report.converged && !report.failures.is_empty());
    });
}

#[test]
#[ignore = "a measurement"]
fn measure_rounds_among_many_peers() {
    in_namespace(|| {
        for peers in [0, 4_000, 20_000] {
            let want =
                |more: u32| NetState { firewall: wanted_with(&policy(false), peers + more), ..NetState::default() };
            let mut reconciler = reconciler();
            let mut timed = |what: &str, want: &NetState, doubt: bool| {
                if doubt {
                    reconciler.doubt();
                }
                let begun = std::time::Instant::now();
                let report = reconciler.round(want);
                println!("{peers} peers, {what}: {:?}, {} written", begun.elapsed(), report.written);
                assert!(report.converged);
            };
            timed("all put", &want(0), true);
            timed("read again", &want(0), true);
            timed("believed", &want(0), false);
            timed("one more", &want(1), false);
            assert!(reconciler.round(&NetState::default()).converged);
        }
    });
}

/// iptables-nft says nothing of what it does not understand, and all is well to it.
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

#[test]
fn a_chain_of_ours_that_drops_what_it_does_not_name_is_put_right() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        run("nft chain inet wire-agent encapsulated-in '{ policy drop; }'");
        assert!(repair(&mut reconciler, &want(&[2])).converged);
        assert!(!run("nft list table inet wire-agent").contains("policy drop"));
    });
}

/// nft before 1.0.6 knows no bytes of a packet in the type of a set.
#[test]
fn of_an_older_nft_no_more_is_asked_than_it_knows() {
    in_namespace(|| {
        let around = super::Surroundings { nftables: Nftables::Simple, ..super::Surroundings::default() };
        let mut reconciler = reconciler();
        let want = NetState { firewall: wanted_around(&policy(true), &[2], &around), ..NetState::default() };
        assert!(reconciler.round(&want).converged);
        let rules = run("nft list table inet wire-agent");
        assert!(
            rules.contains("@peers-v4 counter name \"arrived-v4\" accept") && !rules.contains("leases-"),
            "{rules}"
        );
    });
}
