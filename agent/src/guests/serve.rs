//! `wire-agent guests`: serves the agent, as root.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::lchown,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, umask},
    },
    unistd::Uid,
};

use super::{
    docker::Docker,
    open,
    packet::{self, Packets},
    pending::Pending,
    protocol::{Answer, LONGEST_REQUEST, Malformed, Request},
    watch::watch,
};
use crate::{
    exit::{CANNOT_CREATE, Exit, OS, USAGE},
    output::complain,
};

/// The most connections at a time. The agent has seven; those that it has given up since they hang go on for a while.
pub(super) const CONNECTIONS: usize = 32;
/// The time that the helper stays without a connection, if systemd starts it again for the next one.
const IDLE: Duration = Duration::from_secs(30);

/// The flags of the helper.
#[derive(Clone, Debug, Args)]
pub(crate) struct GuestsFlags {
    /// Make this socket, instead of the one that systemd passes.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Docker's socket.
    #[arg(long, default_value = "/run/docker.sock", value_name = "PATH")]
    pub(crate) docker_socket: PathBuf,
    /// The agent's user. Nobody else but root is served.
    #[arg(long, default_value = "wire-agent", value_name = "USER")]
    pub(crate) agent_user: String,
}

/// The helper cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestsError {
    #[error("there is no user {name}: give the agent's with --agent-user")]
    NoUser { name: String },
    #[error("cannot ask for the user {name}")]
    User { name: String, source: io::Error },
    #[error(
        "systemd has passed {count} sockets, not one: this runs as wire-agent-guests.service; by hand, give --socket"
    )]
    Sockets { count: usize },
    #[error("cannot make {}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot wait for the agent")]
    Listen(#[source] io::Error),
    #[error("this kernel does not number network namespaces: attachments need Linux 5.14")]
    Kernel(#[source] io::Error),
}

impl GuestsError {
    /// The exit status.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::NoUser { .. } | Self::Sockets { .. } => USAGE,
            Self::Socket { .. } => CANNOT_CREATE,
            Self::User { .. } | Self::Listen(_) | Self::Kernel(_) => OS,
        }
    }
}

/// Serves until nobody is connected any more, if systemd has passed the socket; else for ever.
///
/// # Errors
/// [`GuestsError`].
pub(crate) fn run(flags: GuestsFlags) -> Result<(), Exit> {
    let GuestsFlags { socket, docker_socket, agent_user } = flags;
    let agent = user(agent_user)?;
    let helper = Helper::new(docker_socket, agent).map_err(GuestsError::Kernel)?;
    let (listener, idle) = match socket {
        Some(path) => {
            let made = own_socket(&path, agent).map_err(|source| GuestsError::Socket { path, source })?;
            (made, None)
        }
        None => (passed_socket()?, Some(IDLE)),
    };
    Ok(helper.serve(listener.as_fd(), idle).map_err(GuestsError::Listen)?)
}

fn user(name: String) -> Result<Uid, GuestsError> {
    // Not by the C library: a static binary cannot load its NSS modules.
    let users = match fs::read_to_string("/etc/passwd") {
        Ok(users) => users,
        Err(source) => return Err(GuestsError::User { name, source }),
    };
    users.lines().find_map(|line| uid_in(line, &name)).ok_or(GuestsError::NoUser { name })
}

/// The number of a user, if the line of passwd(5) is the user's.
fn uid_in(line: &str, name: &str) -> Option<Uid> {
    let mut fields = line.strip_prefix(name)?.strip_prefix(':')?.split(':');
    fields.nth(1)?.parse().ok().map(Uid::from_raw)
}

fn passed_socket() -> Result<OwnedFd, GuestsError> {
    let mut sockets = packet::from_systemd().map_err(GuestsError::Listen)?;
    let count = sockets.len();
    sockets.pop().filter(|_| count == 1).ok_or(GuestsError::Sockets { count })
}

/// A socket for the agent's user alone. One that nobody listens at any more is replaced.
fn own_socket(path: &Path, agent: Uid) -> io::Result<OwnedFd> {
    let is_left = || Packets::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_left() {
        fs::remove_file(path)?;
    }
    // Whoever may write in the folder could put a link in its place meanwhile. So it is made with its mode, and links are not followed.
    let former = umask(Mode::from_bits_truncate(0o177));
    let listener = packet::listen_at(path);
    umask(former);
    let listener = listener?;
    lchown(path, Some(agent.as_raw()), None)?;
    Ok(listener)
}

/// The settings of the helper.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    docker: Docker,
    /// Who is served beside root.
    agent: Uid,
    /// The number of the host's network namespace.
    host: u64,
    pending: Pending,
}

impl Helper {
    /// # Errors
    /// When the kernel does not number network namespaces.
    pub(super) fn new(docker: PathBuf, agent: Uid) -> io::Result<Self> {
        Ok(Self { docker: Docker { socket: docker }, agent, host: open::own_cookie()?, pending: Pending::default() })
    }

    /// Each connection has a thread. Returns after `idle` without one.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub(super) fn serve(&self, listener: BorrowedFd<'_>, idle: Option<Duration>) -> io::Result<()> {
        let connected = Arc::new(AtomicUsize::new(0));
        let idle = idle.and_then(|idle| PollTimeout::try_from(idle).ok()).unwrap_or(PollTimeout::NONE);
        loop {
            let mut ready = [PollFd::new(listener, PollFlags::POLLIN)];
            match poll(&mut ready, idle) {
                Ok(0) if connected.load(Ordering::SeqCst) == 0 => return Ok(()),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => self.welcome(packet::accept(listener)?, &connected),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn welcome(&self, agent: Packets, connected: &Arc<AtomicUsize>) {
        if !self.may(&agent) {
            complain("wire-agent guests: a connection of another user was refused");
            return;
        }
        let place = Connected::new(connected);
        if connected.load(Ordering::SeqCst) > CONNECTIONS {
            complain(format_args!("wire-agent guests: there are {CONNECTIONS} connections: no further one is taken"));
            return;
        }
        let helper = self.clone();
        let serve = move || {
            helper.answer(&agent);
            drop(place);
        };
        if let Err(error) = thread::Builder::new().spawn(serve) {
            complain(format_args!("wire-agent guests: no thread for a connection: {error}"));
        }
    }

    /// The socket's mode says the same; the kernel tells who has connected.
    fn may(&self, agent: &Packets) -> bool {
        let who = getsockopt(&agent.0, PeerCredentials).map(|who| Uid::from_raw(who.uid()));
        who.is_ok_and(|who| who == self.agent || who.is_root())
    }

    /// Serves one connection to its end.
    fn answer(&self, agent: &Packets) {
        while let Ok(Some(packet)) = agent.receive(LONGEST_REQUEST) {
            let sent = match Request::decode(&packet) {
                Ok(Request::Watch) => return watch(agent, &self.docker),
                Ok(Request::Open(place)) => self.open(agent, &place),
                Err(malformed) => return refuse(agent, &malformed),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn open(&self, agent: &Packets, place: &super::Place) -> io::Result<()> {
        let turn = self.pending.begin(place, Instant::now());
        match turn.and_then(|_turn| open::open(place, &self.docker, self.host)) {
            Ok(opened) => {
                let descriptors: Vec<BorrowedFd<'_>> = opened.descriptors.iter().map(AsFd::as_fd).collect();
                let (cookie, started) = (opened.cookie, opened.started);
                agent.send(&Answer::Opened { cookie, started }.encode(), &descriptors)
            }
            Err(refusal) => agent.send(&Answer::Refused(refusal).encode(), &[]),
        }
    }
}

/// Who sends one such packet is not the agent of this package: nothing more is read of it.
fn refuse(agent: &Packets, malformed: &Malformed) {
    let refusal = malformed.refusal();
    complain(format_args!("wire-agent guests: {refusal}"));
    // It may have hung up.
    let _ = agent.send(&Answer::Refused(refusal).encode(), &[]);
}

/// Counts a connection for as long as it is there.
struct Connected(Arc<AtomicUsize>);

impl Connected {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
