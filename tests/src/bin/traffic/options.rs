//! The command line.

use std::net::SocketAddr;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: traffic serve ADDRESS:PORT
       traffic streams   ADDRESS:PORT SIZES [--flows N]   TCP streams of these sizes in bytes, echoed, checked by SHA-256
       traffic datagrams ADDRESS:PORT SIZES [--flows N]   UDP datagrams of these sizes, echoed, each one compared
       traffic bursts    ADDRESS:PORT SIZES [--flows N]   bursts that the kernel cuts into datagrams of these sizes, both ways

  SIZES     1,1447,65537 or 0..=1422 or a mixture: 1..=9,1447
  --flows   so many at once, each with ports of its own; 1 where it is left out";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Show the usage.
    Help,
    /// Answer clients.
    Serve(SocketAddr),
    /// Send TCP streams.
    Streams { server: SocketAddr, sizes: Vec<u32>, flows: u16 },
    /// Send UDP datagrams.
    Datagrams { server: SocketAddr, sizes: Vec<u32>, flows: u16 },
    /// Send bursts.
    Bursts { server: SocketAddr, sizes: Vec<u32>, flows: u16 },
}

impl Task {
    /// Reads the words after the program's name; the error is for the person who wrote them.
    pub(crate) fn from_arguments(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let words: Vec<String> = words.collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["-h" | "--help"] => Ok(Self::Help),
            ["serve", server] => Ok(Self::Serve(address(server)?)),
            [kind, server, list] => Self::client(kind, server, list, "1"),
            [kind, server, list, "--flows", flows] => Self::client(kind, server, list, flows),
            _ => Err(USAGE.to_owned()),
        }
    }

    fn client(kind: &str, server: &str, list: &str, flows: &str) -> Result<Self, String> {
        let (server, sizes) = (address(server)?, sizes(list)?);
        let flows = flows.parse().map_err(|_| format!("traffic: {flows:?} is no number of flows\n{USAGE}"))?;
        match kind {
            "streams" => Ok(Self::Streams { server, sizes, flows }),
            "datagrams" => Ok(Self::Datagrams { server, sizes, flows }),
            "bursts" => Ok(Self::Bursts { server, sizes, flows }),
            other => Err(format!("traffic: there is no {other:?}\n{USAGE}")),
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("traffic: {text:?} is no address and port, 10.5.1.0:7000 or [fd00::1]:7000\n{USAGE}"))
}

fn sizes(text: &str) -> Result<Vec<u32>, String> {
    let mut sizes = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once("..=").unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("traffic: {part:?} is no size\n{USAGE}"));
        sizes.extend(number(first)?..=number(last)?);
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(line: &str) -> Result<Task, String> {
        Task::from_arguments(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn sizes_are_single_ones_and_ranges() {
        assert_eq!(sizes("0..=3,7,9..=9"), Ok(vec![0, 1, 2, 3, 7, 9]));
        assert!(sizes("1..3").is_err() && sizes("").is_err() && sizes("-1").is_err());
    }

    #[test]
    fn a_client_has_one_flow_unless_it_is_told_otherwise() {
        let server = SocketAddr::from(([10, 5, 1, 0], 7000));
        assert_eq!(task("streams 10.5.1.0:7000 1"), Ok(Task::Streams { server, sizes: vec![1], flows: 1 }));
        let flows = task("datagrams 10.5.1.0:7000 1,2 --flows 32");
        assert_eq!(flows, Ok(Task::Datagrams { server, sizes: vec![1, 2], flows: 32 }));
        assert!(task("streams 10.5.1.0 1").is_err() && task("streams 10.5.1.0:7000").is_err());
    }
}
