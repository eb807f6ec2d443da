//! The iptables chains of one family. Pure.
//!
//! The rules have no comments: the match `comment` costs a call per packet, and the names of the chains identify their
//! owner.

use std::collections::BTreeMap;

use wire_net::{Family, LinkName, NetworkName};
use wire_state::{Call, ChainName, ChainTable, ChainTableKind, Creation, DesiredChain, InternalBridges, Place, names};

use super::{
    address_range::AddressRange,
    common_rule::{CommonRule, Conditions, LinkMatch, RangeMatch, Verdict},
    family_rules::FamilyRules,
    nat,
    policy::Masquerade,
    render,
};

impl FamilyRules {
    /// Source NAT in iptables, for hosts without nftables.
    pub(super) fn nat_chain(&self, masquerade: Masquerade, network: &NetworkName) -> (ChainName, DesiredChain) {
        let name = |purpose| names::chain_of(network, purpose);
        let rules = [vec![nat::marked_for_others()], self.nat(masquerade)].concat();
        chain(self.family, ChainTableKind::Nat, &name("NAT"), &rules, &[("POSTROUTING", Place::First)])
    }

    /// The chains that accept traffic of the overlay before Docker's rules drop it.
    pub(super) fn accepting_chains(&self, network: &NetworkName) -> BTreeMap<ChainName, DesiredChain> {
        let name = |purpose| names::chain_of(network, purpose);
        let mut chains = BTreeMap::new();
        // Leases of an earlier config may lie outside of the range, behind the device; by the underlay's link, hosts may send from there.
        let devices = [self.device, self.beside].into_iter().flatten();
        let devices = devices.map(|device| self.forwarded_by(device.link, self.network.into()));
        let direct = self.direct.map(|link| self.forwarded_by(link, self.overlay));
        let ways: Vec<[CommonRule; 2]> = devices.chain(direct).collect();
        if !ways.is_empty() {
            // Docker 28 drops packets to a container that do not arrive by its bridge, and does so before connection
            // tracking: replies too.
            let first: Vec<CommonRule> = ways.iter().map(|[incoming, _]| *incoming).collect();
            chains.extend([chain(
                self.family,
                ChainTableKind::Raw,
                &name("RAW"),
                &first,
                &[("PREROUTING", Place::First)],
            )]);
            // Before Docker's drops: in FORWARD, and in DOCKER-USER, the chain that Docker leaves to others, because
            // dockerd inserts its own rules in front of ours when it starts.
            let callers = [("FORWARD", Place::First), ("DOCKER-USER", Place::First)];
            chains.extend([chain(self.family, ChainTableKind::Filter, &name("FORWARD"), &ways.concat(), &callers)]);
        }
        let callers = [("FORWARD", Place::Anywhere)];
        chains.extend([chain(self.family, ChainTableKind::Filter, &name("POLICY"), &self.forwarded(), &callers)]);
        chains
    }

    /// Accepts what comes to containers here from that range by a link, and what they send there.
    fn forwarded_by(&self, link: LinkName, range: AddressRange) -> [CommonRule; 2] {
        let (all, own) = (RangeMatch::inside(range), RangeMatch::inside(self.own));
        let incoming =
            Conditions { source: all, destination: own, incoming: Some(link.into()), ..Conditions::default() };
        let outgoing =
            Conditions { source: own, destination: all, outgoing: Some(link.into()), ..Conditions::default() };
        [accept("from the overlay", incoming), accept("to the overlay", outgoing)]
    }

    /// As flannel: overrides a policy that drops, after all rules of others. Traffic between containers of this host is
    /// left to Docker: with --icc=false its drop is behind our rule after each start of dockerd.
    fn forwarded(&self) -> [CommonRule; 3] {
        let (all, own) = (RangeMatch::inside(self.network), RangeMatch::inside(self.own));
        let within = Conditions { source: own, destination: own, ..Conditions::default() };
        let from = Conditions { source: all, ..Conditions::default() };
        let to = Conditions { destination: all, ..Conditions::default() };
        [
            CommonRule { purpose: "within this host", conditions: within, verdict: Verdict::Return },
            accept("from the network", from),
            accept("to the network", to),
        ]
    }
}

/// The purpose of the chain that comes before all others, also of ours.
pub(super) const FIRST: &str = "SEGMENTS";
/// The beginning of the names of bridges of networks over several hosts.
const BRIDGES: &str = "wb.";

/// The chains that let packets of networks over several hosts through. Which of them may lead where is decided before, in our own table.
///
/// Frames that a bridge forwards come here too where br_netfilter is loaded: those within networks pass before all else, since each packet between
/// containers is one. What leads out of a network or into one passes as all of the flat network's behind all rules of others: overrides a policy that
/// drops.
pub(super) fn of_segments(family: Family, network: &NetworkName) -> [(ChainName, DesiredChain); 2] {
    let from = Conditions { incoming: Some(LinkMatch::Like(BRIDGES)), ..Conditions::default() };
    let to = Conditions { outgoing: Some(LinkMatch::Like(BRIDGES)), ..Conditions::default() };
    let within = [accept("within networks", Conditions { incoming: from.incoming, ..to })];
    let rules = [accept("out of a network", from), accept("into a network", to)];
    let first =
        chain(family, ChainTableKind::Filter, &names::chain_of(network, FIRST), &within, &[("FORWARD", Place::First)]);
    // No bridge of Docker's is in its rule.
    let first = (first.0, DesiredChain { internal_bridges: InternalBridges::Ignore, ..first.1 });
    let name = names::chain_of(network, "SEGMENTS-POLICY");
    [first, chain(family, ChainTableKind::Filter, &name, &rules, &[("FORWARD", Place::Anywhere)])]
}

/// A chain that is called from `callers`, each at its place.
fn chain(
    family: Family,
    kind: ChainTableKind,
    name: &str,
    rules: &[CommonRule],
    callers: &[(&str, Place)],
) -> (ChainName, DesiredChain) {
    let call = |place| Call { place, rule: format!("-j {name}") };
    let chain = DesiredChain {
        rules: rules.iter().map(render::iptables::rule).collect(),
        internal_bridges: match kind {
            // What this chain accepts would never reach the rules by which Docker isolates internal bridges.
            ChainTableKind::Filter => InternalBridges::Return,
            ChainTableKind::Raw | ChainTableKind::Nat => InternalBridges::Ignore,
        },
        creation: match kind {
            // Every packet passes a table that has rules, twice per host.
            ChainTableKind::Raw => Creation::WhenTableIsUsed,
            ChainTableKind::Filter | ChainTableKind::Nat => Creation::Always,
        },
        calls: callers.iter().map(|(caller, place)| ((*caller).to_owned(), call(*place))).collect(),
    };
    let table = ChainTable { family, kind };
    (ChainName { table, name: name.to_owned() }, chain)
}

const fn accept(purpose: &'static str, conditions: Conditions) -> CommonRule {
    CommonRule { purpose, conditions, verdict: Verdict::Accept }
}
