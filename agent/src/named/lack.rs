//! What the store lacks of what this host holds on a network. Pure.

use std::fmt;

use wire_lease::named::{Joining, Kept, MemberRecord, NamedRecords, Room};
use wire_net::{AddressKey, BlockKey, HostId, MemberKey, NetworkName, Prefix};
use wire_store::LeaseId;

/// A difference between what this host holds on a network and what the store has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// There is no such network.
    Network,
    /// There is another network of that name.
    Other,
    /// Other hosts have all addresses that this one had, and nothing else was free.
    Bare,
    /// This host is no member.
    Member,
    /// A block or an address is not there.
    Room(Prefix),
    /// A block or an address is another host's.
    Lost(Prefix),
    /// A key of this host expires with another lease of the store than this host's, or names an address or port that this host had before.
    Stale,
}

impl Lack {
    /// The first thing that the store lacks; `None` if it has all.
    pub(super) fn of(name: &NetworkName, kept: &Kept, joining: &Joining, records: &NamedRecords) -> Option<Self> {
        match records.networks.get(name).map(|stored| &stored.record) {
            None => return Some(Self::Network),
            Some(record) if record.vni != kept.record.vni || record.pools != kept.record.pools => {
                return Some(Self::Other);
            }
            Some(_) => {}
        }
        if kept.rooms.is_empty() {
            return Some(Self::Bare);
        }
        let member = MemberKey { network: name.clone(), host: joining.host };
        let Some(stored) = records.members.get(&member) else { return Some(Self::Member) };
        let MemberRecord { public, port, own } = *stored.record;
        let is_same = (public, port, own) == (joining.public, joining.port, kept.member.own);
        if !is_same || stored.origin.lease != joining.lease {
            return Some(Self::Stale);
        }
        kept.rooms.iter().find_map(|room| Self::of_room(*room, owner(name, *room, records), joining))
    }

    fn of_room(room: Room, owner: Option<(HostId, Option<LeaseId>)>, joining: &Joining) -> Option<Self> {
        match owner {
            None => Some(Self::Room(room.prefix())),
            Some((host, _)) if host != joining.host => Some(Self::Lost(room.prefix())),
            Some((_, lease)) => (lease != joining.lease).then_some(Self::Stale),
        }
    }

    /// True if the store has lost something that it had: others may be missing there too.
    pub(super) const fn is_loss(self) -> bool {
        match self {
            Self::Network | Self::Member | Self::Room(_) => true,
            Self::Other | Self::Bare | Self::Lost(_) | Self::Stale => false,
        }
    }
}

/// The host that has a block or an address, and the store's lease that it goes with.
fn owner(name: &NetworkName, room: Room, records: &NamedRecords) -> Option<(HostId, Option<LeaseId>)> {
    let network = name.clone();
    match room {
        Room::Block(block) => {
            let stored = records.blocks.get(&BlockKey { network, block })?;
            Some((stored.record.host, stored.origin.lease))
        }
        Room::Address(address, _) => {
            let stored = records.addresses.get(&AddressKey { network, address })?;
            Some((stored.record.host, stored.origin.lease))
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("etcd has lost it: it is put back"),
            Self::Bare => f.write_str(
                "other hosts have the addresses that this one had, and no other is free: detach containers, or make a larger network",
            ),
            Self::Other => f.write_str(
                "etcd has another network of that name: this host keeps the one that it has joined; to join the other, use wire-agent network \
                 hide and expose",
            ),
            Self::Member => f.write_str("etcd has lost this host's membership: it is put back"),
            Self::Room(prefix) => write!(f, "etcd has lost {prefix}, which is this host's: it is put back"),
            Self::Lost(prefix) => write!(f, "{prefix}, which was this host's, is another host's now"),
            Self::Stale => f.write_str("what etcd has of this host is written again"),
        }
    }
}

#[cfg(test)]
mod tests;
