//! Sockets of containers, and a counter between the hosts.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use wire_tests::{LabError, Leg, Namespace, Result};

/// The port that packets are sent to.
pub(crate) const PORT: u16 = 7007;

/// The socket of a container with one address.
pub(crate) struct Probe {
    socket: UdpSocket,
}

impl Probe {
    pub(crate) fn new(leg: &Leg, address: IpAddr) -> Result<Self> {
        let bound = leg.namespace().inside(|| UdpSocket::bind((address, PORT)))?;
        let socket = bound.map_err(LabError::io(format!("cannot bind {address}")))?;
        Ok(Self { socket })
    }

    /// Sends a packet. A kernel that refuses it has dropped it.
    pub(crate) fn send(&self, to: IpAddr, number: u32) {
        let _ = self.socket.send_to(&number.to_be_bytes(), SocketAddr::new(to, PORT));
    }

    /// Whether the packet with this number comes in time.
    pub(crate) fn takes(&self, number: u32, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        let mut bytes = [0; 64];
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).map_err(LabError::io("cannot wait for a packet"))?;
            match self.socket.recv(&mut bytes) {
                Ok(4) if bytes[..4] == number.to_be_bytes() => return Ok(true),
                // Another packet, the end of the wait, or an ICMP error for an earlier packet.
                Ok(_) | Err(_) => {}
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }
}

/// Counts encapsulated packets on the bridge between the hosts, by the port that they come in by.
pub(crate) fn count_on(underlay: &Namespace, ports: [&str; 2]) -> Result {
    let mut script = "nft add table bridge trace; nft add chain bridge trace seen '{ type filter hook prerouting priority -300; }'\n".to_owned();
    for port in ports {
        script.push_str(&format!(
            "nft add counter bridge trace {port}; nft add rule bridge trace seen iifname {port} udp dport 8472 counter name {port}\n"
        ));
    }
    underlay.sh(&script).map(drop)
}

/// The number of encapsulated packets that came in by a port.
pub(crate) fn counted(underlay: &Namespace, port: &str) -> Result<u64> {
    let text = underlay.exec(&format!("nft list counter bridge trace {port}"))?;
    let number = text
        .split("packets ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok());
    number.ok_or(LabError::Wrong(text))
}
