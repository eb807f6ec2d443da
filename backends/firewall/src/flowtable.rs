//! A flowtable for connections of the overlay: once answered, they skip the rules of forwarding (`--flowtable`). Pure.
//!
//! For each packet that a link of the flowtable receives, the kernel looks up the flow before `prerouting`, and if it
//! knows it, sends the packet out by the other link. So the chain `arriving` never sees the inner packet. Its outer
//! packet was checked there; that a rule has accepted it is checked before the flowtable, by a chain on the overlay
//! device.

use std::collections::BTreeSet;

use wire_net::LinkName;
use wire_state::{Attachment, DesiredTable, Flowtable, Hook};

use super::{
    facts::HostFacts,
    family_rules::{self, FamilyRules},
    nft::is_plain,
    overlay_device::OverlayDevice,
    policy::add_chain,
    rule::{Action, Addresses, Links, Match, Rule},
};

/// The name of the flowtable.
const OVERLAY: &str = "overlay";

/// Its priority at its links (`filter`), and that of the chain before it.
const PRIORITY: i32 = 0;
const BEFORE: i32 = PRIORITY - 1;

/// Adds a flowtable for flows between containers and the overlay, if the links of both can be hooked.
pub(super) fn add(table: &mut DesiredTable, families: &[&FamilyRules], facts: &HostFacts) {
    let hookable = |link: &LinkName| facts.hookable.contains(link) && is_plain(link);
    let is_hookable =
        |rules: &&&FamilyRules| rules.device.is_some_and(|device| device.takes_flows() && hookable(&device.link));
    let families: Vec<&&FamilyRules> = families.iter().filter(is_hookable).collect();
    let bridges: BTreeSet<LinkName> = facts.bridges.iter().copied().filter(hookable).collect();
    if families.is_empty() || bridges.is_empty() {
        return;
    }
    let overlays = families.iter().filter_map(|rules| Some(rules.device?.link));
    let devices = overlays.chain(bridges).collect();
    table.flowtables.insert(OVERLAY.to_owned(), Flowtable { flags: 0, priority: PRIORITY, devices });
    // After all other chains: what others drop never gets here, and so into no flowtable.
    let flows: Vec<Rule> = families.iter().flat_map(|rules| rules.flows()).collect();
    add_chain(table, "flows", Attachment::filter(Hook::Forward, 300), &flows);
    for rules in families {
        rules.add_emerging(table);
    }
}

impl OverlayDevice {
    /// True if a flowtable can have this device: the kernel's VXLAN. Packets of the agent's own TUN devices pass user space anyway, and IPIP
    /// was not tried.
    #[must_use]
    pub const fn takes_flows(&self) -> bool {
        self.in_kernel && self.vni.is_some()
    }
}

impl FamilyRules {
    /// Rules that put established connections between containers and the overlay into the flowtable, one for each
    /// direction.
    fn flows(&self) -> Vec<Rule> {
        let Some(device) = self.device else { return Vec::new() };
        let (all, own) = (Addresses::In(self.network.into()), Addresses::In(self.own.into()));
        let out = [Match::To(device.link), self.source(own.clone()), self.destination(all.clone())];
        let back = [Match::From(Links::Is(device.link)), self.source(all), self.destination(own)];
        [out, back].map(flow).into()
    }

    /// Adds [`FamilyRules::not_let_in`] in a chain before the flowtable: a packet of a known flow never reaches the chain
    /// `arriving`.
    fn add_emerging(&self, table: &mut DesiredTable) {
        if let Some(device) = self.device {
            let name = format!("emerging-{}", self.family_name());
            let rules = [family_rules::let_in_by_no_rule(self.family, [])];
            add_chain(table, &name, Attachment::ingress(device.link, BEFORE), &rules);
        }
    }
}

fn flow(ends: [Match; 3]) -> Rule {
    let matches: Vec<Match> = ends.into_iter().chain([Match::TcpOrUdp, Match::Established]).collect();
    Rule::new("established flows", matches, [Action::FlowAdd(OVERLAY)])
}
