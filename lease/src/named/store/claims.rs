//! What a host has on a network: its membership, its blocks and its single addresses.

use std::net::IpAddr;

use wire_net::{DualStack, Family, HostId, MacAddr, MemberKey, NetworkName, Prefix};
use wire_store::{Compare, KeyValue, LeaseId, LeaseStore, Txn, Write};

use super::{
    ATTEMPTS, NetworkError, NetworkStore, as_read,
    room::{Held, Owner, Room},
};
use crate::named::{Asker, MemberRecord, NetworkPools, NetworkRecord, Record, Stored, choose_room};

/// A host that gets its first endpoint on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The host.
    pub host: HostId,
    /// Its addresses on the underlay.
    pub public: DualStack<IpAddr>,
    /// The UDP port of its VXLAN.
    pub port: u16,
    /// The store's lease with which its keys on the network expire; `None` if they never do.
    pub lease: Option<LeaseId>,
}

/// The part of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// The network.
    pub network: Stored<NetworkRecord>,
    /// The membership.
    pub member: MemberRecord,
    /// Its blocks and single addresses.
    pub rooms: Vec<Room>,
    /// Single addresses of others inside its blocks. It must not give them away.
    pub foreign: Vec<IpAddr>,
}

/// All that hosts have claimed of a network.
struct Claimed {
    held: Vec<Held>,
}

impl Claimed {
    fn rooms_of(&self, host: HostId) -> impl Iterator<Item = (&KeyValue, Room)> {
        self.held.iter().filter_map(move |held| Some((&held.kv, held.room_of(host)?)))
    }

    fn prefixes(&self) -> Vec<Prefix> {
        self.held.iter().map(|held| held.prefix).collect()
    }

    /// The single addresses of a host inside blocks that others had before.
    fn late(&self, host: HostId) -> Vec<Room> {
        let is_late = |single: &KeyValue, room: &Room| {
            let around = self.held.iter().filter(|held| held.is_block && held.prefix.covers(room.prefix()));
            around
                .filter(|held| held.owned.is_some_and(|(owner, _)| owner != host))
                .any(|held| held.kv.create_revision < single.create_revision)
        };
        let singles = self.rooms_of(host).filter(|(_, room)| matches!(room, Room::Address(..)));
        singles.filter(|(kv, room)| is_late(kv, room)).map(|(_, room)| room).collect()
    }

    /// Only what the network has. Anything may be written below its folders.
    fn within(mut self, pools: &NetworkPools) -> Self {
        self.held.retain(|held| held.is_within(pools));
        self
    }

    /// The single addresses of others inside a host's rooms.
    fn foreign(&self, host: HostId, rooms: &[Room]) -> Vec<IpAddr> {
        let others = self.held.iter().filter(|held| !held.is_block && held.room_of(host).is_none());
        let is_inside = |held: &&Held| rooms.iter().any(|room| room.prefix().covers(held.prefix));
        others.filter(is_inside).map(|held| held.prefix.network()).collect()
    }
}

/// The largest number of writes in a transaction: etcd takes 128 by default.
pub(super) const WRITES: usize = 100;

impl<S: LeaseStore> NetworkStore<S> {
    /// Makes a host a member of a network, and gives it a block, in one transaction. A host that is a member already keeps what it has. Safe to repeat
    /// after an error.
    ///
    /// # Errors
    /// If there is no such network, no address is free, or the store does not answer.
    pub async fn join(&self, name: &NetworkName, joining: &Joining) -> Result<Joined, NetworkError> {
        let owner = Owner { host: joining.host, lease: joining.lease };
        for attempt in 0..ATTEMPTS {
            let network = self.network(name).await?;
            let pools = &network.record.pools;
            let claimed = self.claimed(name).await?.within(pools);
            let key = self.prefix.member(name, joining.host);
            let found = self.key(&key).await?;
            let mut txn =
                Txn { when: vec![self.is_as(name, &network), as_read(key, found.as_ref())], then: Vec::new() };
            let mut rooms: Vec<Room> = Vec::new();
            for (kv, room) in claimed.rooms_of(joining.host) {
                rooms.push(room);
                if kv.lease != owner.lease && txn.then.len() < WRITES {
                    txn.when.push(as_read(kv.key.clone(), Some(kv)));
                    txn.then.push(room.write(&self.prefix, name, owner));
                }
            }
            if rooms.is_empty() {
                let asker = Asker { host: joining.host, attempt, is_first: true };
                let room = Room::of(pools.claimed(), choose_room(pools.claimed(), &claimed.prefixes(), asker)?);
                txn.when.push(Compare::Absent(room.key(&self.prefix, name)));
                txn.then.push(room.write(&self.prefix, name, owner));
                rooms.push(room);
            }
            let member = membership(joining, found.as_ref(), pools, (&rooms, &claimed.foreign(joining.host, &rooms)));
            let member_key = MemberKey { network: name.clone(), host: joining.host };
            let write = member.write(&self.prefix, &member_key, owner.lease);
            if found.as_ref().is_none_or(|kv| kv.value != member.to_value() || kv.lease != owner.lease) {
                txn.then.push(write);
            }
            if txn.then.is_empty() || self.commit(txn).await?.succeeded {
                let claimed = self.claimed(name).await?.within(pools);
                let late = claimed.late(joining.host);
                for room in &late {
                    self.release(name, joining.host, *room).await?;
                }
                let foreign = claimed.foreign(joining.host, &rooms);
                // Another host may have claimed this host's own address, or the block around a single one, at the same moment.
                if late.is_empty() && member.own.iter().all(|(_, own)| !foreign.contains(own)) {
                    return Ok(Joined { network, member, rooms, foreign });
                }
            }
            self.pause(attempt).await;
        }
        Err(NetworkError::Raced)
    }

    /// Gives a member one more block, or a single address where blocks run short. Without `lease` it never expires.
    ///
    /// # Errors
    /// If the host is not a member, no address is free, or the store does not answer. After
    /// [`StoreError::Unavailable`](wire_store::StoreError::Unavailable) it may have got it: [`NetworkStore::join`] tells.
    pub async fn more(
        &self,
        name: &NetworkName,
        host: HostId,
        lease: impl Into<Option<LeaseId>>,
    ) -> Result<Room, NetworkError> {
        let owner = Owner { host, lease: lease.into() };
        for attempt in 0..ATTEMPTS {
            let network = self.network(name).await?;
            let member = self.member(name, host).await?;
            let pools = &network.record.pools;
            let (claimed, pool) = (self.claimed(name).await?.within(pools), pools.claimed());
            let asker = Asker { host, attempt, is_first: false };
            let room = Room::of(pool, choose_room(pool, &claimed.prefixes(), asker)?);
            if self.claim(name, [self.is_as(name, &network), member], room, owner).await? {
                if self.is_alone(name, pools, host, room).await? {
                    return Ok(room);
                }
                self.release(name, host, room).await?;
            }
            self.pause(attempt).await;
        }
        Err(NetworkError::Raced)
    }

    /// Gives a member exactly this address, outside the blocks of other hosts.
    ///
    /// # Errors
    /// If containers cannot have it, another host has it, or the store does not answer.
    pub async fn claim_address(
        &self,
        name: &NetworkName,
        owner: (HostId, impl Into<Option<LeaseId>>),
        address: IpAddr,
        mac: MacAddr,
    ) -> Result<Room, NetworkError> {
        let (host, lease): (HostId, Option<LeaseId>) = (owner.0, owner.1.into());
        let refuse = |reason: String| NetworkError::Address { name: name.clone(), address, reason };
        let network = self.network(name).await?;
        let pools = &network.record.pools;
        if pools.belongs_to_v4(address) {
            return Err(refuse("it belongs to the IPv4 address with the same last 32 bits".to_owned()));
        }
        if !pools.get(Family::of(address)).is_some_and(|pool| pool.has_address(address)) {
            return Err(refuse(
                "it lies outside the network, or is the gateway's, its first or its last one".to_owned(),
            ));
        }
        let room = Room::Address(address, mac);
        let owner = Owner { host, lease };
        let member = self.member(name, host).await?;
        if let Some(other) = self.other_owner((name, pools), host, address, None).await? {
            return Err(refuse(format!("the host {other} has it")));
        }
        if !self.claim(name, [self.is_as(name, &network), member], room, owner).await? {
            let mine = self.key(&room.key(&self.prefix, name)).await?.is_some_and(|kv| is_of(host, room, &kv));
            return if mine { Ok(room) } else { Err(refuse("another host has just claimed it".to_owned())) };
        }
        // A block may have been claimed since. Its host looks at addresses after its claim, as this does at blocks: one of the two sees the other.
        match self.other_owner((name, pools), host, address, Some(room)).await? {
            None => Ok(room),
            Some(other) => {
                self.release(name, host, room).await?;
                Err(refuse(format!("the host {other} has it")))
            }
        }
    }

    /// Gives a block or an address back. False if the host does not have it.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn release(&self, name: &NetworkName, host: HostId, room: Room) -> Result<bool, NetworkError> {
        let key = room.key(&self.prefix, name);
        let Some(kv) = self.key(&key).await?.filter(|kv| is_of(host, room, kv)) else { return Ok(false) };
        let txn = Txn { when: vec![as_read(key.clone(), Some(&kv))], then: vec![Write::Delete(key)] };
        Ok(self.commit(txn).await?.succeeded)
    }

    /// Ends a membership, and gives back all that the host has on the network. Safe to repeat after an error.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn leave(&self, name: &NetworkName, host: HostId) -> Result<(), NetworkError> {
        for attempt in 0..ATTEMPTS {
            let mut keys: Vec<KeyValue> = self.key(&self.prefix.member(name, host)).await?.into_iter().collect();
            keys.extend(self.claimed(name).await?.rooms_of(host).map(|(kv, _)| kv.clone()));
            if keys.is_empty() {
                return Ok(());
            }
            if !self.delete(&keys).await? {
                self.pause(attempt).await;
            }
        }
        Err(NetworkError::Raced)
    }

    /// Deletes keys that are as they were read, some in each transaction. False if some are not.
    pub(super) async fn delete(&self, keys: &[KeyValue]) -> Result<bool, NetworkError> {
        let mut all = true;
        for some in keys.chunks(WRITES) {
            let when = some.iter().map(|kv| as_read(kv.key.clone(), Some(kv))).collect();
            let then = some.iter().map(|kv| Write::Delete(kv.key.clone())).collect();
            all &= self.commit(Txn { when, then }).await?.succeeded;
        }
        Ok(all)
    }

    async fn claim(
        &self,
        name: &NetworkName,
        when: [Compare; 2],
        room: Room,
        owner: Owner,
    ) -> Result<bool, NetworkError> {
        let mut when = Vec::from(when);
        when.push(Compare::Absent(room.key(&self.prefix, name)));
        let then = vec![room.write(&self.prefix, name, owner)];
        Ok(self.commit(Txn { when, then }).await?.succeeded)
    }

    /// The condition that the network is the one that was read.
    pub(super) fn is_as(&self, name: &NetworkName, network: &Stored<NetworkRecord>) -> Compare {
        Compare::Unchanged(NetworkRecord::key(&self.prefix, name), network.origin.mod_revision)
    }

    /// The condition that the host is the member that it is now.
    async fn member(&self, name: &NetworkName, host: HostId) -> Result<Compare, NetworkError> {
        let key = self.prefix.member(name, host);
        match self.key(&key).await? {
            Some(kv) => Ok(as_read(key, Some(&kv))),
            None => Err(NetworkError::NoMember { name: name.clone(), host }),
        }
    }

    async fn claimed(&self, name: &NetworkName) -> Result<Claimed, NetworkError> {
        let blocks = self.prefix.blocks_of(name);
        let addresses = self.prefix.addresses_of(name);
        // The folder of all networks, whose keys are parsed with the network's name.
        let (all_blocks, all_addresses) = (self.prefix.blocks(), self.prefix.addresses());
        let mut held: Vec<Held> = Vec::new();
        held.extend(self.listed(&blocks).await?.into_iter().filter_map(|kv| Held::block(kv, &all_blocks)));
        held.extend(self.listed(&addresses).await?.into_iter().filter_map(|kv| Held::address(kv, &all_addresses)));
        Ok(Claimed { held })
    }

    /// True if no other host had an address of this room when it was claimed, and none has a block around it.
    async fn is_alone(
        &self,
        name: &NetworkName,
        pools: &NetworkPools,
        host: HostId,
        room: Room,
    ) -> Result<bool, NetworkError> {
        match room {
            Room::Block(_) => Ok(self.claimed(name).await?.within(pools).foreign(host, &[room]).is_empty()),
            Room::Address(address, _) => {
                Ok(self.other_owner((name, pools), host, address, Some(room)).await?.is_none())
            }
        }
    }

    /// Another host that has an address; with `mine`, one that had it before this host claimed it.
    async fn other_owner(
        &self,
        (name, pools): (&NetworkName, &NetworkPools),
        host: HostId,
        address: IpAddr,
        mine: Option<Room>,
    ) -> Result<Option<HostId>, NetworkError> {
        let claimed = self.claimed(name).await?.within(pools);
        let since = mine.and_then(|mine| claimed.rooms_of(host).find(|(_, room)| *room == mine));
        let since = since.map(|(kv, _)| kv.create_revision);
        let mut owners = claimed.held.iter().filter(|held| held.prefix.contains(address));
        let owner = owners.find_map(|held| {
            let (owner, _) = held.owned.filter(|(owner, _)| *owner != host)?;
            since.is_none_or(|since| held.kv.create_revision < since).then_some(owner)
        });
        Ok(owner)
    }
}

/// The record of a member, which keeps its own addresses if they are of its `rooms` and nobody else's.
fn membership(
    joining: &Joining,
    found: Option<&KeyValue>,
    pools: &NetworkPools,
    (rooms, foreign): (&[Room], &[IpAddr]),
) -> MemberRecord {
    let pool = pools.claimed();
    let of = |address: IpAddr| pools.of_both(Prefix::host(address)).map(|_, prefix| prefix.network());
    let former = found.and_then(|kv| MemberRecord::from_value(&kv.value).ok());
    let former =
        former.and_then(|former| former.own.get(pool.prefix.family()).copied().filter(|own| of(*own) == former.own));
    let is_ours = |own: &IpAddr| pool.has_address(*own) && rooms.iter().any(|room| room.prefix().contains(*own));
    let kept = former.filter(|own| is_ours(own) && !foreign.contains(own));
    let mut free = rooms.iter().flat_map(|room| pool.addresses_of(room.prefix())).filter(|own| !foreign.contains(own));
    let own = kept.or_else(|| free.next()).map(of).unwrap_or_default();
    MemberRecord { public: joining.public, port: joining.port, own }
}

/// True if the value of a room's key names the host.
pub(super) fn is_of(host: HostId, room: Room, kv: &KeyValue) -> bool {
    let owner = match room {
        Room::Block(_) => crate::named::BlockRecord::from_value(&kv.value).map(|record| record.host),
        Room::Address(..) => crate::named::AddressRecord::from_value(&kv.value).map(|record| record.host),
    };
    owner.is_ok_and(|owner| owner == host)
}
