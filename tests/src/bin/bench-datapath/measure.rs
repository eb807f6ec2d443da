//! What is measured, and what figures that gives.

use std::{fmt, time::Duration};

use wire_tests::Result;

use crate::{
    busy::Clock,
    flood,
    iperf::{self, End, Streams},
    pair::Pair,
    ping,
};

/// How many pings a calm link is asked.
const PINGS: u32 = 20;

/// One thing that is done to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measurement {
    /// One TCP stream, with pings beside it.
    Tcp1,
    /// Four TCP streams.
    Tcp4,
    /// A TCP stream each way.
    Both,
    /// A flood of small packets, all of one flow.
    Pps1,
    /// A flood of small packets of 64 flows.
    Pps64,
    /// Pings, and nothing else.
    Ping,
}

/// One figure that comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// Of one TCP stream.
    Tcp1,
    /// Of four TCP streams together.
    Tcp4,
    /// Of a TCP stream each way, together.
    Both,
    /// What one TCP stream costs all processors together, both iperf3s included.
    Cost,
    /// Small packets received, one flow.
    Pps1,
    /// The same for each busy processor.
    PpsPerCore1,
    /// Small packets received, 64 flows.
    Pps64,
    /// The same for each busy processor.
    PpsPerCore64,
    /// The median round trip while nothing else happens.
    PingIdle,
    /// The median round trip beside one TCP stream.
    PingLoaded,
}

/// A contestant's turn.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    /// Whose.
    pub(crate) pair: &'a Pair,
    /// How long.
    pub(crate) length: Duration,
}

impl Measurement {
    /// All, in the order in which they are taken.
    pub(crate) const ALL: [Self; 6] = [Self::Tcp1, Self::Tcp4, Self::Both, Self::Pps1, Self::Pps64, Self::Ping];

    /// Those by which rules are compared.
    pub(crate) const OF_RULES: [Self; 4] = [Self::Tcp1, Self::Tcp4, Self::Pps1, Self::Pps64];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp1 => "tcp1",
            Self::Tcp4 => "tcp4",
            Self::Both => "both",
            Self::Pps1 => "pps1",
            Self::Pps64 => "pps64",
            Self::Ping => "ping",
        }
    }

    /// Takes it.
    ///
    /// # Errors
    /// Where it cannot be taken.
    pub(crate) fn take(self, turn: &Turn<'_>) -> Result<Vec<(Figure, f64)>> {
        match self {
            Self::Tcp1 => turn.tcp1(),
            Self::Tcp4 => turn.tcp(Streams::Forth(4), Figure::Tcp4),
            Self::Both => turn.tcp(Streams::Both, Figure::Both),
            Self::Pps1 => turn.flood(1, [Figure::Pps1, Figure::PpsPerCore1]),
            Self::Pps64 => turn.flood(64, [Figure::Pps64, Figure::PpsPerCore64]),
            Self::Ping => turn.ping(),
        }
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Figure {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 10] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Both,
        Self::Cost,
        Self::Pps1,
        Self::PpsPerCore1,
        Self::Pps64,
        Self::PpsPerCore64,
        Self::PingIdle,
        Self::PingLoaded,
    ];

    /// What it is, and its unit.
    pub(crate) const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Tcp1 => ("TCP ×1", "Gb/s"),
            Self::Tcp4 => ("TCP ×4", "Gb/s"),
            Self::Both => ("TCP both ways", "Gb/s"),
            Self::Cost => ("TCP ×1, work", "CPU-s per Gb"),
            Self::Pps1 => ("64 B UDP, one flow", "k packets/s"),
            Self::PpsPerCore1 => ("64 B UDP, one flow, per busy core", "k packets/s"),
            Self::Pps64 => ("64 B UDP, 64 flows", "k packets/s"),
            Self::PpsPerCore64 => ("64 B UDP, 64 flows, per busy core", "k packets/s"),
            Self::PingIdle => ("ping", "ms"),
            Self::PingLoaded => ("ping beside TCP ×1", "ms"),
        }
    }
}

impl Turn<'_> {
    fn tcp1(&self) -> Result<Vec<(Figure, f64)>> {
        let interval = Duration::from_millis(100);
        // All but the last half second: they are to end before the stream does.
        let count = u32::try_from(self.length.as_millis() / interval.as_millis()).unwrap_or(u32::MAX);
        let pings = ping::start(self.pair, count.saturating_sub(5).max(1), interval)?;
        let clock = Clock::read()?;
        let received = iperf::run(self.pair, Streams::Forth(1), End::After(self.length))?;
        let work = clock.since()?;
        let cost = work.busy.as_secs_f64() / (received.bits / 1e9);
        Ok(vec![
            (Figure::Tcp1, received.bits_per_second / 1e9),
            (Figure::Cost, cost),
            (Figure::PingLoaded, pings.median()?),
        ])
    }

    fn tcp(&self, streams: Streams, figure: Figure) -> Result<Vec<(Figure, f64)>> {
        let received = iperf::run(self.pair, streams, End::After(self.length))?;
        Ok(vec![(figure, received.bits_per_second / 1e9)])
    }

    fn flood(&self, flows: u8, [packets, per_core]: [Figure; 2]) -> Result<Vec<(Figure, f64)>> {
        let arrived = flood::run(self.pair, flows, self.length)?;
        let thousands = arrived.packets as f64 / 1e3;
        let (elapsed, busy) = (arrived.work.elapsed.as_secs_f64(), arrived.work.busy.as_secs_f64());
        // Packets a second by busy processors: the seconds cancel out.
        Ok(vec![(packets, thousands / elapsed), (per_core, thousands / busy)])
    }

    fn ping(&self) -> Result<Vec<(Figure, f64)>> {
        let quick = self.length <= Duration::from_secs(1);
        let count = if quick { PINGS / 4 } else { PINGS };
        let pings = ping::start(self.pair, count, Duration::from_millis(200))?;
        Ok(vec![(Figure::PingIdle, pings.median()?)])
    }
}
