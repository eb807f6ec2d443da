//! A network by name with the admitted records of hosts on it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use imbl::OrdMap;
use wire_net::{AddressKey, BlockKey, Family, HostId, MacAddr, MemberKey, NetworkName, Prefix};
use wire_store::Revision;

use super::{
    AddressRecord, BlockRecord, MemberRecord, NetworkRecord, Stored,
    refusal::{HostKey, HostRefusal},
};

/// A network by name. A copy shares its tables.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its record.
    pub stored: Stored<NetworkRecord>,
    /// The hosts with endpoints.
    pub members: OrdMap<HostId, Stored<MemberRecord>>,
    /// The blocks of hosts. One counts only while its host is a member.
    pub blocks: OrdMap<Prefix, Stored<BlockRecord>>,
    /// The single addresses of hosts. Each counts before a block that holds it.
    pub addresses: OrdMap<IpAddr, Stored<AddressRecord>>,
    /// The records of hosts on this network that are not admitted.
    pub(super) refused: OrdMap<HostKey, HostRefusal>,
    /// All single addresses that may be had, by what decides between those with one MAC address.
    macs: OrdMap<MacClaim, Stored<AddressRecord>>,
    /// The same by address.
    claims: OrdMap<IpAddr, MacClaim>,
    /// The MAC addresses that are to be decided on.
    undecided: BTreeSet<MacAddr>,
}

/// A single address with its MAC address. The oldest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MacClaim {
    mac: MacAddr,
    created: Revision,
    address: IpAddr,
}

impl NamedNetwork {
    pub(super) fn new(name: &NetworkName, stored: &Stored<NetworkRecord>) -> Self {
        Self {
            name: name.clone(),
            stored: stored.clone(),
            members: OrdMap::new(),
            blocks: OrdMap::new(),
            addresses: OrdMap::new(),
            refused: OrdMap::new(),
            macs: OrdMap::new(),
            claims: OrdMap::new(),
            undecided: BTreeSet::new(),
        }
    }

    /// The record of the network.
    #[must_use]
    pub fn record(&self) -> &NetworkRecord {
        &self.stored.record
    }

    /// The host that has an address, by itself or in a block; of an IPv6 address also by the IPv4 address that it belongs to.
    #[must_use]
    pub fn host_of(&self, address: IpAddr) -> Option<HostId> {
        let claimed = self.claimed(address);
        let single = self.addresses.get(&claimed).map(|stored| stored.record.host);
        single.or_else(|| self.host_of_block(claimed))
    }

    /// True if an address lies in a block of a host, and another host has claimed it by itself before that host had the block: of the two the older
    /// claim stays.
    #[must_use]
    pub fn is_lost_to_older(&self, host: HostId, address: IpAddr) -> bool {
        let claimed = self.claimed(address);
        let single = self.addresses.get(&claimed).filter(|single| single.record.host != host);
        let block = self.block_of(claimed).filter(|block| block.record.host == host);
        let of = |single: &Stored<AddressRecord>, block: &Stored<BlockRecord>| {
            single.origin.create_revision < block.origin.create_revision
        };
        single.zip(block).is_some_and(|(single, block)| of(single, block))
    }

    /// The address that is claimed for this one: of an IPv6 address that belongs to an IPv4 address, the latter.
    fn claimed(&self, address: IpAddr) -> IpAddr {
        if self.record().pools.belongs_to_v4(address) { low_bits(address) } else { address }
    }

    /// The blocks of one host, and its single addresses as prefixes.
    pub fn rooms_of(&self, host: HostId) -> impl Iterator<Item = Prefix> {
        let blocks = self.blocks.iter().filter(move |(_, stored)| stored.record.host == host);
        let addresses = self.addresses.iter().filter(move |(_, stored)| stored.record.host == host);
        blocks.map(|(block, _)| *block).chain(addresses.map(|(address, _)| Prefix::host(*address)))
    }

    fn host_of_block(&self, address: IpAddr) -> Option<HostId> {
        self.block_of(address).map(|stored| stored.record.host)
    }

    fn block_of(&self, address: IpAddr) -> Option<&Stored<BlockRecord>> {
        let len = self.record().pools.claimed().block_len;
        self.blocks.get(&Prefix::new(address, len).ok()?)
    }

    pub(super) fn put_member(&mut self, key: &MemberKey, stored: Option<&Stored<MemberRecord>>) {
        self.members.remove(&key.host);
        let outcome = stored.map(|stored| self.check_member(&stored.record).map(|()| stored.clone()));
        if let Some(stored) = self.take(HostKey::Member(key.clone()), outcome) {
            self.members.insert(key.host, stored);
        }
    }

    pub(super) fn put_block(&mut self, key: &BlockKey, stored: Option<&Stored<BlockRecord>>) {
        let pool = self.record().pools.claimed();
        let refusal = HostRefusal::NoBlock { block: key.block, len: pool.block_len, pool: pool.usable() };
        let is_block = pool.has_block(key.block);
        self.blocks.remove(&key.block);
        let outcome = stored.map(|stored| if is_block { Ok(stored.clone()) } else { Err(refusal) });
        if let Some(stored) = self.take(HostKey::Block(key.clone()), outcome) {
            self.blocks.insert(key.block, stored);
        }
        // Addresses elsewhere may have the MAC of one in the block.
        let mac = |address| MacClaim {
            mac: MacAddr::of_container(address),
            created: Revision(0),
            address: Ipv4Addr::UNSPECIFIED.into(),
        };
        let last = MacAddr::of_container(key.block.last());
        let of_block = self.macs.range(mac(key.block.network())..).take_while(|(claim, _)| claim.mac <= last);
        self.undecided.extend(of_block.map(|(claim, _)| claim.mac));
    }

    pub(super) fn put_address(&mut self, key: &AddressKey, stored: Option<&Stored<AddressRecord>>) {
        if let Some(former) = self.claims.remove(&key.address) {
            self.macs.remove(&former);
            self.undecided.insert(former.mac);
        }
        self.addresses.remove(&key.address);
        let outcome = stored.map(|stored| self.check_address(key.address).map(|()| stored.clone()));
        if let Some(stored) = self.take(HostKey::Address(key.clone()), outcome) {
            let claim = claim_of(key.address, &stored);
            self.undecided.insert(claim.mac);
            self.macs.insert(claim, stored.clone());
            self.claims.insert(key.address, claim);
            // Counts until its MAC address is decided on.
            self.addresses.insert(key.address, stored);
        }
    }

    /// Notes a refusal, or takes one back.
    fn take<T>(&mut self, key: HostKey, outcome: Option<Result<T, HostRefusal>>) -> Option<T> {
        match outcome {
            Some(Err(refusal)) => drop(self.refused.insert(key, refusal)),
            Some(Ok(_)) | None => drop(self.refused.remove(&key)),
        }
        outcome.and_then(Result::ok)
    }

    fn check_member(&self, member: &MemberRecord) -> Result<(), HostRefusal> {
        let pools = &self.record().pools;
        for (_, public) in member.public.iter() {
            if pools.prefixes().any(|pool| pool.contains(*public)) {
                return Err(HostRefusal::PublicInside(*public));
            }
        }
        let has = |own: IpAddr| pools.get(Family::of(own)).is_some_and(|pool| pool.has_address(own));
        match member.own.iter().find(|(_, own)| !has(**own)) {
            Some((_, own)) => Err(HostRefusal::NoAddress(*own)),
            None => Ok(()),
        }
    }

    fn check_address(&self, address: IpAddr) -> Result<(), HostRefusal> {
        let pools = &self.record().pools;
        if pools.belongs_to_v4(address) {
            Err(HostRefusal::BelongsToV4(address))
        } else if pools.get(Family::of(address)).is_some_and(|pool| pool.has_address(address)) {
            Ok(())
        } else {
            Err(HostRefusal::NoAddress(address))
        }
    }

    /// Decides on the single addresses of each MAC address that is to be decided on.
    pub(super) fn decide_macs(&mut self) {
        for mac in std::mem::take(&mut self.undecided) {
            let first = MacClaim { mac, created: Revision(0), address: Ipv4Addr::UNSPECIFIED.into() };
            let group = self.macs.range(first..).take_while(|(claim, _)| claim.mac == mac);
            let group: Vec<(IpAddr, Stored<AddressRecord>)> =
                group.map(|(claim, stored)| (claim.address, stored.clone())).collect();
            let owner = self.owner(mac, &group);
            for (address, stored) in group {
                let key = HostKey::Address(AddressKey { network: self.name.clone(), address });
                let refusal = match owner {
                    Some(owner) if owner == stored.record.host => None,
                    Some(owner) => Some(HostRefusal::MacTaken(owner)),
                    None => Some(HostRefusal::MacOfOther),
                };
                let outcome = refusal.map_or_else(|| Ok(stored), Err);
                match self.take(key, Some(outcome)) {
                    Some(stored) => drop(self.addresses.insert(address, stored)),
                    None => drop(self.addresses.remove(&address)),
                }
            }
        }
    }

    /// The host whose containers may have a MAC address: the one that has the IP address which it follows from; of any other the host that was the
    /// first to claim it.
    fn owner(&self, mac: MacAddr, group: &[(IpAddr, Stored<AddressRecord>)]) -> Option<HostId> {
        let host = |(_, stored): &(IpAddr, Stored<AddressRecord>)| stored.record.host;
        if !mac.is_container() {
            return group.first().map(host);
        }
        let own = group.iter().find(|(address, _)| MacAddr::of_container(*address) == mac);
        own.map(host).or_else(|| self.host_of_block(self.address_of(mac)?))
    }

    /// The address that a container's MAC address follows from.
    fn address_of(&self, mac: MacAddr) -> Option<IpAddr> {
        let [_, _, low @ ..] = mac.octets();
        let pool = self.record().pools.claimed();
        let bits = pool.usable().first_bits();
        let bits = match pool.prefix.family() {
            Family::V4 => u128::from(u32::from_be_bytes(low)),
            Family::V6 => (bits & !u128::from(u32::MAX)) | u128::from(u32::from_be_bytes(low)),
        };
        Prefix::from_bits(pool.prefix.family(), bits, pool.prefix.family().bits()).ok().map(Prefix::network)
    }
}

fn claim_of(address: IpAddr, stored: &Stored<AddressRecord>) -> MacClaim {
    MacClaim { mac: stored.record.mac, created: stored.origin.create_revision, address }
}

/// The IPv4 address with the last 32 bits of an IPv6 address.
fn low_bits(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv4Addr::from_bits(v6.to_bits() as u32).into(),
    }
}
