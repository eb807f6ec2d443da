//! The chains of iptables of one family. Pure.
//!
//! Their rules have no comments: the match `comment` is a call for each packet, and the names of the chains say whose they are.

use std::collections::BTreeMap;

use wire_state::{Call, Chain, ChainName, ChainTable, ChainTableKind, Place};

use super::{
    family_rules::FamilyRules,
    policy::{KUBE_MARK, Masquerade, OverlayDevice},
    rule::multicast,
};

impl FamilyRules {
    /// The same as [`FamilyRules::nat`] in iptables, for a host that cannot have it in nftables. Here an accept keeps the source.
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

    /// The chains of iptables, in front of Docker's drops.
    pub(super) fn chains(&self) -> BTreeMap<ChainName, Chain> {
        let (all, own) = (self.network, self.own);
        let rule = |matching: String| format!("{matching} -j ACCEPT");
        let mut chains = BTreeMap::new();
        let mut add = |kind, name: &str, rules: Vec<String>, callers: &[(&str, Place)]| {
            let table = ChainTable { family: self.family, kind };
            let call = |(caller, place): &(&str, Place)| {
                let rule = format!("-j {name}");
                ((*caller).to_owned(), Call { place: *place, rules: vec![rule] })
            };
            let chain = Chain {
                rules,
                // What they let in would never get to Docker's drop.
                spares_internal: kind == ChainTableKind::Filter,
                // A table that nobody else uses is one more that each packet would go through, twice on each host.
                answers_others: kind == ChainTableKind::Raw,
                calls: callers.iter().map(call).collect(),
            };
            chains.insert(ChainName { table, name: name.to_owned() }, chain);
        };
        if let Some(OverlayDevice { link, .. }) = self.device {
            let incoming = rule(format!("-s {all} -d {own} -i {link}"));
            // Docker 28 drops packets to a container that come from elsewhere than its bridge: before connections are
            // tracked, so replies too.
            add(ChainTableKind::Raw, "WIRE-RAW", vec![incoming.clone()], &[("PREROUTING", Place::First)]);
            let outgoing = rule(format!("-s {own} -d {all} -o {link}"));
            // Before Docker's drops, in FORWARD and, since dockerd puts its own in front of ours when it starts, in the
            // chain that it leaves to others.
            let callers = [("FORWARD", Place::First), ("DOCKER-USER", Place::First)];
            add(ChainTableKind::Filter, "WIRE-FORWARD", vec![incoming, outgoing], &callers);
        }
        // As flannel: in the place of a policy that drops, behind whatever others decide. Between containers of this host that is
        // Docker's to say: with --icc=false its drop comes behind ours at each of its starts.
        let within = format!("-s {own} -d {own} -j RETURN");
        let any = vec![within, rule(format!("-s {all}")), rule(format!("-d {all}"))];
        add(ChainTableKind::Filter, "WIRE-POLICY", any, &[("FORWARD", Place::Behind)]);
        chains
    }
}
