//! What members of networks over several hosts may send from: blocks and single addresses, as elements of sets. Pure.
//!
//! A block is one key, whatever its length: the leading bits of its addresses, and of the MACs that follow from them. The link-local addresses that
//! follow from these MACs are a block too, with as many free bits.

use std::net::{IpAddr, Ipv6Addr};

use wire_net::{Family, LinkName, MacAddr, Prefix};
use wire_state::Element;

use super::{
    bridges::{advertised, link_local},
    segment_filter::{SegmentMember, SegmentShare},
    segments::{behind, vteps},
};

/// The lengths of single addresses.
pub(super) const SINGLES: [(Family, u8); 2] = [(Family::V4, Family::V4.bits()), (Family::V6, Family::V6.bits())];

/// The most bits of a block that are free: those that its MACs have of its addresses, but for the first byte, since in a link-local address others
/// are behind it. Admission refuses larger ones before.
const MOST_FREE: u8 = 24;

/// Addresses that begin with the same bits, with the first MAC of them.
#[derive(Clone, Copy)]
struct Block {
    mac: MacAddr,
    addresses: Prefix,
}

/// The lengths of the blocks of a network: all of a family have the same, and link-local ones are as many.
pub(super) fn lens(share: &SegmentShare) -> Vec<(Family, u8)> {
    let blocks = share.members.values().map(|member| &member.blocks).find(|blocks| !blocks.is_empty());
    let all = blocks.into_iter().chain([&share.blocks]).flatten().filter(|block| free(**block) <= MOST_FREE);
    all.flat_map(|block| [(block.family(), block.len()), (Family::V6, Family::V6.bits() - free(*block))]).collect()
}

/// The elements for a member, with the names of their sets.
pub(super) fn member_elements(share: &SegmentShare, member: &SegmentMember) -> Vec<(String, Element)> {
    let (host, vni) = (member.public, share.vni);
    let outer = Family::of(host);
    let mut elements = vec![(vteps(outer).to_owned(), Element::Vtep(host, vni))];
    let Some(overlay) = overlay(share) else { return elements };
    for Block { mac, addresses } in blocks(share, member) {
        let (family, len) = (addresses.family(), addresses.len());
        elements.push((behind(outer, family, len), Element::Behind(host, vni, mac, addresses)));
        if family == Family::V6 {
            elements.push((advertised(len), Element::Sender(overlay, mac, addresses.network())));
        }
    }
    elements
}

/// All that a member may send from, each once.
fn blocks(share: &SegmentShare, member: &SegmentMember) -> impl Iterator<Item = Block> {
    let parts =
        member.blocks.iter().filter(|block| free(**block) <= MOST_FREE).flat_map(|block| parts(share, member, *block));
    let of_blocks = parts.map(|addresses| Block { mac: MacAddr::of_container(addresses.network()), addresses });
    let singles = member.addresses.iter().filter(|(address, _)| !is_reserved(share, *address));
    let singles = singles.map(|(address, mac)| Block { mac: *mac, addresses: Prefix::host(*address) });
    let mut all: Vec<Block> = of_blocks.chain(singles).collect();
    let further: Vec<Block> = all.iter().filter_map(Block::link_local).collect();
    all.extend(further);
    // Both families of an endpoint have one MAC, and so one link-local address.
    all.sort_by_key(|block| (block.addresses, block.mac));
    all.dedup_by_key(|block| (block.addresses, block.mac));
    all.into_iter()
}

/// A block, or its addresses one by one if some of them are not the member's: nobody's, as in the first and the last block of a network, or single
/// ones of another host.
fn parts(share: &SegmentShare, member: &SegmentMember, block: Prefix) -> Vec<Prefix> {
    let mut not_its_own: Vec<IpAddr> = reserved(share, block.family()).into_iter().flatten().collect();
    let singles = share.singles.range(block.network()..=block.last()).copied();
    not_its_own.extend(singles.filter(|address| member.addresses.iter().all(|(own, _)| own != address)));
    if !not_its_own.iter().any(|address| block.contains(*address)) {
        return vec![block];
    }
    let family = block.family();
    let all = (block.first_bits()..=block.last_bits()).take(MOST_PARTS);
    let singles = all.filter_map(|bits| Prefix::from_bits(family, bits, family.bits()).ok());
    singles.filter(|address| !not_its_own.contains(&address.network())).collect()
}

/// The most addresses of a block: admission refuses larger ones.
const MOST_PARTS: usize = 256;

fn is_reserved(share: &SegmentShare, address: IpAddr) -> bool {
    reserved(share, Family::of(address)).into_iter().flatten().any(|reserved| reserved == address)
}

/// The addresses that nobody has: that of the network, the gateway's, and in IPv4 the last one (RFC 919, RFC 4291 §2.6.1).
fn reserved(share: &SegmentShare, family: Family) -> [Option<IpAddr>; 3] {
    let pool = share.pools.get(family).copied();
    let last = pool.filter(|_| family == Family::V4).map(Prefix::last);
    [pool.map(Prefix::network), pool.map(Prefix::gateway), last]
}

/// The number of bits that differ between the addresses of a block.
const fn free(block: Prefix) -> u8 {
    block.family().bits() - block.len()
}

impl Block {
    /// The link-local addresses that follow from its MACs.
    fn link_local(&self) -> Option<Self> {
        let IpAddr::V6(first) = link_local(self.mac) else { return None };
        let len = Family::V6.bits() - free(self.addresses);
        let addresses = Prefix::from_bits(Family::V6, Ipv6Addr::to_bits(first), len).ok()?;
        Some(Self { mac: self.mac, addresses })
    }
}

/// The VXLAN device of a network.
fn overlay(share: &SegmentShare) -> Option<LinkName> {
    format!("wv.{}", share.vni).parse().ok()
}
