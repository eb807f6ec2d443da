//! What client and server have in common: the line that says what is wanted, and how long an answer may take.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::beside;

/// `Ok`, or what is wrong, for a person.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// How long any single answer may take: two busy cores need some time, but never this much.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// What a client wants of one connection. On the wire it is one line, and so are all answers before the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Echo so many bytes of this connection, then say their SHA-256.
    Stream(u64),
    /// Echo datagrams on a UDP port that the answer names, until the connection ends.
    Datagrams,
    /// Check a burst on a UDP port that the answer names and send the same one back; the connection goes on with more bursts.
    Bursts,
}

impl Request {
    pub(crate) fn to_line(self) -> String {
        match self {
            Self::Stream(bytes) => format!("stream {bytes}"),
            Self::Datagrams => "datagrams".to_owned(),
            Self::Bursts => "bursts".to_owned(),
        }
    }

    pub(crate) fn from_line(line: &str) -> Outcome<Self> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("stream", bytes) => bytes.parse().map(Self::Stream).map_err(|_| format!("no number of bytes: {line:?}")),
            ("datagrams", "") => Ok(Self::Datagrams),
            ("bursts", "") => Ok(Self::Bursts),
            _ => Err(format!("no request: {line:?}")),
        }
    }
}

/// A connection that is spoken over in lines.
#[derive(Debug)]
pub(crate) struct Control {
    stream: BufReader<TcpStream>,
}

impl Control {
    /// Connects and says what is wanted.
    pub(crate) fn connect(server: SocketAddr, request: Request) -> Outcome<Self> {
        let stream =
            TcpStream::connect_timeout(&server, PATIENCE).map_err(|error| format!("cannot reach {server}: {error}"))?;
        let mut control = Self::new(stream)?;
        control.say(&request.to_line())?;
        Ok(control)
    }

    /// Takes a connection over.
    pub(crate) fn new(stream: TcpStream) -> Outcome<Self> {
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        set.and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(|error| format!("no timeout: {error}"))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a line.
    pub(crate) fn say(&mut self, line: &str) -> Outcome {
        let sent = self.stream.get_mut().write_all(format!("{line}\n").as_bytes());
        sent.map_err(|error| format!("cannot say {line:?}: {error}"))
    }

    /// Receives a line; `None` where the other side has ended.
    pub(crate) fn hear(&mut self) -> Outcome<Option<String>> {
        let mut line = String::new();
        let read = (&mut self.stream).take(4096).read_line(&mut line);
        let read = read.map_err(|error| format!("no line from the other side: {error}"))?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }

    /// A UDP socket connected to the port that the server names next.
    pub(crate) fn udp_client(&mut self) -> Outcome<UdpSocket> {
        let port = self.hear()?.ok_or("the server has ended")?;
        let port: u16 = port.parse().map_err(|_| format!("no port: {port:?}"))?;
        let connection = self.stream.get_ref();
        let (local, server) = connection
            .local_addr()
            .and_then(|local| Ok((local, connection.peer_addr()?)))
            .map_err(|error| format!("no address: {error}"))?;
        let socket = UdpSocket::bind(beside(local)).and_then(|socket| {
            socket.connect(SocketAddr::new(server.ip(), port))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        });
        socket.map_err(|error| format!("no UDP socket: {error}"))
    }

    /// A UDP socket on the address that the client has reached, its port said to the client.
    pub(crate) fn udp_server(&mut self) -> Outcome<UdpSocket> {
        let local = self.stream.get_ref().local_addr().map_err(|error| format!("no address: {error}"))?;
        let socket = UdpSocket::bind(beside(local)).map_err(|error| format!("no UDP socket: {error}"))?;
        let port = socket.local_addr().map_err(|error| format!("no port: {error}"))?.port();
        self.say(&port.to_string())?;
        Ok(socket)
    }

    /// Both halves of the connection, for bytes: what was buffered is in the reading one.
    pub(crate) fn into_halves(self) -> Outcome<(BufReader<TcpStream>, TcpStream)> {
        let writer = self.stream.get_ref().try_clone().map_err(|error| format!("no second handle: {error}"))?;
        Ok((self.stream, writer))
    }

    /// Returns when the other side ends the connection, or says anything.
    pub(crate) fn wait_end(&mut self) {
        let _ = self.stream.get_ref().set_read_timeout(None);
        let _ = self.stream.fill_buf();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_line() {
        for request in [Request::Stream(5_000_011), Request::Datagrams, Request::Bursts] {
            assert_eq!(Request::from_line(&request.to_line()), Ok(request));
        }
        assert!(Request::from_line("stream").is_err() && Request::from_line("bursts 1").is_err());
    }
}
