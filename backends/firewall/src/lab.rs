//! Tests on the real kernel, each in a network namespace of its own. The rules are checked through `nft` and
//! `iptables`.

mod bridges;
mod direct;
mod flowtable;
mod further;
mod ipip;
mod joined;
mod measure;
mod others;
mod rendered;
mod segments;
mod senders;
mod tracking;

use std::time::Duration;

use wire_net::{Family, NetworkName, Prefix};
use wire_state::{DesiredFirewall, Element, ErrorKind, OurTable, Reconciler, SetChange};

use super::{
    FirewallDataplane, FirewallMonitor, ForeignRules, HostFacts, Masquerade, Nftables, Senders, Support,
    netfilter::Netfilter,
    tests::{bounded, policy, wanted, wanted_around, wanted_with},
};
use wire_netlink::lab::{drop_privileges, in_namespace, run, runtime};

fn host_facts(reconciler: &mut Reconciler<FirewallDataplane>, subnets: &[Prefix]) -> HostFacts {
    let links = wire_kernel::Links::open().unwrap().of_containers(subnets).unwrap();
    let ForeignRules { docker, tracked } = reconciler.driver().foreign_rules();
    let bridges = HostFacts::bridges_among(&links, subnets);
    HostFacts { bridges, links, docker, tracked, ..HostFacts::default() }
}

fn reconciler() -> Reconciler<FirewallDataplane> {
    Reconciler::new(FirewallDataplane::new(NetworkName::default(), Family::ALL.to_vec()), ())
}

fn want(peers: &[u8]) -> DesiredFirewall {
    wanted(&policy(true), peers, &["docker0"])
}

fn ruleset() -> String {
    run("nft -s list ruleset; iptables-save | grep -v '^#'; ip6tables-save | grep -v '^#'")
}

/// A round after a change by somebody else, as the agent makes it.
fn repair(
    reconciler: &mut Reconciler<FirewallDataplane>,
    want: &DesiredFirewall,
) -> wire_state::Report<wire_state::Firewall> {
    if reconciler.driver().has_changed() {
        reconciler.invalidate();
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
        // A reconciler without memory, as after a restart.
        let mut again = reconciler();
        let report = again.round(&want(&[2, 3]));
        assert!(report.converged && report.read_back, "{report:?}");
        assert_eq!((report.written, report.removed), (0, 0));
        assert!(!first.driver().has_changed() && !again.driver().has_changed());
        assert_eq!(ruleset(), whole);
        // All choices can be made and unmade in place.
        for masquerade in [Masquerade::Off, Masquerade::Plain] {
            for senders in [Senders::Anyone, Senders::Peers] {
                for forward in [false, true] {
                    let policy = super::FirewallPolicy { masquerade, senders, forward, ..policy(true) };
                    let want = wanted(&policy, &[2], &[]);
                    assert!(again.round(&want).converged);
                    again.invalidate();
                    let report = again.round(&want);
                    assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
                }
            }
        }
        assert!(again.round(&DesiredFirewall::default()).converged);
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
            let facts = HostFacts {
                support: Support { nftables: Nftables::Absent, ..Support::default() },
                ..HostFacts::default()
            };
            let want = wanted_around(&policy, &[2], &facts);
            assert!(reconciler.round(&want).converged);
            reconciler.invalidate();
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
        assert!(!reconciler.driver().has_changed());
        assert_eq!(run("nft -a list table inet wire-agent | grep comment"), rules);
        let set = run("nft list set inet wire-agent peers-v4");
        assert!(set.contains("192.0.2.3, 192.0.2.4") && !set.contains("192.0.2.2"), "{set}");
    });
}

#[test]
fn sets_that_do_not_fit_into_one_message_are_changed_at_once_or_not_at_all() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let want = |peers| wanted_with(&policy(false), peers);
        assert!(reconciler.round(&want(1)).converged);
        // 66 messages.
        let report = reconciler.round(&want(16_000));
        assert!(report.converged && report.written == 1, "{report:?}");
        assert!(!reconciler.driver().has_changed());
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want(16_000)).written, 0);
        // Taking out what is not there fails, and with it all else.
        let [there, absent] = ["198.51.0.9", "192.0.2.66"].map(|text| Element::Address(text.parse().unwrap()));
        let change = |remove| SetChange { add: [Element::Address([192, 0, 2, 77].into())].into(), remove };
        let change = |remove| [("peers-v4".to_owned(), change(remove))].into();
        let mut netfilter = Netfilter::open(&NetworkName::default()).unwrap();
        let error = netfilter.change_sets(&OurTable::default(), &change([there, absent].into())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Absent);
        assert!(!reconciler.driver().has_changed());
        netfilter.change_sets(&OurTable::default(), &change([there].into())).unwrap();
        assert!(repair(&mut reconciler, &want(16_000)).written == 1);
    });
}

/// Changes that anyone may make to our rules, each a shell script.
const DAMAGES: [&str; 11] = [
    "nft flush ruleset",
    "nft delete table inet wire-agent",
    "nft add table inet wire-agent '{ flags dormant; }'",
    "nft flush chain inet wire-agent sources",
    "nft flush set inet wire-agent peers-v4",
    "nft add element inet wire-agent peers-v6 { 2001:db8::66 }",
    "nft insert rule inet wire-agent arriving accept",
    "nft flush chain inet wire-agent arriving; nft add rule inet wire-agent arriving accept comment \\\"strangers\\\"",
    "iptables -F",
    "iptables -F WIRE-FORWARD",
    "ip6tables -I FORWARD 1 -s 2001:db8::7 -j DROP",
];

#[test]
fn whatever_anyone_does_to_it_is_seen_and_put_right() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let want = want(&[2, 3]);
        assert!(reconciler.round(&want).converged);
        let whole = ruleset();
        for damage in DAMAGES {
            let is_foreign = damage.contains("-I ");
            run(damage);
            let report = repair(&mut reconciler, &want);
            assert!(report.converged && report.written > 0, "{damage}: {report:?}");
            if is_foreign {
                run(&damage.replace("-I FORWARD 1", "-D FORWARD"));
            }
            let now = ruleset();
            // After a flush tables come back in another order.
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&now), sorted(&whole), "{damage}");
            let _ = repair(&mut reconciler, &want);
            assert!(!reconciler.driver().has_changed(), "{damage}");
        }
    });
}

#[test]
fn the_table_raw_is_left_alone_until_others_use_it_and_then_ours_comes_first() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let want = want(&[2]);
        assert!(reconciler.round(&want).converged);
        let raw = |program: &str| run(&format!("{program}-save -t raw | grep '^-A' || true"));
        let untouched = ["iptables", "ip6tables"].map(raw);
        assert_eq!(untouched.concat(), "");
        let drop = "PREROUTING -d 10.5.1.2/32 ! -i docker0 -j DROP";
        // Docker 28 that has just started. Ours stays once it is there.
        for damage in ["iptables -N DOCKER; iptables -N DOCKER-FORWARD", "iptables -X DOCKER-FORWARD"] {
            run(damage);
            assert!(repair(&mut reconciler, &want).converged);
            assert!(raw("iptables").contains("WIRE-RAW"), "{damage}");
        }
        run("nft flush ruleset; iptables -N DOCKER");
        assert!(repair(&mut reconciler, &want).converged);
        assert_eq!(raw("iptables"), "", "an older Docker has nothing there");
        // As Docker 28 does for each container; before ours; and then ours is flushed, and all is.
        for (damage, first) in [
            (format!("iptables -t raw -A {drop}"), true),
            (format!("iptables -t raw -I {drop}"), true),
            ("iptables -t raw -F WIRE-RAW".to_owned(), true),
            ("iptables -t raw -F".to_owned(), true),
            ("nft flush ruleset".to_owned(), false),
            (format!("nft flush ruleset; iptables -t raw -A {drop}"), true),
        ] {
            run(&damage);
            let report = repair(&mut reconciler, &want);
            assert!(report.converged && report.written > 0, "{damage}: {report:?}");
            let rules = raw("iptables");
            let call = "-A PREROUTING -j WIRE-RAW";
            assert_eq!(rules.lines().next() == Some(call), first, "{damage}: {rules}");
            assert_eq!(
                rules.contains("-A WIRE-RAW -s 10.5.0.0/16 -d 10.5.1.0/24 -i flannel.1"),
                first,
                "{damage}: {rules}"
            );
            assert_eq!(raw("ip6tables"), "", "{damage}");
            assert!(!reconciler.driver().has_changed(), "{damage}");
        }
        assert!(reconciler.round(&DesiredFirewall::default()).converged);
        assert!(!raw("iptables").contains("WIRE"));
    });
}

#[test]
fn a_rule_that_was_altered_under_its_mark_is_put_right() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let want = want(&[2]);
        assert!(reconciler.round(&want).converged);
        let rule = run("nft -a list chain inet wire-agent arriving | grep 'nfproto ipv4 counter'");
        let (rule, handle) = rule.trim().split_once(" # handle ").unwrap();
        let altered = rule.replace(" drop ", " accept ").replace('"', "\\\"");
        run(&format!("nft replace rule inet wire-agent arriving handle {handle} {altered}"));
        assert!(repair(&mut reconciler, &want).written > 0);
        assert!(run("nft list chain inet wire-agent arriving").contains("\"strangers\" drop"));
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
        assert!(heard() && !reconciler.driver().has_changed());
        assert!(!heard());
        for change in ["iptables -A FORWARD -s 192.0.2.7 -j DROP", "nft add table ip others"] {
            run(change);
            assert!(heard() && reconciler.driver().has_changed(), "{change}");
            reconciler.invalidate();
            assert_eq!(reconciler.round(&want(&[2])).written, 0);
        }
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
fn a_chain_of_ours_that_drops_what_it_does_not_name_is_put_right() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2])).converged);
        run("nft chain inet wire-agent arriving '{ policy drop; }'");
        assert!(repair(&mut reconciler, &want(&[2])).converged);
        assert!(!run("nft list table inet wire-agent").contains("policy drop"));
    });
}

/// nft before 1.0.6 knows no bytes of a packet in the type of a set.
#[test]
fn of_an_older_nft_no_more_is_asked_than_it_knows() {
    in_namespace(|| {
        let facts =
            HostFacts { support: Support { nftables: Nftables::Simple, ..Support::default() }, ..HostFacts::default() };
        let mut reconciler = reconciler();
        let want = wanted_around(&policy(true), &[2], &facts);
        assert!(reconciler.round(&want).converged);
        let rules = run("nft list table inet wire-agent");
        assert!(
            rules.contains("@peers-v4 counter name \"arrived-v4\" meta priority set") && !rules.contains("leases-"),
            "{rules}"
        );
    });
}
