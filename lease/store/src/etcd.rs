//! The store in etcd, over its v3 API. Only this module names etcd_client.
//!
//! Nothing here uses the network before the first call, so that an agent can start while etcd is down.

mod convert;
mod error;
mod last_word;
mod member;
mod members;
mod names;
mod permission;
mod race;
mod resolv_conf;
mod settings;
mod tls;

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client::{Channel, Client, ConnectOptions, Error, GetOptions, WatchOptions, WatchStream as EtcdStream};
use tokio::{
    sync::{OnceCell, watch},
    time::Instant,
};
use tower::util::BoxCloneSyncService;

use self::{
    convert::{end_of, etcd_txn, event, key_value, revision, seconds},
    error::{CallError, ErrorClass},
    members::Members,
    permission::Asked,
};
use crate::{
    Committed, Event, KeySink, LeaseId, LeaseStore, Read, Revision, StoreError, Txn, WatchBatch, WatchError,
    WatchStream, Write,
};

pub use names::NameError;
pub use settings::{
    Credentials, EndpointAddresses, EtcdSettings, EtcdSettingsError, Password, TlsFiles, endpoint_addresses,
};

/// An etcd cluster.
#[derive(Clone)]
pub struct EtcdStore {
    client: Client,
    settings: Arc<EtcdSettings>,
    login: Arc<Mutex<Login>>,
    /// The time of the last answer, also of one page of a listing.
    last_answer: Arc<watch::Sender<Instant>>,
}

/// Set once etcd has issued a token or has said that it needs none. Replaced by a new cell when the token becomes
/// invalid.
type Login = Arc<OnceCell<()>>;

/// An open watch on etcd.
pub struct EtcdWatch {
    stream: EtcdStream,
    asked: Asked,
    settings: Arc<EtcdSettings>,
}

/// The largest page of a listing, in keys: 1.5 MB of ordinary leases.
const PAGE: i64 = 5000;
/// The size of the first page, in keys: even with the largest values, etcd can send it within the time limit.
const FIRST_PAGE: i64 = 64;
/// The factor by which a page may grow over the last one, and by which it shrinks if that was too large.
const PAGE_STEP: i64 = 8;
/// The size to aim at for a page, in bytes.
const PAGE_BYTES: usize = 2 << 20;
/// The largest page read, in bytes. A larger one is asked for again, with fewer keys.
const LONGEST_PAGE: usize = 8 << 20;
/// The largest other answer read, in bytes; it holds one key.
const LONGEST_ANSWER: usize = 32 << 20;

impl EtcdStore {
    /// Checks the settings, the certificates and the password file. Does not wait for etcd.
    ///
    /// # Errors
    /// Names the endpoint or the file that cannot be used.
    pub async fn open(settings: EtcdSettings) -> Result<Self, EtcdSettingsError> {
        let members = Members::new(settings.check()?, &settings);
        let options = ConnectOptions::new().with_require_leader(true);
        let channel = Channel::Custom(BoxCloneSyncService::new(members));
        // Without a user, this sends nothing.
        let client = Client::from_channel(channel, Some(options)).await;
        let client = client.map_err(|error| EtcdSettingsError::Client(error.into()))?;
        let last_answer = Arc::new(watch::Sender::new(Instant::now()));
        Ok(Self { client, settings: Arc::new(settings), login: Arc::default(), last_answer })
    }

    /// Runs `call` within the time limit. Repeats it on another member, at most once for each member, if the connection
    /// was lost before the call was sent, or if the member is unavailable.
    async fn call<T, F>(&self, asked: &Asked, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let attempts = async {
            let mut members = self.settings.endpoints.len();
            let mut may_log_in = self.settings.user.is_some();
            loop {
                let login = self.login.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let answer = async {
                    login.get_or_try_init(|| self.log_in()).await?;
                    call(self.client.clone()).await.map_err(CallError::Etcd)
                };
                let error = match answer.await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                match error.class() {
                    ErrorClass::MemberAway if members > 0 => members -= 1,
                    ErrorClass::NoToken if may_log_in => {
                        may_log_in = false;
                        self.forget(&login);
                    }
                    ErrorClass::MemberAway
                    | ErrorClass::NoAnswer
                    | ErrorClass::Insecure
                    | ErrorClass::NoToken
                    | ErrorClass::WrongUser
                    | ErrorClass::Forbidden
                    | ErrorClass::NoAuthentication
                    | ErrorClass::Refused => return Err(error),
                }
            }
        };
        match tokio::time::timeout(self.settings.timeout, attempts).await {
            Ok(Ok(answer)) => {
                self.last_answer.send_replace(Instant::now());
                Ok(answer)
            }
            Ok(Err(error)) => Err(error::store_error(asked, self.settings.user_name(), error)),
            Err(_) => Err(StoreError::Unavailable { operation: asked.operation, source: None }),
        }
    }

    /// Makes the next call log in again, unless another call has already replaced this login.
    fn forget(&self, login: &Login) {
        let mut current = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, login) {
            *current = Login::default();
        }
    }

    /// Requests a token, with the password read anew.
    async fn log_in(&self) -> Result<(), CallError> {
        let Some(user) = &self.settings.user else { return Ok(()) };
        let password = user.password.read().map_err(CallError::Password)?;
        match self.client.clone().update_user(Some((user.name.clone(), password))).await {
            // As in flannel, a user is not an error where etcd has authentication disabled. An earlier token is dropped
            // then.
            Err(error) if ErrorClass::of(&error) == ErrorClass::NoAuthentication => {
                self.client.clone().update_user(None).await.map_err(CallError::Etcd)
            }
            login => login.map_err(CallError::Etcd),
        }
    }

    /// Reads all pages at one revision, each page within the time limit. Not more than one is in memory.
    async fn pages(&self, prefix: &[u8], sink: &mut impl KeySink) -> Result<Revision, StoreError> {
        let mut listed_at = Revision(0);
        let (mut from, end) = (prefix.to_vec(), end_of(prefix));
        let (asked, mut keys) = (Asked::to_read("list", prefix), FIRST_PAGE);
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(keys);
            if listed_at != Revision(0) {
                options = options.with_revision(listed_at.0);
            }
            let longest = if keys == 1 { LONGEST_ANSWER } else { LONGEST_PAGE };
            let get = |client: Client| {
                let (from, options) = (from.clone(), options.clone());
                let mut kv = client.kv_client().max_decoding_message_size(longest);
                async move { kv.get(from, Some(options)).await }
            };
            let mut answer = match self.call(&asked, get).await {
                Err(StoreError::Refused { source, .. }) if keys > 1 && error::is_too_large(&*source) => {
                    keys = (keys / PAGE_STEP).max(1);
                    continue;
                }
                answer => answer?,
            };
            if listed_at == Revision(0) {
                listed_at = revision(answer.header());
            }
            let next = answer.kvs().last().filter(|_| answer.more()).map(|last| [last.key(), &[0]].concat());
            keys = next_page(answer.kvs());
            for kv in answer.take_kvs() {
                sink.push(key_value(kv).cut(prefix));
            }
            match next {
                Some(next) => from = next,
                None => return Ok(listed_at),
            }
        }
    }
}

/// Computes how many keys the next page may have, if they are as large as these.
fn next_page(kvs: &[etcd_client::KeyValue]) -> i64 {
    let bytes: usize = kvs.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
    let keys = i64::try_from(kvs.len()).unwrap_or(PAGE);
    let fit = i64::try_from(PAGE_BYTES * kvs.len() / bytes.max(1)).unwrap_or(PAGE);
    fit.min(keys * PAGE_STEP).clamp(1, PAGE)
}

impl LeaseStore for EtcdStore {
    type Watch = EtcdWatch;

    async fn get(&self, key: &[u8]) -> Result<Read, StoreError> {
        let get = |client: Client| async move {
            client.kv_client().max_decoding_message_size(LONGEST_ANSWER).get(key, None).await
        };
        let mut answer = self.call(&Asked::to_read("get", key), get).await?;
        Ok(Read { revision: revision(answer.header()), found: answer.take_kvs().pop().map(key_value) })
    }

    async fn list_into(&self, prefix: &[u8], sink: &mut impl KeySink) -> Result<Revision, StoreError> {
        let mut compacted = 0;
        loop {
            sink.clear();
            match self.pages(prefix, sink).await {
                // The history was compacted between two pages: start over.
                Err(StoreError::Refused { source, .. }) if compacted < 3 && error::is_compacted(&*source) => {
                    compacted += 1;
                }
                listed => return listed,
            }
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        let named = txn.then.iter().find_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete(_) => None,
        });
        let asked = Asked::to_write("write", txn.then.iter().map(Write::key));
        let txn = etcd_txn(txn);
        let commit = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        match self.call(&asked, commit).await {
            Ok(answer) => Ok(Committed { succeeded: answer.succeeded(), revision: revision(answer.header()) }),
            Err(StoreError::Refused { operation, source }) => match named {
                Some(lease) if error::is_lease_gone(&*source) => Err(StoreError::LeaseGone(lease)),
                _ => Err(StoreError::Refused { operation, source }),
            },
            Err(error) => Err(error),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        self.call(&Asked::nothing("grant a lease"), grant).await.map(|answer| LeaseId(answer.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        let asked = Asked::nothing("keep the lease alive");
        let keep = |client: Client| async move { client.lease_client().keep_alive(lease.0).await.map(|_| ()) };
        // The client does not return the new TTL, so a second call asks for it at the same time.
        let (kept, ttl) = tokio::join!(self.call(&asked, keep), self.time_to_live(lease));
        match kept {
            Ok(()) => Ok(ttl?.map(|(_, granted)| granted)),
            Err(StoreError::Refused { source, .. }) if error::is_lease_gone(&*source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<(Duration, Duration)>, StoreError> {
        let ask = |client: Client| async move { client.lease_client().time_to_live(lease.0, None).await };
        match self.call(&Asked::nothing("ask how long the lease lives"), ask).await {
            // etcd reports -1 seconds for a lease it does not know.
            Ok(answer) => Ok(seconds(answer.ttl()).zip(seconds(answer.granted_ttl()))),
            Err(StoreError::Refused { source, .. }) if error::is_lease_gone(&*source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoke = |client: Client| async move { client.lease_client().revoke(lease.0).await.map(|_| ()) };
        match self.call(&Asked::nothing("revoke the lease"), revoke).await {
            Err(StoreError::Refused { source, .. }) if error::is_lease_gone(&*source) => Ok(()),
            revoked => revoked,
        }
    }

    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<EtcdWatch, WatchError> {
        let options = WatchOptions::new().with_range(end_of(prefix)).with_start_revision(from.0).with_fragment();
        let open = |client: Client| {
            let options = options.clone();
            async move {
                let mut watch = client.watch_client().max_decoding_message_size(LONGEST_ANSWER);
                watch.watch(prefix, Some(options)).await
            }
        };
        let asked = Asked::to_read("watch", prefix);
        let stream = self.call(&asked, open).await.map_err(WatchError::Ended)?;
        Ok(EtcdWatch { stream, asked, settings: self.settings.clone() })
    }

    fn answers(&self) -> watch::Receiver<Instant> {
        self.last_answer.subscribe()
    }
}

impl WatchStream for EtcdWatch {
    async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            let answer = match self.stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    return Err(WatchError::Ended(StoreError::Unavailable { operation: "watch", source: None }));
                }
                Err(error) => {
                    let error = error::store_error(&self.asked, self.settings.user_name(), error.into());
                    return Err(WatchError::Ended(error));
                }
            };
            if answer.compact_revision() > 0 {
                return Err(WatchError::Compacted(Revision(answer.compact_revision())));
            }
            if answer.canceled() {
                let (user, reason) = (self.settings.user_name(), answer.cancel_reason());
                return Err(WatchError::Ended(error::cancelled(&self.asked, user, reason)));
            }
            let events: Vec<Event> = answer.events().iter().filter_map(event).collect();
            if !events.is_empty() {
                return Ok(WatchBatch { events, revision: revision(answer.header()) });
            }
        }
    }
}
