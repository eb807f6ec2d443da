//! The network config in the store: read once, then watched.

use wire_net::KeyPrefix;
use wire_store::{KeyEvent, KeyWatch, LeaseStore, Revision, StoreError};

/// The network config as the store holds it, not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredConfig {
    /// The value; `None` while nobody has written one.
    pub json: Option<Vec<u8>>,
    /// The revision this holds at.
    pub revision: Revision,
}

impl StoredConfig {
    /// Reads the config of a network.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn read<S: LeaseStore>(store: &S, prefix: &KeyPrefix) -> Result<Self, StoreError> {
        let read = store.get(&prefix.config()).await?;
        Ok(Self { json: read.found.map(|kv| kv.value), revision: read.revision })
    }
}

/// The network config as it changes.
pub struct ConfigWatch<S: LeaseStore>(KeyWatch<S>);

/// A change of the network config.
#[derive(Debug)]
pub enum ConfigEvent {
    /// This is the value now; `None` where it was deleted. Told again, changed or not, after the store was away.
    Is(Option<Vec<u8>>),
    /// The store cannot be asked, for this reason. It is tried again, with pauses of at most 1 s.
    Broken(StoreError),
}

impl<S: LeaseStore> ConfigWatch<S> {
    /// All changes after `revision`, that of [`StoredConfig::read`].
    #[must_use]
    pub fn new(store: S, prefix: &KeyPrefix, revision: Revision) -> Self {
        Self(KeyWatch::new(store, prefix.config(), revision))
    }

    /// The next event.
    ///
    /// # Cancel safety
    /// Safe: what was not told is told by the next call.
    pub async fn next(&mut self) -> ConfigEvent {
        match self.0.next().await {
            KeyEvent::Is(found) => ConfigEvent::Is(found.map(|kv| kv.value)),
            KeyEvent::Broken(error) => ConfigEvent::Broken(error),
        }
    }
}
