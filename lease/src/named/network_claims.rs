//! Which networks are admitted: of two in conflict the older one. Pure.

use std::collections::{BTreeMap, BTreeSet};

use wire_net::{Family, NetworkName, Prefix, Vni};

use super::{
    NetworkRecord, Stored,
    admission::Records,
    refusal::{NetworkRefusal, Occupied},
};
use crate::Taken;

/// The largest number of networks that are admitted. Each costs two devices on its members.
pub const MOST_NETWORKS: usize = 4096;

/// The outcome for all networks.
#[derive(Debug, Default)]
pub(super) struct NetworkClaims {
    pub(super) admitted: BTreeSet<NetworkName>,
    pub(super) refused: BTreeMap<NetworkName, NetworkRefusal>,
    /// The number of valid networks beyond [`MOST_NETWORKS`].
    pub(super) too_many: usize,
}

impl NetworkClaims {
    /// Decides on all networks, the oldest first.
    pub(super) fn of(networks: &Records<NetworkRecord>, occupied: &[Occupied]) -> Self {
        let mut oldest: Vec<(&NetworkName, &Stored<NetworkRecord>)> = networks.iter().collect();
        oldest.sort_unstable_by_key(|(name, stored)| (stored.origin.create_revision, *name));
        let mut claims = Claims::of(occupied);
        let mut outcome = Self::default();
        for (name, stored) in oldest {
            if outcome.admitted.len() == MOST_NETWORKS {
                outcome.too_many += 1;
                continue;
            }
            match claims.claim(name, &stored.record) {
                Ok(()) => drop(outcome.admitted.insert(name.clone())),
                Err(refusal) => drop(outcome.refused.insert(name.clone(), refusal)),
            }
        }
        outcome
    }
}

struct Claims<'a> {
    occupied: &'a [Occupied],
    taken: Taken,
    /// Last address and network of each pool, by family and first address. They are disjoint.
    pools: BTreeMap<(Family, u128), (u128, NetworkName)>,
    vnis: BTreeMap<Vni, NetworkName>,
}

impl<'a> Claims<'a> {
    fn of(occupied: &'a [Occupied]) -> Self {
        let taken = occupied.iter().map(|occupied| occupied.prefix).collect();
        Self { occupied, taken, pools: BTreeMap::new(), vnis: BTreeMap::new() }
    }

    fn claim(&mut self, name: &NetworkName, record: &NetworkRecord) -> Result<(), NetworkRefusal> {
        for pool in record.pools.prefixes() {
            if let Some(occupied) = self.occupied(pool) {
                return Err(NetworkRefusal::Occupied { pool, occupied });
            }
            if let Some(other) = self.older(pool) {
                return Err(NetworkRefusal::Pool { pool, other: other.clone() });
            }
        }
        if let Some(other) = self.vnis.get(&record.vni) {
            return Err(NetworkRefusal::Vni { vni: record.vni, other: other.clone() });
        }
        self.vnis.insert(record.vni, name.clone());
        for pool in record.pools.prefixes() {
            self.pools.insert((pool.family(), pool.first_bits()), (pool.last_bits(), name.clone()));
        }
        Ok(())
    }

    fn occupied(&self, pool: Prefix) -> Option<Occupied> {
        self.taken.overlapping(pool)?;
        self.occupied.iter().copied().find(|occupied| occupied.prefix.overlaps(pool))
    }

    fn older(&self, pool: Prefix) -> Option<&NetworkName> {
        let before_end = self.pools.range((pool.family(), 0)..=(pool.family(), pool.last_bits())).next_back();
        before_end.filter(|(_, (last, _))| *last >= pool.first_bits()).map(|(_, (_, name))| name)
    }
}
