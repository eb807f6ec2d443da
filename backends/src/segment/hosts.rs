//! The hosts of a network, and which of them has an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use wire_net::{DualStack, Family, MacAddr, Prefix};

/// The most bits of an address that are free in a block. The entries of each address are written, so a larger block has none; admission
/// refuses it before.
const MOST_FREE_BITS: u8 = 12;

/// A host of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentHost {
    /// The addresses to which other hosts send.
    pub public: DualStack<IpAddr>,
    /// The UDP port on which it listens.
    pub port: u16,
    /// The blocks whose addresses are its endpoints'. Blocks of several hosts never overlap.
    pub blocks: BTreeSet<Prefix>,
    /// The single addresses that it has, with the MAC of each. They win over the block of another host. No two hosts have one.
    pub addresses: BTreeMap<IpAddr, MacAddr>,
}

/// All hosts of a network. A copy costs nothing, and what differs from it later is found in a time in proportion to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentHosts {
    /// This host.
    pub own: Arc<SegmentHost>,
    /// The other hosts that have endpoints in the network, by their identities.
    pub others: OrdMap<String, Arc<SegmentHost>>,
}

/// A host as it was and as it is.
pub(super) struct HostChange<'a> {
    /// Its identity; `None` is this host.
    pub(super) id: Option<&'a String>,
    pub(super) before: Option<&'a SegmentHost>,
    pub(super) after: Option<&'a SegmentHost>,
}

impl SegmentHosts {
    /// The hosts that differ from those before.
    pub(super) fn changes_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = HostChange<'a>> {
        let own = HostChange { id: None, before: Some(&*before.own), after: Some(&*self.own) };
        let others = before.others.diff(&self.others).map(|item| match item {
            DiffItem::Add(id, host) => HostChange { id: Some(id), before: None, after: Some(&**host) },
            DiffItem::Remove(id, host) => HostChange { id: Some(id), before: Some(&**host), after: None },
            DiffItem::Update { old: (id, old), new: (_, new) } => {
                HostChange { id: Some(id), before: Some(&**old), after: Some(&**new) }
            }
        });
        (before.own != self.own).then_some(own).into_iter().chain(others)
    }
}

impl SegmentHost {
    /// The address and the port to which packets of an underlay of that family are sent.
    pub(super) fn vtep(&self, family: Family) -> Option<(IpAddr, u16)> {
        Some((*self.public.get(family)?, self.port))
    }
}

impl HostChange<'_> {
    /// The addresses that may be another host's now, or be reached in another way.
    pub(super) fn addresses(&self, underlay: Family) -> BTreeSet<IpAddr> {
        let nothing = SegmentHost::default();
        let (before, after) = (self.before.unwrap_or(&nothing), self.after.unwrap_or(&nothing));
        let mut changed: BTreeSet<IpAddr> = BTreeSet::new();
        if self.id.is_some() && before.vtep(underlay) != after.vtep(underlay) {
            changed.extend(before.blocks.union(&after.blocks).flat_map(|block| addresses_of(*block)));
            changed.extend(before.addresses.keys().chain(after.addresses.keys()));
            return changed;
        }
        changed.extend(before.blocks.symmetric_difference(&after.blocks).flat_map(|block| addresses_of(*block)));
        changed.extend(before.addresses_unlike(after));
        changed.extend(after.addresses_unlike(before));
        changed
    }
}

impl SegmentHost {
    /// Its single addresses that the other one has not, or with another MAC.
    fn addresses_unlike(&self, other: &Self) -> impl Iterator<Item = IpAddr> {
        let differs = |(address, mac): &(&IpAddr, &MacAddr)| other.addresses.get(*address) != Some(*mac);
        self.addresses.iter().filter(differs).map(|(address, _)| *address)
    }
}

/// The addresses of a block.
fn addresses_of(block: Prefix) -> impl Iterator<Item = IpAddr> {
    let family = block.family();
    let is_small = family.bits() - block.len() <= MOST_FREE_BITS;
    let (first, last) = (block.first_bits(), block.last_bits());
    let all = is_small.then_some(first..=last).into_iter().flatten();
    all.filter_map(move |bits| Prefix::from_bits(family, bits, family.bits()).ok()).map(Prefix::network)
}

/// Which host has an address: by the single addresses and the blocks of all hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    singles: OrdMap<IpAddr, (Option<String>, MacAddr)>,
    blocks: OrdMap<Prefix, Option<String>>,
}

/// The holder of an address; without an identity it is this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder<'a> {
    pub(super) id: Option<&'a String>,
    /// The MAC of a single address; that of any other follows from the address.
    pub(super) mac: Option<MacAddr>,
}

impl Holders {
    /// Takes over a change of a host. What it no longer has goes first, so that all changes can be taken over in any order in two passes.
    pub(super) fn remove(&mut self, change: &HostChange<'_>) {
        let Some(before) = change.before else { return };
        for address in before.addresses.keys() {
            if self.singles.get(address).is_some_and(|(id, _)| id.as_ref() == change.id) {
                self.singles.remove(address);
            }
        }
        for block in &before.blocks {
            if self.blocks.get(block).is_some_and(|id| id.as_ref() == change.id) {
                self.blocks.remove(block);
            }
        }
    }

    pub(super) fn add(&mut self, change: &HostChange<'_>) {
        let Some(after) = change.after else { return };
        for (address, mac) in &after.addresses {
            self.singles.insert(*address, (change.id.cloned(), *mac));
        }
        for block in &after.blocks {
            self.blocks.insert(*block, change.id.cloned());
        }
    }

    /// The host that has an address, as its own or in a block.
    pub(super) fn of(&self, address: IpAddr) -> Option<Holder<'_>> {
        if let Some((id, mac)) = self.singles.get(&address) {
            return Some(Holder { id: id.as_ref(), mac: Some(*mac) });
        }
        // Blocks do not overlap, so the last one that begins before the address or at it is the only one that may hold it.
        let (block, id) = self.blocks.range(..=Prefix::host(address)).next_back()?;
        block.contains(address).then_some(Holder { id: id.as_ref(), mac: None })
    }
}
