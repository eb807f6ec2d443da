//! Docker's API on its unix socket, as far as the helper needs it: which containers run, and what happens to them. In HTTP/1.0, in which an
//! answer goes on until the connection ends: nothing is in chunks.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::{Duration, SystemTime},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;

use super::guest::{ContainerId, Guest};

/// The longest head of an answer in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// The longest answer in bytes: the list of ten thousand containers.
const LONGEST_ANSWER: u64 = 64 << 20;
/// The longest event in bytes: all labels of a container are in it.
const LONGEST_EVENT: usize = 4 << 20;
/// The time before the question from which on events are asked for, in whole seconds.
const BEFORE: Duration = Duration::from_secs(1);
/// The longest time between two pieces of an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The API.
#[derive(Clone, Debug)]
pub(crate) struct Docker {
    /// The socket, `/run/docker.sock`.
    pub(crate) socket: PathBuf,
}

/// Something happened to a container: it was made, started, renamed, removed, or has ended. An event may be old, so the container is looked at then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event(pub(crate) ContainerId);

/// A container, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running(Guest),
    /// It does not run, and can be started.
    Ended,
    /// There is no such container.
    Unknown,
}

/// The events of Docker, line by line.
#[derive(Debug)]
pub(crate) struct Events {
    stream: UnixStream,
    /// Bytes that came, and are no whole line yet.
    rest: Vec<u8>,
}

/// The next of [`Events`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Event(Event),
    /// The other descriptor can be read, or is at its end.
    Other,
}

/// The names are those of Docker's API.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: ContainerId,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: ContainerId,
    name: String,
    state: InspectedState,
    config: InspectedConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    running: bool,
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Happened {
    #[serde(rename = "Action")]
    action: String,
    #[serde(rename = "Actor")]
    actor: Actor,
}

#[derive(Deserialize)]
struct Actor {
    #[serde(rename = "ID")]
    id: ContainerId,
}

impl Docker {
    /// The containers that run.
    ///
    /// # Errors
    /// When Docker does not answer so.
    pub(crate) fn running(&self) -> io::Result<Vec<ContainerId>> {
        self.list("/containers/json")
    }

    /// All containers, those that do not run too.
    ///
    /// # Errors
    /// When Docker does not answer so.
    pub(crate) fn known(&self) -> io::Result<Vec<ContainerId>> {
        self.list("/containers/json?all=true")
    }

    fn list(&self, path: &str) -> io::Result<Vec<ContainerId>> {
        let list = self.get(path)?.ok_or(io::ErrorKind::NotFound)?;
        let list: Vec<Listed> = serde_json::from_slice(&list)?;
        Ok(list.into_iter().map(|listed| listed.id).collect())
    }

    /// A container.
    ///
    /// # Errors
    /// When Docker does not answer so.
    pub(crate) fn inspect(&self, id: &ContainerId) -> io::Result<State> {
        let Some(found) = self.get(&format!("/containers/{}/json", id.as_str()))? else { return Ok(State::Unknown) };
        let Inspected { id, name, state, config } = serde_json::from_slice(&found)?;
        let name = name.trim_start_matches('/').to_owned();
        let guest = Guest { id, name, pid: state.pid, labels: config.labels.unwrap_or_default(), left_out: 0 };
        Ok(if state.running && state.pid > 0 { State::Running(guest.bounded()) } else { State::Ended })
    }

    /// Events from a moment ago on.
    ///
    /// # Errors
    /// When Docker does not answer so.
    pub(crate) fn events(&self) -> io::Result<Events> {
        // {"type":["container"],"event":["create","start","die","rename","destroy"]}
        let filters = "%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22create%22%2C%22start%22%2C%22die%22%2C%22rename%22%2C%22destroy%22%5D%7D";
        // Docker begins to collect them after it has begun its answer: without `since`, those between would be missed.
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = begun.saturating_sub(BEFORE).as_secs();
        let answer = self.ask(&format!("/events?since={since}&filters={filters}"))?;
        if answer.status != 200 {
            return Err(answer.refusal());
        }
        Ok(Events { stream: answer.stream, rest: answer.body })
    }

    /// The body of an answer; `None` if there is no such thing.
    fn get(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Answer { stream, status, mut body, .. } = self.ask(path)?;
        (&stream).take(LONGEST_ANSWER).read_to_end(&mut body)?;
        match status {
            200 => Ok(Some(body)),
            404 => Ok(None),
            status => Err(Answer { stream, status, body }.refusal()),
        }
    }

    fn ask(&self, path: &str) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| {
            io::Error::new(error.kind(), format!("Docker's socket {} does not answer: {error}", self.socket.display()))
        })?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
        let mut came = Vec::new();
        loop {
            if let Some(end) = came.windows(4).position(|four| four == b"\r\n\r\n") {
                let status = status_of(&came[..end])?;
                return Ok(Answer { stream, status, body: came.split_off(end + 4) });
            }
            if came.len() > LONGEST_HEAD {
                return Err(not_so("the head of its answer is too long"));
            }
            read_more(&mut stream, &mut came)?;
        }
    }
}

/// An answer of which the head was read.
struct Answer {
    stream: UnixStream,
    status: u16,
    /// The part of the body that came with the head.
    body: Vec<u8>,
}

impl Answer {
    fn refusal(&self) -> io::Error {
        let said: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        io::Error::other(format!("Docker answers {}: {}", self.status, said.trim()))
    }
}

impl Events {
    /// Waits for the next, or for the other descriptor.
    ///
    /// # Errors
    /// When Docker has ended, or does not speak so.
    pub(crate) fn next(&mut self, other: BorrowedFd<'_>) -> io::Result<Next> {
        loop {
            while let Some(line) = self.line() {
                if let Some(event) = Event::of(&line) {
                    return Ok(Next::Event(event));
                }
            }
            if self.rest.len() > LONGEST_EVENT {
                return Err(not_so("an event is too long"));
            }
            let mut ready =
                [PollFd::new(other, PollFlags::POLLIN), PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) if ready[0].any() == Some(true) => return Ok(Next::Other),
                Ok(_) => read_more(&mut self.stream, &mut self.rest)?,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let after = self.rest.split_off(end + 1);
        Some(std::mem::replace(&mut self.rest, after))
    }
}

impl Event {
    /// Reads a line; `None` for what is of no interest.
    fn of(line: &[u8]) -> Option<Self> {
        let Happened { action, actor: Actor { id } } = serde_json::from_slice(line).ok()?;
        match action.as_str() {
            "create" | "start" | "rename" | "die" | "destroy" => Some(Self(id)),
            _ => None,
        }
    }
}

fn status_of(head: &[u8]) -> io::Result<u16> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.strip_prefix("http/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
    if head.contains("\r\ntransfer-encoding:") {
        return Err(not_so("it answers a request of HTTP/1.0 in chunks"));
    }
    status.ok_or_else(|| not_so("it does not speak HTTP"))
}

fn read_more(stream: &mut UnixStream, into: &mut Vec<u8>) -> io::Result<()> {
    let mut part = [0; 16 << 10];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "Docker has hung up")),
            Ok(len) => {
                into.extend_from_slice(&part[..len]);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn not_so(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what listens on Docker's socket is not Docker: {why}"))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// Answers each connection with one of these.
    fn speaks(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, Docker) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answer = move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).unwrap();
                // The other end may have had enough.
                let _ = stream.write_all(&answer);
            }
        };
        thread::spawn(answer);
        (folder, Docker { socket })
    }

    fn ok(body: &str) -> Vec<u8> {
        format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}").into_bytes()
    }

    fn id(letter: &str) -> ContainerId {
        letter.repeat(64).parse().unwrap()
    }

    fn inspected(letter: &str, running: bool, pid: u32) -> String {
        format!(
            r#"{{"Id":"{}","Name":"/web","Path":"x","State":{{"Running":{running},"Pid":{pid},"ExitCode":0}},
                "Config":{{"Hostname":"h","Labels":{{"a":"b"}}}}}}"#,
            letter.repeat(64)
        )
    }

    #[test]
    fn containers_are_listed_and_looked_at() {
        let list = format!(r#"[{{"Id":"{}","Names":["/web"]}},{{"Id":"{}"}}]"#, "a".repeat(64), "b".repeat(64));
        let missing = b"HTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"No such container\"}".to_vec();
        let answers = vec![
            ok(&list),
            ok(&format!(r#"[{{"Id":"{}","State":"exited"}}]"#, "a".repeat(64))),
            ok(&inspected("a", true, 77)),
            ok(&inspected("a", false, 0)),
            ok(&inspected("a", true, 0)),
            missing,
        ];
        let (_folder, docker) = speaks(answers);
        assert_eq!(docker.running().unwrap(), [id("a"), id("b")]);
        let labels = [("a".to_owned(), "b".to_owned())].into();
        let web = Guest { id: id("a"), name: "web".to_owned(), pid: 77, labels, left_out: 0 };
        assert_eq!(docker.known().unwrap(), [id("a")]);
        assert_eq!(docker.inspect(&id("a")).unwrap(), State::Running(web));
        for state in [State::Ended, State::Ended, State::Unknown] {
            assert_eq!(docker.inspect(&id("a")).unwrap(), state);
        }
    }

    #[test]
    fn what_is_not_docker_or_refuses_is_named() {
        for (answer, said) in [
            (b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), "does not speak HTTP"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]".to_vec(), "in chunks"),
            (b"HTTP/1.0 500 Oops\r\n\r\n{\"message\":\"broken\"}\n".to_vec(), "answers 500: {\"message\":\"broken\"}"),
            (b"HTTP/1.0 200 OK\r\n".to_vec(), "hung up"),
            (vec![b'x'; 100_000], "too long"),
            (ok("[{\"Id\":\"../etc\"}]"), "is no container's id"),
            (ok("[{\"Id\":"), "EOF"),
        ] {
            let (_folder, docker) = speaks(vec![answer]);
            let error = docker.running().unwrap_err().to_string();
            assert!(error.contains(said), "{error} does not say {said}");
        }
        let nobody = Docker { socket: PathBuf::from("/nobody/listens/here.sock") };
        let error = nobody.running().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("Docker's socket /"), "{error}");
    }

    #[test]
    fn events_are_read_however_they_are_cut_and_others_are_passed_over() {
        let event = |action: &str, letter: &str| {
            format!(r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{}"}},"time":1}}"#, letter.repeat(64))
        };
        let lines = [
            event("create", "a"),
            event("start", "a"),
            event("exec_start: sh", "a"),
            "{}".to_owned(),
            event("die", "a"),
            event("rename", "b"),
        ];
        let (one, mut other) = UnixStream::pair().unwrap();
        let (quiet, loud) = UnixStream::pair().unwrap();
        let mut events = Events { stream: one, rest: Vec::new() };
        let text = lines.join("\n") + "\n";
        let write = thread::spawn(move || {
            for part in text.as_bytes().chunks(7) {
                other.write_all(part).unwrap();
            }
            other
        });
        for letter in ["a", "a", "a", "b"] {
            assert_eq!(events.next(quiet.as_fd()).unwrap(), Next::Event(Event(id(letter))));
        }
        drop(loud);
        assert_eq!(events.next(quiet.as_fd()).unwrap(), Next::Other);
        drop(write.join().unwrap());
        let (still_quiet, _there) = UnixStream::pair().unwrap();
        assert_eq!(events.next(still_quiet.as_fd()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
