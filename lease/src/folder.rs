//! Follows a folder of small values of the store: list, watch, and list again when the watch may have missed something.
//!
//! One task owns the state. Output: a [`Folder`] over a watch channel, of which a copy costs nothing. What is not understood is refused
//! one by one, and the rest goes on. It needs no more memory than [`AT_MOST`] items and [`NAMED`] refusals take, whatever others write.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::FutureExt;
use imbl::OrdMap;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, warn};
use wire_net::chain;
use wire_store::{
    Backoff, Event, KeySink, KeyValue, LeaseStore, Random, Revision, StoreError, WatchBatch, WatchError, WatchStream,
};

use crate::{LIST_EVERY, task::Task};

/// The largest number of items: twice the leases of the largest networks.
const AT_MOST: usize = 1 << 17;
/// The number of refused keys that are named.
const NAMED: usize = 100;
/// The largest number of batches to apply before the folder is published.
const BATCHES: usize = 256;
const PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// A value of a folder.
pub trait FolderItem: Clone + PartialEq + Send + Sync + 'static {
    /// The decoded name. Each has one spelling alone.
    type Key: Ord + Clone + Send + Sync + 'static;

    /// Decodes the name of a key, without the folder's.
    ///
    /// # Errors
    /// The fault, for people.
    fn key(name: &[u8]) -> Result<Self::Key, String>;

    /// Decodes a value, which may have been cut to [`KeyValue::LONGEST_VALUE`] and one byte.
    ///
    /// # Errors
    /// The fault, for people.
    fn decode(kv: &KeyValue) -> Result<Self, String>;
}

/// The content of a folder at one moment. Two snapshots share what is equal in them.
#[derive(Clone, Debug)]
pub struct Folder<I: FolderItem> {
    /// The valid items.
    pub items: OrdMap<I::Key, I>,
    /// Some of the keys that were refused, escaped, with the faults.
    pub refused: Arc<BTreeMap<String, String>>,
    revision: Revision,
}

impl<I: FolderItem> Default for Folder<I> {
    fn default() -> Self {
        Self { items: OrdMap::new(), refused: Arc::default(), revision: Revision(0) }
    }
}

impl<I: FolderItem> Folder<I> {
    /// Reads the folder whose keys begin with `path`.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn list<S: LeaseStore>(store: &S, path: &[u8]) -> Result<Self, StoreError> {
        let mut sink = Listed { path, folder: Self::default() };
        let revision = store.list_into(path, &mut sink).await?;
        Ok(Self { revision, ..sink.folder })
    }

    /// A folder with these items, which no store has told of.
    pub fn of(items: impl IntoIterator<Item = (I::Key, I)>) -> Self {
        Self { items: items.into_iter().collect(), ..Self::default() }
    }

    fn put(&mut self, path: &[u8], kv: &KeyValue) {
        let name = kv.key.strip_prefix(path).unwrap_or_default();
        let key = match I::key(name) {
            Ok(key) => key,
            Err(fault) => return self.refuse(name, fault),
        };
        let fault = match I::decode(kv) {
            Ok(item) if self.items.len() < AT_MOST || self.items.contains_key(&key) => {
                self.accept(name);
                if self.items.get(&key) != Some(&item) {
                    self.items.insert(key, item);
                }
                return;
            }
            Ok(_) => format!("there are more than {AT_MOST}"),
            Err(fault) => fault,
        };
        self.items.remove(&key);
        self.refuse(name, fault);
    }

    fn remove(&mut self, path: &[u8], key: &[u8]) {
        let name = key.strip_prefix(path).unwrap_or_default();
        self.accept(name);
        if let Ok(key) = I::key(name) {
            self.items.remove(&key);
        }
    }

    fn refuse(&mut self, name: &[u8], fault: String) {
        let name = shown(name);
        if self.refused.len() < NAMED || self.refused.contains_key(&name) {
            Arc::make_mut(&mut self.refused).insert(name, fault);
        }
    }

    /// Takes back a refusal.
    fn accept(&mut self, name: &[u8]) {
        if !self.refused.is_empty() && self.refused.contains_key(&shown(name)) {
            Arc::make_mut(&mut self.refused).remove(&shown(name));
        }
    }

    fn apply(&mut self, path: &[u8], event: &Event) {
        if event.mod_revision() <= self.revision {
            return;
        }
        self.revision = event.mod_revision();
        match event {
            Event::Put(kv) => self.put(path, kv),
            Event::Delete { key, .. } => self.remove(path, key),
        }
    }

    /// Becomes what was listed, and shares with the snapshots so far what is equal.
    fn replace_by(&mut self, listed: Self) {
        let gone: Vec<I::Key> = self.items.keys().filter(|key| !listed.items.contains_key(*key)).cloned().collect();
        gone.iter().for_each(|key| drop(self.items.remove(key)));
        for (key, item) in listed.items {
            if self.items.get(&key) != Some(&item) {
                self.items.insert(key, item);
            }
        }
        (self.refused, self.revision) = (listed.refused, listed.revision);
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.refused == other.refused && self.items.diff(&other.items).next().is_none()
    }
}

/// Formats a name for people: at most 256 characters, without control characters that a terminal would obey.
fn shown(name: &[u8]) -> String {
    name.escape_ascii().take(256).map(char::from).collect()
}

/// A listing that is decoded key by key.
struct Listed<'a, I: FolderItem> {
    path: &'a [u8],
    folder: Folder<I>,
}

impl<I: FolderItem> KeySink for Listed<'_, I> {
    fn clear(&mut self) {
        self.folder = Folder::default();
    }

    fn push(&mut self, kv: KeyValue) {
        self.folder.put(self.path, &kv);
    }
}

/// A folder as it changes. Dropping this stops following.
pub struct FollowFolder<I: FolderItem> {
    /// Its content; `None` until it is known.
    pub folder: watch::Receiver<Option<Folder<I>>>,
    _task: Option<Task>,
}

impl<I: FolderItem> FollowFolder<I> {
    /// Spawns the task that follows the folder `path`, from `known` on if that was listed already.
    pub fn spawn<S: LeaseStore>(store: S, path: Vec<u8>, known: Option<Folder<I>>, random: Random) -> Self {
        let is_listed = known.is_some();
        let content = known.unwrap_or_default();
        let (out, folder) = watch::channel(is_listed.then(|| content.clone()));
        let follower = Follower { store, path, random, is_listed, content, out, has_published: false, warned: 0 };
        Self { folder, _task: Some(Task::spawn(follower.run(), None)) }
    }

    /// Follows no store: for a start while it is away.
    #[must_use]
    pub fn from_known(known: Folder<I>) -> Self {
        Self { folder: watch::channel(Some(known)).1, _task: None }
    }

    /// Waits for a change; for ever if no store is followed, or the task has ended.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn changed(&mut self) {
        if self.folder.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Follower<S, I: FolderItem> {
    store: S,
    path: Vec<u8>,
    random: Random,
    /// True while `content` is a listing after which nothing was watched yet.
    is_listed: bool,
    content: Folder<I>,
    out: watch::Sender<Option<Folder<I>>>,
    has_published: bool,
    /// The number of refusals in the log.
    warned: usize,
}

impl<S: LeaseStore, I: FolderItem> Follower<S, I> {
    async fn run(mut self) {
        let mut pauses = PAUSES;
        loop {
            if let Err(error) = self.follow(&mut pauses).await {
                debug!(folder = %shown(&self.path), error = %chain(&error), "lost the watch on a folder");
                tokio::time::sleep(pauses.pause(&self.random)).await;
            }
        }
    }

    /// Lists and watches until it is time to list again: etcd has lost watch events.
    async fn follow(&mut self, pauses: &mut Backoff) -> Result<(), WatchError> {
        if !std::mem::replace(&mut self.is_listed, false) {
            let listed = Folder::list(&self.store, &self.path).await.map_err(WatchError::Ended)?;
            self.content.replace_by(listed);
        }
        self.publish();
        let from = Revision(self.content.revision.0 + 1);
        let mut watch = self.store.watch(&self.path, from).await?;
        let list_at = Instant::now() + self.random.shortened(LIST_EVERY, 0.1);
        loop {
            tokio::select! {
                batch = watch.next() => self.drain(&batch?, &mut watch)?,
                () = tokio::time::sleep_until(list_at) => return Ok(()),
            }
            pauses.reset();
        }
    }

    /// Applies all batches that have already arrived, then publishes once.
    fn drain(&mut self, first: &WatchBatch, watch: &mut S::Watch) -> Result<(), WatchError> {
        self.apply(first);
        let mut ended = Ok(());
        for _ in 1..BATCHES {
            match watch.next().now_or_never() {
                None => break,
                Some(Ok(batch)) => self.apply(&batch),
                Some(Err(error)) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        self.publish();
        ended
    }

    fn apply(&mut self, batch: &WatchBatch) {
        batch.events.iter().for_each(|event| self.content.apply(&self.path, event));
    }

    fn publish(&mut self) {
        let is_known = self.out.borrow().as_ref().is_some_and(|before| before.says_the_same(&self.content));
        let is_first = !std::mem::replace(&mut self.has_published, true);
        let is_new = |name: &String| self.out.borrow().as_ref().is_none_or(|before| !before.refused.contains_key(name));
        let named = self.content.refused.iter().filter(|(name, _)| is_first || is_new(name));
        // Whoever writes bad keys again and again does not fill the log.
        let named = named.take(NAMED.saturating_sub(self.warned));
        let warned =
            named.map(|(name, fault)| warn!(folder = %shown(&self.path), name, fault, "an entry is refused")).count();
        self.warned += warned;
        if !is_known {
            self.out.send_replace(Some(self.content.clone()));
        }
    }
}
