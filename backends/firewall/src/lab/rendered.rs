//! Rules as both packet filters take them.

use wire_net::{Family, NetworkName, Prefix};
use wire_netlink::lab::{in_namespace, run};

use crate::{
    address_range::AddressRange,
    common_rule::{CommonRule, Conditions, LinkMatch, RangeMatch, Verdict},
    render,
    rule::{Rule, SourcePort},
};

/// Rules with each combination of conditions, and with each verdict.
fn rules(family: Family) -> Vec<CommonRule> {
    let [first, last]: [Prefix; 2] = match family {
        Family::V4 => ["10.5.1.0/24", "10.5.9.0/24"],
        Family::V6 => ["fd00:5:0:1::/64", "fd00:5:0:9::/64"],
    }
    .map(|text| text.parse().unwrap());
    let (prefix, range) = (AddressRange::Prefix(first), AddressRange::Between { first, last });
    let addresses = [
        None,
        RangeMatch::inside(prefix),
        RangeMatch::outside(prefix),
        RangeMatch::inside(range),
        RangeMatch::outside(range),
    ];
    let links = [None, Some(LinkMatch::Is("eth0".parse().unwrap())), Some(LinkMatch::Like("wb."))];
    let mut rules = Vec::new();
    for source in addresses {
        for destination in addresses {
            for link in links {
                for mark in [None, Some(0x4000)] {
                    let conditions = Conditions { mark, source, destination, incoming: link, outgoing: link };
                    rules.push(CommonRule { purpose: "a test", conditions, verdict: Verdict::Accept });
                }
            }
        }
    }
    let verdicts = [
        Verdict::Return,
        Verdict::KeepSource(family),
        Verdict::Masquerade(SourcePort::Random),
        Verdict::Masquerade(SourcePort::Kept),
    ];
    let conditions = Conditions { source: RangeMatch::inside(prefix), ..Conditions::default() };
    rules.extend(verdicts.map(|verdict| CommonRule { purpose: "a test", conditions, verdict }));
    rules
}

#[test]
fn iptables_saves_each_rule_as_it_was_rendered() {
    in_namespace(|| {
        for (family, program) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
            let rendered: Vec<String> = rules(family).iter().map(render::iptables::rule).collect();
            let added: Vec<String> = rendered.iter().map(|rule| format!("-A WIRE-TEST {rule}")).collect();
            restore(program, &format!("*nat\n:WIRE-TEST - [0:0]\n{}\nCOMMIT\n", added.join("\n")));
            let saved = run(&format!("{program}-save -t nat"));
            let saved: Vec<&str> = saved.lines().filter_map(|line| line.strip_prefix("-A WIRE-TEST ")).collect();
            assert_eq!(saved, rendered);
        }
    });
}

#[test]
fn nft_takes_each_rule_too() {
    in_namespace(|| {
        let mut script =
            String::from("add table inet x\nadd chain inet x y { type nat hook postrouting priority 99; }\n");
        for rule in Family::ALL.into_iter().flat_map(rules) {
            script +=
                &format!("add rule inet x y {}\n", render::nft::rule(&Rule::from(rule), &NetworkName::default()).text);
        }
        crate::program::nft(&script).unwrap();
        assert_eq!(run("nft list chain inet x y | grep -c eth0").trim(), "100");
    });
}

fn restore(program: &str, input: &str) {
    run(&format!("{program}-restore <<'END'\n{input}END"));
}
