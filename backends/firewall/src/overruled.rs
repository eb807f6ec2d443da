//! Finds an operator's drops that have no effect, because our rules accept the overlay's packets before them
//! (docs/adr/0007-firewall.md). Pure.

use wire_net::{DualStack, LinkName, Prefix};
use wire_state::OperatorDrop;

use super::{facts::HostFacts, iptables::words, overlay_device::OverlayDevice, policy::FirewallPolicy};

impl FirewallPolicy {
    /// The rules in `DOCKER-USER` that may be meant to drop traffic of the overlay. A rule that names only other links
    /// or other addresses is left out, and so is one with a set of addresses, whose content is unknown.
    pub fn overruled<'a>(
        &self,
        drops: &'a [OperatorDrop],
        devices: &DualStack<OverlayDevice>,
        facts: &HostFacts,
    ) -> Vec<&'a OperatorDrop> {
        let mut overruled = Vec::new();
        for drop in drops.iter().filter(|_| self.forward) {
            let family = drop.family;
            let (Some(pool), Some(device)) = (self.pools.get(family), devices.get(family)) else { continue };
            let links: Vec<LinkName> = facts.bridges.iter().copied().chain([device.link]).collect();
            if may_match(&drop.rule, pool.network, &links) {
                overruled.push(drop);
            }
        }
        overruled
    }
}

fn may_match(rule: &str, network: Prefix, links: &[LinkName]) -> bool {
    let words: Vec<&str> = words(rule).collect();
    let mut before = "";
    for pair in words.windows(2) {
        let (word, value) = (pair[0], pair[1]);
        let may = match word {
            "--match-set" => false,
            _ if before == "!" => true,
            "-i" | "-o" => links.iter().any(|link| is_named(link.as_str(), value)),
            "-s" | "-d" => value.parse().is_ok_and(|prefix| network.overlaps(prefix)),
            _ => true,
        };
        if !may {
            return false;
        }
        before = word;
    }
    true
}

/// Compares a link's name as iptables does: a plus at the end of the pattern stands for any rest.
fn is_named(link: &str, pattern: &str) -> bool {
    pattern.strip_suffix('+').map_or(link == pattern, |start| link.starts_with(start))
}

#[cfg(test)]
mod tests {
    use wire_net::Family;

    use super::{
        super::{iptables::operator_drops, tests::policy},
        *,
    };

    const LISTING: &str = r#"*filter
:DOCKER-USER - [0:0]
-A DOCKER-USER -j WIRE-FORWARD
-A DOCKER-USER -s 10.5.7.0/24 -p tcp -m tcp --dport 5432 -j DROP
-A DOCKER-USER ! -s 192.168.1.0/24 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
-A DOCKER-USER -i flannel+ -d 10.5.1.2/32 -j DROP
-A DOCKER-USER -i br-1 ! -o eth0 -j DROP
-A DOCKER-USER ! -s 192.168.1.0/24 -i eth0 -j DROP
-A DOCKER-USER -s 203.0.113.0/24 -j DROP
-A DOCKER-USER -m set --match-set blocked src -j DROP
-A DOCKER-USER -s 10.5.8.0/24 -j ACCEPT
-A DOCKER-USER -m comment --comment "no -j DROP" -j RETURN
-A FORWARD -s 10.5.9.0/24 -j DROP
COMMIT
"#;

    #[test]
    fn an_operators_drop_is_overruled_where_it_may_be_meant_for_the_overlay() {
        let drops: Vec<OperatorDrop> = operator_drops(LISTING, Family::V4).collect();
        assert_eq!(drops.len(), 7, "{drops:?}");
        let link = "flannel.1".parse().unwrap();
        let device = OverlayDevice {
            link,
            parent: None,
            carrier: crate::Carrier::Udp { port: 8472 },
            vni: None,
            local: None,
            in_kernel: true,
            has_policy: false,
            inner: 0,
        };
        let devices = DualStack { v4: Some(device), v6: None };
        let bridges = ["br-1".parse().unwrap()].into();
        let facts = HostFacts { bridges, ..HostFacts::default() };
        let told: Vec<&str> =
            policy(true).overruled(&drops, &devices, &facts).into_iter().map(|drop| drop.rule.as_str()).collect();
        let expected: Vec<&str> = drops[..4].iter().map(|drop| drop.rule.as_str()).collect();
        assert_eq!(told, expected);
        let other: Vec<OperatorDrop> = operator_drops(LISTING, Family::V6).collect();
        assert!(policy(true).overruled(&other, &devices, &facts).is_empty(), "there is no such device");
        let policy = FirewallPolicy { forward: false, ..policy(true) };
        assert!(policy.overruled(&drops, &devices, &facts).is_empty(), "we let nothing through");
    }
}
