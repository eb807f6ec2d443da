//! What the packet filter should hold for us. Pure.
//!
//! Each rule stands where it can win (docs/adr/0007-firewall.md): what must come before Docker's drops in chains of iptables,
//! all else in our own table of nftables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use wire_net::{DualStack, Family, LinkName, Pool, Subnet, Vni};
use wire_state::{
    BaseChain, ContainerLink, Element, FirewallState, Hook, LinkKind, NetState, Owner, Set, SetKind, Table, TableName,
    Tunnel, VXLAN_LEAD,
};

use super::{
    family_rules::{self, BRIDGES, FamilyRules, containers, counter, of_network, to_port},
    flowtable,
    overlay::Overlay,
    rule::{Links, Match, Rule},
};

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct FirewallPolicy {
    /// The overlay's networks, and what hosts lease of them.
    pub pools: DualStack<Pool>,
    /// Whether what leaves the overlay gets this host's address.
    pub masquerade: Masquerade,
    /// Whether packets from and to the overlay are forwarded whatever the policy of FORWARD is, and whatever Docker drops.
    pub forward: bool,
    /// Who may send us encapsulated packets.
    pub senders: Senders,
    /// Lets established connections of the overlay skip the rules of forwarding, where the kernel has flowtables.
    pub flowtable: bool,
}

/// Whether what leaves the overlay gets this host's address (`--ip-masq`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// It keeps its own.
    Off,
    /// With any free port (`--random-fully`), so that two at once are never given the same.
    Random,
    /// With its own port where that is free.
    Plain,
}

/// Who may send us encapsulated packets (`--peers-only`).
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
    /// The addresses that it sends encapsulated packets from.
    pub public: DualStack<IpAddr>,
    /// What its containers have addresses of.
    pub subnet: Subnet,
}

/// A device through which packets go into the overlay of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayDevice {
    /// Its name.
    pub link: LinkName,
    /// The link to the other hosts, where it is bound to one.
    pub parent: Option<LinkName>,
    /// The UDP port of encapsulated packets.
    pub port: u16,
    /// Which of those are of this device.
    pub vni: Option<Vni>,
    /// Where they come from that we send.
    pub local: Option<IpAddr>,
    /// Whether it is the kernel that takes them off, and counts what has come in.
    pub in_kernel: bool,
    /// Whether a group policy may stand in their headers (`"GBP"`).
    pub has_policy: bool,
    /// How far behind the start of their UDP header the inner IP header begins, in bytes.
    pub inner: usize,
}

/// A UDP header (RFC 768), in bytes.
const UDP: usize = 8;

impl OverlayDevice {
    /// Those that a backend wants.
    #[must_use]
    pub fn of(net: &NetState) -> DualStack<Self> {
        let mut devices = DualStack::default();
        for (name, link) in net.links.iter().filter(|(_, link)| link.owner == Owner::Ours) {
            let (family, device) = match &link.kind {
                LinkKind::Vxlan(vxlan) => {
                    let (port, vni, local) = (vxlan.port_in_use(), Some(vxlan.vni), vxlan.local);
                    let (parent, inner) = (vxlan.parent.map(|parent| parent.name), UDP + VXLAN_LEAD);
                    let (in_kernel, has_policy) = (true, vxlan.gbp);
                    (vxlan.underlay(), Self { link: *name, parent, port, vni, local, in_kernel, has_policy, inner })
                }
                LinkKind::Tun(Some(Tunnel { framing, local, .. })) => {
                    let (port, vni, local) = (local.port(), framing.vni(), local.ip());
                    let inner = UDP + framing.lead();
                    let (family, parent, local) = (Family::of(local), None, Some(local));
                    let (in_kernel, has_policy) = (false, false);
                    (family, Self { link: *name, parent, port, vni, local, in_kernel, has_policy, inner })
                }
                LinkKind::Tun(None) | LinkKind::Other(_) => continue,
            };
            devices.set(family, Some(device));
        }
        devices
    }
}

/// What the host around us has, as far as it matters to the packet filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The links that containers of our subnet are on.
    pub bridges: BTreeSet<LinkName>,
    /// These and all other bridges. No rule follows from them.
    pub links: Vec<ContainerLink>,
    /// How Docker keeps its rules.
    pub docker: DockerRules,
    /// What of our table nftables can hold.
    pub nftables: Nftables,
    /// The families whose encapsulated packets stay tracked as they come in, and what needs that.
    pub tracked: BTreeMap<Family, String>,
    /// The families of which somebody else may drop what we let in.
    pub doubted: BTreeSet<Family>,
    /// The links there are that a flowtable can be hooked to: none where it is not asked for, or the kernel has none.
    pub hookable: BTreeSet<LinkName>,
}

impl HostFacts {
    /// The bridges that no rule can name.
    pub fn unnamed_bridges(&self) -> impl Iterator<Item = &LinkName> {
        self.bridges.iter().filter(|link| !is_plain(link))
    }
}

/// What of our table nftables can hold, from less to more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nftables {
    /// Nothing: there is no nft, or the kernel is before 5.6.
    Absent,
    /// All but which inner sources a peer may have: nft before 1.0.6.
    Simple,
    /// All of it.
    #[default]
    Whole,
}

/// How Docker keeps its rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DockerRules {
    /// In iptables, or there is no Docker.
    #[default]
    Iptables,
    /// In tables of nftables (Docker 29 with `firewall-backend` nftables) that let our mark pass.
    Marked,
    /// The same, but it was not told of our mark (`--bridge-accept-fwmark`).
    Unmarked,
}

/// The mark by which Docker's tables of nftables let packets to containers pass (`--bridge-accept-fwmark=0x1000/0x1000`).
pub const ACCEPT_MARK: u32 = 0x1000;

/// By flannel's and kube-proxy's convention packets with this mark are masqueraded by others.
pub(super) const KUBE_MARK: &str = "0x4000";

impl FirewallPolicy {
    /// What the packet filter should hold for these leases.
    #[must_use]
    pub fn desired(
        &self,
        own: Subnet,
        peers: &[Peer],
        devices: &DualStack<OverlayDevice>,
        facts: &HostFacts,
    ) -> FirewallState {
        let mut firewall = FirewallState::default();
        let families = self.families(own, devices);
        let ours = self.table(&families, peers, facts);
        if !ours.chains.is_empty() && facts.nftables != Nftables::Absent {
            firewall.tables.insert(TableName::Ours, ours);
        }
        for rules in &families {
            if self.forward {
                firewall.chains.extend(rules.chains());
            }
            if facts.nftables == Nftables::Absent && self.translates() {
                firewall.chains.extend([rules.nat_chain(self.masquerade)]);
            }
        }
        firewall
    }

    /// The families in which the kernel tracks the connections of encapsulated packets that come in, and why.
    #[must_use]
    pub fn tracked(&self, devices: &DualStack<OverlayDevice>, facts: &HostFacts) -> BTreeMap<Family, String> {
        devices.iter().filter_map(|(family, _)| Some((family, self.tracked_in(family, facts)?))).collect()
    }

    fn tracked_in(&self, family: Family, facts: &HostFacts) -> Option<String> {
        let ours = if self.senders == Senders::Anyone {
            Some("anyone may send")
        } else if facts.nftables != Nftables::Whole {
            Some("inner sources are not compared")
        } else if self.pools.get(family).is_none_or(|pool| !family_rules::is_usual_len(pool.subnet_len)) {
            Some("SubnetLen is not a multiple of 8")
        } else {
            None
        };
        ours.map(str::to_owned).or_else(|| facts.tracked.get(&family).cloned())
    }

    /// Whether any source is kept or changed.
    fn translates(&self) -> bool {
        self.forward || self.masquerade != Masquerade::Off
    }

    fn families(&self, own: Subnet, devices: &DualStack<OverlayDevice>) -> Vec<FamilyRules> {
        let rules = |(family, pool): (Family, &Pool)| {
            let (own, device) = (own.get(family)?, devices.get(family).copied());
            let (network, overlay, subnet_len) = (pool.network, Overlay::of(pool), pool.subnet_len);
            Some(FamilyRules { family, network, overlay, subnet_len, own, device })
        };
        self.pools.iter().filter_map(rules).collect()
    }

    fn table(&self, families: &[FamilyRules], peers: &[Peer], facts: &HostFacts) -> Table {
        let mut table = Table::default();
        let nat: Vec<Rule> = if self.translates() {
            std::iter::once(family_rules::marked_for_others())
                .chain(families.iter().flat_map(|rules| rules.nat(self.masquerade)))
                .collect()
        } else {
            Vec::new()
        };
        // Docker masquerades at 100 (`srcnat`).
        add_chain(&mut table, "sources", ("nat", Hook::Postrouting, 99), nat);
        let through: Vec<&FamilyRules> = families.iter().filter(|rules| rules.device.is_some()).collect();
        let Some(device) = through.iter().find_map(|rules| rules.device) else { return table };
        let source_check = facts.nftables == Nftables::Whole;
        self.judge(&mut table, (&through, &device), facts);
        // Whatever a container is on: behind all that changes sources (100, `srcnat`).
        let masqueraded = through.iter().filter_map(|rules| rules.masqueraded()).collect();
        add_chain(
            &mut table,
            "encapsulated-out",
            ("filter", Hook::Postrouting, 300),
            encapsulated(&device, masqueraded),
        );
        // Behind everyone's: what others drop never gets here.
        let doubted = || through.iter().filter(|rules| facts.doubted.contains(&rules.family));
        let delivered: Vec<Rule> =
            doubted().map(|rules| rules.counted("let in by all", counter::delivered(rules.family))).collect();
        if !delivered.is_empty() {
            add_chain(
                &mut table,
                "encapsulated-delivered",
                ("filter", Hook::Input, 300),
                encapsulated(&device, delivered),
            );
        }
        if self.flowtable {
            flowtable::add(&mut table, &through, facts);
        }
        let counters = [counter::UNKNOWN_PEERS, counter::CONTAINERS, counter::SPOOFED].into_iter();
        let counters = counters.chain(through.iter().map(|rules| counter::arrived(rules.family)));
        let counters = counters.chain(doubted().map(|rules| counter::delivered(rules.family)));
        table.counters = counters.map(str::to_owned).collect();
        let elements = facts.bridges.iter().filter(|link| is_plain(link)).map(|link| Element::Link(*link)).collect();
        table.sets.insert(BRIDGES.to_owned(), Set { kind: SetKind::Links, elements });
        if self.senders == Senders::Peers {
            for rules in through {
                table.sets.extend(rules.sets(peers, source_check));
            }
        }
        table
    }

    /// The chains in which encapsulated packets are judged as they come in, or pass through.
    fn judge(&self, table: &mut Table, (through, device): (&[&FamilyRules], &OverlayDevice), facts: &HostFacts) {
        let source_check = facts.nftables == Nftables::Whole;
        // Before connections are tracked (-200), at `raw` (-300) less ten. Fragments are whole again since -400.
        let mut arriving: Vec<Rule> = through.iter().filter_map(|rules| rules.not_let_in()).collect();
        arriving.extend(through.iter().filter_map(|rules| rules.spoofed()));
        if self.forward && facts.docker != DockerRules::Iptables {
            arriving.extend(through.iter().filter_map(|rules| rules.marked()));
        }
        let passing: Vec<Rule> = through.iter().flat_map(|rules| rules.through()).collect();
        let mut incoming = vec![containers([Match::From(Links::In(BRIDGES))])];
        incoming.extend(through.iter().flat_map(|rules| rules.encapsulated(self.senders, source_check)));
        if self.senders == Senders::Anyone {
            incoming.extend(through.iter().map(|rules| rules.all_others()));
        }
        let is_usual = self.senders == Senders::Peers && source_check;
        let usual = |rules: &&FamilyRules| {
            let tracked = self.tracked_in(rules.family, facts).is_some();
            rules.usual(&facts.bridges, tracked).filter(|_| is_usual)
        };
        arriving.extend(to_port(device).into_iter().chain(through.iter().filter_map(usual)));
        if device.vni.is_some() {
            arriving.extend(of_network(device));
            arriving.extend(through.iter().filter_map(|rules| rules.as_if_from_us()).chain(passing));
            arriving.extend(through.iter().filter_map(|rules| rules.passing()).chain(incoming));
        } else {
            // Without a header that says so, an answer to a masqueraded packet may look as if it were encapsulated, until it has its
            // own address back (-100).
            let incoming = [family_rules::let_in_before()].into_iter().chain(incoming).collect();
            add_chain(table, "encapsulated-in", ("filter", Hook::Input, -10), encapsulated(device, incoming));
            add_chain(table, "encapsulated-through", ("filter", Hook::Forward, -10), encapsulated(device, passing));
        }
        add_chain(table, "arriving", ("filter", Hook::Prerouting, -310), arriving);
    }
}

/// Rules for what is encapsulated alone.
fn encapsulated(device: &OverlayDevice, rules: Vec<Rule>) -> Vec<Rule> {
    to_port(device).into_iter().chain(of_network(device)).chain(rules).collect()
}

/// Whether nft takes the name for one: others are patterns, or end the text they are in.
pub(super) fn is_plain(link: &LinkName) -> bool {
    link.as_str().chars().all(|letter| letter.is_ascii_alphanumeric() || "_.@:-".contains(letter))
}

/// Adds a chain, where it has rules.
pub(super) fn add_chain(table: &mut Table, name: &str, (kind, hook, priority): (&str, Hook, i32), rules: Vec<Rule>) {
    if !rules.is_empty() {
        let rules = rules.into_iter().map(Rule::in_nft).collect();
        let (kind, device) = (kind.to_owned(), None);
        table.chains.insert(name.to_owned(), BaseChain { kind, hook, priority, device, rules });
    }
}
