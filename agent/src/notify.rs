//! Notifies systemd: READY, STATUS, STOPPING, WATCHDOG and FDSTORE, sd_notify(3). Without systemd it sends nothing, but
//! still asks the parts of the agent, for `status`.

use std::{
    collections::BTreeSet,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;
use wire_forward::Handle;
use wire_net::NetworkName;

use crate::{
    overview::Overview,
    ports::Supervisor,
    pulse::{self, Watchdog},
    status::{AgentCondition, Phase, Status, StatusWriter},
};

/// The pause between the first network and READY while others are not joined: Docker may wait for READY.
const FURTHER: Duration = Duration::from_secs(10);

/// Notifies systemd: STATUS as it changes; READY once all networks are joined, or the first one and some time has passed; WATCHDOG while no part
/// of the agent hangs.
///
/// # Cancel safety
/// Safe: it holds nothing.
pub(crate) async fn follow(supervisor: &dyn Supervisor, networks: Overview, watchdogs: Vec<Watchdog>) {
    let mut changes = networks.changes();
    let mut last = String::new();
    let (mut ready, mut first_joined) = (false, None);
    let period = supervisor.watchdog();
    let mut questions = interval(period.unwrap_or(pulse::INTERVAL) / pulse::QUESTIONS);
    // After the process was stopped, the missed questions are not asked in a row, which would leave no time for
    // answers.
    questions.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if networks.first(is_joined) {
            first_joined.get_or_insert_with(Instant::now);
        }
        let is_enough = networks.all(is_joined) || first_joined.is_some_and(|at| at.elapsed() >= FURTHER);
        if !ready && is_enough {
            // Sent alone, so that no other variable can make the message fail.
            ready = supervisor.notify(&[NotifyState::Ready]);
        }
        let summary = one_line(&networks.summary());
        if summary != last {
            let _ = supervisor.notify(&[NotifyState::Status(&summary)]);
            last = summary;
        }
        tokio::select! {
            () = changes.next() => {}
            () = tokio::time::sleep(FURTHER), if !ready => {}
            _ = questions.tick() => {
                let hung: Vec<bool> = networks.statuses().zip(&watchdogs).map(|(status, watchdog)| ask(status, watchdog)).collect();
                if period.is_some() && !hung.contains(&true) {
                    let _ = supervisor.notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

fn is_joined(seen: &Status) -> bool {
    matches!(seen.phase().0, Phase::Ready | Phase::Degraded)
}

/// Asks all parts of a network. True if one hangs.
fn ask(status: &StatusWriter, watchdog: &Watchdog) -> bool {
    let hung = watchdog.ask(status.look(|seen| seen.tunnels.clone()).turns());
    let hangs = !hung.is_empty();
    status.set_all(AgentCondition::HANGS, hung.into_iter().map(AgentCondition::Hangs));
    hangs
}

/// Sends STOPPING=1.
pub(crate) fn stopping(supervisor: &dyn Supervisor) {
    let _ = supervisor.notify(&[NotifyState::Stopping]);
}

/// systemd, if it has started this process.
pub(crate) struct Systemd;

impl Supervisor for Systemd {
    fn notify(&self, states: &[NotifyState<'_>]) -> bool {
        let said = sd_notify::notify(states);
        if let Err(error) = &said {
            warn!(%error, "cannot notify systemd");
        }
        said.is_ok()
    }

    fn keep(&self, name: &str, handle: &Handle) -> io::Result<()> {
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[handle.fd.as_fd()])
    }

    fn most_kept(&self) -> Option<usize> {
        // systemd.exec(5), from systemd 254 on.
        std::env::var("FDSTORE").ok()?.parse().ok()
    }

    fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}

/// The descriptors of a network that systemd keeps for a later run of the agent (`FDSTORE`), if the unit allows it
/// (`FileDescriptorStoreMax=`). One for the whole network, so that it knows all of them and can remove them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    network: NetworkName,
    entries: Arc<Mutex<Vec<Entry>>>,
}

/// A name, and the descriptor it stands for; `None` if an earlier run stored it.
type Entry = (String, Option<u64>);

fn entry(handle: &Handle) -> Entry {
    (handle.name.clone(), Some(handle.number))
}

/// The name of a network's descriptor in systemd's store.
pub(crate) fn name_in_store(network: &NetworkName, name: &str) -> String {
    if network.is_default() { name.to_owned() } else { format!("{network}/{name}") }
}

impl Stored {
    /// Starts with the names that an earlier run has stored.
    pub(crate) fn inherited(network: NetworkName, names: impl IntoIterator<Item = String>) -> Self {
        let entries = names.into_iter().map(|name| (name, None)).collect();
        Self { network, entries: Arc::new(Mutex::new(entries)) }
    }

    /// Whether there is any.
    pub(crate) fn holds_any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Stores exactly `handles`, or the first ones if there is no room for all: those that are left out are stored once there is. Returns how
    /// many have no room.
    pub(crate) fn follow(&self, supervisor: &dyn Supervisor, handles: &[Handle]) -> usize {
        let (handles, beyond) = handles.split_at(handles.len().min(supervisor.most_kept().unwrap_or(usize::MAX)));
        let mut stored = self.lock();
        let wanted: BTreeSet<Entry> = handles.iter().map(entry).collect();
        let before: BTreeSet<Entry> = stored.iter().cloned().collect();
        for (gone, _) in stored.iter().filter(|old| !wanted.contains(*old)) {
            let name = name_in_store(&self.network, gone);
            let _ = supervisor.notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        }
        for new in handles.iter().filter(|new| !before.contains(&entry(new))) {
            if let Err(error) = supervisor.keep(&name_in_store(&self.network, &new.name), new) {
                warn!(%error, name = new.name, "systemd cannot keep a descriptor");
            }
        }
        *stored = handles.iter().map(entry).collect();
        beyond.len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Joins and shortens the text: a message has one line for each variable, and a datagram has a limited size.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(1000).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs::File};

    use super::*;

    /// A service manager with room for two descriptors.
    #[derive(Default)]
    struct Small(Mutex<BTreeSet<String>>);

    impl Small {
        fn names(&self) -> Vec<String> {
            self.0.lock().unwrap().iter().cloned().collect()
        }
    }

    impl Supervisor for Small {
        fn notify(&self, states: &[NotifyState<'_>]) -> bool {
            if let [NotifyState::FdStoreRemove, NotifyState::FdName(name)] = states {
                self.0.lock().unwrap().remove(*name);
            }
            true
        }

        fn keep(&self, name: &str, _handle: &Handle) -> io::Result<()> {
            let mut names = self.0.lock().unwrap();
            assert!(names.len() < 2, "it drops {name}, and nobody knows");
            names.insert(name.to_owned());
            Ok(())
        }

        fn most_kept(&self) -> Option<usize> {
            Some(2)
        }

        fn watchdog(&self) -> Option<Duration> {
            None
        }
    }

    #[test]
    fn descriptors_without_room_are_counted_and_stored_once_there_is_some() {
        let handle = |number| Handle {
            name: format!("wv.{number}.tun0"),
            number,
            fd: Arc::new(File::open("/dev/null").unwrap().into()),
        };
        let (stored, systemd) = (Stored::default(), Small::default());
        let handles = [handle(1), handle(2), handle(3)];
        assert_eq!(stored.follow(&systemd, &handles), 1);
        assert_eq!(systemd.names(), ["wv.1.tun0", "wv.2.tun0"]);
        assert_eq!(stored.follow(&systemd, &handles[1..]), 0);
        assert_eq!(systemd.names(), ["wv.2.tun0", "wv.3.tun0"]);
    }
}
