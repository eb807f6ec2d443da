//! A plain peer of flannel's backend `udp`: the program `one-packet`, which moves one packet a system call, as flannel does.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{Host, LabError, Process, Result, check, eventually, program};

/// What it is started with, and what is set up around its TUN device.
#[derive(Clone, Debug)]
pub struct OnePacketSpec<'a> {
    /// The name of the TUN device.
    pub tun: &'a str,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its address with the length: `10.5.100.0/32`.
    pub address: &'a str,
    /// The network that is routed into it: `10.5.0.0/16`.
    pub network: &'a str,
    /// Where it receives.
    pub local: SocketAddr,
    /// The subnets of its peers, any address in them with the length, and where each peer receives.
    pub peers: Vec<(String, SocketAddr)>,
}

/// A running one. Dropped, it is killed.
#[derive(Debug)]
pub struct OnePacket {
    process: Process,
}

impl OnePacket {
    /// Starts one on a host and gives its device an address and a route.
    ///
    /// # Errors
    /// Where the device does not appear in five seconds; with what it has said.
    pub fn start(host: &Host, spec: &OnePacketSpec<'_>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let log = host.dir().join(format!("one-packet.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let OnePacketSpec { tun, mtu, address, network, local, peers } = spec;
        let namespace = host.namespace();
        let mut command = namespace.command(program("one-packet")?.display().to_string());
        command.args(["--tun", tun, "--mtu", &mtu.to_string(), "--local", &local.to_string()]);
        for (subnet, peer) in peers {
            command.args(["--peer", &format!("{}={peer}", first_of(subnet)?)]);
        }
        let process = Process::start(namespace.run(), &mut command, log)?;
        eventually(Duration::from_secs(5), || {
            check(host.kernel().link(tun)?.is_some(), || format!("no device {tun}: {}", process.log()))
        })?;
        namespace.ip(&format!("link set {tun} mtu {mtu} up"))?;
        // It may have done part of this itself.
        let nodad = if address.contains(':') { "nodad" } else { "" };
        namespace.ip(&format!("address replace {address} dev {tun} {nodad}"))?;
        namespace.ip(&format!("route replace {network} dev {tun}"))?;
        Ok(Self { process })
    }
}

impl OnePacket {
    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// The subnet that an address with a length lies in: `10.5.7.0/24` of `10.5.7.1/24`.
fn first_of(subnet: &str) -> Result<String> {
    let wrong = || LabError::Wrong(format!("{subnet:?} is no subnet"));
    let (address, len) = subnet.split_once('/').ok_or_else(wrong)?;
    let first: IpAddr = match (address.parse().map_err(|_| wrong())?, len.parse::<u32>().map_err(|_| wrong())?) {
        (IpAddr::V4(v4), len @ 0..=32) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.unbounded_shl(32 - len)).into(),
        (IpAddr::V6(v6), len @ 0..=128) => {
            Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.unbounded_shl(128 - len)).into()
        }
        (IpAddr::V4(_) | IpAddr::V6(_), _) => return Err(wrong()),
    };
    Ok(format!("{first}/{len}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_known_by_any_of_its_addresses() {
        assert_eq!(first_of("10.5.7.1/24").unwrap(), "10.5.7.0/24");
        assert_eq!(first_of("fd00:5:0:ae::1/64").unwrap(), "fd00:5:0:ae::/64");
        assert_eq!(first_of("10.5.7.1/0").unwrap(), "0.0.0.0/0");
        assert!(first_of("10.5.7.1").is_err() && first_of("10.5.7.1/33").is_err());
    }
}
