//! The network config in the store: read once, then watched.

use wire_net::KeyPrefix;
use wire_store::{KeyEvent, KeyWatch, LeaseStore, Random, Revision, StoreError};

/// The network config in the store, not yet parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConfig {
    /// The value; `None` if the key does not exist.
    pub json: Option<Vec<u8>>,
    /// The revision at which it was read.
    pub revision: Revision,
}

impl StoredConfig {
    /// Reads the config of a network.
    ///
    /// # Errors
    /// If the store does not answer or refuses.
    pub async fn read<S: LeaseStore>(store: &S, prefix: &KeyPrefix) -> Result<Self, StoreError> {
        let read = store.get(&prefix.config()).await?;
        Ok(Self { json: read.found.map(|kv| kv.value), revision: read.revision })
    }
}

/// Reports the network config as it changes.
pub struct ConfigWatch<S: LeaseStore>(KeyWatch<S>);

/// A change of the network config.
#[derive(Debug)]
pub enum ConfigEvent {
    /// The current value; `None` if it was deleted. Reported again, changed or not, after the store was unavailable.
    Is(Option<Vec<u8>>),
    /// The store does not answer, for this reason. It is asked again after a pause of at most 1 s.
    Broken(StoreError),
}

impl<S: LeaseStore> ConfigWatch<S> {
    /// Reports all changes after `revision`, as returned by [`StoredConfig::read`]. The pauses after a break
    /// are drawn from `random`.
    #[must_use]
    pub fn new(store: S, prefix: &KeyPrefix, revision: Revision, random: Random) -> Self {
        Self(KeyWatch::new(store, prefix.config(), revision, random))
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    /// Safe: an event that was not returned is returned by the next call.
    pub async fn next(&mut self) -> ConfigEvent {
        match self.0.next().await {
            KeyEvent::Is(found) => ConfigEvent::Is(found.map(|kv| kv.value)),
            KeyEvent::Broken(error) => ConfigEvent::Broken(error),
        }
    }
}
