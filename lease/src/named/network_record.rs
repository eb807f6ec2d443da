//! The record of a network by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire_net::{DualStack, Family, KeyPrefix, NamedKeyError, NetworkName, Vni};
use wire_store::KeyValue;

use super::{
    pools::{AddressPool, NetworkPools, PoolError, StoredPool},
    record::{Record, from_json, to_json},
};

/// A network by name, as one host has made it for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRecord {
    /// Tells its packets from those of other networks.
    pub vni: Vni,
    /// Its addresses.
    pub pools: NetworkPools,
    /// True if it has no way to the outside.
    pub internal: bool,
    /// True if broadcast and multicast reach all members.
    pub broadcast: bool,
    /// The MTU of its containers in bytes; 0 means that of the underlay without VXLAN's overhead.
    pub mtu: u32,
    /// Labels for other programs.
    pub labels: Labels,
    /// The time of its creation, RFC 3339.
    pub created: String,
}

/// The labels of a network.
pub type Labels = BTreeMap<String, String>;

/// The smallest VNI of a network by name. Smaller ones are left to flat networks.
pub const LEAST_VNI: u32 = 4096;

/// A network that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkRecordError {
    /// The VNI is not one of networks by name.
    #[error("VNI is {0}: it must be from {LEAST_VNI} to {LARGEST_VNI}")]
    Vni(u64),
    /// The pools break a rule.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No packet fits, or none is so large.
    #[error("MTU is {mtu}: it must be 0 (that of the underlay) or from {least} to 65535")]
    Mtu {
        /// The MTU.
        mtu: u64,
        /// The least that the families of the network need: RFC 791 §3.1, RFC 8200 §5.
        least: u64,
    },
    /// There are too many labels.
    #[error("there are {0} labels, more than {MOST_LABELS}")]
    Labels(usize),
    /// A label is too long, or holds control characters.
    #[error(
        "the label {0:?} cannot be kept: it must have a name of 1 to {LONGEST_LABEL} bytes, a value of at most {LONGEST_LABEL_VALUE}, and no control \
         characters"
    )]
    Label(String),
    /// All labels together are too long.
    #[error("the labels have {0} bytes together, more than {LONGEST_LABELS}")]
    LabelsLength(usize),
    /// The time of the creation is no time.
    #[error("Created is {0:?}, which is no time like 2026-01-31T12:00:00Z")]
    Created(String),
}

const LARGEST_VNI: u32 = (1 << 24) - 1;
const MOST_LABELS: usize = 64;
const LONGEST_LABEL: usize = 128;
const LONGEST_LABEL_VALUE: usize = 2048;
/// All labels fit into a value together with the rest.
const LONGEST_LABELS: usize = 8192;

impl NetworkRecord {
    /// Checks the rules that its types leave open.
    ///
    /// # Errors
    /// Names the first violated rule.
    pub fn check(&self) -> Result<(), NetworkRecordError> {
        if self.vni.number() < LEAST_VNI {
            return Err(NetworkRecordError::Vni(self.vni.number().into()));
        }
        check_mtu(&self.pools, self.mtu.into())?;
        check_labels(&self.labels)?;
        let is_time = self.created.len() <= 40 && self.created.bytes().all(|byte| byte.is_ascii_graphic());
        if is_time { Ok(()) } else { Err(NetworkRecordError::Created(self.created.chars().take(48).collect())) }
    }

    fn from_stored(stored: StoredNetwork) -> Result<Self, NetworkRecordError> {
        let wrong_vni = NetworkRecordError::Vni(stored.vni);
        let vni = u32::try_from(stored.vni).ok().and_then(Vni::new).ok_or(wrong_vni)?;
        let pools = pools(stored.v4, stored.v6)?;
        // Checked with the other rules, by a number that fits.
        check_mtu(&pools, stored.mtu)?;
        let record = Self {
            vni,
            pools,
            internal: stored.internal,
            broadcast: stored.broadcast,
            mtu: u32::try_from(stored.mtu).unwrap_or_default(),
            labels: stored.labels,
            created: stored.created,
        };
        record.check().map(|()| record)
    }
}

impl Record for NetworkRecord {
    type Key = NetworkName;

    fn parse_key(name: &[u8]) -> Result<NetworkName, NamedKeyError> {
        NetworkName::of_key(name)
    }

    fn folder(prefix: &KeyPrefix) -> Vec<u8> {
        prefix.networks()
    }

    fn from_value(value: &[u8]) -> Result<Self, String> {
        Self::from_stored(from_json(value, KeyValue::LONGEST_VALUE)?).map_err(|error| error.to_string())
    }

    fn to_value(&self) -> Vec<u8> {
        let stored = |pool: &AddressPool| StoredPool { pool: pool.prefix.to_string(), block: Some(pool.block_len) };
        let pool = |family| self.pools.get(family).map(stored);
        to_json(&StoredNetwork {
            vni: self.vni.number().into(),
            v4: pool(Family::V4),
            v6: pool(Family::V6),
            internal: self.internal,
            broadcast: self.broadcast,
            mtu: self.mtu.into(),
            labels: self.labels.clone(),
            created: self.created.clone(),
        })
    }
}

/// A network as the store has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredNetwork {
    #[serde(rename = "VNI")]
    vni: u64,
    #[serde(rename = "IPv4", skip_serializing_if = "Option::is_none")]
    v4: Option<StoredPool>,
    #[serde(rename = "IPv6", skip_serializing_if = "Option::is_none")]
    v6: Option<StoredPool>,
    #[serde(default)]
    internal: bool,
    #[serde(default = "is_usual")]
    broadcast: bool,
    #[serde(rename = "MTU", default)]
    mtu: u64,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    created: String,
}

const fn is_usual() -> bool {
    true
}

fn pools(v4: Option<StoredPool>, v6: Option<StoredPool>) -> Result<NetworkPools, PoolError> {
    let mut pools = DualStack::default();
    for (family, stored) in [(Family::V4, v4), (Family::V6, v6)] {
        let Some(StoredPool { pool, block }) = stored else { continue };
        pools.set(family, Some(AddressPool::parse(family, &pool, block)?));
    }
    NetworkPools::new(pools)
}

fn check_mtu(pools: &NetworkPools, mtu: u64) -> Result<(), NetworkRecordError> {
    let least = if pools.get(Family::V6).is_some() { 1280 } else { 68 };
    if mtu == 0 || (least..=65_535).contains(&mtu) { Ok(()) } else { Err(NetworkRecordError::Mtu { mtu, least }) }
}

fn check_labels(labels: &Labels) -> Result<(), NetworkRecordError> {
    if labels.len() > MOST_LABELS {
        return Err(NetworkRecordError::Labels(labels.len()));
    }
    let is_plain = |text: &str| !text.contains(char::is_control);
    let fits = |name: &str, value: &str| {
        (1..=LONGEST_LABEL).contains(&name.len())
            && value.len() <= LONGEST_LABEL_VALUE
            && is_plain(name)
            && is_plain(value)
    };
    if let Some((name, _)) = labels.iter().find(|(name, value)| !fits(name, value)) {
        return Err(NetworkRecordError::Label(name.chars().take(64).collect()));
    }
    let all = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if all > LONGEST_LABELS { Err(NetworkRecordError::LabelsLength(all)) } else { Ok(()) }
}
