//! Computes the rules that the packet filter should hold. Pure.
//!
//! Each rule is placed where it takes effect (docs/adr/0007-firewall.md): what must come before Docker's drops in
//! iptables chains, everything else in our own nftables table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use wire_net::{DualStack, Family, LinkName, Pool, Subnet, Vni};
use wire_state::{
    BaseChain, ContainerLink, DesiredKind, DesiredNet, Element, FirewallState, Hook, KernelKind, LinkRef, Set, SetKind,
    Table, TableName, Tunnel, VXLAN_LEAD,
};

use super::{
    family_rules::{self, BRIDGES, FamilyRules, containers, counter, of_network, to_port},
    flowtable,
    overlay::Overlay,
    rule::{Links, Match, Rule},
};

/// The networks of the overlay, and an operator's choices for the packet filter.
#[derive(Clone, Debug)]
pub struct FirewallPolicy {
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

/// The device through which packets of one family enter the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayDevice {
    /// Its name.
    pub link: LinkName,
    /// The underlay link it is bound to, if any.
    pub parent: Option<LinkName>,
    /// The UDP port of encapsulated packets.
    pub port: u16,
    /// The VNI this device terminates, if it is VXLAN.
    pub vni: Option<Vni>,
    /// The source address of the encapsulated packets that this host sends.
    pub local: Option<IpAddr>,
    /// True if the kernel decapsulates, and counts what has come in; false if the agent does.
    pub in_kernel: bool,
    /// True if headers may carry a group policy (`"GBP"`).
    pub has_policy: bool,
    /// Offset of the inner IP header from the start of the outer UDP header, in bytes.
    pub inner: usize,
}

/// Length of a UDP header (RFC 768), in bytes.
const UDP: usize = 8;

impl OverlayDevice {
    /// The overlay devices that a backend wants.
    #[must_use]
    pub fn of(net: &DesiredNet) -> DualStack<Self> {
        let mut devices = DualStack::default();
        for (name, link) in &net.links {
            let (family, device) = match &link.kind {
                DesiredKind::Kernel(KernelKind::Vxlan(vxlan)) => {
                    let (port, vni, local) = (vxlan.port_in_use(), Some(vxlan.vni), vxlan.local);
                    let (parent, inner) = (vxlan.parent.map(LinkRef::name), UDP + VXLAN_LEAD);
                    let (in_kernel, has_policy) = (true, vxlan.gbp);
                    (vxlan.underlay(), Self { link: *name, parent, port, vni, local, in_kernel, has_policy, inner })
                }
                DesiredKind::Tunnel(Tunnel { framing, local, .. }) => {
                    let (port, vni, local) = (local.port(), framing.vni(), local.ip());
                    let inner = UDP + framing.lead();
                    let (family, parent, local) = (Family::of(local), None, Some(local));
                    let (in_kernel, has_policy) = (false, false);
                    (family, Self { link: *name, parent, port, vni, local, in_kernel, has_policy, inner })
                }
                DesiredKind::Kernel(
                    KernelKind::Bridge
                    | KernelKind::Veth(_)
                    | KernelKind::Vlan(_)
                    | KernelKind::Macvlan(_)
                    | KernelKind::Ipip(_),
                ) => continue,
            };
            devices.set(family, Some(device));
        }
        devices
    }
}

/// The facts of this host that the rules depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The links with containers of our subnet.
    pub bridges: BTreeSet<LinkName>,
    /// These and all other bridges. No rule depends on them.
    pub links: Vec<ContainerLink>,
    /// The form in which Docker keeps its rules.
    pub docker: DockerRules,
    /// The part of our table that nftables can hold.
    pub nftables: Nftables,
    /// The families whose encapsulated packets must stay tracked as they come in, and what needs that.
    pub tracked: BTreeMap<Family, String>,
    /// The families in which rules of others may drop what ours let in.
    pub doubted: BTreeSet<Family>,
    /// The links that a flowtable can be hooked to: none if it is not asked for, or the kernel has none.
    pub hookable: BTreeSet<LinkName>,
}

impl HostFacts {
    /// The bridges whose names nft would not take literally.
    pub fn unnamed_bridges(&self) -> impl Iterator<Item = &LinkName> {
        self.bridges.iter().filter(|link| !is_plain(link))
    }
}

/// The part of our table that nftables can hold, from less to more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nftables {
    /// Nothing: there is no nft, or the kernel is before 5.6.
    Absent,
    /// Everything except the check of inner sources: nft before 1.0.6.
    Simple,
    /// Everything.
    #[default]
    Whole,
}

/// The form in which Docker keeps its rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DockerRules {
    /// In iptables, or there is no Docker.
    #[default]
    Iptables,
    /// In tables of nftables (Docker 29 with `firewall-backend` nftables) that let our mark pass.
    Marked,
    /// In nftables, but Docker was not told to accept our mark (`--bridge-accept-fwmark`).
    Unmarked,
}

/// The packet mark by which Docker's tables of nftables accept packets to containers
/// (`--bridge-accept-fwmark=0x1000/0x1000`).
pub const ACCEPT_MARK: u32 = 0x1000;

/// By flannel's and kube-proxy's convention packets with this mark are masqueraded by others.
pub(super) const KUBE_MARK: &str = "0x4000";

impl FirewallPolicy {
    /// Computes the rules that the packet filter should hold for these leases.
    #[must_use]
    pub fn desired(
        &self,
        own: Subnet,
        peers: &(impl Iterator<Item = Peer> + Clone),
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

    /// The families in which the kernel tracks encapsulated packets that come in, and why.
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

    /// True if rules of ours keep or change sources.
    fn translates(&self) -> bool {
        self.forward || self.masquerade != Masquerade::Off
    }

    fn families(&self, own: Subnet, devices: &DualStack<OverlayDevice>) -> Vec<FamilyRules> {
        let rules = self.pools.iter().filter_map(|(family, pool)| {
            let (own, device) = (own.get(family)?, devices.get(family).copied());
            let (network, overlay, subnet_len) = (pool.network, Overlay::of(pool), pool.subnet_len);
            Some(FamilyRules { family, network, overlay, subnet_len, own, device })
        });
        rules.collect()
    }

    fn table(
        &self,
        families: &[FamilyRules],
        peers: &(impl Iterator<Item = Peer> + Clone),
        facts: &HostFacts,
    ) -> Table {
        let mut table = Table::default();
        let nat: Vec<Rule> = if self.translates() {
            std::iter::once(family_rules::marked_for_others())
                .chain(families.iter().flat_map(|rules| rules.nat(self.masquerade)))
                .collect()
        } else {
            Vec::new()
        };
        // Before Docker, which masquerades at 100 (`srcnat`).
        add_chain(&mut table, "sources", Attachment { kind: "nat", hook: Hook::Postrouting, priority: 99 }, nat);
        let through: Vec<&FamilyRules> = families.iter().filter(|rules| rules.device.is_some()).collect();
        let Some(device) = through.iter().find_map(|rules| rules.device) else { return table };
        let source_check = facts.nftables == Nftables::Whole;
        self.judge(&mut table, &through, &device, facts);
        // Containers on any link: after all that changes sources (100, `srcnat`).
        let masqueraded = through.iter().filter_map(|rules| rules.masqueraded()).collect();
        add_chain(
            &mut table,
            "encapsulated-out",
            Attachment { kind: "filter", hook: Hook::Postrouting, priority: 300 },
            encapsulated(&device, masqueraded),
        );
        // After all other chains: what others drop never gets here.
        let doubted = || through.iter().filter(|rules| facts.doubted.contains(&rules.family));
        let delivered: Vec<Rule> =
            doubted().map(|rules| rules.counted("let in by all", counter::delivered(rules.family))).collect();
        if !delivered.is_empty() {
            add_chain(
                &mut table,
                "encapsulated-delivered",
                Attachment { kind: "filter", hook: Hook::Input, priority: 300 },
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
                table.sets.extend(rules.sets(peers.clone(), source_check));
            }
        }
        table
    }

    /// Adds the chains that judge encapsulated packets as they come in, or are forwarded.
    fn judge(&self, table: &mut Table, through: &[&FamilyRules], device: &OverlayDevice, facts: &HostFacts) {
        let source_check = facts.nftables == Nftables::Whole;
        // Ten before `raw` (-300), and so before connection tracking (-200). Fragments are whole again since -400.
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
        arriving.extend(to_port(device).into_iter().chain(through.iter().filter_map(|rules| self.usual(rules, facts))));
        if device.vni.is_some() {
            arriving.extend(of_network(device));
            arriving.extend(through.iter().filter_map(|rules| rules.as_if_from_us()).chain(passing));
            arriving.extend(through.iter().filter_map(|rules| rules.passing()).chain(incoming));
        } else {
            // Without a VXLAN header, an answer to a masqueraded packet may look encapsulated until its address is
            // translated back (-100).
            let incoming = [family_rules::let_in_before()].into_iter().chain(incoming).collect();
            add_chain(
                table,
                "encapsulated-in",
                Attachment { kind: "filter", hook: Hook::Input, priority: -10 },
                encapsulated(device, incoming),
            );
            add_chain(
                table,
                "encapsulated-through",
                Attachment { kind: "filter", hook: Hook::Forward, priority: -10 },
                encapsulated(device, passing),
            );
        }
        add_chain(table, "arriving", Attachment { kind: "filter", hook: Hook::Prerouting, priority: -310 }, arriving);
    }

    /// The rule for nearly all packets of a family, if inner sources are compared.
    fn usual(&self, rules: &FamilyRules, facts: &HostFacts) -> Option<Rule> {
        if self.senders != Senders::Peers || facts.nftables != Nftables::Whole {
            return None;
        }
        rules.usual(&facts.bridges, self.tracked_in(rules.family, facts).is_some())
    }
}

/// Puts rules before these that let all other packets pass.
fn encapsulated(device: &OverlayDevice, rules: Vec<Rule>) -> Vec<Rule> {
    to_port(device).into_iter().chain(of_network(device)).chain(rules).collect()
}

/// True if nft takes the name literally: other names are patterns, or end the quoted text.
pub(super) fn is_plain(link: &LinkName) -> bool {
    link.as_str().chars().all(|letter| letter.is_ascii_alphanumeric() || "_.@:-".contains(letter))
}

/// The place of a chain in the kernel: its type, its hook, and its priority there.
#[derive(Clone, Copy)]
pub(super) struct Attachment {
    pub(super) kind: &'static str,
    pub(super) hook: Hook,
    pub(super) priority: i32,
}

/// Adds a chain if it has rules.
pub(super) fn add_chain(table: &mut Table, name: &str, at: Attachment, rules: Vec<Rule>) {
    if !rules.is_empty() {
        let rules = rules.into_iter().map(Rule::in_nft).collect();
        let Attachment { kind, hook, priority } = at;
        let (kind, device) = (kind.to_owned(), None);
        table.chains.insert(name.to_owned(), BaseChain { kind, hook, priority, device, rules });
    }
}
