//! The agent's side of the helper. All calls wait: they are for a thread of their own.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use wire_kernel::OpenedGuest;
use wire_netlink::cookie;
use wire_state::Namespace;

use super::{
    guest::{ContainerId, Guest, Place},
    packet::Packets,
    protocol::{Answer, LONGEST_ANSWER, Malformed, Refusal, Request, Word},
};

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
    /// When it is not there, is the host's, or the helper does not answer.
    pub(crate) fn open(&self, place: &Place) -> Result<(Namespace, OpenedGuest), HelperError> {
        let helper = self.ask(&Request::Open(place.clone()))?;
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
        Ok(Watch { helper: self.ask(&Request::Watch)?, at: self.clone() })
    }

    fn ask(&self, request: &Request) -> Result<Packets, HelperError> {
        let helper = Packets::connect(&self.0).map_err(|error| self.silent(error))?;
        helper.send(&request.encode(), &[]).map_err(|error| self.silent(error))?;
        Ok(helper)
    }

    fn silent(&self, source: io::Error) -> HelperError {
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
    guests: BTreeMap<ContainerId, Guest>,
    /// Those of a list that began, until it is whole: what was known before holds until then.
    list: Option<BTreeMap<ContainerId, Guest>>,
    /// The reason why nothing is known; empty if something is.
    away: Option<String>,
    is_known: bool,
}

impl Running {
    /// Takes one word in.
    pub(crate) fn hear(&mut self, word: Word) {
        match word {
            Word::Begin => self.list = Some(BTreeMap::new()),
            Word::Running(guest) => drop(self.current().insert(guest.id.clone(), guest)),
            Word::Ended(id) => drop(self.current().remove(&id)),
            Word::Whole => {
                self.guests = self.list.take().unwrap_or_default();
                (self.is_known, self.away) = (true, None);
            }
            // The containers go on without Docker (live-restore): nothing is taken away.
            Word::Away(why) => (self.list, self.is_known, self.away) = (None, false, Some(why)),
        }
    }

    fn current(&mut self) -> &mut BTreeMap<ContainerId, Guest> {
        self.list.as_mut().unwrap_or(&mut self.guests)
    }

    pub(crate) const fn guests(&self) -> &BTreeMap<ContainerId, Guest> {
        &self.guests
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
}
