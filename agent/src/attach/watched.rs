//! The containers that run, as the helper tells them: heard by a thread of its own, for all parts of the agent.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::{Semaphore, watch};
use tracing::{error, info};
use wire_net::chain;

use super::Selector;
use crate::guests::{Helper, HelperError, Place, Running, Why, Word, start_of};

/// The pause before the helper is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest time that a command waits for the list of the containers.
const LIST: Duration = Duration::from_secs(5);
/// The longest time that a command waits for a container that Docker has just started: its event may be on the way.
const EVENT: Duration = Duration::from_secs(1);

/// The most commands that have a guest looked at by the helper at a time: the others wait.
const AT_A_TIME: usize = 2;

/// A guest cannot be attached now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error("{0} is not running: start it, or give --when-started")]
    NotThere(String),
    #[error("{0} is not there, and never will be again")]
    Gone(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unknown(String),
}

/// The containers that run, and the helper that tells of them. Nothing is asked before [`Watched::start`].
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) helper: Helper,
    running: Arc<watch::Sender<Running>>,
    is_started: Arc<AtomicBool>,
    openings: Arc<Semaphore>,
}

impl Watched {
    /// With the helper of this folder of volatile files.
    pub(crate) fn new(run_dir: &Path) -> Self {
        let running = watch::Sender::new(Running::default());
        let openings = Semaphore::new(AT_A_TIME).into();
        Self { helper: Helper::in_folder(run_dir), running: running.into(), is_started: Arc::default(), openings }
    }

    /// Begins to listen, if it has not yet.
    pub(crate) fn start(&self) {
        if self.is_started.swap(true, Ordering::Relaxed) {
            return;
        }
        let (helper, running) = (self.helper.clone(), Arc::downgrade(&self.running));
        let started = thread::Builder::new().name("guests".to_owned()).spawn(move || listen(&helper, &running));
        if let Err(error) = started {
            error!(%error, "no thread hears which containers run");
            self.is_started.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Running> {
        self.running.subscribe()
    }

    /// The selector as it is kept, if a guest for it runs: a process by the time of its start too.
    ///
    /// # Errors
    /// When none runs, it is refused, or it is not known.
    pub(crate) async fn find(&self, selector: Selector) -> Result<Selector, FindError> {
        let mut running = self.subscribe();
        if selector.asks_docker() {
            self.wait_for_list(&mut running).await?;
            let is_there = |seen: &Running| selector.places(seen.guests()).is_ok_and(|places| !places.is_empty());
            let _is_there = tokio::time::timeout(EVENT, running.wait_for(is_there)).await.is_ok();
        }
        let (guests, said) = (running.borrow().guests().clone(), selector.to_string());
        let found = selector.found(&guests).map_err(|error| FindError::Refused(error.to_string()))?;
        let Some((selector, place)) = found else { return Err(FindError::NotThere(said)) };
        self.check(selector, place).await
    }

    /// The selector as it is kept for a guest that may be started later.
    ///
    /// # Errors
    /// When no such guest can be started, or that is not known.
    pub(crate) async fn keep(&self, selector: Selector) -> Result<Selector, FindError> {
        if matches!(selector, Selector::Process { .. }) {
            return self.find(selector).await;
        }
        let mut running = self.subscribe();
        if selector.may_be_id() {
            self.wait_for_list(&mut running).await?;
        }
        let kept = selector.later(&running.borrow());
        kept.ok_or_else(|| FindError::Gone(selector.to_string()))
    }

    async fn wait_for_list(&self, running: &mut watch::Receiver<Running>) -> Result<(), FindError> {
        self.start();
        let is_known = |seen: &Running| seen.doubt().is_none();
        if tokio::time::timeout(LIST, running.wait_for(is_known)).await.is_err() {
            let why = running.borrow().doubt().unwrap_or("its answer is late").to_owned();
            return Err(FindError::Unknown(format!("it is not known which containers run: {why}")));
        }
        Ok(())
    }

    /// Opens a place and closes it again: the host's own namespace is refused.
    async fn check(&self, selector: Selector, place: Place) -> Result<Selector, FindError> {
        let place = with_start(place);
        let _turn = self.openings.acquire().await.map_err(|error| FindError::Unknown(error.to_string()))?;
        let (helper, asked) = (self.helper.clone(), place.clone());
        let opened = tokio::task::spawn_blocking(move || helper.open(&asked).map(drop)).await;
        match opened {
            Ok(Ok(())) => {}
            Ok(Err(HelperError::Refused(refusal))) if refusal.why == Why::NotThere => {
                return Err(FindError::NotThere(selector.to_string()));
            }
            Ok(Err(HelperError::Refused(refusal))) => return Err(FindError::Refused(refusal.to_string())),
            Ok(Err(error)) => return Err(FindError::Unknown(chain(&error))),
            Err(error) => return Err(FindError::Unknown(error.to_string())),
        }
        Ok(match place {
            Place::Process { pid, started } => Selector::Process { pid, started },
            Place::Container(_) | Place::File(_) => selector,
        })
    }
}

/// The place with the time at which its process was started.
pub(super) fn with_start(place: Place) -> Place {
    match place {
        Place::Process { pid, started: None } => Place::Process { pid, started: start_of(pid) },
        Place::Process { .. } | Place::Container(_) | Place::File(_) => place,
    }
}

fn listen(helper: &Helper, running: &Weak<watch::Sender<Running>>) {
    let mut said = String::new();
    while running.strong_count() > 0 {
        let error = match helper.watch() {
            Err(error) => error,
            Ok(watch) => loop {
                match watch.next() {
                    Ok(word) => {
                        let Some(running) = running.upgrade() else { return };
                        if matches!(word, Word::Whole) {
                            info!("it is known which containers run");
                            said.clear();
                        }
                        running.send_modify(|seen| seen.hear(word));
                    }
                    Err(error) => break error,
                }
            },
        };
        let Some(running) = running.upgrade() else { return };
        let why = chain(&error);
        if said != why {
            info!(why, "it is not known which containers run");
            running.send_modify(|seen| seen.hear(Word::Away(why.clone())));
            said = why;
        }
        drop(running);
        thread::sleep(AGAIN);
    }
}

/// The processes of the containers that run, by their places: another process is another namespace.
pub(super) fn instances(running: &Running) -> BTreeMap<Place, u32> {
    running.guests().values().map(|guest| (Place::Container(guest.id.clone()), guest.pid)).collect()
}
