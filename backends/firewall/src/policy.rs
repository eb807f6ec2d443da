//! Computes the rules that the packet filter should hold. Pure.
//!
//! Each rule is placed where it takes effect (docs/adr/0007-firewall.md): what must come before Docker's drops in
//! iptables chains, everything else in our own nftables table.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::{DualStack, Family, LinkName, NetworkName, Pool, Subnet};
use wire_state::{
    Attachment, BaseChain, DesiredFirewall, DesiredTable, Element, FlannelRules, Hook, OurTable, Purpose, Set, SetKind,
};

use super::{
    address_range::AddressRange,
    facts::{DockerRules, HostFacts, TrackingReason},
    family_rules::{
        self, BRIDGES, FamilyRules, containers, counter, of_carrier, of_other_networks, source_kept, too_short,
    },
    flowtable,
    from_peers::FirewallFromPeers,
    nat,
    nft::is_plain,
    overlay_device::OverlayDevice,
    peer_sets::PeerSets,
    render,
    rule::{Action, Links, Match, Rule},
    support::Nftables,
};

/// The networks of the overlay, and an operator's choices for the packet filter.
#[derive(Clone, Debug)]
pub struct FirewallPolicy {
    /// The network whose rules they are, by which these are named.
    pub network: NetworkName,
    /// The overlay's networks, and the ranges that hosts lease from.
    pub pools: DualStack<Pool>,
    /// Source NAT for packets that leave the overlay.
    pub masquerade: Masquerade,
    /// Accepts forwarding from and to the overlay, whatever the policy of FORWARD is and whatever Docker drops.
    pub forward: bool,
    /// The senders that encapsulated packets are accepted from.
    pub senders: Senders,
    /// Lets established connections of the overlay skip the rules of forwarding, if the kernel has flowtables.
    pub flowtable: bool,
    /// The underlay's link, if packets of some peers come by it without encapsulation.
    pub direct: Option<LinkName>,
    /// A second overlay device of each family, while a former backend is spoken beside the new one.
    pub beside: DualStack<OverlayDevice>,
}

/// Source NAT for packets that leave the overlay (`--ip-masq`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// They keep their source.
    Off,
    /// They get this host's address and a random port (`--random-fully`), so that two connections at once never get the
    /// same.
    Random,
    /// They get this host's address, and keep their port if it is free.
    Plain,
}

/// The senders that encapsulated packets are accepted from (`--peers-only`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Senders {
    /// The public addresses of leases.
    Peers,
    /// Anyone but containers: for peers behind a NAT that hides their public address.
    Anyone,
}

/// Another host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The source addresses of its encapsulated packets.
    pub public: DualStack<IpAddr>,
    /// The subnet of its containers.
    pub subnet: Subnet,
}

/// The packet mark by which Docker's tables of nftables accept packets to containers
/// (`--bridge-accept-fwmark=0x1000/0x1000`).
pub const ACCEPT_MARK: u32 = 0x1000;

impl FirewallPolicy {
    /// Computes the rules that the packet filter should hold for these leases.
    #[must_use]
    pub fn desired(
        &self,
        own: Subnet,
        peers: &(impl Iterator<Item = Peer> + Clone),
        devices: &DualStack<OverlayDevice>,
        facts: &HostFacts,
    ) -> DesiredFirewall {
        let computed = FirewallFromPeers::new(self, own, peers.clone(), devices, facts);
        DesiredFirewall::clone(computed.firewall())
    }

    /// The rules as if there were no peers, and the sets that their elements are added to.
    pub(super) fn without_peers(
        &self,
        own: Subnet,
        devices: &DualStack<OverlayDevice>,
        facts: &HostFacts,
    ) -> (DesiredFirewall, Vec<PeerSets>) {
        let mut firewall = DesiredFirewall { flannel: self.flannel(), ..DesiredFirewall::default() };
        let families = self.families(own, devices);
        let sets = self.peer_sets(&families, facts);
        let ours = self.table(&families, &sets, facts);
        if !ours.chains.is_empty() && facts.support.nftables != Nftables::Absent {
            firewall.table = Some(ours);
        }
        for rules in &families {
            if self.forward {
                firewall.chains.extend(rules.accepting_chains(&self.network));
            }
            if facts.support.nftables == Nftables::Absent && self.translates() {
                firewall.chains.extend([rules.nat_chain(self.masquerade, &self.network)]);
            }
        }
        (firewall, sets)
    }

    /// flanneld's rules are of the default network, or of one that this agent knows nothing of.
    fn flannel(&self) -> FlannelRules {
        if self.network.is_default() { FlannelRules::Delete } else { FlannelRules::Keep }
    }

    fn peer_sets(&self, families: &[FamilyRules], facts: &HostFacts) -> Vec<PeerSets> {
        match self.senders {
            Senders::Peers => {
                let through = families.iter().filter(|rules| rules.device.is_some() || rules.direct.is_some());
                through.map(|rules| PeerSets::new(rules, facts.checks_sources())).collect()
            }
            Senders::Anyone => Vec::new(),
        }
    }

    /// The families of the overlay.
    pub fn families_on(&self) -> impl Iterator<Item = Family> {
        self.pools.iter().map(|(family, _)| family)
    }

    /// The families in which the kernel tracks encapsulated packets that come in.
    #[must_use]
    pub fn tracked(&self, devices: &DualStack<OverlayDevice>, facts: &HostFacts) -> BTreeMap<Family, TrackingReason> {
        devices.iter().filter_map(|(family, _)| Some((family, self.tracked_in(family, facts)?))).collect()
    }

    fn tracked_in(&self, family: Family, facts: &HostFacts) -> Option<TrackingReason> {
        if self.senders == Senders::Anyone {
            Some(TrackingReason::AnyoneMaySend)
        } else if !facts.checks_sources() {
            Some(TrackingReason::SourcesNotCompared)
        } else if self.pools.get(family).is_none_or(|pool| !family_rules::is_usual_len(pool.subnet_len)) {
            Some(TrackingReason::UnusualSubnetLen)
        } else {
            facts.tracked.get(&family).cloned()
        }
    }

    /// True if rules of ours keep or change sources.
    fn translates(&self) -> bool {
        self.forward || self.masquerade != Masquerade::Off
    }

    fn families(&self, own: Subnet, devices: &DualStack<OverlayDevice>) -> Vec<FamilyRules> {
        let rules = self.pools.iter().filter_map(|(family, pool)| {
            let (own, device) = (own.get(family)?, devices.get(family).copied());
            let (network, overlay, subnet_len) = (pool.network, AddressRange::leased_in(pool), pool.subnet_len);
            let (beside, direct) = (self.beside.get(family).copied(), self.direct);
            Some(FamilyRules { family, network, overlay, subnet_len, own, device, beside, direct })
        });
        rules.collect()
    }

    fn table(&self, families: &[FamilyRules], sets: &[PeerSets], facts: &HostFacts) -> DesiredTable {
        let mut table = DesiredTable {
            name: OurTable { network: self.network.clone(), ..OurTable::default() },
            ..DesiredTable::default()
        };
        let nat: Vec<Rule> = if self.translates() {
            let rules = families.iter().flat_map(|rules| rules.nat(self.masquerade));
            std::iter::once(nat::marked_for_others()).chain(rules).map(Rule::from).collect()
        } else {
            Vec::new()
        };
        // Before Docker, which masquerades at 100 (`srcnat`).
        add_chain(&mut table, "sources", Attachment::nat(Hook::Postrouting, 99), &nat);
        if !self.network.is_default() {
            let apart: Vec<Rule> = families.iter().flat_map(|rules| rules.apart(&facts.others)).collect();
            add_chain(&mut table, "apart", Attachment::filter(Hook::Forward, -10), &apart);
        }
        let through: Vec<&FamilyRules> = families.iter().filter(|rules| rules.device.is_some()).collect();
        let Some(device) = through.iter().find_map(|rules| rules.device) else {
            if self.direct.is_some() {
                self.judge_direct_alone(&mut table, families, sets, facts);
            }
            return table;
        };
        self.judge(&mut table, &through, &Judged { device, suffix: "" }, facts);
        self.judge_beside(&mut table, &through, facts);
        // Containers on any link.
        let masqueraded = through.iter().filter_map(|rules| rules.masqueraded()).collect();
        let (name, attachment) = ENCAPSULATED_OUT;
        add_chain(&mut table, name, attachment, &sent(&device, masqueraded));
        // After all other chains: what others drop never gets here.
        let doubted = || through.iter().filter(|rules| facts.doubted.contains(&rules.family));
        let delivered: Vec<Rule> =
            doubted().map(|rules| rules.counted("let in by all", counter::delivered(rules.family))).collect();
        if !delivered.is_empty() {
            add_chain(
                &mut table,
                "encapsulated-delivered",
                Attachment::filter(Hook::Input, 300),
                &encapsulated(&device, delivered),
            );
        }
        if self.flowtable && facts.support.flowtables {
            flowtable::add(&mut table, &through, facts);
        }
        let counters = [counter::UNKNOWN_PEERS, counter::CONTAINERS, counter::SPOOFED].into_iter();
        let counters = counters.chain(through.iter().map(|rules| counter::arrived(rules.family)));
        let counters = counters.chain(doubted().map(|rules| counter::delivered(rules.family)));
        table.counters = counters.map(str::to_owned).collect();
        table.sets.insert(BRIDGES.to_owned(), bridges(facts));
        table.sets.extend(sets.iter().flat_map(PeerSets::empty));
        if self.senders == Senders::Peers {
            table.sets.extend(through.iter().flat_map(|rules| rules.noted_sets(facts.checks_sources())));
        }
        table
    }

    /// Adds the chains that judge encapsulated packets as they come in, or are forwarded.
    fn judge(&self, table: &mut DesiredTable, through: &[&FamilyRules], judged: &Judged, facts: &HostFacts) {
        let Judged { device, suffix } = judged;
        let named = |name: &str| format!("{name}{suffix}");
        let source_check = facts.checks_sources();
        let (arriving_in, attachment) = ARRIVING;
        // Fragments are whole again since -400.
        let decapsulated = named(DECAPSULATED);
        add(table, &decapsulated, None, &self.decapsulated(through, facts));
        let mut arriving: Vec<Rule> =
            table.chains.contains_key(&decapsulated).then(|| called(decapsulated)).into_iter().collect();
        arriving.extend(through.iter().flat_map(|rules| rules.direct(self.senders)));
        if self.forward && facts.docker != DockerRules::Iptables {
            arriving.extend(through.iter().filter_map(|rules| rules.marked_direct()));
        }
        let passing: Vec<Rule> = through.iter().flat_map(|rules| rules.through()).collect();
        let mut incoming = vec![containers([Match::From(Links::In(BRIDGES))])];
        incoming.extend(through.iter().flat_map(|rules| rules.encapsulated(self.senders, source_check)));
        if self.senders == Senders::Anyone {
            incoming.extend(through.iter().map(|rules| rules.all_others()));
        }
        arriving.extend(of_carrier(device).into_iter().chain(of_other_networks(device)));
        arriving.extend(through.iter().filter_map(|rules| self.usual(rules, facts)));
        if device.is_known_early() {
            arriving.extend(too_short(device));
            arriving.extend(through.iter().filter_map(|rules| rules.as_if_from_us()).chain(passing));
            arriving.extend(through.iter().filter_map(|rules| rules.passing()).chain(incoming));
        } else {
            // Without a VXLAN header, an answer to a masqueraded packet may look encapsulated until its address is
            // translated back (-100).
            let incoming = [family_rules::let_in_before()].into_iter().chain(incoming).collect();
            add_chain(
                table,
                &named("encapsulated-in"),
                Attachment::filter(Hook::Input, -10),
                &encapsulated(device, incoming),
            );
            add_chain(
                table,
                &named("encapsulated-through"),
                Attachment::filter(Hook::Forward, -10),
                &encapsulated(device, passing),
            );
        }
        add_chain(table, &named(arriving_in), attachment, &arriving);
    }

    /// The rules for what comes out of overlay devices. They are in a chain of their own, so that other packets pass them at once.
    fn decapsulated(&self, through: &[&FamilyRules], facts: &HostFacts) -> Vec<Rule> {
        let mut rules: Vec<Rule> = through.iter().filter_map(|rules| rules.not_let_in()).collect();
        rules.extend(through.iter().flat_map(|rules| rules.spoofed(self.senders)));
        if self.forward && facts.docker != DockerRules::Iptables {
            rules.extend(through.iter().filter_map(|rules| rules.marked()));
        }
        rules
    }

    /// Adds the same chains for the second devices. What one chain accepts, the next hook's chains still judge.
    fn judge_beside(&self, table: &mut DesiredTable, through: &[&FamilyRules], facts: &HostFacts) {
        let beside: Vec<FamilyRules> = through.iter().filter_map(|rules| rules.of_second_device()).collect();
        let beside: Vec<&FamilyRules> = beside.iter().collect();
        let Some(device) = beside.iter().find_map(|rules| rules.device) else { return };
        self.judge(table, &beside, &Judged { device, suffix: "-beside" }, facts);
        let masqueraded = beside.iter().filter_map(|rules| rules.masqueraded()).collect();
        let (_, attachment) = ENCAPSULATED_OUT;
        add_chain(table, "encapsulated-out-beside", attachment, &sent(&device, masqueraded));
    }

    /// Adds what a network without an overlay device has: only packets without encapsulation are judged.
    fn judge_direct_alone(
        &self,
        table: &mut DesiredTable,
        families: &[FamilyRules],
        sets: &[PeerSets],
        facts: &HostFacts,
    ) {
        let mut arriving: Vec<Rule> = families.iter().flat_map(|rules| rules.direct(self.senders)).collect();
        if self.forward && facts.docker != DockerRules::Iptables {
            arriving.extend(families.iter().filter_map(FamilyRules::marked_direct));
        }
        let (name, attachment) = ARRIVING;
        add_chain(table, name, attachment, &arriving);
        table.counters = [counter::SPOOFED.to_owned()].into();
        table.sets.insert(BRIDGES.to_owned(), bridges(facts));
        table.sets.extend(sets.iter().flat_map(PeerSets::empty));
    }

    /// The rule for nearly all packets of a family, if inner sources are compared.
    fn usual(&self, rules: &FamilyRules, facts: &HostFacts) -> Option<Rule> {
        if self.senders != Senders::Peers || !facts.checks_sources() {
            return None;
        }
        rules.usual(&facts.bridges, self.tracked_in(rules.family, facts).is_some())
    }
}

/// The chain for what comes out of overlay devices.
const DECAPSULATED: &str = "decapsulated";

fn called(chain: String) -> Rule {
    Rule::new(Purpose::FromOverlays.words(), [Match::FromAnyOverlay], [Action::Jump(chain)])
}

/// A device whose packets are judged, and how the names of its chains end.
struct Judged {
    device: OverlayDevice,
    suffix: &'static str,
}

/// The set of links with containers.
pub(super) fn bridges(facts: &HostFacts) -> Set {
    let elements = facts.bridges.iter().filter(|link| is_plain(link)).map(|link| Element::Link(*link)).collect();
    Set { kind: SetKind::Links, elements }
}

/// Puts rules before these that let all other packets pass.
fn encapsulated(device: &OverlayDevice, rules: Vec<Rule>) -> Vec<Rule> {
    let others = of_carrier(device).into_iter().chain(too_short(device)).chain(of_other_networks(device));
    others.chain(rules).collect()
}

/// The same for packets that go out: hardly any has a source that was translated.
fn sent(device: &OverlayDevice, rules: Vec<Rule>) -> Vec<Rule> {
    if rules.is_empty() { rules } else { [source_kept()].into_iter().chain(encapsulated(device, rules)).collect() }
}

/// Adds a chain if it has rules.
pub(super) fn add_chain(table: &mut DesiredTable, name: &str, attachment: Attachment, rules: &[Rule]) {
    add(table, name, Some(attachment), rules);
}

/// The chain in which packets are judged as they come in: ten before `raw` (-300), and so before connection tracking (-200).
pub(super) const ARRIVING: (&str, Attachment) = ("arriving", Attachment::filter(Hook::Prerouting, -310));
/// The chain that encapsulated packets leave by: after all that changes sources (100, `srcnat`).
pub(super) const ENCAPSULATED_OUT: (&str, Attachment) =
    ("encapsulated-out", Attachment::filter(Hook::Postrouting, 300));

/// Adds rules that come before those that others want in a chain.
pub(super) fn lead(table: &mut DesiredTable, (name, attachment): (&str, Attachment), rules: &[Rule]) {
    add_chain(table, name, attachment, rules);
    table.chains.get_mut(name).into_iter().for_each(|chain| chain.leads = true);
}

pub(super) fn add(table: &mut DesiredTable, name: &str, attachment: Option<Attachment>, rules: &[Rule]) {
    if !rules.is_empty() {
        let rules = rules.iter().map(|rule| render::nft::rule(rule, &table.name.network)).collect();
        table.chains.insert(name.to_owned(), BaseChain { attachment, rules, leads: false });
    }
}
