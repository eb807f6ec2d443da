//! Chooses subnets, VNIs, blocks and addresses for networks by name. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use wire_net::{HostId, Pool, Prefix, Vni};

use super::{AddressPool, LEAST_VNI};
use crate::{
    Preference, Taken,
    allocate::{allocate, first_free},
};

/// No subnet, VNI, block or address is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NothingFree {
    /// All subnets of the range overlap something.
    #[error(
        "no /{len} is free in {range}: remove a network, choose one with --subnet, or make the range larger (Networks in the network config)"
    )]
    Subnet {
        /// The range.
        range: Prefix,
        /// The length of the subnets.
        len: u8,
    },
    /// All VNIs are taken.
    #[error("no VNI is free: remove a network")]
    Vni,
    /// All addresses of the pool are taken.
    #[error("all addresses of {0} are taken: detach containers, or make a larger network")]
    Addresses(Prefix),
}

/// Chooses the first free subnet of that length.
///
/// # Errors
/// If none is free.
pub fn choose_subnet(range: Prefix, len: u8, taken: &Taken) -> Result<Prefix, NothingFree> {
    let full = || NothingFree::Subnet { range, len };
    let pool = pool_of(range, len).ok_or_else(full)?;
    first_free(&pool, taken, 0..pool.size()).ok_or_else(full)
}

/// Chooses the first free VNI from `start` on, and after the largest one goes on with the least.
///
/// # Errors
/// If none is free.
pub fn choose_vni(taken: &BTreeSet<Vni>, start: u64) -> Result<Vni, NothingFree> {
    let count = (1 << 24) - LEAST_VNI;
    let start = u32::try_from(start % u64::from(count)).expect("less than the count");
    let vni = |offset: u32| Vni::new(LEAST_VNI + (start + offset) % count);
    let mut all = (0..count).filter_map(vni);
    all.find(|vni| !taken.contains(vni)).ok_or(NothingFree::Vni)
}

/// The host that wants addresses, and how often it has lost a race for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The host.
    pub host: HostId,
    /// The number of races it has lost: another one is chosen after each.
    pub attempt: u32,
    /// True while it has no address of the network.
    pub is_first: bool,
}

/// Chooses a free block, or where blocks run short a single address, as a prefix of one address. `claimed` are all blocks and addresses of
/// the pool that have a key.
///
/// Half of the blocks are kept for hosts that come, and an eighth for single addresses: hosts leave a part of each block unused, and the last
/// addresses of a pool must be there for all, also for hosts that come when no block is left.
///
/// # Errors
/// If no address is free.
pub fn choose_room(pool: &AddressPool, claimed: &[Prefix], asker: Asker) -> Result<Prefix, NothingFree> {
    let taken = || claimed.iter().copied().collect::<Taken>();
    let blocks = pool_of(pool.usable(), pool.block_len).expect("a block is longer than its pool");
    let eighths = if asker.is_first { 7 } else { 4 };
    if touched(pool, claimed).saturating_mul(8) < blocks.size().saturating_mul(eighths) {
        let mut taken = taken();
        useless_blocks(pool).for_each(|block| taken.insert(block));
        let host = asker.host.to_string();
        let preference = Preference { preferred: None, identity: &host, attempt: asker.attempt, last_resort: &[] };
        if let Ok(block) = allocate(&blocks, &taken, preference) {
            return Ok(block);
        }
    }
    let mut taken = taken();
    pool.reserved().for_each(|reserved| taken.insert(reserved));
    choose_address(pool, &mut taken, asker).ok_or(NothingFree::Addresses(pool.prefix))
}

/// The first free address, so that single addresses lie together; after lost races one of those behind it.
fn choose_address(pool: &AddressPool, taken: &mut Taken, asker: Asker) -> Option<Prefix> {
    let singles = pool_of(pool.usable(), pool.prefix.family().bits())?;
    let mut chosen = first_free(&singles, taken, 0..singles.size())?;
    for _ in 0..asker.attempt.min(FURTHER) {
        taken.insert(chosen);
        match first_free(&singles, taken, 0..singles.size()) {
            Some(further) => chosen = further,
            None => break,
        }
    }
    Some(chosen)
}

/// The largest number of free addresses that are left out after lost races.
const FURTHER: u32 = 64;

/// The number of blocks of which an address is taken.
fn touched(pool: &AddressPool, claimed: &[Prefix]) -> u128 {
    let block = |prefix: &Prefix| Prefix::new(prefix.network(), pool.block_len.min(prefix.len())).ok();
    let blocks: BTreeSet<Prefix> = claimed.iter().filter_map(block).collect();
    let size = |block: &Prefix| 1u128 << (pool.block_len - block.len()).min(64);
    blocks.iter().map(size).sum()
}

/// The blocks that have no address to give.
fn useless_blocks(pool: &AddressPool) -> impl Iterator<Item = Prefix> {
    let block = |reserved: Prefix| Prefix::new(reserved.network(), pool.block_len).ok();
    pool.reserved().filter_map(block).filter(|block| !pool.has_block(*block))
}

/// Chooses an address among those that a host has, blocks and single addresses: the one that was released last, so that a container that is
/// started again keeps its address, else the first that is neither in use nor was released. `released` has the last one at its end.
#[must_use]
pub fn choose_own(
    pool: &AddressPool,
    rooms: &[Prefix],
    in_use: &BTreeSet<IpAddr>,
    released: &[IpAddr],
) -> Option<IpAddr> {
    let is_ours = |address: &IpAddr| rooms.iter().any(|room| room.contains(*address)) && pool.has_address(*address);
    let is_free = |address: &IpAddr| !in_use.contains(address);
    let last = released.iter().rev().copied().find(|address| is_ours(address) && is_free(address));
    last.or_else(|| rooms.iter().flat_map(|room| pool.addresses_of(*room)).find(is_free))
}

/// All subnets of that length.
fn pool_of(network: Prefix, subnet_len: u8) -> Option<Pool> {
    let family = network.family();
    let of_len = |bits| Prefix::from_bits(family, bits, subnet_len).ok();
    let fits = network.len() <= subnet_len;
    let (min, max) = (of_len(network.first_bits())?, of_len(network.last_bits())?);
    fits.then_some(Pool { network, subnet_len, min, max })
}
