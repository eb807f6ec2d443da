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
use wire_state::Namespace;

use super::{BootId, Selector};
use crate::guests::{Helper, HelperError, Place, Process, Running, Why, Word};

/// The pause before the helper is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest time that a command waits for the list of the containers.
const LIST: Duration = Duration::from_secs(5);
/// The longest time that a command waits for a container that Docker has just made or started: its event may be on the way.
const EVENT: Duration = Duration::from_secs(1);

/// The reason why a helper tells less than this agent asks, and the remedy.
const OLD_HELPER: &str = "the helper is of an older package: systemctl restart wire-agent-guests.service";

/// The most commands for which the helper looks at a guest at the same time. The others wait.
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

/// A guest that was found for a command.
#[derive(Debug)]
pub(crate) struct FoundGuest {
    /// The selector as it is kept.
    pub(crate) selector: Selector,
    /// The namespace of the first guest that it means; `None` if it was not looked at.
    pub(crate) namespace: Option<Namespace>,
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
    /// With the helper that listens in `run_dir`.
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

    /// The selector as it is kept, if a guest that it selects runs. That of a process has the time of its start, too.
    ///
    /// # Errors
    /// When no such guest runs, the helper refuses it, or it is not known which run.
    pub(crate) async fn find(&self, selector: Selector) -> Result<FoundGuest, FindError> {
        if selector.is_of_other_run(BootId::of_kernel().as_ref()) {
            return Err(FindError::Gone(selector.to_string()));
        }
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
    /// When there can never be such a guest, or that is not known.
    pub(crate) async fn keep(&self, selector: Selector) -> Result<FoundGuest, FindError> {
        if matches!(selector, Selector::Process { .. }) {
            return self.find(selector).await;
        }
        let mut running = self.subscribe();
        if selector.may_be_id() {
            self.wait_for_list(&mut running).await?;
            let is_there = |seen: &Running| matches!(selector.later(seen), Some(Selector::Id(_)));
            let _is_there = tokio::time::timeout(EVENT, running.wait_for(is_there)).await.is_ok();
        }
        let (kept, tells_all) = (selector.later(&running.borrow()), running.borrow().tells_all());
        match kept {
            Some(kept) => Ok(FoundGuest { selector: kept, namespace: None }),
            None if tells_all => Err(FindError::Gone(selector.to_string())),
            None => Err(FindError::Unknown(format!("it is not known whether there is {selector}: {OLD_HELPER}"))),
        }
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
    async fn check(&self, selector: Selector, place: Place) -> Result<FoundGuest, FindError> {
        let _turn = self.openings.acquire().await.map_err(|error| FindError::Unknown(error.to_string()))?;
        let (helper, asked) = (self.helper.clone(), place.clone());
        let opened = tokio::task::spawn_blocking(move || helper.open(&asked)).await;
        let reached = match opened {
            Ok(Ok(reached)) => reached,
            Ok(Err(HelperError::Refused(refusal))) if refusal.why == Why::NotThere => {
                return Err(FindError::NotThere(selector.to_string()));
            }
            Ok(Err(HelperError::Refused(refusal))) => return Err(FindError::Refused(refusal.to_string())),
            Ok(Err(error)) => return Err(FindError::Unknown(chain(&error))),
            Err(error) => return Err(FindError::Unknown(error.to_string())),
        };
        let selector = as_kept(selector, &place, reached.process.as_ref())?;
        Ok(FoundGuest { selector, namespace: Some(reached.namespace) })
    }
}

/// The selector with the time at which its process was started, and the run of the kernel: without that, it would mean any later process with the
/// same number.
fn as_kept(selector: Selector, place: &Place, process: Option<&Process>) -> Result<Selector, FindError> {
    match (place, process) {
        (Place::Process { pid, .. }, Some(process)) => {
            Ok(Selector::Process { pid: *pid, started: Some(process.started()), boot: BootId::of_kernel() })
        }
        (Place::Process { pid, .. }, None) => {
            Err(FindError::Unknown(format!("it is not known when process {pid} was started: {OLD_HELPER}")))
        }
        (Place::Container(_) | Place::File(_), _) => Ok(selector),
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
                        if matches!(word, Word::Whole | Word::WholeOfRunning) {
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

/// The process of each container that runs, by its place. A container with another process than before has another namespace.
pub(super) fn instances(running: &Running) -> BTreeMap<Place, u32> {
    running.guests().values().map(|guest| (Place::Container(guest.id.clone()), guest.pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched {
        Watched::new(Path::new("/nobody/listens/here"))
    }

    fn keep(watched: &Watched, text: &str) -> Result<Selector, FindError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(watched.keep(text.parse().unwrap())).map(|found| found.selector)
    }

    fn hear(watched: &Watched, words: Vec<Word>) {
        // Nobody else tells anything.
        watched.is_started.store(true, Ordering::Relaxed);
        words.into_iter().for_each(|word| watched.running.send_modify(|seen| seen.hear(word)));
    }

    #[test]
    fn a_process_is_kept_with_its_start_or_not_at_all() {
        let place = Place::Process { pid: 7, started: None };
        let selector: Selector = "pid:7".parse().unwrap();
        let process = Process::open(std::process::id()).unwrap();
        let kept = as_kept(selector.clone(), &place, Some(&process)).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(kept.to_string(), format!("pid:7@{}@{}", process.started(), boot.trim()));
        assert_eq!(kept.to_string().parse(), Ok(kept));
        let error = as_kept(selector, &place, None).unwrap_err().to_string();
        assert!(error.ends_with("systemctl restart wire-agent-guests.service"), "{error}");
    }

    #[test]
    fn a_process_of_another_run_of_the_kernel_is_gone_though_one_with_its_number_runs() {
        let process = Process::open(std::process::id()).unwrap();
        let (pid, started) = (std::process::id(), process.started());
        let other = format!("pid:{pid}@{started}@00000000-0000-4000-8000-000000000000");
        assert!(matches!(keep(&watched(), &other), Err(FindError::Gone(_))));
    }

    #[test]
    fn a_container_is_kept_for_later_though_its_event_is_on_the_way() {
        let (watched, id) = (watched(), "a".repeat(64));
        hear(&watched, vec![Word::Begin, Word::Whole]);
        let told = thread::spawn({
            let (watched, id) = (watched.clone(), id.parse().unwrap());
            move || {
                thread::sleep(EVENT / 20);
                hear(&watched, vec![Word::Ended(id)]);
            }
        });
        assert_eq!(keep(&watched, &id).unwrap().to_string(), format!("id:{id}"));
        told.join().unwrap();
        let other = "b".repeat(64);
        assert!(matches!(keep(&watched, &other), Err(FindError::Gone(_))), "it is no name");
        assert!(matches!(keep(&watched, &format!("id:{other}")), Err(FindError::Gone(_))));
        hear(&watched, vec![Word::Begin, Word::WholeOfRunning]);
        let error = keep(&watched, &other).unwrap_err().to_string();
        assert!(error.contains("the helper is of an older package"), "{error}");
    }
}
