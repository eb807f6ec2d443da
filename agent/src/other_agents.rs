//! The agents of one network namespace tell each other by sockets that they are there, and what is theirs. Such a socket
//! has an abstract name, which belongs to the namespace (unix(7)) and which nobody has to remove. Any user can make a
//! socket with such a name, so the kernel is asked who listens there.

mod ranges;

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
use wire_backends::{PortUse, Taker};
use wire_net::{LinkName, NetworkName, Prefix};
use wire_store::Random;

pub(crate) use self::ranges::OtherRanges;
pub use self::ranges::Ranges;

/// The names of sockets begin so, after the zero byte that makes them abstract: of an agent of the default network.
const PREFIX: &str = "wire-agent/firewall/";
/// Of an agent of another network, whose name follows.
const NAMED: &str = "wire-agent/network/";
/// Of one that has a device; the device and the network follow.
const DEVICE: &str = "wire-agent/device/";
/// Of one that has a range of addresses; the range and the network follow.
const RANGE: &str = "wire-agent/range/";
/// Of one that has a UDP port; the port, who takes its packets, and the network follow.
const PORT: &str = "wire-agent/port/";
/// The number of sockets that are checked. There are never more agents, but any user can make more such names.
const ASKED: usize = 256;
/// The letters of a network's name in that of a socket, which has at most 107.
const LETTERS: usize = 40;

/// Of several networks that begin in this process, one after the other says what is its own.
static CLAIMING: Mutex<()> = Mutex::new(());

/// A thing that another network of this network namespace has, and that two cannot share.
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
    /// The UDP port of encapsulated packets.
    #[error(
        "the UDP port {port} belongs to network {network}, which runs in this network namespace too, and these two cannot share it"
    )]
    Port {
        /// The port.
        port: u16,
        /// The network that has it.
        network: String,
    },
}

/// The things that a network needs for itself alone.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Names of devices.
    pub devices: Vec<LinkName>,
    /// Addresses.
    pub ranges: Vec<Prefix>,
    /// The UDP ports of encapsulated packets.
    pub ports: Vec<PortUse>,
}

impl Taken {
    /// The next step for the reader.
    pub(crate) const fn remedy(&self) -> &'static str {
        match self {
            Self::Device { .. } => {
                "give one of the networks another VNI, or with udp or ipip a network namespace of its own"
            }
            Self::Port { .. } => "give one of the networks another Port in its config",
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
    /// The sockets that claim the UDP ports of networks by name.
    claimed_ports: Mutex<BTreeMap<String, UnixListener>>,
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
        own.into_iter().for_each(|(_, listener)| take_calls(listener));
        locked(&self.claimed).values().for_each(take_calls);
        let names = names_with(&beginning);
        names
            .into_iter()
            .filter(|name| own.is_none_or(|(own, _)| own != name))
            .take(ASKED)
            .any(|name| is_an_agent(&name))
    }

    /// The ranges of the networks whose agents run.
    pub(crate) fn ranges_of_others(&self) -> Ranges {
        locked(&self.claimed).values().for_each(take_calls);
        let own = self.short_name();
        let names = names_with(RANGE);
        let ranges = names.iter().filter_map(|name| {
            let (range, network) = name[RANGE.len()..].rsplit_once('/')?;
            (network != own).then_some((name, network, range.parse().ok()?))
        });
        let mut found = Ranges::new();
        for (_, network, range) in ranges.take(ASKED).filter(|(name, ..)| is_an_agent(name)) {
            found.entry(network.to_owned()).or_default().insert(range);
        }
        found
    }

    /// The network's name, as far as it is in the names of sockets.
    fn short_name(&self) -> String {
        self.network.as_str().chars().take(LETTERS).collect()
    }

    /// Tells agents of other networks what is ours, and nothing else. If something is not to be had, what was ours before stays so.
    ///
    /// # Errors
    /// The first thing that another network has already.
    pub(crate) fn claim(&self, claims: &Claims) -> Result<(), Taken> {
        let _one_by_one = locked(&CLAIMING);
        let network = self.short_name();
        let names = claims.names().map(|name| format!("{name}/{network}"));
        let mut held = locked(&self.claimed);
        let names: BTreeSet<String> = names.collect();
        let made = names.iter().filter(|name| !held.contains_key(*name));
        let made: BTreeMap<String, UnixListener> =
            made.filter_map(|name| Some((name.clone(), listen(name).ok()?))).collect();
        if let Some(taken) = claims.taken(&network) {
            return Err(taken);
        }
        held.retain(|name, _| names.contains(name));
        held.extend(made);
        Ok(())
    }

    /// Tells agents of other networks which UDP ports are those of networks by name.
    pub(crate) fn claim_ports(&self, ports: &BTreeSet<u16>) {
        let used = ports.iter().map(|port| PortUse { port: *port, taker: Taker::Agent });
        let claims = Claims { ports: used.collect(), ..Claims::default() };
        let network = self.short_name();
        let names: BTreeSet<String> = claims.names().map(|name| format!("{name}/{network}")).collect();
        let mut held = locked(&self.claimed_ports);
        held.retain(|name, _| names.contains(name));
        for name in names {
            if !held.contains_key(&name)
                && let Ok(listener) = listen(&name)
            {
                held.insert(name, listener);
            }
        }
    }

    /// True if an agent, also this one, claims a UDP port.
    pub(crate) fn is_claimed_port(&self, port: u16) -> bool {
        [&self.claimed, &self.claimed_ports].into_iter().for_each(|held| locked(held).values().for_each(take_calls));
        names_with(&format!("{PORT}{port}/")).iter().take(ASKED).any(|name| is_an_agent(name))
    }
}

impl Claims {
    /// The names of the sockets that say so, without the network's.
    fn names(&self) -> impl Iterator<Item = String> {
        let devices = self.devices.iter().map(|device| format!("{DEVICE}{device}"));
        let ranges = self.ranges.iter().map(|range| format!("{RANGE}{range}"));
        let ports = self.ports.iter().map(|used| format!("{PORT}{used}"));
        devices.chain(ranges).chain(ports)
    }

    /// The claim of another network than `own` that is in the way.
    fn taken(&self, own: &str) -> Option<Taken> {
        let device = || claimed(DEVICE, own, |text, network| self.device_in_the_way(text, network));
        let range = || claimed(RANGE, own, |text, network| self.range_in_the_way(text, network));
        let port = || claimed(PORT, own, |text, network| self.port_in_the_way(text, network));
        device().or_else(range).or_else(port)
    }

    fn device_in_the_way(&self, text: &str, network: String) -> Option<Taken> {
        let device = *self.devices.iter().find(|ours| ours.as_str() == text)?;
        Some(Taken::Device { device, network })
    }

    fn range_in_the_way(&self, text: &str, network: String) -> Option<Taken> {
        let theirs: Prefix = text.parse().ok()?;
        let range = *self.ranges.iter().find(|range| range.overlaps(theirs))?;
        Some(Taken::Range { range, theirs, network })
    }

    fn port_in_the_way(&self, text: &str, network: String) -> Option<Taken> {
        let theirs: PortUse = text.parse().ok()?;
        let port = self.ports.iter().find(|ours| !ours.goes_with(theirs))?.port;
        Some(Taken::Port { port, network })
    }
}

/// The first claim of another network than `own`, among those with such names, that is in the way. `in_the_way` is told what is claimed, and
/// by which network.
fn claimed(beginning: &str, own: &str, in_the_way: impl Fn(&str, String) -> Option<Taken>) -> Option<Taken> {
    let names = names_with(beginning);
    let taken = names.iter().filter_map(|name| {
        let (thing, network) = name[beginning.len()..].rsplit_once('/')?;
        let is_own = network == own;
        Some((name, in_the_way(thing, network.to_owned()).filter(|_| !is_own)?))
    });
    taken.take(ASKED).find(|(name, _)| is_an_agent(name)).map(|(_, taken)| taken)
}

/// Accepts the connections of other agents, so that the queue does not become full.
fn take_calls(listener: &UnixListener) {
    while listener.accept().is_ok() {}
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
        let (devices, ranges) = (vec![device.parse().unwrap()], vec![range.parse().unwrap()]);
        presence.claim(&Claims { devices, ranges, ports: Vec::new() }).map_err(|taken| taken.to_string())
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

    #[test]
    fn a_claim_that_is_refused_leaves_those_before() {
        let (one, two) = (of("holds-t5"), of("holds-t6"));
        claim(&one, "wire-t5", "203.0.113.0/25").unwrap();
        claim(&two, "wire-t6", "203.0.113.128/25").unwrap();
        assert!(claim(&one, "wire-t6", "192.0.2.0/24").is_err());
        assert!(claim(&two, "wire-t5", "192.0.2.0/24").is_err());
        // Nobody holds what was refused.
        claim(&two, "wire-t7", "192.0.2.0/24").unwrap();
    }

    #[test]
    fn each_network_is_told_the_ranges_of_the_others() {
        let (one, two) = (of("known-t9"), of("asks-t9"));
        let told = |presence: &Presence| presence.ranges_of_others().remove("known-t9");
        for range in ["198.18.9.0/25", "198.18.9.128/25"] {
            claim(&one, "wire-t9", range).unwrap();
            assert_eq!((told(&one), told(&two)), (None, Some([range.parse().unwrap()].into())));
        }
        drop(one);
        assert_eq!(told(&two), None);
    }

    #[test]
    fn a_port_is_shared_with_those_that_it_goes_with_alone() {
        let presences = ["ports-a", "ports-b"].map(of);
        let claims = |used: &str| Claims { ports: vec![used.parse().unwrap()], ..Claims::default() };
        presences[0].claim(&claims("47101/kernel")).unwrap();
        presences[1].claim(&claims("47101/kernel")).unwrap();
        let refused = presences[1].claim(&claims("47101/agent")).unwrap_err();
        assert_eq!(refused, Taken::Port { port: 47_101, network: "ports-a".to_owned() });
    }

    #[test]
    fn whoever_fills_the_queue_of_a_claim_does_not_end_it() {
        let (one, two) = (of("asked-often"), of("asks-often"));
        claim(&one, "wire-t8", "198.51.100.128/25").unwrap();
        let name = format!("{DEVICE}wire-t8/asked-often");
        let asked = (0..100_000).take_while(|_| ask(&name).is_ok()).count();
        assert!(asked < 100_000, "the queue has no end");
        one.are_others();
        assert!(claim(&two, "wire-t8", "192.0.2.128/25").is_err());
    }
}
