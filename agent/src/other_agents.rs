//! The agents of one network namespace tell each other by sockets that they are there, and what is theirs. Such a socket
//! has an abstract name, which belongs to the namespace (unix(7)) and which nobody has to remove. Any user can make a
//! socket with such a name, so the kernel is asked who listens there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use nix::{
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt::PeerCredentials},
    unistd::geteuid,
};
use wire_net::{LinkName, NetworkName, Prefix};
use wire_store::Random;

/// The prefix of the names of agents of the default network, after the zero byte that makes them abstract.
const PREFIX: &str = "wire-agent/firewall/";
/// The same for agents of other networks, whose names follow.
const NAMED: &str = "wire-agent/network/";
/// The same for devices of agents; the device and the network follow.
const DEVICE: &str = "wire-agent/device/";
/// The same for the networks' ranges of addresses; the range and the network follow.
const RANGE: &str = "wire-agent/range/";
/// The number of sockets that are checked. There are never more agents, but any user can make more such names.
const ASKED: usize = 256;
/// The letters of a network's name in that of a socket, which has at most 107.
const LETTERS: usize = 40;

/// Of several networks that begin in this process, one after the other says what is its own.
static CLAIMING: Mutex<()> = Mutex::new(());

/// What two networks of one network namespace cannot share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// The name of a device.
    #[error("the device {device} belongs to network {network}, which runs in this network namespace too")]
    Device {
        /// Its name.
        device: LinkName,
        /// The network that has it.
        network: String,
    },
    /// Addresses.
    #[error("the range {range} overlaps {theirs} of network {network}, which runs in this network namespace too")]
    Range {
        /// The range of this network.
        range: Prefix,
        /// That of the other one.
        theirs: Prefix,
        /// The network that has it.
        network: String,
    },
}

impl Taken {
    /// The next step for the reader.
    pub(crate) const fn remedy(&self) -> &'static str {
        match self {
            Self::Device { .. } => "give one of the networks another VNI, or with the udp backend another namespace",
            Self::Range { .. } => "give one of the networks another Network in its config",
        }
    }
}

/// This agent, as the others of this network namespace see it.
#[derive(Default)]
pub(crate) struct Presence {
    network: NetworkName,
    /// If the socket cannot be made, other agents do not see this one, but it still sees them.
    own: OnceLock<Option<(String, UnixListener)>>,
    /// The sockets that say what is ours, by their names.
    claimed: Mutex<BTreeMap<String, UnixListener>>,
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presence").field(&self.network).finish()
    }
}

impl Presence {
    pub(crate) fn new(network: NetworkName) -> Self {
        Self { network, ..Self::default() }
    }

    /// Makes this agent visible to others.
    pub(crate) fn announce(&self) {
        self.own.get_or_init(|| {
            let name = format!("{}{:016x}", self.beginning(), u64::from_be_bytes(Random::of_system().bytes()));
            let listener = listen(&name).ok()?;
            Some((name, listener))
        });
    }

    /// The beginning of the names of agents with the same rules.
    fn beginning(&self) -> String {
        if self.network.is_default() { PREFIX.to_owned() } else { format!("{NAMED}{}/", self.network) }
    }

    /// True if there are others for the same network: those of other networks have rules of their own.
    pub(crate) fn are_others(&self) -> bool {
        let (own, beginning) = (self.own.get().and_then(Option::as_ref), self.beginning());
        // Accepts the connections of other agents, so that the queue does not become full.
        while own.is_some_and(|(_, listener)| listener.accept().is_ok()) {}
        let names = names_with(&beginning);
        names
            .into_iter()
            .filter(|name| own.is_none_or(|(own, _)| own != name))
            .take(ASKED)
            .any(|name| is_an_agent(&name))
    }

    /// Tells agents of other networks which devices and ranges are ours, and nothing else.
    ///
    /// # Errors
    /// What another network has already.
    pub(crate) fn claim(&self, devices: &[LinkName], ranges: &[Prefix]) -> Result<(), Taken> {
        let _one_by_one = locked(&CLAIMING);
        let network: String = self.network.as_str().chars().take(LETTERS).collect();
        let of_devices = devices.iter().map(|device| format!("{DEVICE}{device}/{network}"));
        let names = of_devices.chain(ranges.iter().map(|range| format!("{RANGE}{range}/{network}")));
        let mut held = std::mem::take(&mut *locked(&self.claimed));
        let claimed = names.filter_map(|name| {
            let listener = held.remove(&name).or_else(|| listen(&name).ok())?;
            Some((name, listener))
        });
        let claimed: BTreeMap<String, UnixListener> = claimed.collect();
        if let Some(taken) = taken_device(devices, &network).or_else(|| taken_range(ranges, &network)) {
            return Err(taken);
        }
        *locked(&self.claimed) = claimed;
        Ok(())
    }
}

fn taken_device(devices: &[LinkName], own: &str) -> Option<Taken> {
    let of_others = claims(DEVICE).filter(|(_, _, network)| network != own);
    let mut taken = of_others.filter_map(|(name, device, network)| {
        let device = devices.iter().find(|ours| ours.as_str() == device)?;
        is_an_agent(&name).then_some(Taken::Device { device: *device, network })
    });
    taken.next()
}

fn taken_range(ranges: &[Prefix], own: &str) -> Option<Taken> {
    let of_others = claims(RANGE).filter(|(_, _, network)| network != own);
    let mut taken = of_others.filter_map(|(name, range, network)| {
        let theirs: Prefix = range.parse().ok()?;
        let range = ranges.iter().find(|range| range.overlaps(theirs))?;
        is_an_agent(&name).then_some(Taken::Range { range: *range, theirs, network })
    });
    taken.next()
}

/// What sockets with such names say: the whole name, what it is about, and the network.
fn claims(beginning: &str) -> impl Iterator<Item = (String, String, String)> {
    let names = names_with(beginning).into_iter().take(ASKED);
    names.filter_map(move |name| {
        let (thing, network) = name[beginning.len()..].rsplit_once('/')?;
        Some((name.clone(), thing.to_owned(), network.to_owned()))
    })
}

/// The abstract names of sockets in this network namespace that begin so.
fn names_with(beginning: &str) -> BTreeSet<String> {
    let sockets = fs::read("/proc/thread-self/net/unix").unwrap_or_default();
    // The names of other sockets may hold any bytes.
    let sockets = String::from_utf8_lossy(&sockets);
    let names = sockets.lines().filter_map(|line| line.split_once(" @").map(|(_, name)| name));
    names.filter(|name| name.starts_with(beginning)).map(str::to_owned).collect()
}

fn listen(name: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(network: &str) -> Presence {
        Presence::new(network.parse().unwrap())
    }

    fn claim(presence: &Presence, device: &str, range: &str) -> Result<(), String> {
        presence.claim(&[device.parse().unwrap()], &[range.parse().unwrap()]).map_err(|taken| taken.to_string())
    }

    #[test]
    fn what_one_network_has_no_other_gets_until_it_is_let_go() {
        let long = "x".repeat(63);
        let (one, two) = (of(&long), of("two-of-these"));
        claim(&one, "wire-t0", "fd12:3456:789a:bcde:f012:3456:789a:0/112").unwrap();
        let refused = claim(&two, "wire-t0", "198.51.100.0/24").unwrap_err();
        assert!(
            refused.starts_with(&format!("the device wire-t0 belongs to network {}", &long[..LETTERS])),
            "{refused}"
        );
        let refused = claim(&two, "wire-t1", "fd12:3456:789a::/48").unwrap_err();
        assert!(refused.contains("overlaps fd12:3456:789a:bcde:f012:3456:789a:0/112 of network x"), "{refused}");
        claim(&one, "wire-t2", "198.51.100.0/25").unwrap();
        claim(&two, "wire-t0", "fd12:3456:789a::/48").unwrap();
        assert!(claim(&one, "wire-t2", "fd12:3456:789a:1::/64").is_err());
        drop(two);
        claim(&one, "wire-t0", "fd12:3456:789a:1::/64").unwrap();
        // The same again is no conflict with itself.
        claim(&one, "wire-t0", "fd12:3456:789a:1::/64").unwrap();
    }
}
