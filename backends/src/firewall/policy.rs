//! What the packet filter should hold for us. Pure.
//!
//! Each rule stands where it can win (docs/adr/0007-firewall.md): what must come before Docker's drops in chains of iptables,
//! all else in our own table of nftables.

use std::collections::BTreeSet;

use wire_lease::{DualStack, Family, Lease, LeaseTable, Prefix};

use super::{
    side::{BRIDGES, Side, count, counter, from_bridges, gate},
    state::{BaseChain, Element, Firewall, Hook, Rule, Set, SetKind, Table, TableName},
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

/// By flannel's and kube-proxy's convention packets with this mark are masqueraded by others.
const KUBE_MARK: &str = "0x4000";

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
