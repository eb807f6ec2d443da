//! Tells the agent which containers run, then each that starts or ends, until it hangs up.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use wire_net::chain;

use super::{
    docker::{Docker, Event, Next, State},
    guest::ContainerId,
    packet::Packets,
    protocol::{Answer, Word},
};

/// The time after which Docker is asked again if it did not answer, in milliseconds.
const AGAIN: u16 = 1000;

/// The reason why no more is told.
enum Ended {
    /// The agent has hung up, or does not read.
    Agent,
    Docker(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Docker(error)
    }
}

/// Returns when the agent has hung up.
pub(super) fn watch(agent: &Packets, docker: &Docker) {
    let mut said = String::new();
    while let Err(Ended::Docker(error)) = tell(agent, docker, &mut said) {
        let why = chain(&error);
        // Once for each reason.
        if why != said && say(agent, Word::Away(why.clone())).is_err() {
            return;
        }
        said = why;
        if has_hung_up_within(agent.0.as_fd(), AGAIN) {
            return;
        }
    }
}

/// Ends with an error only. `said` is emptied once Docker answers.
fn tell(agent: &Packets, docker: &Docker, said: &mut String) -> Result<(), Ended> {
    // First, so that nothing that happens while the lists are read is missed.
    let mut events = docker.events()?;
    let (known, running) = (docker.known()?, docker.running()?);
    said.clear();
    say(agent, Word::Begin)?;
    for id in known {
        say(agent, Word::Known(id))?;
    }
    for id in running {
        tell_of(agent, docker, id)?;
    }
    say(agent, Word::Whole)?;
    loop {
        match events.next(agent.0.as_fd())? {
            Next::Event(Event(id)) => tell_of(agent, docker, id)?,
            // It has nothing more to ask, so it has hung up.
            Next::Other => return Ok(()),
        }
    }
}

fn tell_of(agent: &Packets, docker: &Docker, id: ContainerId) -> Result<(), Ended> {
    let word = match docker.inspect(&id)? {
        State::Running(guest) => Word::Running(guest),
        State::Ended => Word::Ended(id),
        State::Unknown => Word::Removed(id),
    };
    say(agent, word)
}

fn say(agent: &Packets, word: Word) -> Result<(), Ended> {
    agent.send(&Answer::Heard(word).encode(), &[]).map_err(|_| Ended::Agent)
}

fn has_hung_up_within(agent: BorrowedFd<'_>, milliseconds: u16) -> bool {
    let mut ready = [PollFd::new(agent, PollFlags::POLLIN)];
    match poll(&mut ready, PollTimeout::from(milliseconds)) {
        Ok(ready) => ready > 0,
        Err(error) => error != Errno::EINTR,
    }
}
