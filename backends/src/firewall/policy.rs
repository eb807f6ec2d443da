//! What the packet filter should hold for us. Pure.
//!
//! Each rule stands where it can win (docs/adr/0007-firewall.md): what must come before Docker's drops in chains of iptables,
//! all else in our own table of nftables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use wire_lease::{DualStack, Family, Lease, LeaseTable, Prefix};

use super::state::{
    BaseChain, Call, Chain, ChainName, ChainTable, ChainTableKind, Element, Firewall, Hook, Place, Rule, Set, SetKind,
    Table, TableName,
};
use crate::{LinkKind, LinkName, NetState, Owner};

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct FirewallPolicy {
    /// The overlay's networks.
    pub networks: DualStack<Prefix>,
    /// Whether what leaves the overlay gets this host's address.
    pub masquerade: Masquerade,
    /// Whether packets from and to the overlay are forwarded whatever the policy of FORWARD is, and whatever Docker drops.
    pub forward: bool,
    /// Who may send us encapsulated packets.
    pub senders: Senders,
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

/// A device through which packets go into the overlay of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayDevice {
    /// Its name.
    pub link: LinkName,
    /// The UDP port of encapsulated packets.
    pub port: u16,
    /// How far behind the start of their UDP header the inner IP header begins, in bits.
    pub inner: u16,
}

/// UDP (8 bytes), VXLAN (8, RFC 7348 §5), inner Ethernet (14).
const VXLAN_INNER: u16 = (8 + 8 + 14) * 8;

impl OverlayDevice {
    /// Those that a backend wants.
    #[must_use]
    pub fn of(net: &NetState) -> DualStack<Self> {
        let mut devices = DualStack::default();
        for (name, link) in net.links.iter().filter(|(_, link)| link.owner == Owner::Ours) {
            match &link.kind {
                LinkKind::Vxlan(vxlan) => {
                    devices.set(
                        vxlan.underlay(),
                        Some(Self { link: *name, port: vxlan.port_in_use(), inner: VXLAN_INNER }),
                    );
                }
                LinkKind::Other(_) => {}
            }
        }
        devices
    }
}

/// What the host around us has, as far as it matters to the packet filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The links that containers of our subnet are on.
    pub bridges: BTreeSet<LinkName>,
    /// How Docker keeps its rules.
    pub docker: DockerRules,
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

/// Named counters of our table: what was dropped, and what was let in.
pub(crate) mod counter {
    /// Encapsulated packets from hosts that have no lease.
    pub(crate) const STRANGERS: &str = "strangers";
    /// Encapsulated packets from containers.
    pub(crate) const CONTAINERS: &str = "containers";
    /// Packets out of the overlay whose source is none that their sender may have.
    pub(crate) const SPOOFED: &str = "spoofed";
    /// Encapsulated packets let in by us.
    pub(crate) const ARRIVED: &str = "arrived";
    /// Encapsulated packets let in by everyone else too.
    pub(crate) const DELIVERED: &str = "delivered";
}

/// The sets of our table.
const BRIDGES: &str = "bridges";
/// By `flannel`'s and `kube-proxy`'s convention packets with this mark are masqueraded by others.
const KUBE_MARK: &str = "0x4000";

/// What the comments of our iptables rules say.
const FORWARD_COMMENT: &str = "wire-agent forward";

impl FirewallPolicy {
    /// What the packet filter should hold for these leases.
    #[must_use]
    pub fn desired(
        &self,
        own: &Lease,
        leases: &LeaseTable,
        devices: &DualStack<OverlayDevice>,
        around: &Surroundings,
    ) -> Firewall {
        let mut firewall = Firewall::default();
        let families = self.sides(own, devices);
        let ours = self.table(&families, leases, around);
        if !ours.chains.is_empty() {
            firewall.tables.insert(TableName::Ours, ours);
        }
        if self.forward {
            for side in &families {
                firewall.chains.extend(side.chains());
            }
        }
        firewall
    }

    fn sides(&self, own: &Lease, devices: &DualStack<OverlayDevice>) -> Vec<Side> {
        let side = |(family, network): (Family, &Prefix)| {
            let (own, device) = (own.subnet.of(family)?, devices.of(family).copied());
            Some(Side { family, network: *network, own, device })
        };
        self.networks.iter().filter_map(side).collect()
    }

    fn table(&self, sides: &[Side], leases: &LeaseTable, around: &Surroundings) -> Table {
        let mut table = Table::default();
        let nat: Vec<Rule> = if self.forward || self.masquerade != Masquerade::Off {
            std::iter::once(Rule::new("marked for others", format!("meta mark & {KUBE_MARK} == {KUBE_MARK} return")))
                .chain(sides.iter().flat_map(|side| side.nat(self.masquerade)))
                .collect()
        } else {
            Vec::new()
        };
        // Docker masquerades at 100 (`srcnat`).
        table.add("sources", "nat", Hook::Postrouting, 99, nat);
        let through: Vec<&Side> = sides.iter().filter(|side| side.device.is_some()).collect();
        let Some(OverlayDevice { port, .. }) = through.iter().find_map(|side| side.device) else { return table };
        // Before connections are tracked (-200), at `raw` (-300) less ten.
        let mut out: Vec<Rule> = through.iter().filter_map(|side| side.spoofed()).collect();
        if self.forward && around.docker != DockerRules::Iptables {
            out.extend(through.iter().filter_map(|side| side.marked()));
        }
        table.add("out-of-overlay", "filter", Hook::Prerouting, -310, out);
        let encapsulated = |rules: Vec<Rule>| gate(port).into_iter().chain(rules).collect();
        let mut incoming = vec![from_bridges("")];
        incoming.extend(through.iter().flat_map(|side| side.encapsulated(self.senders)));
        if self.senders == Senders::Anyone {
            incoming.push(Rule::new("all others", count(counter::ARRIVED)));
        }
        table.add("encapsulated-in", "filter", Hook::Input, -10, encapsulated(incoming));
        let passing = through.iter().flat_map(|side| side.through()).collect();
        table.add("encapsulated-through", "filter", Hook::Forward, -10, encapsulated(passing));
        // Behind everyone's: what others drop never gets here.
        let delivered = vec![Rule::new("let in by all", count(counter::DELIVERED))];
        table.add("encapsulated-delivered", "filter", Hook::Input, 300, encapsulated(delivered));
        table.counters =
            [counter::STRANGERS, counter::CONTAINERS, counter::SPOOFED, counter::ARRIVED, counter::DELIVERED]
                .map(str::to_owned)
                .into();
        let elements = around.bridges.iter().map(|link| Element::Link(*link)).collect();
        table.sets.insert(BRIDGES.to_owned(), Set { kind: SetKind::Links, elements });
        if self.senders == Senders::Peers {
            for side in through {
                table.sets.extend(side.sets(leases));
            }
        }
        table
    }
}

impl Table {
    fn add(&mut self, name: &str, kind: &str, hook: Hook, priority: i32, rules: Vec<Rule>) {
        if !rules.is_empty() {
            self.chains.insert(name.to_owned(), BaseChain { kind: kind.to_owned(), hook, priority, rules });
        }
    }
}

/// One family's part.
struct Side {
    family: Family,
    network: Prefix,
    own: Prefix,
    device: Option<OverlayDevice>,
}

impl Side {
    /// How nft names the family.
    const fn word(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    const fn multicast(&self) -> &'static str {
        match self.family {
            Family::V4 => "224.0.0.0/4",
            Family::V6 => "ff00::/8",
        }
    }

    /// flannel's rules (the chain FLANNEL-POSTRTG), except that within the overlay a packet keeps its source whatever rules
    /// of others follow.
    fn nat(&self, masquerade: Masquerade) -> Vec<Rule> {
        let (ip, all, own) = (self.word(), self.network, self.own);
        let keep =
            |matching: String| Rule::new("overlay keeps its sources", format!("{matching} snat {ip} to {ip} saddr"));
        let mut rules = vec![
            // A container that calls its own published port needs Docker's rule for that.
            Rule::new("within this host", format!("{ip} saddr {own} {ip} daddr {own} return")),
            keep(format!("{ip} saddr {own} {ip} daddr {all}")),
            keep(format!("{ip} saddr {all} {ip} daddr {own}")),
        ];
        let flag = match masquerade {
            Masquerade::Off => return rules,
            Masquerade::Random => " fully-random",
            Masquerade::Plain => "",
        };
        rules.push(Rule::new("containers see who calls", format!("{ip} saddr != {all} {ip} daddr {own} return")));
        let group = self.multicast();
        rules.push(Rule::new("masquerade", format!("{ip} saddr {all} {ip} daddr != {group} masquerade{flag}")));
        rules.push(Rule::new("masquerade", format!("{ip} saddr != {all} {ip} daddr {all} masquerade{flag}")));
        rules
    }

    /// What the kernel's rp_filter does for IPv4, for both families and counted: a source must be one that we would answer
    /// through the device it came from.
    fn spoofed(&self) -> Option<Rule> {
        let OverlayDevice { link, .. } = self.device?;
        let matching = format!("iifname \"{link}\" fib saddr . iif oif 0");
        Some(Rule::new("sources outside leases", format!("{matching} {}", drop(counter::SPOOFED))))
    }

    /// For Docker's tables of nftables, before which no accept of ours counts.
    fn marked(&self) -> Option<Rule> {
        let OverlayDevice { link, .. } = self.device?;
        let (ip, all, own) = (self.word(), self.network, self.own);
        let matching = format!("iifname \"{link}\" {ip} saddr {all} {ip} daddr {own}");
        Some(Rule::new("accepted by Docker", format!("{matching} meta mark set meta mark or {ACCEPT_MARK:#x}")))
    }

    /// What may come in encapsulated. The overlay of a family runs over the underlay of that family.
    fn encapsulated(&self, senders: Senders) -> Vec<Rule> {
        let (ip, all, family) = (self.word(), self.network, self.family_name());
        let mut rules = vec![Rule::new("containers", format!("{ip} saddr {all} {}", drop(counter::CONTAINERS)))];
        if senders == Senders::Peers
            && let Some(inner) = self.inner_source()
        {
            let peer = format!("{ip} saddr . {inner} @leases-{family} {} accept", count(counter::ARRIVED));
            rules.push(Rule::new("peers", peer));
            let forged = format!("{ip} saddr @peers-{family} {}", drop(counter::SPOOFED));
            rules.push(Rule::new("sources of other leases", forged));
            // A rule of its own: a full set ends a rule.
            let note = format!("{ip} saddr != @peers-{family} update @strangers-{family} {{ {ip} saddr }}");
            rules.push(Rule::new("strangers are noted", note));
            let stranger = format!("meta nfproto {} {}", self.nfproto(), drop(counter::STRANGERS));
            rules.push(Rule::new("strangers", stranger));
        }
        rules
    }

    /// Where an encapsulated packet has the source of the packet in it, as nft reads raw bytes.
    fn inner_source(&self) -> Option<String> {
        let OverlayDevice { inner, .. } = self.device?;
        // RFC 791 §3.1, RFC 8200 §3.
        let (offset, bits) = match self.family {
            Family::V4 => (12 * 8, 32),
            Family::V6 => (8 * 8, 128),
        };
        Some(format!("@th,{},{bits}", inner + offset))
    }

    /// Other hosts would take a masqueraded packet of a container for ours.
    fn through(&self) -> Vec<Rule> {
        let (ip, all) = (self.word(), self.network);
        let out = format!("{ip} daddr != {all} ");
        vec![
            from_bridges(&out),
            Rule::new("containers", format!("{ip} saddr {all} {out}{}", drop(counter::CONTAINERS))),
        ]
    }

    fn sets(&self, leases: &LeaseTable) -> [(String, Set); 3] {
        let public = |entry: &std::sync::Arc<wire_lease::Entry>| entry.lease.public.of(self.family).copied();
        let peers: BTreeSet<IpAddr> = leases.peers.values().filter_map(public).collect();
        let elements = peers.into_iter().map(Element::Address).collect();
        let lease = |entry: &std::sync::Arc<wire_lease::Entry>| {
            Some(Element::Lease(*entry.lease.public.of(self.family)?, entry.lease.subnet.of(self.family)?))
        };
        let pairs = leases.peers.values().filter_map(lease).collect();
        let family = self.family_name();
        [
            (format!("leases-{family}"), Set { kind: SetKind::Leases(self.family), elements: pairs }),
            (format!("peers-{family}"), Set { kind: SetKind::Addresses(self.family), elements }),
            (format!("strangers-{family}"), Set { kind: SetKind::Seen(self.family), elements: BTreeSet::new() }),
        ]
    }

    const fn nfproto(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }

    const fn family_name(&self) -> &'static str {
        match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }

    /// The chains of iptables, in front of Docker's drops.
    fn chains(&self) -> BTreeMap<ChainName, Chain> {
        let (all, own) = (self.network, self.own);
        let rule = |matching: String| format!("{matching} -m comment --comment \"{FORWARD_COMMENT}\" -j ACCEPT");
        let mut chains = BTreeMap::new();
        let mut add = |kind, name: &str, rules: Vec<String>, callers: &[(&str, Place)]| {
            let table = ChainTable { family: self.family, kind };
            let call = |(caller, place): &(&str, Place)| {
                let rule = format!("-m comment --comment \"{FORWARD_COMMENT}\" -j {name}");
                ((*caller).to_owned(), Call { place: *place, rules: vec![rule] })
            };
            let chain = Chain { rules, calls: callers.iter().map(call).collect() };
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
        // As flannel: in the place of a policy that drops, behind whatever others decide.
        let any = vec![rule(format!("-s {all}")), rule(format!("-d {all}"))];
        add(ChainTableKind::Filter, "WIRE-POLICY", any, &[("FORWARD", Place::Behind)]);
        chains
    }
}

/// Lets all but encapsulated packets go on at once.
fn gate(port: u16) -> [Rule; 2] {
    let rule = |text| Rule::new("not encapsulated", text);
    [rule("meta l4proto != udp accept".to_owned()), rule(format!("udp dport != {port} accept"))]
}

fn from_bridges(out: &str) -> Rule {
    Rule::new("containers", format!("iifname @{BRIDGES} {out}{}", drop(counter::CONTAINERS)))
}

fn count(counter: &str) -> String {
    format!("counter name \"{counter}\"")
}

fn drop(counter: &str) -> String {
    format!("{} drop", count(counter))
}
