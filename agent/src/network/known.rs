//! The network config and the leases to join with: etcd's answers or, if it has not answered since the start, the last
//! ones saved on disk (docs/adr/0008-start-without-etcd.md).

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::{info, warn};
use wire_lease::{ConfigEvent, ConfigWatch, Entries, Folder, NetworkConfig, StoredConfig, StoredRecord};
use wire_net::{Directory, DualStack, Family, KeyPrefix, Pool, Subnet, chain};
use wire_store::{Backoff, LeaseStore, Random, Revision, StoreError};

use super::Network;
use crate::{
    config_command::{EXAMPLE, V2},
    exit::Exit,
    host::Host,
    machine::Kinship,
    ports::Ports,
    pulse::Part,
    status::{AgentCondition, NoAnswer, StatusWriter, shown},
};

/// The network config and the leases to join with.
pub(crate) struct Snapshot {
    pub(crate) parsed: ParsedConfig,
    pub(crate) listing: Arc<Entries>,
    /// The records beside the leases; `None` if only the leases were answered.
    pub(crate) records: Option<Folder<StoredRecord>>,
    pub(crate) source: Source,
}

/// The origin of a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// etcd has just answered it.
    Etcd,
    /// It was saved on disk: etcd answered it at this time.
    Cache(SystemTime),
}

impl Source {
    /// The time of etcd's answer, if it was saved on disk.
    pub(crate) fn as_of(self) -> Option<SystemTime> {
        match self {
            Self::Etcd => None,
            Self::Cache(as_of) => Some(as_of),
        }
    }
}

/// A valid network config.
#[derive(Clone, Debug)]
pub(crate) struct ParsedConfig {
    pub(crate) config: NetworkConfig,
    /// The text in etcd.
    pub(crate) json: String,
    /// The revision at which it was read.
    pub(super) revision: Revision,
}

/// The progress of this run of the agent.
#[derive(Clone, Debug)]
pub(super) enum JoinPhase {
    /// It has not joined yet: an error ends it.
    New,
    /// It has joined with the saved state, and keeps asking etcd.
    FromCache,
    /// It has joined with etcd's answer. That network config is used until the agent is restarted.
    Joined(Box<ParsedConfig>),
}

/// The time etcd may be silent before a first start uses the saved state, or joining anew returns to the current
/// session.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The same if etcd keeps answering but has not sent everything: a directory may be full of invalid entries.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);

/// The same if an earlier run has left its descriptors: this host moved packets a moment ago, and packets wait in them.
const HANDED_OVER: Duration = Duration::from_millis(500);

impl ParsedConfig {
    pub(crate) fn new(prefix: &KeyPrefix, json: Vec<u8>, revision: Revision) -> Result<Self, Exit> {
        let refused = |source| Exit::StoredConfig { prefix: prefix.clone(), source };
        let config = NetworkConfig::from_json(&json).map_err(|error| refused(error.into()))?;
        let json = String::from_utf8(json).map_err(|error| refused(error.into()))?;
        Ok(Self { config, json, revision })
    }

    /// The directory of the network's leases.
    pub(crate) fn directory(&self, prefix: &KeyPrefix) -> Directory {
        prefix.leases(self.config.pools.v4.is_some())
    }
}

impl<P: Ports> Network<P> {
    /// Gets the config and the leases to join with. Waits while neither etcd nor the disk has them.
    pub(super) async fn snapshot(&mut self, host: &Host<P>, store: &P::Store) -> Result<Snapshot, Exit> {
        if let Some(answer) = self.answer.take() {
            return Ok(answer);
        }
        match &self.phase {
            JoinPhase::Joined(parsed) => {
                let parsed = (**parsed).clone();
                let listing = host.list(store, &parsed);
                let listing = store.while_responsive(listing, PATIENCE, LONGEST_ANSWER);
                let listing = match &mut self.session {
                    // The session must go on meanwhile.
                    Some(session) => session.meanwhile(listing, host.watchdog.part(Part::Session)).await?,
                    None => listing.await,
                };
                let (listing, records) = listing.ok_or_else(|| unanswered(&host.status))?;
                Ok(Snapshot { parsed, listing, records, source: Source::Etcd })
            }
            // The saved state may not fit a changed underlay: then only etcd's answer helps.
            JoinPhase::FromCache => match self.cached(host) {
                Ok(Some(snapshot)) => Ok(snapshot),
                Ok(None) | Err(_) => {
                    let answer = host.ask(store);
                    store
                        .while_responsive(answer, PATIENCE, LONGEST_ANSWER)
                        .await
                        .unwrap_or_else(|| Err(unanswered(&host.status)))
                }
            },
            JoinPhase::New => {
                let mut answer = pin!(host.ask(store));
                let (mut silence, mut limit) =
                    if self.is_handed_over { (HANDED_OVER, HANDED_OVER) } else { (PATIENCE, LONGEST_ANSWER) };
                loop {
                    if let Some(answer) = store.while_responsive(&mut answer, silence, limit).await {
                        return answer;
                    }
                    // The network card that identifies this host may appear later than the agent starts.
                    if let Some(snapshot) = self.cached(host)? {
                        return Ok(snapshot);
                    }
                    (silence, limit) = (PATIENCE, LONGEST_ANSWER);
                }
            }
        }
    }

    /// The state saved on disk, if it can be used.
    ///
    /// # Errors
    /// [`Exit::NoUnderlay`].
    fn cached(&self, host: &Host<P>) -> Result<Option<Snapshot>, Exit> {
        let snapshot = self.last_known.load(host.ports.disk()).and_then(|kept| {
            let Some((kept, as_of)) = kept else { return Ok(None) };
            let (listing, records, prefix) = (kept.listing, Folder::of(kept.records), &host.settings.prefix);
            let parsed = ParsedConfig::new(prefix, kept.config.into_bytes(), listing.revision);
            let parsed = parsed.map_err(|error| chain(&error))?;
            let listing = Arc::new(Entries::listed(parsed.directory(prefix), &listing));
            Ok(Some(Snapshot { parsed, listing, records: Some(records), source: Source::Cache(as_of) }))
        });
        let useless = match snapshot {
            Ok(None) => return Ok(None),
            Ok(Some(snapshot)) => match self.unusable(host, &snapshot.parsed.config)? {
                None => {
                    let as_of = snapshot.source.as_of().map(shown);
                    let (leases, why) =
                        (snapshot.listing.leases().count(), host.status.look(|seen| seen.no_answer.clone()));
                    info!(as_of, leases, "etcd: {why}: using the network state saved on disk");
                    return Ok(Some(snapshot));
                }
                Some(reason) => reason,
            },
            Err(reason) => reason,
        };
        if host.status.raise(AgentCondition::SavedNetworkUnusable(useless.clone())) {
            warn!(reason = useless, "the network state saved on disk cannot be used: waiting for etcd");
        }
        Ok(None)
    }

    /// The reason why this host cannot use the saved state.
    fn unusable(&self, host: &Host<P>, config: &NetworkConfig) -> Result<Option<String>, Exit> {
        if !config.pools.iter().all(|(family, pool)| host.has_held_one_of(family, pool)) {
            return Ok(Some("this host has held no subnet of that network".to_owned()));
        }
        if self.runs() {
            return Ok(None);
        }
        // A clone has its original's state, whose subnet may be in use.
        Ok(match host.kinship()? {
            Kinship::Same => None,
            Kinship::Unknown => Some("it holds nothing that distinguishes this host from a clone".to_owned()),
            Kinship::Other(differs) => Some(format!("this host may be a clone of the host that saved it: {differs}")),
        })
    }
}

impl<P: Ports> Host<P> {
    fn has_held_one_of(&self, family: Family, pool: &Pool) -> bool {
        self.state.subnet.get(family).is_some_and(|subnet| pool.offers(*subnet))
    }

    /// The subnet held last, which is still ours as far as this host knows.
    pub(crate) fn subnet_held(&self, config: &NetworkConfig) -> Option<Subnet> {
        Subnet::new(DualStack::from_fn(|family| {
            config.pools.get(family).and_then(|_| self.state.subnet.get(family)).copied()
        }))
    }
}

/// Asks etcd, at most once a second, until its answer can be used to join.
pub(super) async fn answered<P: Ports>(host: &Host<P>) -> Snapshot {
    loop {
        let answer = match host.ports.open_store(&host.settings.etcd).await {
            Ok(store) => host.ask(&store).await,
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(snapshot) => return snapshot,
            Err(error) => host.status.wait_for_etcd(NoAnswer::Useless(error.report())),
        }
        tokio::time::sleep(super::RETRY).await;
    }
}

impl<P: Ports> Host<P> {
    /// Reads the config and the leases, waiting for etcd.
    ///
    /// # Errors
    /// [`Exit::StoredConfig`] if the config is not valid.
    async fn ask(&self, store: &P::Store) -> Result<Snapshot, Exit> {
        let prefix = &self.settings.prefix;
        let stored = self.until_answered(|| StoredConfig::read(store, prefix)).await;
        let json = match stored.json {
            Some(json) => json,
            None => self.first_config(store, stored.revision).await,
        };
        let parsed = ParsedConfig::new(prefix, json, stored.revision)?;
        for field in &parsed.config.ignored {
            warn!(field, "the network config has a field that means nothing and is ignored");
        }
        let (listing, records) = self.list(store, &parsed).await;
        Ok(Snapshot { parsed, listing, records, source: Source::Etcd })
    }

    /// Lists the leases and, at the same time, the records beside them: the first entries that are written have the right ports.
    async fn list(&self, store: &P::Store, parsed: &ParsedConfig) -> (Arc<Entries>, Option<Folder<StoredRecord>>) {
        let (directory, records) = (parsed.directory(&self.settings.prefix), self.settings.prefix.records());
        let leases = self.until_answered(|| Entries::list(store, directory.clone()));
        let (leases, records) = tokio::join!(leases, Folder::list(store, &records));
        // The follower asks again.
        (Arc::new(leases), records.ok())
    }

    async fn first_config(&self, store: &P::Store, after: Revision) -> Vec<u8> {
        let prefix = &self.settings.prefix;
        let remedy = format!("write one to {prefix}/config, for example with wire-agent config init '{EXAMPLE}'{V2}");
        let wait = || self.status.wait_for_etcd(NoAnswer::NoConfig(remedy.clone()));
        wait();
        let mut watch = ConfigWatch::new(store.clone(), prefix, after, self.ports.random().clone());
        loop {
            match watch.next().await {
                ConfigEvent::Is(Some(json)) => return json,
                ConfigEvent::Is(None) => wait(),
                ConfigEvent::Broken(error) => self.status.wait_for_etcd(NoAnswer::of(&error)),
            }
        }
    }

    async fn until_answered<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        until_answered(&self.status, self.ports.random(), ask).await
    }
}

/// The error after the wait for etcd, with the same words as the wait itself.
fn unanswered(status: &StatusWriter) -> Exit {
    Exit::NoAnswer(status.look(|seen| seen.no_answer.clone()))
}

/// Asks the store until it answers.
async fn until_answered<T, F>(status: &StatusWriter, random: &Random, ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pauses = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => status.wait_for_etcd(NoAnswer::of(&error)),
        }
        tokio::time::sleep(pauses.pause(random)).await;
    }
}

impl NoAnswer {
    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable { source: Some(source), .. } => Self::Unreachable(chain(&**source)),
            StoreError::Unavailable { source: None, .. } => Self::Silence,
            StoreError::Insecure { .. }
            | StoreError::Unauthorised { .. }
            | StoreError::Refused { .. }
            | StoreError::LeaseGone(_) => Self::Refusal(chain(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{EtcdCondition, Status};

    fn refused() -> StoreError {
        let source = "the certificate of etcd at https://a:2379 has expired".into();
        StoreError::Insecure { operation: "get", source }
    }

    #[test]
    fn a_wait_that_ends_says_no_less_than_the_wait_itself() {
        let status = StatusWriter::default();
        status.update(Status::set_joined);
        status.wait_for_etcd(NoAnswer::of(&refused()));
        let told = |status: &StatusWriter| status.look(|seen| seen.text_of(EtcdCondition::JOINING));
        let before = told(&status);
        assert!(before.as_ref().is_some_and(|told| told.contains("at https://a:2379 has expired")), "{before:?}");
        status.wait_for(unanswered(&status).report());
        assert_eq!(told(&status), before);
    }

    #[test]
    fn going_by_what_was_kept_says_once_why_etcd_gives_no_answer() {
        let status = StatusWriter::default();
        status.update(|seen| {
            seen.set_joined();
            (seen.ready, seen.as_of) = (true, Some("noon".to_owned()));
        });
        status.wait_for_etcd(NoAnswer::of(&refused()));
        let summary = status.look(Status::summary);
        let expected = "degraded: etcd: no secure connection to etcd (get): the certificate of etcd at https://a:2379 \
                        has expired; traffic uses the leases known at noon";
        assert_eq!(summary, expected);
    }
}
