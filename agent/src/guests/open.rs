//! Opens what the agent needs in a network namespace.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    panic::resume_unwind,
    path::Path,
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
    sys::{
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
        statfs::{NSFS_MAGIC, fstatfs},
    },
};
use wire_net::chain;
use wire_netlink::cookie;

use super::{
    docker::{Docker, State},
    guest::{ContainerId, Guest, Place},
    process::Process,
    protocol::{Refusal, Why},
};

/// The result of a request to open a namespace.
pub(crate) struct Opened {
    pub(crate) cookie: u64,
    /// When the process was started for which it was opened; a file has none.
    pub(crate) started: Option<u64>,
    /// In the order of [`super::protocol::Answer::Opened`].
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// The number of the network namespace of the calling thread.
///
/// # Errors
/// In kernels before Linux 5.14.
pub(crate) fn own_cookie() -> io::Result<u64> {
    cookie(route_socket()?)
}

/// Opens what the agent needs in a namespace that is not the host's, whose number is `host`.
///
/// # Errors
/// When it is not there, is the host's, or is no network namespace.
pub(crate) fn open(place: &Place, docker: &Docker, host: u64) -> Result<Opened, Refusal> {
    let opened = match place {
        Place::File(path) => open_file(place, path),
        Place::Process { pid, started } => open_process(place, *pid, *started),
        Place::Container(id) => open_container(place, id, docker),
    }?;
    if opened.cookie == host {
        return Err(Refusal { why: Why::Host, text: format!("{place} has the network of this host itself") });
    }
    Ok(opened)
}

fn open_container(place: &Place, id: &ContainerId, docker: &Docker) -> Result<Opened, Refusal> {
    let asked = || docker.inspect(id).map_err(|error| refused(place, &error));
    let not_there = || Refusal { why: Why::NotThere, text: format!("{place} is not running") };
    let State::Running(Guest { pid, .. }) = asked()? else { return Err(not_there()) };
    let opened = open_process(place, pid, None)?;
    // While it has the same process, that number is nobody else's: so it was its namespace.
    match asked()? {
        State::Running(guest) if guest.pid == pid => Ok(opened),
        State::Running(_) | State::Ended | State::Unknown => Err(not_there()),
    }
}

fn open_process(place: &Place, pid: u32, started: Option<u64>) -> Result<Opened, Refusal> {
    let process = Process::open(pid).map_err(|error| refused(place, &error))?;
    let other = || Refusal { why: Why::NotThere, text: format!("{place} has ended: its number is another one's") };
    if started.is_some_and(|started| started != process.started()) {
        return Err(other());
    }
    let opened = open_file(place, Path::new(&format!("/proc/{pid}/ns/net")));
    // Until it has ended, its number is nobody else's.
    if process.has_ended() {
        return Err(other());
    }
    let Opened { cookie, mut descriptors, .. } = opened?;
    let started = Some(process.started());
    descriptors.push(process.into_passed());
    Ok(Opened { cookie, started, descriptors })
}

fn open_file(place: &Place, path: &Path) -> Result<Opened, Refusal> {
    let namespace = namespace_at(path).map_err(|error| refused(place, &error))?;
    let open = || open_inside(namespace);
    let opened = thread::scope(|scope| scope.spawn(open).join()).unwrap_or_else(|panic| resume_unwind(panic));
    opened.map_err(|error| refused(place, &error))
}

/// The file of a namespace. Opening anything else could wait or do something, so first it is only looked at.
fn namespace_at(path: &Path) -> io::Result<OwnedFd> {
    let looked_at = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    if fstatfs(&looked_at)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no namespace"));
    }
    Ok(File::open(format!("/proc/thread-self/fd/{}", looked_at.as_raw_fd()))?.into())
}

/// Enters the namespace for good: for a thread that ends then.
fn open_inside(namespace: OwnedFd) -> io::Result<Opened> {
    setns(&namespace, CloneFlags::CLONE_NEWNET)?;
    let route = route_socket()?;
    let cookie = cookie(&route)?;
    let settings = |family| Ok(OwnedFd::from(File::open(Path::new("/proc/sys/net").join(family))?));
    let ipv6 = match settings("ipv6") {
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    let descriptors = [namespace, route, settings("ipv4")?].into_iter().chain(ipv6).collect();
    Ok(Opened { cookie, started: None, descriptors })
}

fn route_socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?)
}

fn refused(place: &Place, error: &io::Error) -> Refusal {
    let why = if error.kind() == io::ErrorKind::NotFound { Why::NotThere } else { Why::Failed };
    Refusal { why, text: format!("cannot open the network of {place}: {}", chain(error)) }
}
