//! The packet filter of networks over several hosts, brought forward by the networks that change. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem, ordset};
use wire_net::{DualStack, Family, LinkName, MacAddr, NetworkName, Prefix, Vni};
use wire_state::{DesiredFirewall, DesiredNet, DesiredTable, Element, Set};

use super::{
    behind::{SINGLES, lens, member_elements},
    bridges::{self, BridgeTable, ContainerPort, Overlays},
    chains,
    facts::HostFacts,
    nft::is_plain,
    policy,
    segments::{Foundation, INTERNAL, UDP_PORTS, VNIS, WITHIN},
    support::Nftables,
};

/// A network over several hosts, as the packet filter sees it. Copies share what is large.
#[derive(Clone, Debug)]
pub struct SegmentShare {
    /// Its bridge.
    pub bridge: LinkName,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Its addresses.
    pub pools: DualStack<Prefix>,
    /// True if nothing leads out of it.
    pub internal: bool,
    /// The source of encapsulated packets of this host.
    pub local: IpAddr,
    /// The link that encapsulated packets leave by.
    pub underlay: LinkName,
    /// The UDP port of encapsulated packets.
    pub port: u16,
    /// The blocks of this host. Those of others are as long: they come and go, and the rules depend on how long blocks are.
    pub blocks: Vec<Prefix>,
    /// The other hosts, by their identities.
    pub members: OrdMap<String, Arc<SegmentMember>>,
    /// The single addresses that hosts have, this one among them. They are not those of a block around them.
    pub singles: OrdSet<IpAddr>,
    /// The desired state of its devices on this host: whom its neighbours name may send to this host's containers.
    pub net: DesiredNet,
    /// The ports of containers on the bridge.
    pub ports: Vec<ContainerPort>,
}

/// Another host of a network, as the packet filter sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMember {
    /// The source of its encapsulated packets.
    pub public: IpAddr,
    /// Its blocks. The MAC of each address in them follows from it ([`MacAddr::of_container`]).
    pub blocks: Vec<Prefix>,
    /// Its single addresses, each with its MAC.
    pub addresses: Vec<(IpAddr, MacAddr)>,
}

impl SegmentMember {
    /// True if a block of it has this address.
    fn has_around(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.contains(address))
    }
}

/// The rules of all networks over several hosts. All have the same few; what differs is in sets.
#[derive(Clone, Debug, Default)]
pub struct SegmentFilter {
    networks: BTreeMap<NetworkName, Held>,
    built: Option<Built>,
    firewall: Arc<DesiredFirewall>,
    /// The number of networks that want an element.
    shared: BTreeMap<Element, usize>,
}

#[derive(Clone, Debug)]
struct Held {
    share: Arc<SegmentShare>,
    senders: BridgeTable,
}

/// All that the rules were built for, but for what is in the sets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Built {
    foundation: Foundation,
    families: BTreeSet<Family>,
    containers: BTreeSet<LinkName>,
    nftables: Nftables,
    bridges: bool,
}

impl SegmentFilter {
    /// Brings the rules forward to these networks on a host with these facts. Takes a time in proportion to what differs, beside a look at each
    /// network, unless the rules themselves differ.
    pub fn update<'a>(
        &mut self,
        shares: impl Iterator<Item = (&'a NetworkName, &'a Arc<SegmentShare>)> + Clone,
        facts: &HostFacts,
    ) {
        let built = Built::of(shares.clone().map(|(_, share)| &**share), facts);
        if self.built != built {
            *self = Self {
                firewall: built.as_ref().map(|built| built.firewall(facts)).unwrap_or_default(),
                built,
                ..Self::default()
            };
        }
        let names: BTreeSet<&NetworkName> = shares.clone().map(|(name, _)| name).collect();
        let gone: Vec<NetworkName> = self.networks.keys().filter(|name| !names.contains(name)).cloned().collect();
        let mut changes: Vec<(NetworkName, Option<Arc<SegmentShare>>)> =
            gone.into_iter().map(|name| (name, None)).collect();
        let is_new = |(name, share): &(&NetworkName, &Arc<SegmentShare>)| {
            self.networks.get(*name).is_none_or(|held| !Arc::ptr_eq(&held.share, share))
        };
        changes.extend(shares.filter(is_new).map(|(name, share)| (name.clone(), Some(share.clone()))));
        for (name, share) in changes {
            self.change(name, share);
        }
    }

    /// The rules.
    #[must_use]
    pub const fn firewall(&self) -> &Arc<DesiredFirewall> {
        &self.firewall
    }

    /// True if only elements of sets can differ from what these networks want.
    pub fn differs_in_elements_alone<'a>(
        &self,
        shares: impl Iterator<Item = &'a Arc<SegmentShare>> + Clone,
        facts: &HostFacts,
    ) -> bool {
        self.built == Built::of(shares.map(|share| &**share), facts)
    }

    fn change(&mut self, name: NetworkName, share: Option<Arc<SegmentShare>>) {
        let before = self.networks.remove(&name);
        let overlays = self.built.as_ref().map_or(Overlays::Checked, Built::overlays);
        let senders = share.as_ref().map(|share| match &before {
            Some(held) => {
                let mut senders = held.senders.clone();
                senders.update(&share.net, &share.ports);
                senders
            }
            None => BridgeTable::new(&share.net, &share.ports, overlays),
        });
        if let Some(table) = &mut Arc::make_mut(&mut self.firewall).bridge {
            replace(table, before.as_ref().map(|held| held.senders.table()), senders.as_ref().map(BridgeTable::table));
        }
        self.change_members(before.as_ref().map(|held| &*held.share), share.as_deref());
        if let Some((share, senders)) = share.zip(senders) {
            self.networks.insert(name, Held { share, senders });
        }
    }

    /// Changes the elements that follow from a network and its members.
    fn change_members(&mut self, old: Option<&SegmentShare>, new: Option<&SegmentShare>) {
        let firewall = Arc::make_mut(&mut self.firewall);
        let Some(table) = &mut firewall.table else { return };
        let mut elements = Elements { table, bridge: firewall.bridge.as_mut(), shared: &mut self.shared };
        old.into_iter().flat_map(own_elements).for_each(|(set, element)| elements.remove(set, element));
        new.into_iter().flat_map(own_elements).for_each(|(set, element)| elements.add(set, element));
        for (member, is_new) in changed_members(old, new) {
            let Some(share) = (if is_new { new } else { old }) else { continue };
            for (set, element) in member_elements(share, &member) {
                if is_new {
                    elements.add(&set, element);
                } else {
                    elements.remove(&set, element);
                }
            }
        }
    }
}

impl Built {
    /// `None` if nothing is to be filtered, or can be.
    fn of<'a>(shares: impl Iterator<Item = &'a SegmentShare> + Clone, facts: &HostFacts) -> Option<Self> {
        if facts.support.nftables == Nftables::Absent || shares.clone().next().is_none() {
            return None;
        }
        let of_containers = |link: &LinkName| facts.bridges.contains(link) || !is_plain(link);
        let foundation = Foundation {
            local: shares.clone().map(|share| share.local).collect(),
            underlay: shares.clone().map(|share| share.underlay).filter(|link| !of_containers(link)).collect(),
            checks_sources: facts.checks_sources(),
            lens: shares.clone().flat_map(lens).chain(SINGLES).collect(),
            untracked: Family::ALL.into_iter().filter(|family| !facts.tracked.contains_key(family)).collect(),
            flat_ports: facts.flat_ports.clone(),
        };
        let families = shares.flat_map(|share| share.pools.iter().map(|(family, _)| family)).collect();
        let (nftables, bridges) = (facts.support.nftables, facts.support.bridges);
        Some(Self { foundation, families, containers: facts.bridges.clone(), nftables, bridges })
    }

    const fn overlays(&self) -> Overlays {
        if self.foundation.checks_sources { Overlays::JudgedBefore } else { Overlays::Checked }
    }

    /// The lengths of blocks of IPv6 addresses that other hosts may advertise.
    fn advertised_lens(&self) -> BTreeSet<u8> {
        let of_v6 = self.foundation.lens.iter().filter(|(family, _)| *family == Family::V6);
        of_v6.map(|(_, len)| *len).filter(|_| self.foundation.checks_sources).collect()
    }

    /// The rules, with sets that are empty.
    fn firewall(&self, facts: &HostFacts) -> Arc<DesiredFirewall> {
        let network = NetworkName::default();
        Arc::new(DesiredFirewall {
            table: Some(self.foundation.table(policy::bridges(facts))),
            bridge: self.bridges.then(|| bridges::empty(self.overlays(), &self.advertised_lens())),
            chains: self.families.iter().flat_map(|family| chains::of_segments(*family, &network)).collect(),
            ..DesiredFirewall::default()
        })
    }
}

/// The elements of our tables' sets, with how often each is wanted.
struct Elements<'a> {
    table: &'a mut DesiredTable,
    bridge: Option<&'a mut DesiredTable>,
    shared: &'a mut BTreeMap<Element, usize>,
}

impl Elements<'_> {
    fn add(&mut self, set: &str, element: Element) {
        let Some(set) = set_of(self.table, self.bridge.as_deref_mut(), set) else { return };
        if set.elements.insert(element).is_some() {
            *self.shared.entry(element).or_insert(1) += 1;
        }
    }

    fn remove(&mut self, set: &str, element: Element) {
        let Some(set) = set_of(self.table, self.bridge.as_deref_mut(), set) else { return };
        match self.shared.get_mut(&element) {
            Some(2) => drop(self.shared.remove(&element)),
            Some(times) => *times -= 1,
            None => drop(set.elements.remove(&element)),
        }
    }
}

/// The set of that name, which only one of both tables has.
fn set_of<'t>(table: &'t mut DesiredTable, bridge: Option<&'t mut DesiredTable>, name: &str) -> Option<&'t mut Set> {
    table.sets.get_mut(name).or_else(|| bridge?.sets.get_mut(name))
}

/// The elements of a network by itself.
fn own_elements(share: &SegmentShare) -> impl Iterator<Item = (&'static str, Element)> {
    let internal = share.internal.then_some((INTERNAL, Element::Link(share.bridge)));
    let (vni, port) = ((VNIS, Element::Vni(share.vni)), (UDP_PORTS, Element::Port(share.port)));
    [vni, port, (WITHIN, Element::Within(share.bridge))].into_iter().chain(internal)
}

/// The members that are gone (false) and those that are new (true). One that has changed is both, and so are all if the network is another, or has
/// other addresses.
fn changed_members(old: Option<&SegmentShare>, new: Option<&SegmentShare>) -> Vec<(Arc<SegmentMember>, bool)> {
    let nobody = OrdMap::new();
    let is_other = old.map(|share| (share.vni, share.pools)) != new.map(|share| (share.vni, share.pools));
    let (before, after) = (old.map_or(&nobody, |share| &share.members), new.map_or(&nobody, |share| &share.members));
    if is_other {
        let gone = before.values().map(|member| (member.clone(), false));
        return gone.chain(after.values().map(|member| (member.clone(), true))).collect();
    }
    let moved = moved_singles(old, new);
    let has_moved = |member: &SegmentMember| moved.iter().any(|address| member.has_around(*address));
    let same = before.iter().filter(|(id, member)| !moved.is_empty() && after.get(*id) == Some(member));
    let same = same.filter(|(_, member)| has_moved(member));
    let mut changes: Vec<_> = same.flat_map(|(_, member)| [(member.clone(), false), (member.clone(), true)]).collect();
    for item in before.diff(after) {
        match item {
            DiffItem::Add(_, member) => changes.push((member.clone(), true)),
            DiffItem::Remove(_, member) => changes.push((member.clone(), false)),
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                changes.extend([(old.clone(), false), (new.clone(), true)]);
            }
        }
    }
    changes
}

/// The single addresses that are new or gone.
fn moved_singles(old: Option<&SegmentShare>, new: Option<&SegmentShare>) -> Vec<IpAddr> {
    let nothing = OrdSet::new();
    let (before, after) = (old.map_or(&nothing, |share| &share.singles), new.map_or(&nothing, |share| &share.singles));
    let address = |item: ordset::DiffItem<'_, '_, IpAddr>| match item {
        ordset::DiffItem::Add(address) | ordset::DiffItem::Remove(address) => *address,
    };
    before.diff(after).map(address).collect()
}

/// Replaces one network's part of a table by another. Elements of two networks are never the same, since each names a link.
fn replace(table: &mut DesiredTable, before: Option<&DesiredTable>, after: Option<&DesiredTable>) {
    let nothing = OrdSet::new();
    for (name, set) in &mut table.sets {
        let of =
            |part: Option<&DesiredTable>| part.and_then(|part| part.sets.get(name)).map(|set| set.elements.clone());
        let (before, after) =
            (of(before).unwrap_or_else(|| nothing.clone()), of(after).unwrap_or_else(|| nothing.clone()));
        for item in before.diff(&after) {
            match item {
                ordset::DiffItem::Add(element) => drop(set.elements.insert(*element)),
                ordset::DiffItem::Remove(element) => drop(set.elements.remove(element)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
