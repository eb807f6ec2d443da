//! Following one key.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Backoff, Event, KeyValue, LeaseStore, Revision, StoreError, WatchError, WatchStream};

/// One key as it changes. Opens its watch again whenever it breaks, and reads the key then.
pub struct KeyWatch<S: LeaseStore> {
    store: S,
    key: Vec<u8>,
    /// The next watch begins here; `None` where only a read can tell.
    from: Option<Revision>,
    watch: Option<S::Watch>,
    pauses: Backoff,
    open_at: Instant,
}

/// A change of the key.
#[derive(Debug)]
pub enum KeyEvent {
    /// This is what it holds. Also told, changed or not, when the watch stands again after a break.
    Is(Option<KeyValue>),
    /// The store cannot be asked, for this reason. It is tried again.
    Broken(StoreError),
}

impl<S: LeaseStore> KeyWatch<S> {
    /// All changes of `key` after `known`.
    pub fn new(store: S, key: Vec<u8>, known: Revision) -> Self {
        let from = Some(Revision(known.0 + 1));
        let pauses = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        Self { store, key, from, watch: None, pauses, open_at: Instant::now() }
    }

    /// Reads the key at the next call, whatever the watch says.
    pub fn read_again(&mut self) {
        self.watch = None;
        self.from = None;
        self.open_at = Instant::now();
    }

    /// The next event.
    ///
    /// # Cancel safety
    /// Safe: what was not told is told by the next call.
    pub async fn next(&mut self) -> KeyEvent {
        loop {
            let step = match &mut self.watch {
                Some(watch) => watch.next().await.map(|batch| {
                    let ours = batch.events.into_iter().rev().find_map(|event| match event {
                        Event::Put(kv) => (kv.key == self.key).then_some(Some(kv)),
                        Event::Delete { key, .. } => (key == self.key).then_some(None),
                    });
                    self.pauses.reset();
                    ours
                }),
                None => {
                    tokio::time::sleep_until(self.open_at).await;
                    self.open().await
                }
            };
            match step {
                Ok(Some(state)) => return KeyEvent::Is(state),
                Ok(None) => {}
                Err(error) => {
                    self.watch = None;
                    self.from = None;
                    self.open_at = Instant::now() + self.pauses.pause();
                    if let WatchError::Ended(error) = error {
                        return KeyEvent::Broken(error);
                    }
                }
            }
        }
    }

    /// Opens the watch, and reads the key first where it is not known.
    async fn open(&mut self) -> Result<Option<Option<KeyValue>>, WatchError> {
        let (read, from) = match self.from {
            Some(from) => (None, from),
            None => {
                let read = self.store.get(&self.key).await.map_err(|error: StoreError| WatchError::Ended(error))?;
                (Some(read.found), Revision(read.revision.0 + 1))
            }
        };
        self.watch = Some(self.store.watch(&self.key, from).await?);
        Ok(read)
    }
}
