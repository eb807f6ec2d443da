//! Bursts: one send of many datagrams that the kernel cuts (UDP_SEGMENT, udp(7)), as QUIC stacks do. Each datagram is compared
//! where it arrives, then the same burst returns.
//!
//! The device that the burst leaves by must have checksum offload before Linux 6.11, as a veth has.

use std::{
    io::IoSlice,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};

use crate::{
    control::{Control, Outcome, PATIENCE, Request},
    pattern::{bytes, difference},
};

/// The most datagrams one send may hold: `UDP_MAX_SEGMENTS` of Linux before 6.9.
const MOST: usize = 64;
/// The most bytes one send may hold, with room for the headers of IPv6.
const LARGEST: usize = 65_000;

/// One burst. Its last datagram may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Burst {
    /// The bytes of each datagram, at least 1.
    segment: usize,
    /// The bytes of all of them.
    total: usize,
    /// What the contents are made from.
    seed: u64,
}

impl Burst {
    /// For a segment's size: two datagrams, many, as many as possible; with and without a shorter last one.
    fn of_segment(segment: u32, flow: u16) -> Vec<Self> {
        let segment = segment as usize;
        let most = MOST.min(LARGEST / segment);
        let totals = [segment + 1, 17 * segment - segment / 2, most * segment];
        let fitting = totals.into_iter().filter(|total| *total <= most * segment);
        fitting.map(|total| Self { segment, total, seed: (total << 16) as u64 | u64::from(flow) }).collect()
    }

    fn to_line(self) -> String {
        format!("{} {} {}", self.segment, self.total, self.seed)
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let segment = words.next()?.parse().ok().filter(|segment| *segment > 0)?;
        let burst = Self { segment, total: words.next()?.parse().ok()?, seed: words.next()?.parse().ok()? };
        words.next().is_none().then_some(burst)
    }

    fn send(self, socket: &UdpSocket, to: Option<SocketAddr>) -> Outcome {
        let contents = bytes(self.seed, self.total);
        let segment = u16::try_from(self.segment).map_err(|_| format!("no datagram has {} bytes", self.segment))?;
        let to = to.map(SockaddrStorage::from);
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let sent = sendmsg(socket.as_raw_fd(), &[IoSlice::new(&contents)], &control, MsgFlags::empty(), to.as_ref());
        match sent {
            Ok(sent) if sent == self.total => Ok(()),
            Ok(sent) => Err(format!("{self:?}: only {sent} bytes were sent")),
            Err(error) => Err(format!("{self:?}: cannot be sent: {error}")),
        }
    }

    /// Receives it and says where the last datagram came from.
    fn receive(self, socket: &UdpSocket) -> Outcome<Option<SocketAddr>> {
        let contents = bytes(self.seed, self.total);
        let mut buffer = vec![0; LARGEST];
        let mut from = None;
        for (number, want) in contents.chunks(self.segment).enumerate() {
            let (len, sender) = socket
                .recv_from(&mut buffer)
                .map_err(|error| format!("{self:?}: datagram {number} does not come: {error}"))?;
            from = Some(sender);
            if let Some(difference) = difference(want, &buffer[..len]) {
                return Err(format!("{self:?}: datagram {number}: {difference}"));
            }
        }
        Ok(from)
    }
}

/// Sends bursts for each segment size and checks those that return.
pub(crate) fn run(server: SocketAddr, segments: &[u32], flow: u16) -> Outcome {
    let mut control = Control::connect(server, Request::Bursts)?;
    let socket = control.udp_client()?;
    for burst in segments.iter().filter(|segment| **segment > 0).flat_map(|segment| Burst::of_segment(*segment, flow)) {
        control.say(&burst.to_line())?;
        burst.send(&socket, None)?;
        match control.hear()?.as_deref() {
            Some("ok") => burst.receive(&socket).map_err(|error| format!("on the way back: {error}"))?,
            Some(wrong) => return Err(format!("on the way there: {wrong}")),
            None => return Err(format!("on the way there: {burst:?}: the server has ended")),
        };
    }
    Ok(())
}

/// Checks bursts and returns them until the connection ends.
pub(crate) fn answer(mut control: Control) -> Outcome {
    let socket = control.udp_server()?;
    socket.set_read_timeout(Some(PATIENCE / 2)).map_err(|error| format!("no timeout: {error}"))?;
    while let Some(line) = control.hear()? {
        let burst = Burst::from_line(&line).ok_or_else(|| format!("no burst: {line:?}"))?;
        match burst.receive(&socket) {
            Ok(client) => {
                control.say("ok")?;
                burst.send(&socket, client)?;
            }
            Err(wrong) => control.say(&wrong)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_fit_into_one_send_and_survive_their_line() {
        for segment in 1..=9000 {
            let bursts = Burst::of_segment(segment, 3);
            assert!(!bursts.is_empty());
            for burst in bursts {
                assert!(burst.total <= LARGEST && burst.total.div_ceil(burst.segment) <= MOST);
                assert_eq!(Burst::from_line(&burst.to_line()), Some(burst));
            }
        }
    }

    #[test]
    fn a_burst_arrives_as_datagrams() {
        let (one, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let burst = Burst { segment: 100, total: 250, seed: 7 };
        burst.send(&one, Some(other.local_addr().unwrap())).unwrap();
        assert_eq!(burst.receive(&other), Ok(Some(one.local_addr().unwrap())));
        burst.send(&one, Some(other.local_addr().unwrap())).unwrap();
        let wrong = Burst { seed: 8, ..burst }.receive(&other).unwrap_err();
        assert!(wrong.contains("datagram 0: of 100 bytes"), "{wrong}");
    }
}
