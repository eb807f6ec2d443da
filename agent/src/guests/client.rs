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
    protocol::{Answer, LONGEST_ANSWER, Malformed, Refusal, Request, Word},
};

/// The longest time that the helper has to open a namespace. It asks Docker, and the file system that a path is on.
const OPEN: Duration = Duration::from_secs(5);

/// Where the helper listens.
#[derive(Clone, Debug)]
pub(crate) struct Helper(PathBuf);

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

    /// The sockets in a namespace, and its name. As long as it is kept, the namespace exists.
    ///
    /// # Errors
    /// When it is not there, is the host's, or the helper does not answer in time.
    pub(crate) fn open(&self, place: &Place) -> Result<(Namespace, OpenedGuest), HelperError> {
        let helper = self.ask(&Request::Open(place.clone()), Some(OPEN))?;
        let received = helper.receive_with_descriptors(LONGEST_ANSWER).map_err(|error| self.silent(error))?;
        let (packet, descriptors) = received.ok_or(HelperError::HungUp)?;
        match Answer::decode(&packet)? {
            Answer::Opened { cookie } => opened(cookie, descriptors),
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

fn opened(number: u64, descriptors: Vec<OwnedFd>) -> Result<(Namespace, OpenedGuest), HelperError> {
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next();
    let (Some(namespace), Some(route), Some(ipv4)) = (next(), next(), next()) else { return Err(HelperError::Other) };
    let opened = OpenedGuest { namespace, route, ipv4, ipv6: next() };
    // Otherwise a socket would change another namespace than the one that it is taken for.
    if cookie(&opened.route).ok() != Some(number) {
        return Err(HelperError::Other);
    }
    Ok((Namespace::Guest(number), opened))
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
    is_known: bool,
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
            Word::Ended(id) => drop(self.current().running.remove(&id)),
            Word::Removed(id) => {
                let Containers { running, known } = self.current();
                running.remove(&id);
                known.remove(&id);
            }
            Word::Whole => {
                self.now = self.list.take().unwrap_or_default();
                (self.is_known, self.away) = (true, None);
            }
            // The containers go on without Docker (live-restore): nothing is taken away.
            Word::Away(why) => (self.list, self.is_known, self.away) = (None, false, Some(why)),
        }
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
        self.is_known && self.known(digits).next().is_none()
    }

    /// `None` if it is up to date; else the reason, as far as it is known.
    pub(crate) fn doubt(&self) -> Option<&str> {
        let unknown = self.away.as_deref().unwrap_or("no list of the containers has come yet");
        (!self.is_known).then_some(unknown)
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
}
