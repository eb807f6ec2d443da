//! Connections of the overlay that pass no rule of forwarding once they were answered (`--flowtable`). Pure.
//!
//! The kernel looks for each packet that a link of the flowtable takes, before `prerouting`, and where its flow is known sends it out by
//! the other link. So nothing of `arriving` is asked about the packet inside: what came encapsulated was judged as such, and whether a
//! rule has let it in is asked before the flowtable, by a chain of the overlay's device.

use std::collections::BTreeSet;

use wire_net::LinkName;
use wire_state::{BaseChain, Flowtable, Hook, Table};

use super::{
    family_rules::{self, FamilyRules},
    policy::add_chain,
    policy::{HostFacts, is_plain},
    rule::{Action, Addresses, Links, Match, Rule},
};

/// The name of the flowtable.
const OVERLAY: &str = "overlay";

/// Its priority at its links (`filter`), and that of what comes before it.
const PRIORITY: i32 = 0;
const BEFORE: i32 = PRIORITY - 1;

/// Puts flows between containers and the overlay into a flowtable, where the links of both are there.
pub(super) fn add(table: &mut Table, families: &[&FamilyRules], facts: &HostFacts) {
    let hookable = |link: &LinkName| facts.hookable.contains(link) && is_plain(link);
    // Packets of devices of the agent's own have passed user space anyway, and it is not tried with them.
    let is_hookable =
        |rules: &&&FamilyRules| rules.device.is_some_and(|device| device.in_kernel && hookable(&device.link));
    let families: Vec<&&FamilyRules> = families.iter().filter(is_hookable).collect();
    let bridges: BTreeSet<LinkName> = facts.bridges.iter().copied().filter(hookable).collect();
    if families.is_empty() || bridges.is_empty() {
        return;
    }
    let overlays = families.iter().filter_map(|rules| Some(rules.device?.link));
    let devices = overlays.chain(bridges).collect();
    table.flowtables.insert(OVERLAY.to_owned(), Flowtable { flags: 0, priority: PRIORITY, devices });
    // Behind everyone's: what others drop never gets here, and so into no flowtable.
    let flows = families.iter().flat_map(|rules| rules.flows()).collect();
    add_chain(table, "flows", ("filter", Hook::Forward, 300), flows);
    for rules in families {
        if let Some((name, chain)) = rules.emerging() {
            table.chains.insert(name, chain);
        }
    }
}

impl FamilyRules {
    /// What containers and the overlay have answered each other, in both directions.
    fn flows(&self) -> Vec<Rule> {
        let Some(device) = self.device else { return Vec::new() };
        let (all, own) = (Addresses::In(self.network), Addresses::In(self.own));
        let out = [Match::To(device.link), self.source(own.clone()), self.destination(all.clone())];
        let back = [Match::From(Links::Is(device.link)), self.source(all), self.destination(own)];
        [out, back].map(flow).into()
    }

    /// The same as [`FamilyRules::not_let_in`], before a flowtable is asked: a packet that is taken for one of a known flow never gets to that.
    fn emerging(&self) -> Option<(String, BaseChain)> {
        let device = self.device?.link;
        let (kind, rules) = ("filter".to_owned(), vec![family_rules::let_in_by_no_rule([]).in_nft()]);
        let chain = BaseChain { kind, hook: Hook::Ingress, priority: BEFORE, device: Some(device), rules };
        Some((format!("emerging-{}", self.family_name()), chain))
    }
}

fn flow(ends: [Match; 3]) -> Rule {
    let matches: Vec<Match> = ends.into_iter().chain([Match::TcpOrUdp, Match::Established]).collect();
    Rule::new("established flows", matches, [Action::FlowAdd(OVERLAY)])
}
