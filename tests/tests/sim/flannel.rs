//! A flanneld beside the agents: it writes leases as flannel does, without a guard, and has no kernel here.

use std::time::Duration;

use tokio::time::Instant;
use wire_net::KeyPrefix;
use wire_store::{LeaseId, Listing, Random, SimStore};

use crate::host::address;

/// The time after which a flanneld that lost its lease writes it again.
const AGAIN: Duration = Duration::from_secs(60);

/// A flanneld. It renews its lease until it is stopped.
pub(crate) struct Flannel {
    number: u16,
    /// The key that it holds.
    key: Option<String>,
    look_at: Instant,
    subnets: u16,
    random: Random,
    lease: Option<LeaseId>,
}

impl Flannel {
    /// A flanneld on a host of that number, in a network of so many subnets.
    pub(crate) fn new(number: u16, subnets: u16, random: Random) -> Self {
        Self { number, key: None, look_at: Instant::now(), subnets, random, lease: None }
    }

    /// Renews its lease, or takes one that is free.
    pub(crate) fn live(&mut self, store: &SimStore) {
        if Instant::now() < self.look_at {
            return;
        }
        self.look_at = Instant::now() + AGAIN;
        let directory = format!("{}/subnets/", KeyPrefix::DEFAULT);
        let listing = store.listing(directory.as_bytes());
        let is_held =
            |key: &String| listing.entries.iter().any(|entry| entry.key == key.as_bytes() && entry.lease == self.lease);
        if self.key.as_ref().is_some_and(is_held) {
            return;
        }
        let free = free(&listing, &directory, self.subnets);
        let chosen = || free.get(self.random.index(free.len())).cloned();
        let key = self.key.take().filter(|key| free.contains(key)).or_else(chosen);
        let Some(key) = key else { return };
        let lease = store.grant_now(Duration::from_secs(24 * 3600));
        store.put(key.clone(), self.value(), Some(lease));
        (self.key, self.lease) = (Some(key), Some(lease));
    }

    /// Writes a lease without an end, and returns its key and value.
    pub(crate) fn reserve(&mut self, store: &SimStore) -> Option<(Vec<u8>, Vec<u8>)> {
        let directory = format!("{}/subnets/", KeyPrefix::DEFAULT);
        let free = free(&store.listing(directory.as_bytes()), &directory, self.subnets);
        let key = free.get(self.random.index(free.len()))?.clone().into_bytes();
        let value = self.value().into_bytes();
        store.put(key.clone(), value.clone(), None);
        Some((key, value))
    }

    /// Writes its lease over that of another host.
    pub(crate) fn take(&self, store: &SimStore, key: Vec<u8>) {
        let lease = store.grant_now(Duration::from_secs(24 * 3600));
        store.put(key, self.value(), Some(lease));
    }

    fn value(&self) -> String {
        let [high, low] = self.number.to_be_bytes();
        let public = address(self.number);
        format!(
            r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:f1:00:00:{high:02x}:{low:02x}"}}}}"#
        )
    }
}

/// The keys of all subnets that nobody has.
fn free(listing: &Listing, directory: &str, subnets: u16) -> Vec<String> {
    let taken = |key: &String| listing.entries.iter().any(|entry| entry.key == key.as_bytes());
    (1..=subnets).map(|number| key(directory, number)).filter(|key| !taken(key)).collect()
}

fn key(directory: &str, number: u16) -> String {
    format!("{directory}10.{}.{}.0-24", 5 + number / 256, number % 256)
}
