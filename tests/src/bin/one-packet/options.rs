//! Its command line.

use std::net::{IpAddr, SocketAddr};

use crate::subnet::Subnet;

/// What is printed beside an error.
pub(crate) const USAGE: &str =
    "usage: one-packet --tun NAME --mtu BYTES --local IP:PORT --peer SUBNET=IP:PORT [--peer …]";

/// What to forward, and between whom.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The TUN device; it is made.
    pub(crate) tun: String,
    /// Its MTU, in bytes.
    pub(crate) mtu: u16,
    /// Where the UDP socket is bound.
    pub(crate) local: SocketAddr,
    /// The other hosts. The first whose subnet holds an address has it.
    pub(crate) peers: Vec<Peer>,
}

/// Another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// What lies behind it.
    pub(crate) subnet: Subnet,
    /// Where it listens.
    pub(crate) at: SocketAddr,
}

impl Options {
    /// Reads the words after the program's name; the error is for the person who wrote them.
    pub(crate) fn from_arguments(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut tun, mut mtu, mut local, mut peers) = (None, None, None, Vec::new());
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
            let wrong = || format!("{value:?} is no value for {word}");
            match word.as_str() {
                "--tun" => tun = Some(value),
                "--mtu" => mtu = Some(value.parse().map_err(|_| wrong())?),
                "--local" => local = Some(value.parse().map_err(|_| wrong())?),
                "--peer" => peers.push(Peer::parse(&value).ok_or_else(wrong)?),
                _ => return Err(format!("no option is called {word:?}")),
            }
        }
        let lacks = |name: &str| format!("{name} is missing");
        Ok(Self {
            tun: tun.ok_or_else(|| lacks("--tun"))?,
            mtu: mtu.ok_or_else(|| lacks("--mtu"))?,
            local: local.ok_or_else(|| lacks("--local"))?,
            peers,
        })
    }

    /// The peer that has an address.
    pub(crate) fn peer(&self, address: IpAddr) -> Option<SocketAddr> {
        self.peers.iter().find(|peer| peer.subnet.contains(address)).map(|peer| peer.at)
    }
}

impl Peer {
    fn parse(text: &str) -> Option<Self> {
        let (subnet, at) = text.split_once('=')?;
        Some(Self { subnet: Subnet::parse(subnet)?, at: at.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        Options::from_arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_destination_belongs_to_the_peer_whose_subnet_holds_it() {
        let line = "--tun flannel0 --mtu 1472 --local 192.168.64.2:8285 \
                    --peer 10.5.1.0/24=192.168.64.3:8285 --peer fd00:5:1::/64=[fd64::4]:8286";
        let options = options(line).unwrap();
        assert_eq!((options.tun.as_str(), options.mtu), ("flannel0", 1472));
        let at = |address: &str| options.peer(address.parse().unwrap()).map(|at| at.to_string());
        assert_eq!(at("10.5.1.77").as_deref(), Some("192.168.64.3:8285"));
        assert_eq!(at("fd00:5:1::7").as_deref(), Some("[fd64::4]:8286"));
        assert_eq!(at("10.5.2.1"), None);
        assert_eq!(at("fd00:5:2::7"), None);
    }

    #[test]
    fn a_line_that_says_too_little_or_nonsense_is_refused() {
        let whole = "--tun t0 --mtu 1472 --local 10.0.0.1:1";
        assert!(options(whole).is_ok());
        for wrong in ["--mtu 70000", "--peer 10.5.1.0=10.0.0.1:1", "--local 10.0.0.1", "--speed 1", "--tun"] {
            assert!(options(&format!("{whole} {wrong}")).is_err(), "{wrong}");
        }
        assert!(options("--tun t0 --mtu 1472").is_err());
    }
}
