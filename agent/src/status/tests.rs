//! Tests of the conditions as a whole: their names and texts, the times since which they hold, and the phase.

use std::{collections::BTreeSet, time::Duration};

use wire_net::LinkName;
use wire_state::OperatorDrop;

use super::{
    condition::{
        Severity::{Fault, Warning},
        all_kinds,
    },
    *,
};

/// All names. A program may ask for each of them, so none may change.
const NAMES: &[(&str, Severity)] = &[
    ("part-hangs", Fault),
    ("flag", Warning),
    ("no-health-checks", Fault),
    ("files-not-written", Fault),
    ("state-not-saved", Fault),
    ("network-not-saved", Fault),
    ("saved-network-unusable", Fault),
    ("network-by-name", Fault),
    ("clash-of-files", Fault),
    ("joining", Fault),
    ("etcd-away", Fault),
    ("leases-vanished", Fault),
    ("all-leases-refused", Fault),
    ("some-leases-refused", Warning),
    ("lease-at-risk", Fault),
    ("no-lease", Fault),
    ("lease-lost", Fault),
    ("former-backend-spoken", Warning),
    ("network-config-deleted", Fault),
    ("network-config-changed", Fault),
    ("network-config-inapplicable", Fault),
    ("network-config-refused", Fault),
    ("underlay-lost", Fault),
    ("underlay-renamed", Warning),
    ("bridge-overlaps-leases", Warning),
    ("public-address-unused", Warning),
    ("bad-checksums", Warning),
    ("nothing-received", Warning),
    ("peers-beyond-link", Warning),
    ("peers-at-other-addresses", Warning),
    ("no-kernel-notifications", Fault),
    ("changed-by-another-program", Warning),
    ("detours", Warning),
    ("bypassed", Warning),
    ("name-conflict", Fault),
    ("vni-conflict", Fault),
    ("port-conflict", Fault),
    ("route-conflict", Fault),
    ("forwarding-off", Fault),
    ("link-needs", Fault),
    ("operation-failed", Fault),
    ("kernel-unreadable", Fault),
    ("descriptors-not-kept", Warning),
    ("clash-in-kernel", Fault),
    ("firewall-not-as-desired", Fault),
    ("other-agent", Fault),
    ("encapsulation-blocked", Fault),
    ("nftables-lacks", Warning),
    ("no-flowtable", Warning),
    ("other-iptables", Warning),
    ("docker-chains-hidden", Warning),
    ("docker-user-overruled", Warning),
    ("docker-unmarked", Fault),
    ("networks-unchecked", Warning),
    ("clash-in-firewall", Fault),
    ("bridge-name", Warning),
    ("bridge-mismatch", Fault),
    ("bridge-mtu", Warning),
    ("bridge-family", Warning),
    ("daemon-json", Warning),
    ("docker-unit", Warning),
];

#[test]
fn each_kind_keeps_its_name_and_severity() {
    let kinds: Vec<_> = all_kinds().into_iter().map(|kind| (kind.name, kind.place.severity)).collect();
    assert_eq!(kinds, NAMES);
}

#[test]
fn no_two_kinds_have_one_name() {
    let names: BTreeSet<_> = all_kinds().into_iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), all_kinds().len());
}

/// Kinds with the same severity and subject replace each other: there must be a reason for each such group.
#[test]
fn only_kinds_of_one_thing_share_a_place() {
    let of = |place| all_kinds().into_iter().filter(|kind| kind.place == place).map(|kind| kind.name).collect();
    let groups: BTreeSet<Vec<&str>> = all_kinds().into_iter().map(|kind| of(kind.place)).collect();
    let shared: Vec<Vec<&str>> = groups.into_iter().filter(|group| group.len() > 1).collect();
    let conflicts =
        ["name-conflict", "vni-conflict", "port-conflict", "route-conflict", "forwarding-off", "link-needs"];
    let config = ["deleted", "changed", "inapplicable", "refused"].map(|end| format!("network-config-{end}"));
    let expected: [Vec<&str>; 5] = [
        vec!["bridge-mtu", "bridge-family"],
        vec!["lease-at-risk", "no-lease", "lease-lost"],
        conflicts.into(),
        config.iter().map(String::as_str).collect(),
        vec!["operation-failed", "kernel-unreadable"],
    ];
    assert_eq!(shared, expected);
}

fn link(name: &str) -> LinkName {
    name.parse().unwrap()
}

/// The text as `status` shows it, and the remedy that a program gets apart.
fn texts() -> Vec<(Condition, &'static str, &'static str)> {
    let public = "2001:db8::9".parse().unwrap();
    let drop = OperatorDrop { family: Family::V6, rule: "-s fd00::/8 -j DROP".to_owned() };
    vec![
        (
            AgentCondition::FilesNotWritten("disk full".to_owned()).into(),
            "files: disk full: other programs cannot read this host's subnet",
            "",
        ),
        (
            EtcdCondition::Away { why: "it does not answer".to_owned(), as_of: Some("noon".to_owned()) }.into(),
            "etcd: it does not answer; traffic uses the leases known at noon",
            "",
        ),
        (
            EtcdCondition::LeasesVanished { held: 7 }.into(),
            "leases: 7 vanished from etcd at once; their routes are kept for 30 s",
            "",
        ),
        (EtcdCondition::LeaseLost("expired".to_owned()).into(), "lease: it is lost: expired", ""),
        (EtcdCondition::NoLease("full".to_owned()).into(), "lease: there is none yet: full", ""),
        (
            EtcdCondition::ConfigChanged.into(),
            "network config: it has changed: restart wire-agent to apply it",
            "restart wire-agent to apply it",
        ),
        (
            EtcdCondition::ConfigInapplicable("no IPv6".to_owned()).into(),
            "network config: it has changed to one that this host cannot apply: no IPv6; correct that before you restart wire-agent",
            "correct that before you restart wire-agent",
        ),
        (
            UnderlayCondition::Renamed { before: link("eth0"), now: link("eth1") }.into(),
            "underlay: the underlay's interface eth1 was named eth0 when it was chosen by that name; after a restart wire-agent will not find it: change --iface or --iface-regex",
            "change --iface or --iface-regex",
        ),
        (
            UnderlayCondition::Lost("no interface for the underlay: eth0 is down; choose one with --iface".to_owned())
                .into(),
            "underlay: no interface for the underlay: eth0 is down; choose one with --iface",
            "choose one with --iface",
        ),
        (
            UnderlayCondition::PublicAddressUnused { family: Family::V6, address: public }.into(),
            "public address: --public-ipv6=2001:db8::9 is ignored: the network has no IPv6; remove it, or turn IPv6 on in the network config",
            "remove it, or turn IPv6 on in the network config",
        ),
        (
            FirewallCondition::OtherAgent.into(),
            "another wire-agent: it runs in this network namespace too, and each undoes the other's firewall rules: stop one of them, or give it a network of its own (--network) or a namespace of its own",
            "stop one of them, or give it a network of its own (--network) or a namespace of its own",
        ),
        (
            FirewallCondition::DockerUnmarked.into(),
            "docker: its rules in nftables drop the overlay's packets to containers: start it with --bridge-accept-fwmark=0x1000/0x1000, or \"bridge-accept-fwmark\" in daemon.json",
            "start it with --bridge-accept-fwmark=0x1000/0x1000, or \"bridge-accept-fwmark\" in daemon.json",
        ),
        (
            FirewallCondition::DropsOverruled { first: drop, more: 2 }.into(),
            "DOCKER-USER: its rule \"-s fd00::/8 -j DROP\" (and 2 more) does not drop traffic of the overlay, because wire-agent's rules accept that first: to drop it, put the rule into another table (ip6tables -t mangle -A FORWARD)",
            "to drop it, put the rule into another table (ip6tables -t mangle -A FORWARD)",
        ),
        (
            FirewallCondition::UnnamedBridges(vec![link("br*"), link("ü")]).into(),
            "bridge's name: no nftables rule can name br* ü: encapsulated packets that its containers send with forged sources are not dropped; give the bridge a name of ASCII letters, digits and -_. only (-o com.docker.network.bridge.name=)",
            "give the bridge a name of ASCII letters, digits and -_. only (-o com.docker.network.bridge.name=)",
        ),
    ]
}

#[test]
fn a_text_is_the_sentence_and_the_remedy() {
    for (condition, line, remedy) in texts() {
        assert_eq!(condition.line(), line);
        assert_eq!(condition.remedy().unwrap_or_default(), remedy);
        let apart = condition.sentence() + if remedy.is_empty() { "" } else { &line[line.len() - remedy.len() - 2..] };
        assert_eq!(apart, condition.text());
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Replaces the one condition of its place at a second, and returns the second since which it holds.
fn since(conditions: &mut Conditions, seconds: u64, condition: EtcdCondition) -> u64 {
    let place = condition.kind().place;
    let _ = conditions.replace(place, vec![condition.into()], at(seconds));
    let current = conditions.iter().next().unwrap();
    current.since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn the_time_is_kept_while_the_text_changes_and_begins_anew_after_the_end() {
    let mut conditions = Conditions::default();
    let lost = |why: &str| EtcdCondition::LeaseLost(why.to_owned());
    assert_eq!(since(&mut conditions, 1, lost("a")), 1);
    assert_eq!(since(&mut conditions, 2, lost("b")), 1);
    let _ = conditions.replace(EtcdCondition::LEASE_LOST.place, Vec::new(), at(3));
    assert_eq!(conditions.iter().count(), 0);
    assert_eq!(since(&mut conditions, 4, lost("b")), 4);
}

#[test]
fn another_kind_about_the_same_thing_has_its_own_time() {
    let mut conditions = Conditions::default();
    assert_eq!(since(&mut conditions, 1, EtcdCondition::NoLease("a".to_owned())), 1);
    assert_eq!(since(&mut conditions, 2, EtcdCondition::LeaseLost("a".to_owned())), 2);
}

#[test]
fn of_several_of_one_kind_each_keeps_its_own_time() {
    let failed = |operation: &str, text: &str| -> Condition {
        KernelCondition::OperationFailed { operation: operation.to_owned(), text: text.to_owned() }.into()
    };
    let (mut conditions, place) = (Conditions::default(), KernelCondition::OPERATION_FAILED.place);
    let _ = conditions.replace(place, vec![failed("a", "a: denied")], at(1));
    let _ = conditions.replace(place, vec![failed("b", "b: denied"), failed("a", "a: full")], at(2));
    let found: Vec<_> = conditions.iter().map(|current| (current.condition.text(), current.since)).collect();
    assert_eq!(found, [("b: denied".to_owned(), at(2)), ("a: full".to_owned(), at(1))]);
}

#[test]
fn a_change_says_whether_it_begins_and_an_equal_text_is_none() {
    let (mut conditions, kind) = (Conditions::default(), UnderlayCondition::OVERLAPS);
    let mut set = |text: &str| {
        let condition = UnderlayCondition::Overlaps(Message::plain(text)).into();
        conditions.replace(kind.place, vec![condition], at(1))
    };
    let begins = |changes: Option<Vec<Change>>| matches!(changes.as_deref(), Some([Change::New { begins: true, .. }]));
    assert!(begins(set("a")));
    assert!(set("a").is_none());
    assert!(!begins(set("b")));
    let ended = conditions.replace(kind.place, Vec::new(), at(2));
    assert!(matches!(ended.as_deref(), Some([Change::Ended(one)]) if *one == kind));
}

#[test]
fn faults_come_in_the_order_of_their_subjects_after_those_of_etcd_and_each_is_in_the_answer() {
    let writer = StatusWriter::default();
    writer.update(|status| {
        status.set_joined();
        status.ready = true;
        status.follow.error = Some("it does not answer".to_owned());
    });
    writer.raise(UnderlayCondition::Lost("eth0 is gone".to_owned()));
    writer.raise(FirewallCondition::OtherIptables("busy".to_owned()));
    writer.raise(EtcdCondition::ConfigDeleted);
    let reply = writer.now().to_status();
    let config = "it was deleted; this agent keeps the config that it read at its start";
    assert_eq!(reply.phase, "degraded");
    assert_eq!(reply.reason, format!("etcd: it does not answer; network config: {config}; underlay: eth0 is gone"));
    let names: Vec<_> = reply.conditions.iter().map(|condition| condition.name.as_str()).collect();
    assert_eq!(names, ["etcd-away", "network-config-deleted", "underlay-lost", "other-iptables"]);
    let warned: Vec<_> = reply.conditions.iter().filter(|condition| condition.severity == "warning").collect();
    assert_eq!(warned.iter().map(|condition| condition.sentence.clone()).collect::<Vec<_>>(), reply.warnings);
    assert!(reply.conditions.iter().all(|condition| condition.since.ends_with('Z')));
}

#[test]
fn a_start_says_what_it_waits_for_and_why_the_saved_network_does_not_help() {
    let writer = StatusWriter::default();
    assert_eq!(writer.look(Status::phase), (Phase::Waiting, "starting".to_owned()));
    writer.wait_for_etcd(NoAnswer::NoConfig("write one".to_owned()));
    writer.raise(AgentCondition::SavedNetworkUnusable("it is of a clone".to_owned()));
    writer.raise(UnderlayCondition::Lost("not a reason to wait".to_owned()));
    let expected = "etcd: it has no network config: write one; the network state saved on disk cannot be used: it is \
                    of a clone";
    assert_eq!(writer.look(Status::phase), (Phase::Waiting, expected.to_owned()));
    assert!(!writer.raise(AgentCondition::SavedNetworkUnusable("it is of a clone".to_owned())), "it is said already");
    writer.update(Status::set_joined);
    writer.clear(UnderlayCondition::LOST);
    assert_eq!(writer.now().conditions().count(), 0);
}
