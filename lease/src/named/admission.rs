//! Decides which records of networks by name are admitted. Pure. A change of the records of hosts costs what it changes; one of the networks
//! themselves, which is rare, lets all networks be decided anew, and only those be built anew whose pools are others.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use wire_net::{AddressKey, BlockKey, Family, HostId, MemberKey, NetworkName, Prefix};

use super::{
    AddressRecord, BlockRecord, MemberRecord, NetworkRecord, Record, Stored,
    network::NamedNetwork,
    network_claims::NetworkClaims,
    refusal::{HostKey, HostRefusal, NetworkRefusal, Occupied},
};

/// The valid records of one kind.
pub type Records<R> = OrdMap<<R as Record>::Key, Stored<R>>;

/// The valid records of all kinds, as their folders have them. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct NamedRecords {
    /// The networks.
    pub networks: Records<NetworkRecord>,
    /// The hosts with endpoints.
    pub members: Records<MemberRecord>,
    /// The blocks of hosts.
    pub blocks: Records<BlockRecord>,
    /// The single addresses of hosts.
    pub addresses: Records<AddressRecord>,
}

/// All networks by name that are admitted. Two snapshots share what is equal in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedNetworks {
    /// The networks, with the records of hosts on them.
    pub networks: OrdMap<NetworkName, Arc<NamedNetwork>>,
    /// The networks that are not admitted, with the reasons.
    pub refused: OrdMap<NetworkName, NetworkRefusal>,
    /// The number of networks beyond [`MOST_NETWORKS`](super::MOST_NETWORKS). They are not named.
    pub too_many: usize,
}

/// The networks by name, and the records they were admitted from.
#[derive(Clone, Debug, Default)]
pub struct NamedAdmission {
    records: NamedRecords,
    occupied: Vec<Occupied>,
    admitted: NamedNetworks,
}

impl NamedNetworks {
    /// Admits all records at once.
    #[must_use]
    pub fn of(records: &NamedRecords, occupied: &[Occupied]) -> Self {
        let mut admission = NamedAdmission::default();
        admission.update(records, occupied);
        admission.admitted
    }

    /// The records of hosts that are not admitted, with the reasons. Those of networks that are not admitted are not among them.
    pub fn refused_hosts(&self) -> impl Iterator<Item = (&HostKey, &HostRefusal)> {
        self.networks.values().flat_map(|network| network.refused.iter())
    }
}

impl NamedAdmission {
    /// Brings the admission forward to these records, and returns the networks. `occupied` names addresses that no network may have.
    pub fn update(&mut self, records: &NamedRecords, occupied: &[Occupied]) -> &NamedNetworks {
        let before = std::mem::replace(&mut self.records, records.clone());
        let is_new = self.occupied != occupied;
        let mut built = BTreeSet::new();
        if is_new || before.networks.diff(&records.networks).next().is_some() {
            self.occupied = occupied.to_vec();
            built = self.decide_networks();
        }
        self.bring_forward(&before, &built);
        for name in &built {
            self.build(name);
        }
        &self.admitted
    }

    /// The networks as they are now.
    #[must_use]
    pub const fn networks(&self) -> &NamedNetworks {
        &self.admitted
    }

    /// Decides which networks are admitted, and returns those that must be built anew.
    fn decide_networks(&mut self) -> BTreeSet<NetworkName> {
        let claims = NetworkClaims::of(&self.records.networks, &self.occupied);
        let admitted = &mut self.admitted;
        let gone = |name: &&NetworkName| !claims.admitted.contains(*name);
        let gone: Vec<NetworkName> = admitted.networks.keys().filter(gone).cloned().collect();
        gone.iter().for_each(|name| drop(admitted.networks.remove(name)));
        let mut built = BTreeSet::new();
        for name in claims.admitted {
            let Some(stored) = self.records.networks.get(&name) else { continue };
            match admitted.networks.get_mut(&name) {
                Some(network) if network.stored == *stored => {}
                Some(network) if network.stored.record.pools == stored.record.pools => {
                    Arc::make_mut(network).stored = stored.clone();
                }
                Some(_) | None => {
                    admitted.networks.insert(name.clone(), Arc::new(NamedNetwork::new(&name, stored)));
                    built.insert(name);
                }
            }
        }
        admitted.refused = claims.refused.into_iter().collect();
        admitted.too_many = claims.too_many;
        built
    }

    /// Takes all records of hosts on a network.
    fn build(&mut self, name: &NetworkName) {
        let Some(network) = self.admitted.networks.get_mut(name) else { return };
        let network = Arc::make_mut(network);
        let records = &self.records;
        let member = MemberKey { network: name.clone(), host: HostId::MIN };
        for (key, stored) in records.members.range(member..).take_while(|(key, _)| key.network == *name) {
            network.put_member(key, Some(stored));
        }
        let block = BlockKey { network: name.clone(), block: Prefix::from_bits(Family::V4, 0, 0).expect("no bits") };
        for (key, stored) in records.blocks.range(block..).take_while(|(key, _)| key.network == *name) {
            network.put_block(key, Some(stored));
        }
        let address = AddressKey { network: name.clone(), address: std::net::Ipv4Addr::UNSPECIFIED.into() };
        for (key, stored) in records.addresses.range(address..).take_while(|(key, _)| key.network == *name) {
            network.put_address(key, Some(stored));
        }
        network.decide_macs();
    }

    /// Takes the records of hosts that have changed, but for the networks that are built anew.
    fn bring_forward(&mut self, before: &NamedRecords, built: &BTreeSet<NetworkName>) {
        let records = &self.records;
        let mut touched = BTreeSet::new();
        let networks = &mut self.admitted.networks;
        let mut of = |name: &NetworkName, put: &mut dyn FnMut(&mut NamedNetwork)| {
            if !built.contains(name)
                && let Some(network) = networks.get_mut(name)
            {
                touched.insert(name.clone());
                put(Arc::make_mut(network));
            }
        };
        for key in changed(&before.members, &records.members) {
            of(&key.network, &mut |network| network.put_member(key, records.members.get(key)));
        }
        for key in changed(&before.blocks, &records.blocks) {
            of(&key.network, &mut |network| network.put_block(key, records.blocks.get(key)));
        }
        for key in changed(&before.addresses, &records.addresses) {
            of(&key.network, &mut |network| network.put_address(key, records.addresses.get(key)));
        }
        for name in touched {
            if let Some(network) = self.admitted.networks.get_mut(&name) {
                Arc::make_mut(network).decide_macs();
            }
        }
    }
}

/// The keys whose values differ.
fn changed<'a, K: Ord + Clone, V: PartialEq + Clone>(
    before: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.diff(now).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    })
}
