//! Watches one key.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Backoff, Event, KeyValue, LeaseStore, Random, Revision, StoreError, WatchError, WatchStream};

/// Reports one key as it changes. After a break it opens the watch again, and reads the key first.
pub struct KeyWatch<S: LeaseStore> {
    store: S,
    key: Vec<u8>,
    /// The revision at which the next watch starts; `None` if the key must be read first.
    from: Option<Revision>,
    watch: Option<S::Watch>,
    pauses: Backoff,
    random: Random,
    open_at: Instant,
}

/// A change of the key.
#[derive(Debug)]
pub enum KeyEvent {
    /// The key as it is now. Also reported, changed or not, when the watch is open again after a break.
    Is(Option<KeyValue>),
    /// The store does not answer, for this reason. The watch is opened again after a pause.
    Broken(StoreError),
}

impl<S: LeaseStore> KeyWatch<S> {
    /// Reports all changes of `key` after the revision `known`. The pauses after a break are drawn from `random`.
    pub fn new(store: S, key: Vec<u8>, known: Revision, random: Random) -> Self {
        let from = Some(Revision(known.0 + 1));
        let pauses = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        Self { store, key, from, watch: None, pauses, random, open_at: Instant::now() }
    }

    /// Makes the next call read the key, although the watch is open.
    pub fn read_again(&mut self) {
        self.watch = None;
        self.from = None;
        self.open_at = Instant::now();
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    /// Safe: an event that was not returned is returned by the next call.
    pub async fn next(&mut self) -> KeyEvent {
        loop {
            let step = match &mut self.watch {
                Some(watch) => watch.next().await.map(|batch| {
                    self.pauses.reset();
                    let last = batch.events.into_iter().rev().find(|event| event.key() == self.key);
                    last.map(Event::into_key_value)
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
                    self.open_at = Instant::now() + self.pauses.pause(&self.random);
                    if let WatchError::Ended(error) = error {
                        return KeyEvent::Broken(error);
                    }
                }
            }
        }
    }

    /// Opens the watch, and reads the key first if its state is not known.
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
