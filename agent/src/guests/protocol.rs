//! The packets between the agent and its helper. Each begins with the version, the kind, and the length of the rest (big-endian), which has to
//! be its length: whatever is not exactly so is refused. Pure.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use super::guest::{ContainerId, Guest, Place, shortened};

/// The longest request in bytes: a path has at most 4096 (`PATH_MAX`).
pub(crate) const LONGEST_REQUEST: usize = HEADER + 4096;
/// The longest answer in bytes: a container's labels are bounded.
pub(crate) const LONGEST_ANSWER: usize = 64 << 10;
/// The most descriptors of an answer.
pub(crate) const DESCRIPTORS: usize = 5;

const VERSION: u8 = 1;
const HEADER: usize = 4;
/// The longest text of a refusal.
const LONGEST_TEXT: usize = 1 << 10;

/// Requests of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To be passed what was opened in a network namespace.
    Open(Place),
    /// To be told which containers run, then each that starts or ends. It is the last request of a connection.
    Watch,
}

/// Answers of the helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The namespace's number. With it come its file, a socket, the folder of IPv4's settings, and if it has IPv6 that of IPv6's. For a process,
    /// and for a container its first one: when that was started (field 22 of proc_pid_stat(5)), with its file `stat` as the last one.
    Opened {
        cookie: u64,
        started: Option<u64>,
    },
    Refused(Refusal),
    Heard(Word),
}

/// The reason why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    pub(crate) why: Why,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The request has another form.
    Malformed,
    /// There is no such container, process or file.
    NotThere,
    /// It is the host's own namespace.
    Host,
    /// It is there, and cannot be opened as a network namespace.
    Failed,
    /// An earlier request for it, or several of its kind, have not been answered yet: Docker or a file system hangs.
    Late,
}

/// News of the containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The list begins anew.
    Begin,
    /// One that is running: of the list, started just now, or changed (its name).
    Running(Guest),
    /// One that Docker knows, of the list, whether it runs or not.
    Known(ContainerId),
    /// The list that began is whole: Docker knows no others.
    Whole,
    /// The list that began is whole as to those that run: a helper of before does not tell of the others.
    WholeOfRunning,
    /// It does not run, and can be started: it was made just now, or has ended.
    Ended(ContainerId),
    /// Docker does not know it any more.
    Removed(ContainerId),
    /// Docker does not answer: nothing is known until the list begins anew.
    Away(String),
}

/// A packet of another form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it has {0} bytes, and a packet of this kind has another number")]
    Length(usize),
    #[error("version {0} is not known: agent and helper must be of the same package")]
    Version(u8),
    #[error("there is no packet of kind {0}")]
    Kind(u8),
    #[error("it does not hold what a packet of its kind holds")]
    Content,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Watch => packet(1, &[]),
            Self::Open(Place::Container(id)) => packet(2, id.as_str().as_bytes()),
            // No process has started at 0: that is the kernel's own start.
            Self::Open(Place::Process { pid, started }) => {
                packet(3, &[&pid.to_be_bytes()[..], &started.unwrap_or(0).to_be_bytes()].concat())
            }
            Self::Open(Place::File(path)) => packet(4, path.as_os_str().as_bytes()),
        }
    }

    /// # Errors
    /// When the bytes are not exactly one request.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = opened_packet(bytes, LONGEST_REQUEST)?;
        match kind {
            1 if rest.is_empty() => Ok(Self::Watch),
            1 => Err(Malformed::Content),
            2 => Ok(Self::Open(Place::Container(id(rest)?))),
            3 => {
                let (pid, started) = rest.split_first_chunk().ok_or(Malformed::Content)?;
                let pid = u32::from_be_bytes(*pid);
                let started = u64::from_be_bytes(started.try_into().map_err(|_| Malformed::Content)?);
                // Negative ones are groups of processes elsewhere.
                let is_pid = pid > 0 && i32::try_from(pid).is_ok();
                let place = Place::Process { pid, started: (started != 0).then_some(started) };
                is_pid.then_some(Self::Open(place)).ok_or(Malformed::Content)
            }
            4 => {
                let path = Path::new(OsStr::from_bytes(rest));
                let is_one = path.is_absolute() && !rest.contains(&0) && rest.len() < 4096;
                is_one.then(|| Self::Open(Place::File(path.to_owned()))).ok_or(Malformed::Content)
            }
            kind => Err(Malformed::Kind(kind)),
        }
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Opened { cookie, started } => {
                packet(1, &[cookie.to_be_bytes(), started.unwrap_or(0).to_be_bytes()].concat())
            }
            Self::Refused(Refusal { why, text }) => {
                packet(2, &[&[why.number()], shortened(text, LONGEST_TEXT).as_bytes()].concat())
            }
            Self::Heard(Word::Begin) => packet(3, &[]),
            Self::Heard(Word::Running(guest)) => {
                packet(4, &serde_json::to_vec(guest).expect("a guest has only text keys"))
            }
            Self::Heard(Word::WholeOfRunning) => packet(5, &[]),
            Self::Heard(Word::Ended(id)) => packet(6, id.as_str().as_bytes()),
            Self::Heard(Word::Away(text)) => packet(7, shortened(text, LONGEST_TEXT).as_bytes()),
            Self::Heard(Word::Known(id)) => packet(8, id.as_str().as_bytes()),
            Self::Heard(Word::Removed(id)) => packet(9, id.as_str().as_bytes()),
            Self::Heard(Word::Whole) => packet(10, &[]),
        }
    }

    /// # Errors
    /// When the bytes are not exactly one answer.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = opened_packet(bytes, LONGEST_ANSWER)?;
        let empty = |word: Word| if rest.is_empty() { Ok(Self::Heard(word)) } else { Err(Malformed::Content) };
        match kind {
            1 => {
                let (cookie, started) = rest.split_first_chunk().ok_or(Malformed::Content)?;
                let started = match started {
                    // From a helper of before, which does not tell it.
                    [] => 0,
                    started => u64::from_be_bytes(started.try_into().map_err(|_| Malformed::Content)?),
                };
                let cookie = u64::from_be_bytes(*cookie);
                Ok(Self::Opened { cookie, started: (started != 0).then_some(started) })
            }
            2 => {
                let (why, text) = rest.split_first().ok_or(Malformed::Content)?;
                Ok(Self::Refused(Refusal { why: Why::of(*why)?, text: self::text(text)? }))
            }
            3 => empty(Word::Begin),
            4 => {
                let guest = serde_json::from_slice(rest).map_err(|_| Malformed::Content)?;
                Ok(Self::Heard(Word::Running(guest)))
            }
            5 => empty(Word::WholeOfRunning),
            6 => Ok(Self::Heard(Word::Ended(id(rest)?))),
            7 => Ok(Self::Heard(Word::Away(text(rest)?))),
            8 => Ok(Self::Heard(Word::Known(id(rest)?))),
            9 => Ok(Self::Heard(Word::Removed(id(rest)?))),
            10 => empty(Word::Whole),
            kind => Err(Malformed::Kind(kind)),
        }
    }
}

impl Why {
    const ALL: [Self; 5] = [Self::Malformed, Self::NotThere, Self::Host, Self::Failed, Self::Late];

    const fn number(self) -> u8 {
        self as u8
    }

    fn of(number: u8) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|why| why.number() == number).ok_or(Malformed::Content)
    }
}

impl Malformed {
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal { why: Why::Malformed, text: format!("the request is refused: {self}") }
    }
}

fn packet(kind: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).expect("what is sent is bounded");
    [&[VERSION, kind][..], &len.to_be_bytes(), rest].concat()
}

fn opened_packet(bytes: &[u8], longest: usize) -> Result<(u8, &[u8]), Malformed> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(Malformed::Length(bytes.len()))?;
    let [version, kind, high, low] = *header;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    if rest.len() != usize::from(u16::from_be_bytes([high, low])) || bytes.len() > longest {
        return Err(Malformed::Length(bytes.len()));
    }
    Ok((kind, rest))
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Content)
}

fn id(bytes: &[u8]) -> Result<ContainerId, Malformed> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(Malformed::Content)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = ContainerId> {
        prop::collection::vec(0_u32..16, 64).prop_map(|digits| {
            let text: String = digits.into_iter().filter_map(|digit| char::from_digit(digit, 16)).collect();
            text.parse().unwrap()
        })
    }

    fn requests() -> impl Strategy<Value = Request> {
        let process = (1..=u32::MAX >> 1, prop::option::of(1..=u64::MAX));
        prop_oneof![
            Just(Request::Watch),
            ids().prop_map(|id| Request::Open(Place::Container(id))),
            process.prop_map(|(pid, started)| Request::Open(Place::Process { pid, started })),
            "/[^\0]{0,200}".prop_map(|path| Request::Open(Place::File(PathBuf::from(path)))),
        ]
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let labels = prop::collection::btree_map(".{0,300}", ".{0,300}", 0..80);
        let guests = (ids(), ".{0,400}", any::<u32>(), labels);
        let guest = |(id, name, pid, labels)| Guest { id, name, pid, labels, left_out: 0 }.bounded();
        let opened = (any::<u64>(), prop::option::of(1..=u64::MAX));
        let refusal = |(why, text): (usize, String)| Refusal { why: Why::ALL[why], text };
        prop_oneof![
            opened.prop_map(|(cookie, started)| Answer::Opened { cookie, started }),
            (0_usize..Why::ALL.len(), ".{0,100}").prop_map(refusal).prop_map(Answer::Refused),
            Just(Answer::Heard(Word::Begin)),
            Just(Answer::Heard(Word::Whole)),
            Just(Answer::Heard(Word::WholeOfRunning)),
            guests.prop_map(guest).prop_map(|guest| Answer::Heard(Word::Running(guest))),
            ids().prop_map(|id| Answer::Heard(Word::Ended(id))),
            ids().prop_map(|id| Answer::Heard(Word::Known(id))),
            ids().prop_map(|id| Answer::Heard(Word::Removed(id))),
            ".{0,100}".prop_map(|text| Answer::Heard(Word::Away(text))),
        ]
    }

    #[test]
    fn labels_of_control_characters_fit_into_a_packet() {
        let labels = (0..64).map(|number| (format!("{number}\u{1}"), "\u{1}".repeat(160))).collect();
        let guest =
            Guest { id: "a".repeat(64).parse().unwrap(), name: "\u{2}".repeat(900), pid: 1, labels, left_out: 0 };
        let answer = Answer::Heard(Word::Running(guest.bounded()));
        let packet = answer.encode();
        assert!(packet.len() <= LONGEST_ANSWER, "{}", packet.len());
        assert_eq!(Answer::decode(&packet), Ok(answer));
    }

    /// A packet in which something was changed, cut off or added.
    fn damaged(packet: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let len = packet.len();
        let change = move |(at, byte, cut, more): (usize, u8, usize, Vec<u8>)| {
            let mut bytes = packet.clone();
            bytes[at] = byte;
            bytes.truncate(cut);
            bytes.extend(more);
            bytes
        };
        (0..len, any::<u8>(), 0..=len, prop::collection::vec(any::<u8>(), 0..8)).prop_map(change)
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_read(request in requests(), answer in answers()) {
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
            let bytes = answer.encode();
            prop_assert!(bytes.len() <= LONGEST_ANSWER, "{} bytes", bytes.len());
            prop_assert_eq!(Answer::decode(&bytes), Ok(answer));
        }

        /// There is one form of each request: what is read is written so again, byte for byte.
        #[test]
        fn whatever_comes_is_refused_or_exactly_a_request(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..LONGEST_REQUEST + 10),
                requests().prop_flat_map(|request| damaged(request.encode())),
            ]
        ) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }

        #[test]
        fn whatever_comes_for_an_answer_ends_nothing(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..2000),
                answers().prop_flat_map(|answer| damaged(answer.encode())),
            ]
        ) {
            if let Ok(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
            }
        }
    }

    #[test]
    fn each_fault_of_a_request_is_named() {
        let file = |path: &str| Request::Open(Place::File(PathBuf::from(path))).encode();
        let process = |pid| Request::Open(Place::Process { pid, started: None }).encode();
        let long = format!("/{}", "x".repeat(4095));
        for (bytes, fault) in [
            (vec![], Malformed::Length(0)),
            (vec![1, 1, 0], Malformed::Length(3)),
            (vec![1, 1, 0, 1], Malformed::Length(4)),
            (vec![1, 1, 0, 0, 0], Malformed::Length(5)),
            (vec![2, 1, 0, 0], Malformed::Version(2)),
            (vec![1, 9, 0, 0], Malformed::Kind(9)),
            (vec![1, 1, 0, 1, 7], Malformed::Content),
            (file("relative/path"), Malformed::Content),
            (file(""), Malformed::Content),
            (file("/with\0zero"), Malformed::Content),
            (file(&long), Malformed::Content),
            (process(0), Malformed::Content),
            (process(u32::MAX), Malformed::Content),
            (packet(2, "F".repeat(64).as_bytes()), Malformed::Content),
            (packet(2, b"../../1"), Malformed::Content),
        ] {
            assert_eq!(Request::decode(&bytes), Err(fault), "{bytes:?}");
        }
    }

    #[test]
    fn the_answers_of_a_helper_of_before_are_read_as_far_as_they_go() {
        let cookie = 7_u64;
        for (kind, content, answer) in [
            (1, &cookie.to_be_bytes()[..], Answer::Opened { cookie, started: None }),
            (5, &[], Answer::Heard(Word::WholeOfRunning)),
        ] {
            assert_eq!(Answer::decode(&packet(kind, content)), Ok(answer));
        }
        assert_eq!(Answer::decode(&packet(1, &[0; 12])), Err(Malformed::Content));
    }

    #[test]
    fn labels_that_are_too_many_or_too_large_are_left_out_and_those_of_compose_stay() {
        let many = (0..5000).map(|number| (format!("a{number}"), "x".repeat(500)));
        let mut labels: BTreeMap<String, String> = many.collect();
        labels.insert("com.docker.compose.service".to_owned(), "web".to_owned());
        labels.insert("large".to_owned(), "x".repeat(2000));
        let guest = Guest { id: "a".repeat(64).parse().unwrap(), name: "ü".repeat(300), pid: 1, labels, left_out: 0 };
        let bounded = guest.bounded();
        assert_eq!(bounded.labels["com.docker.compose.service"], "web");
        assert_eq!(bounded.labels.len() + bounded.left_out, 5002);
        assert!(!bounded.labels.contains_key("large"));
        assert!(Answer::Heard(Word::Running(bounded)).encode().len() < LONGEST_ANSWER);
    }
}
