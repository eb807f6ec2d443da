//! Rules that need encapsulated packets tracked, as real programs write them.

use std::collections::BTreeMap;

use wire_net::Family;
use wire_state::Reconciler;

use super::{host_facts, reconciler, want};
use wire_netlink::lab::{in_namespace, run};

use crate::FirewallDataplane;

#[test]
fn a_rule_that_looks_at_connections_on_the_way_in_is_found_and_no_other() {
    let v4 = |chain: &str| vec![(Family::V4, format!("{chain} looks at connections"))];
    let v6 = |chain: &str| vec![(Family::V6, format!("{chain} looks at connections"))];
    let both = |chain: &str| [v4(chain), v6(chain)].concat();
    let chain = "nft add table inet x; nft add chain inet x in '{ type filter hook input priority 0; }'; ";
    let raw = "nft add table inet x; nft add chain inet x pre '{ type filter hook prerouting priority -300; }'; ";
    let cases = [
        ("true", vec![]),
        ("iptables -A INPUT -p udp --dport 8472 -j ACCEPT; iptables -A INPUT -j DROP", vec![]),
        (
            "iptables -A INPUT -p udp -m conntrack --ctstate NEW,ESTABLISHED --dport 8472 -j ACCEPT",
            v4("ip filter INPUT"),
        ),
        ("ip6tables -A INPUT -m state --state INVALID -j DROP", v6("ip6 filter INPUT")),
        ("iptables -t mangle -A PREROUTING -j CONNMARK --restore-mark", v4("ip mangle PREROUTING")),
        ("iptables -t raw -A PREROUTING -p udp -j CT --notrack", v4("ip raw PREROUTING")),
        // As Docker has them, and what only looks at what goes out.
        ("iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", vec![]),
        ("iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DNAT --to 10.5.1.2", vec![]),
        ("iptables -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT", vec![]),
        // In a chain that is called, and in one that is not.
        (
            "iptables -N MINE; iptables -A MINE -m connmark --mark 1 -j ACCEPT; iptables -A INPUT -j MINE",
            v4("ip filter MINE"),
        ),
        ("iptables -N MINE; iptables -A MINE -m connmark --mark 1 -j ACCEPT; iptables -A FORWARD -j MINE", vec![]),
        (&format!("{chain} nft add rule inet x in ct state established accept"), both("inet x in")),
        (&format!("{chain} nft add rule inet x in ip saddr 192.0.2.1 tcp dport 22 accept"), vec![]),
        (
            &format!(
                "{chain} nft add chain inet x far; nft add chain inet x near; nft add rule inet x far ct mark 1 drop; \
                 nft add rule inet x near goto far; nft add rule inet x in tcp dport vmap '{{ 22 : jump near }}'"
            ),
            both("inet x far"),
        ),
        (
            &format!(
                "{chain} nft add set inet x s '{{ type ipv4_addr; flags dynamic; }}'; \
                 nft add rule inet x in add @s '{{ ip saddr ct count over 20 }}' drop"
            ),
            both("inet x in"),
        ),
        (
            &format!(
                "{chain} nft add set inet x s '{{ type ipv4_addr; flags dynamic; ct count over 20; }}'; \
                 nft add rule inet x in add @s '{{ ip saddr }}'"
            ),
            both("inet x set s"),
        ),
        (
            &format!(
                "{raw} nft add ct timeout inet x long '{{ protocol udp; policy = {{ unreplied : 9 }}; }}'; \
                 nft add rule inet x pre ct timeout set long"
            ),
            both("inet x pre"),
        ),
    ]
    .map(|(script, expected): (&str, Vec<(Family, String)>)| (script.to_owned(), expected));
    for (script, expected) in cases {
        in_namespace(move || {
            run(&script);
            let facts = host_facts(&mut reconciler(), &[]);
            let tracked: Vec<_> = facts.tracked.into_iter().map(|(family, why)| (family, why.to_string())).collect();
            assert_eq!(tracked, expected, "{script}");
        });
    }
}

#[test]
fn what_others_change_later_is_seen_and_ours_is_none_of_it() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let tracked = |reconciler: &mut Reconciler<FirewallDataplane>| host_facts(reconciler, &[]).tracked;
        assert!(reconciler.round(&want(&[2])).converged);
        // Ours has `ct status`.
        assert_eq!(tracked(&mut reconciler), BTreeMap::new());
        run("iptables -A INPUT -m conntrack --ctstate INVALID -j DROP");
        assert!(tracked(&mut reconciler).contains_key(&Family::V4));
        assert!(reconciler.round(&want(&[3])).converged);
        assert!(tracked(&mut reconciler).contains_key(&Family::V4));
        run("iptables -F INPUT");
        assert_eq!(tracked(&mut reconciler), BTreeMap::new());
    });
}
