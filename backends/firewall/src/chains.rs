//! The iptables chains of one family. Pure.
//!
//! The rules have no comments: the match `comment` costs a call per packet, and the names of the chains identify their
//! owner.

use std::collections::BTreeMap;

use wire_state::{Call, Chain, ChainName, ChainTable, ChainTableKind, Place};

use super::{
    family_rules::FamilyRules,
    policy::{KUBE_MARK, Masquerade, OverlayDevice},
    rule::multicast,
};

impl FamilyRules {
    /// The rules of [`FamilyRules::nat`] in iptables, for hosts without nftables. In iptables an accept keeps the
    /// source.
    pub(super) fn nat_chain(&self, masquerade: Masquerade) -> (ChainName, Chain) {
        let (all, overlay, own, group) = (self.network, self.overlay, self.own, multicast(self.family));
        let rule = |matching: &str, verdict: &str| format!("{matching} -j {verdict}");
        let mut rules = vec![
            rule(&format!("-m mark --mark {KUBE_MARK}/{KUBE_MARK}"), "RETURN"),
            rule(&format!("-s {own} -d {own}"), "RETURN"),
            rule(&overlay.within(own), "ACCEPT"),
            rule(&format!("-s {all} -d {own}"), "ACCEPT"),
        ];
        rules.extend(self.beyond().map(|link| rule(&format!("-s {own} -o {link}"), "ACCEPT")));
        let verdict = match masquerade {
            Masquerade::Off => None,
            Masquerade::Random => Some("MASQUERADE --random-fully"),
            Masquerade::Plain => Some("MASQUERADE"),
        };
        rules.extend(verdict.into_iter().flat_map(|verdict| {
            [
                rule(&format!("! -s {all} -d {own}"), "RETURN"),
                rule(&overlay.leaving(group), verdict),
                rule(&overlay.entering(), verdict),
            ]
        }));
        let name = "WIRE-NAT".to_owned();
        let call = format!("-j {name}");
        let calls = [("POSTROUTING".to_owned(), Call { place: Place::First, rules: vec![call] })].into();
        let table = ChainTable { family: self.family, kind: ChainTableKind::Nat };
        (ChainName { table, name }, Chain { rules, calls, ..Chain::default() })
    }

    /// The iptables chains that accept traffic of the overlay before Docker's rules drop it.
    pub(super) fn chains(&self) -> BTreeMap<ChainName, Chain> {
        let (all, own) = (self.network, self.own);
        let rule = |matching: String| format!("{matching} -j ACCEPT");
        let mut chains = BTreeMap::new();
        let mut add = |kind, name: &str, rules: Vec<String>, callers: &[(&str, Place)]| {
            let table = ChainTable { family: self.family, kind };
            chains.insert(ChainName { table, name: name.to_owned() }, chain(kind, name, rules, callers));
        };
        if let Some(OverlayDevice { link, .. }) = self.device {
            let incoming = rule(format!("-s {all} -d {own} -i {link}"));
            // Docker 28 drops packets to a container that do not arrive by its bridge, and does so before connection
            // tracking: replies too.
            add(ChainTableKind::Raw, "WIRE-RAW", vec![incoming.clone()], &[("PREROUTING", Place::First)]);
            let outgoing = rule(format!("-s {own} -d {all} -o {link}"));
            // Before Docker's drops: in FORWARD, and in DOCKER-USER, the chain that Docker leaves to others, because
            // dockerd inserts its own rules in front of ours when it starts.
            let callers = [("FORWARD", Place::First), ("DOCKER-USER", Place::First)];
            add(ChainTableKind::Filter, "WIRE-FORWARD", vec![incoming, outgoing], &callers);
        }
        // As flannel: overrides a policy that drops, after all rules of others. Traffic between containers of this host
        // is left to Docker: with --icc=false its drop is behind our rule after each start of dockerd.
        let within = format!("-s {own} -d {own} -j RETURN");
        let any = vec![within, rule(format!("-s {all}")), rule(format!("-d {all}"))];
        add(ChainTableKind::Filter, "WIRE-POLICY", any, &[("FORWARD", Place::Behind)]);
        chains
    }
}

/// A chain that is called from `callers`, each at its place.
fn chain(kind: ChainTableKind, name: &str, rules: Vec<String>, callers: &[(&str, Place)]) -> Chain {
    let calls = callers.iter().map(|(caller, place)| {
        let rule = format!("-j {name}");
        ((*caller).to_owned(), Call { place: *place, rules: vec![rule] })
    });
    Chain {
        rules,
        // What this chain accepts would never reach the rules by which Docker isolates internal networks.
        spares_internal: kind == ChainTableKind::Filter,
        // Every packet passes a table that has rules, twice per host. So `raw` is used only if somebody else uses it.
        answers_others: kind == ChainTableKind::Raw,
        calls: calls.collect(),
    }
}
