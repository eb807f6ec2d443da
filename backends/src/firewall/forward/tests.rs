use super::*;
use crate::dataplane::tests::lab;

fn network(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn only_what_is_missing_is_put() {
    let input = missing("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n", network("10.5.0.0/16")).unwrap();
    insta::assert_snapshot!(input, @r#"
    *filter
    :WIRE-FORWARD - [0:0]
    -A WIRE-FORWARD -s 10.5.0.0/16 -m comment --comment "wire-agent forward" -j ACCEPT
    -A WIRE-FORWARD -d 10.5.0.0/16 -m comment --comment "wire-agent forward" -j ACCEPT
    -I FORWARD 1 -m comment --comment "wire-agent forward" -j WIRE-FORWARD
    COMMIT
    "#);
}

#[test]
fn rules_are_put_once_and_put_back_and_nobody_elses_are_touched() {
    lab::in_namespace(|| {
        let forward = ForwardAccept::new(vec![network("10.5.0.0/16"), network("fd00:5::/48")]);
        lab::run("iptables -P FORWARD DROP; iptables -A FORWARD -s 192.0.2.7 -j DROP");
        assert!(forward.ensure().unwrap());
        let rules = lab::run("iptables -S; ip6tables -S");
        assert!(!forward.ensure().unwrap());
        assert_eq!(rules, lab::run("iptables -S; ip6tables -S"));
        assert!(rules.contains("-P FORWARD DROP") && rules.contains("-A FORWARD -s 192.0.2.7/32 -j DROP"));
        let damages =
            ["iptables -F WIRE-FORWARD", "ip6tables -F", "iptables -D WIRE-FORWARD 1", "iptables -D FORWARD 1"];
        for damage in damages {
            lab::run(damage);
            assert!(forward.ensure().unwrap(), "{damage}");
            assert_eq!(rules, lab::run("iptables -S; ip6tables -S"), "{damage}");
        }
        // Another network takes the rules' place.
        assert!(ForwardAccept::new(vec![network("10.6.0.0/16")]).ensure().unwrap());
        assert!(!lab::run("iptables -S").contains("10.5.0.0"));
    });
}

#[test]
fn a_missing_program_is_named_with_what_to_do() {
    let tables = Tables { list: "iptables-of-nowhere", restore: "" };
    let error = tables.ensure(network("10.5.0.0/16")).unwrap_err();
    insta::assert_snapshot!(error, @"iptables-of-nowhere is not installed: install iptables, or start with --iptables-forward-rules=false and see that 10.5.0.0/16 is let through the FORWARD chain");
}
