//! The addresses of a new container on a network: those that its attachment names, or free ones of this host. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use wire_lease::named::{Kept, Room, choose_own};
use wire_net::{DualStack, Family, MacAddr, Prefix};

use crate::attach::{Attachment, Wish};

/// The addresses of a container, or the need that comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Has {
        addresses: DualStack<IpAddr>,
        mac: MacAddr,
    },
    Needs(Need),
    /// It can never have what it wants, for this reason.
    Refused(String),
}

/// A need in the store before a container can have its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// One more block, or a single address.
    More,
    /// Exactly this address, with this MAC.
    Claim(IpAddr, MacAddr),
}

/// Addresses of a network that are in use.
pub(super) struct Taken<'a> {
    /// The addresses of this host and of its containers.
    pub(super) own: BTreeSet<IpAddr>,
    /// The addresses that other attachments name.
    pub(super) named: BTreeSet<IpAddr>,
    /// The other host that has an address, for people; it may be in a block of this one.
    pub(super) holder: &'a dyn Fn(IpAddr) -> Option<String>,
}

/// Chooses the addresses of a container.
pub(super) fn choose(attachment: &Attachment, kept: &Kept, taken: &Taken<'_>) -> Choice {
    let pools = &kept.record.pools;
    let fixed = fixed(attachment);
    for (family, address) in fixed.iter() {
        if let Some(why) = unfit(kept, family, *address, fixed.v4) {
            return Choice::Refused(why);
        }
        if taken.own.contains(address) {
            return Choice::Refused(format!("{address} is in use on this host already"));
        }
        if let Some(holder) = (taken.holder)(*address) {
            return Choice::Refused(format!("{holder} has {address}: give another one, or detach its container there"));
        }
    }
    let pool = pools.claimed();
    let family = pool.prefix.family();
    let primary = match fixed.get(family) {
        Some(address) => *address,
        None => match free(attachment, kept, taken) {
            Some(address) => address,
            None => return Choice::Needs(Need::More),
        },
    };
    let mac = attachment.mac.unwrap_or_else(|| MacAddr::of_container(primary));
    let mut addresses = pools.of_both(Prefix::host(primary)).map(|_, prefix| prefix.network());
    if !has(kept, primary, mac) {
        return Choice::Needs(Need::Claim(primary, mac));
    }
    if let Some(v6) = fixed.v6.filter(|v6| family == Family::V4 && addresses.v6 != Some(*v6)) {
        addresses.v6 = Some(v6);
        if !kept.rooms.contains(&Room::Address(v6, mac)) {
            return Choice::Needs(Need::Claim(v6, mac));
        }
    }
    Choice::Has { addresses, mac }
}

/// The single addresses that no container needs. Those that containers have are `used`.
pub(super) fn idle(kept: &Kept, used: &BTreeSet<IpAddr>) -> Option<Room> {
    let own = |address: &IpAddr| kept.member.own.iter().any(|(_, own)| own == address);
    let is_idle = |room: &&Room| match room {
        Room::Block(_) => false,
        Room::Address(address, _) => !used.contains(address) && !own(address),
    };
    kept.rooms.iter().find(is_idle).copied()
}

/// The addresses that an attachment names.
pub(super) fn fixed(attachment: &Attachment) -> DualStack<IpAddr> {
    let mut fixed = DualStack::default();
    for wish in &attachment.addresses {
        match wish {
            Wish::Static { address, .. } => fixed.set(Family::of(*address), Some(*address)),
            Wish::Network => {}
        }
    }
    fixed
}

/// The reason why no container of the network can have an address.
fn unfit(kept: &Kept, family: Family, address: IpAddr, v4: Option<IpAddr>) -> Option<String> {
    let pools = &kept.record.pools;
    let Some(pool) = pools.get(family) else { return Some(format!("the network has no {family} addresses")) };
    if !pool.has_address(address) {
        return Some(format!(
            "{address} is none of the addresses that containers have in {}: it is outside, the gateway's, the first or the last",
            pool.prefix
        ));
    }
    let twin = |v4: IpAddr| pools.of_both(Prefix::host(v4)).v6.map(Prefix::network);
    let is_twin_of_other = pools.belongs_to_v4(address) && v4.and_then(twin) != Some(address);
    is_twin_of_other
        .then(|| format!("{address} belongs to the IPv4 address with the same last 32 bits: give that with --ip"))
}

/// A free address of this host's.
fn free(attachment: &Attachment, kept: &Kept, taken: &Taken<'_>) -> Option<IpAddr> {
    let pool = kept.record.pools.claimed();
    let family = pool.prefix.family();
    // A single address was claimed with its MAC: it is for whom that is.
    let is_claimed_for_other = |room: &&Room| match room {
        Room::Block(_) => false,
        Room::Address(address, mac) => *mac != attachment.mac.unwrap_or_else(|| MacAddr::of_container(*address)),
    };
    let mut in_use: BTreeSet<IpAddr> = taken.own.union(&taken.named).copied().collect();
    in_use.extend(kept.rooms.iter().filter(is_claimed_for_other).map(|room| room.prefix().network()));
    // What was claimed for this one comes first.
    let claimed = attachment.mac.and_then(|mac| {
        let is_it =
            |room: &&Room| matches!(room, Room::Address(address, of) if *of == mac && Family::of(*address) == family);
        kept.rooms.iter().find(is_it).map(|room| room.prefix().network())
    });
    if let Some(claimed) = claimed.filter(|claimed| !in_use.contains(claimed)) {
        return Some(claimed);
    }
    let rooms: Vec<Prefix> = kept.rooms.iter().map(Room::prefix).filter(|prefix| prefix.family() == family).collect();
    loop {
        let address = choose_own(pool, &rooms, &in_use, &[])?;
        if (taken.holder)(address).is_none() {
            return Some(address);
        }
        in_use.insert(address);
    }
}

/// True if this host has an address with that MAC for its containers.
fn has(kept: &Kept, address: IpAddr, mac: MacAddr) -> bool {
    let is_usual = mac == MacAddr::of_container(address);
    kept.rooms.iter().any(|room| match room {
        Room::Block(block) => is_usual && block.contains(address),
        Room::Address(..) => *room == Room::Address(address, mac),
    })
}

#[cfg(test)]
mod tests;
