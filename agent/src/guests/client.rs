//! The agent's side of the helper. All calls wait: they are for a thread of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use wire_kernel::OpenedGuest;
use wire_netlink::cookie;
use wire_state::Namespace;

use super::{
    guest::{ContainerId, Guest, Place},
    packet::Packets,
    pending::LATE,
    process::Process,
    protocol::{Answer, LONGEST_ANSWER, Malformed, Refusal, Request, Why, Word},
};

/// The longest time that the helper has to open a namespace. It asks Docker, and the file system that a path is on.
const OPEN: Duration = LATE;

/// Where the helper listens.
#[derive(Clone, Debug)]
pub(crate) struct Helper(PathBuf);

/// A namespace that was opened.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) namespace: Namespace,
    pub(crate) opened: OpenedGuest,
    /// The process whose namespace it is, also of a container. A file has none, and an older helper does not tell it.
    pub(crate) process: Option<Process>,
}

/// The helper did not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("the helper on {} does not answer: start it with systemctl enable --now wire-agent-guests.socket", path.display())]
    Silent { path: PathBuf, source: io::Error },
    #[error(
        "the helper has not answered for {}: Docker or the file system of the path may hang; see the log of wire-agent-guests.service",
        humantime::format_duration(OPEN)
    )]
    Late,
    #[error("the helper has hung up: see the log of wire-agent-guests.service")]
    HungUp,
    #[error("the helper's answer cannot be read")]
    Malformed(#[from] Malformed),
    #[error("the helper's answer is not one to what was asked")]
    Other,
}

impl Helper {
    /// In the agent's folder of volatile files.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self(folder.join("guests.sock"))
    }

    /// The sockets in a namespace, and its name. As long as they are kept, the namespace exists.
    ///
    /// # Errors
    /// When it is not there, is the host's, or the helper does not answer in time.
    pub(crate) fn open(&self, place: &Place) -> Result<Reached, HelperError> {
        let helper = self.ask(&Request::Open(place.clone()), Some(OPEN))?;
        let received = helper.receive_with_descriptors(LONGEST_ANSWER).map_err(|error| self.silent(error))?;
        let (packet, descriptors) = received.ok_or(HelperError::HungUp)?;
        match Answer::decode(&packet)? {
            Answer::Opened { cookie, started } => opened(cookie, started, descriptors),
            Answer::Refused(Refusal { why: Why::Late, .. }) => Err(HelperError::Late),
            Answer::Refused(refusal) => Err(HelperError::Refused(refusal)),
            Answer::Heard(_) => Err(HelperError::Other),
        }
    }

    /// Which containers run, and each that starts or ends.
    ///
    /// # Errors
    /// When the helper does not answer.
    pub(crate) fn watch(&self) -> Result<Watch, HelperError> {
        Ok(Watch { helper: self.ask(&Request::Watch, None)?, at: self.clone() })
    }

    /// Sends a request. Each call to the kernel waits for at most `limit`, those for the answer too.
    fn ask(&self, request: &Request, limit: Option<Duration>) -> Result<Packets, HelperError> {
        let helper = Packets::connect_within(&self.0, limit).map_err(|error| self.silent(error))?;
        helper.send(&request.encode(), &[]).map_err(|error| self.silent(error))?;
        Ok(helper)
    }

    fn silent(&self, source: io::Error) -> HelperError {
        // The name of the kernel for a time that is over.
        if source.kind() == io::ErrorKind::WouldBlock {
            return HelperError::Late;
        }
        HelperError::Silent { path: self.0.clone(), source }
    }
}

fn opened(number: u64, started: Option<u64>, mut descriptors: Vec<OwnedFd>) -> Result<Reached, HelperError> {
    let process = started.and_then(|started| Some(Process::passed(started, descriptors.pop()?)));
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next();
    let (Some(namespace), Some(route), Some(ipv4)) = (next(), next(), next()) else { return Err(HelperError::Other) };
    let opened = OpenedGuest { namespace, route, ipv4, ipv6: next() };
    // Otherwise a socket would change another namespace than the one that it is taken for.
    if cookie(&opened.route).ok() != Some(number) {
        return Err(HelperError::Other);
    }
    Ok(Reached { namespace: Namespace::Guest(number), opened, process })
}

/// News of the containers.
#[derive(Debug)]
pub(crate) struct Watch {
    helper: Packets,
    at: Helper,
}

impl Watch {
    /// Waits for the next.
    ///
    /// # Errors
    /// When the helper ends; then [`Helper::watch`] begins anew.
    pub(crate) fn next(&self) -> Result<Word, HelperError> {
        let packet = self.helper.receive(LONGEST_ANSWER).map_err(|error| self.at.silent(error))?;
        match Answer::decode(&packet.ok_or(HelperError::HungUp)?)? {
            Answer::Heard(word) => Ok(word),
            Answer::Refused(refusal) => Err(HelperError::Refused(refusal)),
            Answer::Opened { .. } => Err(HelperError::Other),
        }
    }
}

/// The containers that run, as far as is known. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Running {
    now: Containers,
    /// Those of a list that began, until it is whole: what was known before holds until then.
    list: Option<Containers>,
    /// The reason why nothing is known; empty if something is.
    away: Option<String>,
    told: Told,
}

/// The containers that a list has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    /// Those that run.
    Running,
    /// Those that do not run too.
    All,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Containers {
    running: BTreeMap<ContainerId, Guest>,
    /// All that Docker knows, these and those that do not run.
    known: BTreeSet<ContainerId>,
}

impl Running {
    /// Takes one word in.
    pub(crate) fn hear(&mut self, word: Word) {
        match word {
            Word::Begin => self.list = Some(Containers::default()),
            Word::Running(guest) => {
                let Containers { running, known } = self.current();
                known.insert(guest.id.clone());
                running.insert(guest.id.clone(), guest);
            }
            Word::Known(id) => drop(self.current().known.insert(id)),
            Word::Ended(id) => {
                let Containers { running, known } = self.current();
                running.remove(&id);
                known.insert(id);
            }
            Word::Removed(id) => {
                let Containers { running, known } = self.current();
                running.remove(&id);
                known.remove(&id);
            }
            Word::Whole => self.end_list(Told::All),
            Word::WholeOfRunning => self.end_list(Told::Running),
            // The containers go on without Docker (live-restore): nothing is taken away.
            Word::Away(why) => (self.list, self.told, self.away) = (None, Told::Nothing, Some(why)),
        }
    }

    fn end_list(&mut self, told: Told) {
        self.now = self.list.take().unwrap_or_default();
        (self.told, self.away) = (told, None);
    }

    fn current(&mut self) -> &mut Containers {
        self.list.as_mut().unwrap_or(&mut self.now)
    }

    pub(crate) const fn guests(&self) -> &BTreeMap<ContainerId, Guest> {
        &self.now.running
    }

    /// The containers that Docker knows and whose ids begin so, whether they run or not.
    pub(crate) fn known<'a>(&'a self, digits: &'a str) -> impl Iterator<Item = &'a ContainerId> {
        self.now.known.iter().filter(move |id| id.as_str().starts_with(digits))
    }

    /// True if Docker knows no container any more whose id begins so.
    pub(crate) fn has_gone(&self, digits: &str) -> bool {
        self.tells_all() && self.known(digits).next().is_none()
    }

    /// True if it has all containers that Docker knows, not only those that run.
    pub(crate) fn tells_all(&self) -> bool {
        self.told == Told::All
    }

    /// `None` if it is up to date; else the reason, as far as it is known.
    pub(crate) fn doubt(&self) -> Option<&str> {
        let unknown = self.away.as_deref().unwrap_or("no list of the containers has come yet");
        (self.told == Told::Nothing).then_some(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(letter: &str) -> Guest {
        let id = letter.repeat(64).parse().unwrap();
        Guest { id, name: letter.to_owned(), pid: 7, labels: BTreeMap::new(), left_out: 0 }
    }

    fn heard(running: &mut Running, words: Vec<Word>) -> String {
        words.into_iter().for_each(|word| running.hear(word));
        running.guests().values().map(|guest| guest.name.as_str()).collect()
    }

    #[test]
    fn a_list_replaces_the_one_before_when_it_is_whole() {
        let mut running = Running::default();
        assert_eq!(running.doubt(), Some("no list of the containers has come yet"));
        let first = vec![Word::Begin, Word::Running(guest("a")), Word::Running(guest("b"))];
        assert_eq!(heard(&mut running, first), "");
        assert_eq!(heard(&mut running, vec![Word::Whole, Word::Running(guest("c")), Word::Ended(guest("a").id)]), "bc");
        assert_eq!(running.doubt(), None);
        assert_eq!(heard(&mut running, vec![Word::Away("no socket".to_owned())]), "bc");
        assert_eq!(running.doubt(), Some("no socket"));
        assert_eq!(heard(&mut running, vec![Word::Begin, Word::Running(guest("d"))]), "bc");
        assert_eq!(heard(&mut running, vec![Word::Ended(guest("d").id), Word::Running(guest("e")), Word::Whole]), "e");
        assert_eq!(running.doubt(), None);
        assert_eq!(heard(&mut running, vec![Word::Begin, Word::Away("again".to_owned())]), "e");
    }

    #[test]
    fn a_container_that_does_not_run_is_known_until_docker_has_removed_it() {
        let mut running = Running::default();
        let (one, other) = (guest("a"), guest("b"));
        assert!(!running.has_gone("aaaa"), "nothing is known yet");
        let list = vec![Word::Begin, Word::Known(one.id.clone()), Word::Running(other.clone()), Word::Whole];
        assert_eq!(heard(&mut running, list), "b");
        assert!(!running.has_gone("aaaa") && !running.has_gone("bbbb") && running.has_gone("cccc"));
        assert_eq!(heard(&mut running, vec![Word::Ended(other.id.clone())]), "");
        assert!(!running.has_gone("bbbb"), "it can be started again");
        heard(&mut running, vec![Word::Removed(other.id)]);
        assert!(running.has_gone("bbbb") && !running.has_gone("aaaa"));
        heard(&mut running, vec![Word::Away("no socket".to_owned())]);
        assert!(!running.has_gone("bbbb"), "it is not known");
        heard(&mut running, vec![Word::Begin, Word::Whole]);
        assert!(running.has_gone("aaaa"), "the new list does not have it");
    }
    #[test]
    fn a_container_that_was_made_just_now_is_known_before_it_runs() {
        let mut running = Running::default();
        heard(&mut running, vec![Word::Begin, Word::Whole, Word::Ended(guest("a").id)]);
        assert_eq!(running.known("aaaa").count(), 1);
    }

    /// A helper of before tells of those that run alone: of the others nothing is known, so none of them has gone.
    #[test]
    fn nothing_has_gone_by_a_list_that_does_not_have_all() {
        let mut running = Running::default();
        let list = || vec![Word::Begin, Word::Running(guest("a")), Word::WholeOfRunning];
        assert_eq!(heard(&mut running, list()), "a");
        assert!(running.doubt().is_none() && !running.has_gone("bbbb") && !running.tells_all());
        heard(&mut running, vec![Word::Removed(guest("a").id)]);
        assert!(!running.has_gone("aaaa"), "it is looked for when the list has all");
        heard(&mut running, vec![Word::Begin, Word::Whole]);
        assert!(running.has_gone("aaaa") && running.has_gone("bbbb"));
        heard(&mut running, list());
        assert!(!running.has_gone("bbbb"), "the helper was exchanged for the one of before");
    }
}
