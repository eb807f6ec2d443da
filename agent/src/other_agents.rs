//! Finds other agents in this network namespace, since two agents undo each other's firewall. Each agent has a socket
//! with an abstract name, which belongs to the namespace (unix(7)) and which nobody has to remove. Any user can make a
//! socket with such a name, so the kernel is asked who listens there.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::{
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt::PeerCredentials},
    unistd::geteuid,
};
use wire_net::{LinkName, NetworkName};
use wire_store::Random;

/// The prefix of the names of agents without a name, after the zero byte that makes them abstract.
const PREFIX: &str = "wire-agent/firewall/";
/// The same for agents with a name (`--network`), which follows.
const NAMED: &str = "wire-agent/network/";
/// The same for the devices of agents; the device and the network follow.
const DEVICE: &str = "wire-agent/device/";
/// The number of sockets that are checked. There are never more agents, but any user can make more such names.
const ASKED: usize = 256;

/// This process's socket, for all its joins. If it cannot be made, other agents do not see this one, but it still sees
/// them.
static OWN: OnceLock<Option<(String, UnixListener)>> = OnceLock::new();

/// The beginning of the names of agents with the same rules.
fn beginning(network: &NetworkName) -> String {
    if network.is_default() { PREFIX.to_owned() } else { format!("{NAMED}{network}/") }
}

fn announced(network: &NetworkName) -> io::Result<(String, UnixListener)> {
    let name = format!("{}{:016x}", beginning(network), u64::from_be_bytes(Random::of_system().bytes()));
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    listener.set_nonblocking(true)?;
    Ok((name, listener))
}

/// Makes this agent visible to others.
pub(crate) fn announce(network: &NetworkName) {
    OWN.get_or_init(|| announced(network).ok());
}

/// True if there are others for the same network: those of other networks have rules of their own.
pub(crate) fn are_there(network: &NetworkName) -> bool {
    let (own, beginning) = (OWN.get().and_then(Option::as_ref), beginning(network));
    // Accepts the connections of other agents, so that the queue does not become full.
    while own.is_some_and(|(_, listener)| listener.accept().is_ok()) {}
    // The names of other sockets may hold any bytes.
    let sockets = fs::read("/proc/thread-self/net/unix").unwrap_or_default();
    let sockets = String::from_utf8_lossy(&sockets);
    let names = sockets.lines().filter_map(|line| line.split_once(" @").map(|(_, name)| name));
    let others: BTreeSet<&str> =
        names.filter(|name| name.starts_with(&beginning) && own.is_none_or(|(own, _)| own != name)).collect();
    others.into_iter().take(ASKED).any(is_an_agent)
}

/// The sockets that say which devices are this process's.
static DEVICES: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Tells agents of other networks in this namespace that a device is ours.
///
/// # Errors
/// The name of another network whose agent runs and has this device.
pub(crate) fn claim(device: LinkName, network: &NetworkName) -> Result<(), String> {
    let own = format!("{DEVICE}{device}/{network}");
    let made = SocketAddr::from_abstract_name(&own).and_then(|address| UnixListener::bind_addr(&address));
    if let Ok(listener) = made.and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
        DEVICES.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }
    let sockets = fs::read("/proc/thread-self/net/unix").unwrap_or_default();
    let beginning = format!("{DEVICE}{device}/");
    let sockets = String::from_utf8_lossy(&sockets);
    let names = sockets.lines().filter_map(|line| line.split_once(" @").map(|(_, name)| name));
    let others: BTreeSet<&str> = names.filter(|name| name.starts_with(&beginning) && *name != own).collect();
    match others.into_iter().take(ASKED).find(|name| is_an_agent(name)) {
        Some(other) => Err(other[beginning.len()..].to_owned()),
        None => Ok(()),
    }
}

/// True if root or our own user listens there. Nobody else can change the firewall.
fn is_an_agent(name: &str) -> bool {
    let credentials = ask(name).and_then(|socket| getsockopt(&socket, PeerCredentials));
    credentials.is_ok_and(|who| who.uid() == 0 || who.uid() == geteuid().as_raw())
}

/// Connects without waiting for a socket that accepts nobody.
fn ask(name: &str) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    Ok(socket)
}
