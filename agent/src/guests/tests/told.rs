//! The containers that the helper tells of, by a Docker that says what the test wants.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use wire_netlink::lab::in_namespace;

use super::{
    super::{
        client::{Helper as Client, HelperError, Running},
        guest::{ContainerId, Place},
        protocol::Word,
    },
    Served, Sleeper,
};

/// A Docker: what the containers' processes are, and the events.
struct Docker {
    listener: UnixListener,
    inspected: Receiver<String>,
    events: Receiver<String>,
}

impl Docker {
    fn start(socket: &Path) -> (Sender<String>, Sender<String>) {
        let listener = UnixListener::bind(socket).unwrap();
        let ((say_inspected, inspected), (say_events, events)) = (channel(), channel());
        let docker = Self { listener, inspected, events };
        thread::spawn(move || docker.serve());
        (say_inspected, say_events)
    }

    /// Ends, and with it the events, when the test has no more to say.
    fn serve(self) {
        let mut answers = Vec::new();
        let mut watching: Option<UnixStream> = None;
        loop {
            let (mut stream, _) = self.listener.accept().unwrap();
            let mut asked = [0; 4096];
            let len = stream.read(&mut asked).unwrap();
            let asked = String::from_utf8_lossy(&asked[..len]).into_owned();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            if asked.starts_with("GET /events?") {
                watching = Some(stream);
            } else if asked.starts_with("GET /containers/json") {
                stream.write_all(format!(r#"[{{"Id":"{}"}}]"#, "a".repeat(64)).as_bytes()).unwrap();
            } else {
                let Ok(answer) = self.inspected.recv() else { return };
                answers.push(asked);
                stream.write_all(answer.as_bytes()).unwrap();
                drop(stream);
                // What happens after each container that was asked for.
                let Ok(event) = self.events.recv() else { return };
                watching.as_mut().unwrap().write_all(event.as_bytes()).unwrap();
            }
        }
    }
}

fn inspected(letter: &str, name: &str, running: bool) -> String {
    let (id, pid) = (letter.repeat(64), u32::from(running) * 7);
    format!(
        r#"{{"Id":"{id}","Name":"/{name}","State":{{"Running":{running},"Pid":{pid}}},"Config":{{"Labels":null}}}}"#
    )
}

fn event(action: &str, letter: &str) -> String {
    format!("{{\"Action\":\"{action}\",\"Actor\":{{\"ID\":\"{}\"}}}}\n", letter.repeat(64))
}

/// The names after a word.
fn hear(running: &mut Running, word: Word) -> String {
    running.hear(word);
    running.guests().values().map(|guest| guest.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_list_then_starts_names_and_ends_are_told_until_docker_ends_and_that_is_said() {
    in_namespace(|| {
        let mut docker = None;
        let served = Served::with(|socket| docker = Some(Docker::start(socket)));
        let (say_inspected, say_events) = docker.unwrap();
        let watch = served.client.watch().unwrap();
        let mut running = Running::default();
        assert_eq!(hear(&mut running, watch.next().unwrap()), "", "the list begins");
        assert_eq!(watch.next().unwrap(), Word::Known("a".repeat(64).parse().unwrap()));
        say_inspected.send(inspected("a", "web", true)).unwrap();
        say_events.send(event("start", "b")).unwrap();
        assert_eq!(hear(&mut running, watch.next().unwrap()), "", "it is not whole");
        assert_eq!(hear(&mut running, watch.next().unwrap()), "web");
        say_inspected.send(inspected("b", "db", true)).unwrap();
        say_events.send(event("rename", "a")).unwrap();
        assert_eq!(hear(&mut running, watch.next().unwrap()), "web db");
        say_inspected.send(inspected("a", "front", true)).unwrap();
        say_events.send(event("die", "b") + &event("start", "c")).unwrap();
        assert_eq!(hear(&mut running, watch.next().unwrap()), "front db");
        say_inspected.send(inspected("b", "db", false)).unwrap();
        say_events.send(String::new()).unwrap();
        assert_eq!(hear(&mut running, watch.next().unwrap()), "front");
        // It has ended before it was looked at.
        say_inspected.send(inspected("c", "short", false)).unwrap();
        say_events.send(String::new()).unwrap();
        assert_eq!(watch.next().unwrap(), Word::Ended("c".repeat(64).parse::<ContainerId>().unwrap()));
        drop((say_inspected, say_events));
        let ended = Client::in_folder(served.folder.path());
        // The next container that is asked for finds Docker gone.
        assert!(ended.open(&Place::Container("a".repeat(64).parse().unwrap())).is_err());
        let Word::Away(why) = watch.next().unwrap() else { panic!("Docker's end is not said") };
        assert!(why.contains("hung up"), "{why}");
        running.hear(Word::Away(why));
        assert_eq!(running.guests().len(), 1, "what runs goes on");
        assert!(running.doubt().is_some());
    });
}

#[test]
fn without_docker_the_agent_is_told_so_once_and_the_list_comes_when_docker_does() {
    in_namespace(|| {
        let served = Served::new();
        let watch = served.client.watch().unwrap();
        let Word::Away(why) = watch.next().unwrap() else { panic!("nothing is said") };
        assert!(why.contains("No such file"), "{why}");
        let (say_inspected, say_events) = Docker::start(&served.folder.path().join("docker.sock"));
        say_inspected.send(inspected("a", "web", true)).unwrap();
        say_events.send(String::new()).unwrap();
        let mut running = Running::default();
        while running.doubt().is_some() {
            running.hear(watch.next().unwrap());
        }
        assert_eq!(running.guests().len(), 1);
    });
}

/// An event of a container that was started again since: Docker tells of what was before the question, too.
#[test]
fn an_old_event_of_a_container_that_runs_again_ends_nothing() {
    in_namespace(|| {
        let mut docker = None;
        let served = Served::with(|socket| docker = Some(Docker::start(socket)));
        let (say_inspected, say_events) = docker.unwrap();
        let watch = served.client.watch().unwrap();
        let mut running = Running::default();
        say_inspected.send(inspected("a", "web", true)).unwrap();
        say_events.send(event("die", "a")).unwrap();
        while running.doubt().is_some() {
            running.hear(watch.next().unwrap());
        }
        say_inspected.send(inspected("a", "web", true)).unwrap();
        say_events.send(String::new()).unwrap();
        assert_eq!(hear(&mut running, watch.next().unwrap()), "web");
    });
}

#[test]
fn a_docker_that_hangs_is_given_up_and_stops_no_other() {
    in_namespace(|| {
        let mut hangs = None;
        let served = Served::with(|socket| hangs = Some(UnixListener::bind(socket).unwrap()));
        let sleeper = Sleeper::start();
        let container = Place::Container("a".repeat(64).parse().unwrap());
        thread::scope(|scope| {
            let late = scope.spawn(|| served.client.open(&container).unwrap_err());
            served.client.open(&sleeper.place()).unwrap();
            let error = late.join().unwrap();
            assert!(matches!(error, HelperError::Late), "{error}");
            assert!(error.to_string().contains("has not answered for 5s"), "{error}");
        });
        served.client.open(&sleeper.place()).unwrap();
        drop(hangs);
    });
}
