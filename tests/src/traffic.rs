//! The traffic tool, `bin/traffic`, inside namespaces: traffic whose contents are checked, both ways.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{Namespace, Process, Result, check, command::output, eventually, program};

/// The port that every server has, each in a namespace of its own.
const PORT: u16 = 7000;
/// How long one exchange may take, in seconds.
const LIMIT: &str = "60";

/// What is exchanged. The sizes are in bytes, as the tool's command line has them: `1,1447` or `1..=1422`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// TCP streams, echoed, checked by SHA-256.
    Streams(String),
    /// UDP datagrams, echoed, each one compared.
    Datagrams(String),
    /// Bursts of datagrams of these sizes that the kernel cuts (UDP_SEGMENT), each datagram compared, both ways.
    Bursts(String),
}

/// A server of the tool. Dropped, it is killed.
#[derive(Debug)]
pub struct TrafficServer {
    address: SocketAddr,
    process: Process,
}

impl TrafficServer {
    /// Starts one on an address of a namespace and waits until it listens.
    ///
    /// # Errors
    /// Where it does not listen in ten seconds.
    pub fn start(namespace: &Namespace, address: IpAddr) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let run = namespace.run();
        let address = SocketAddr::new(address, PORT);
        let log = run.dir().join(format!("traffic.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut command = namespace.command(program("traffic")?.display().to_string());
        let process = Process::start(run, command.args(["serve", &address.to_string()]), log)?;
        let server = Self { address, process };
        eventually(Duration::from_secs(10), || {
            check(server.process.log().contains("listening"), || format!("no traffic server: {}", server.process.log()))
        })?;
        Ok(server)
    }

    /// Exchanges something between a namespace and this server, so many flows at once.
    ///
    /// # Errors
    /// Names what differs or does not come, and what the server says of it.
    pub fn exchange(&self, from: &Namespace, exchange: &Exchange, flows: u16) -> Result {
        let (kind, sizes) = match exchange {
            Exchange::Streams(sizes) => ("streams", sizes),
            Exchange::Datagrams(sizes) => ("datagrams", sizes),
            Exchange::Bursts(sizes) => ("bursts", sizes),
        };
        let mut command = from.command("timeout");
        command.arg(LIMIT).arg(program("traffic")?).args([kind, &self.address.to_string(), sizes]);
        let done = output(command.args(["--flows", &flows.to_string()]));
        done.map(drop).map_err(|error| match self.process.log().lines().rfind(|line| line.contains("client")) {
            Some(line) => crate::LabError::Wrong(format!("{error}\nthe server: {line}")),
            None => error,
        })
    }
}
