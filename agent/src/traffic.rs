//! Checks by the kernel's counters that packets from peers arrive, since packets lost on the way cause no error.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tracing::Instrument as _;
use wire_backends::{Identity, identify};
use wire_kernel::{DeviceCounters, Traffic};
use wire_lease::{LeaseTable, NetworkConfig};
use wire_net::LinkName;

use crate::{
    ports::Ports,
    status::{StatusWriter, UnderlayCondition},
};

/// The interval at which the counters are read.
const PERIOD: Duration = Duration::from_secs(5);
/// The time over which counters are compared.
const WINDOW: Duration = Duration::from_secs(60);
/// The number of sent packets after which a lack of received ones is suspicious.
const SENT: u64 = 20;
/// The number of broken packets that causes a warning. Anybody can send one.
const BROKEN: u64 = 3;

/// The task that reads the counters. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct TrafficWatch(JoinHandle<()>);

impl TrafficWatch {
    pub(crate) fn start(
        ports: impl Ports,
        config: &NetworkConfig,
        status: StatusWriter,
        leases: watch::Receiver<Option<Arc<LeaseTable>>>,
    ) -> Self {
        let Identity { devices, port, .. } = identify(config).unwrap_or_default();
        let devices = devices.iter().map(|(_, name)| *name).collect();
        let mut watch = Watch { port, devices, ..Watch::default() };
        let watching = async move {
            loop {
                let reader = ports.clone();
                // Reading files blocks.
                if let Ok(Ok(traffic)) = ports.blocking(move || reader.traffic()).await {
                    let peers = leases.borrow().as_ref().map_or(0, |table| table.peers.len());
                    watch.note(Instant::now(), &traffic, peers);
                    status.set(UnderlayCondition::CHECKSUMS, watch.broken());
                    status.set(UnderlayCondition::SILENCE, watch.silent());
                }
                tokio::time::sleep(PERIOD).await;
            }
        };
        Self(tokio::spawn(watching.in_current_span()))
    }
}

impl Drop for TrafficWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The counters of the last minute. Pure.
#[derive(Debug, Default)]
struct Watch {
    devices: Vec<LinkName>,
    /// The UDP port of encapsulated packets, if they are in UDP.
    port: Option<u16>,
    /// Packets with wrong checksums, as counted within the window.
    bad: VecDeque<(Instant, u64)>,
    /// The devices that have never received a packet.
    silent: BTreeMap<LinkName, Silence>,
}

#[derive(Clone, Copy, Debug)]
struct Silence {
    since: Instant,
    last: Instant,
    before: u64,
    now: u64,
}

impl Watch {
    fn note(&mut self, at: Instant, traffic: &Traffic, peers: usize) {
        self.bad.push_back((at, traffic.bad_checksums));
        while self.bad.front().is_some_and(|(then, _)| at.duration_since(*then) > WINDOW) {
            self.bad.pop_front();
        }
        for device in &self.devices {
            match traffic.devices.get(device) {
                Some(DeviceCounters { received: 0, sent }) if peers > 0 => {
                    let new = Silence { since: at, last: at, before: *sent, now: *sent };
                    let silence = self.silent.entry(*device).or_insert(new);
                    // Another device of that name begins anew.
                    *silence = if *sent < silence.now { new } else { Silence { last: at, now: *sent, ..*silence } };
                }
                Some(_) | None => drop(self.silent.remove(device)),
            }
        }
    }

    /// The warning about packets with wrong checksums.
    fn broken(&self) -> Option<UnderlayCondition> {
        let (port, device) = (self.port?, *self.devices.first()?);
        let (first, last) = (self.bad.front()?.1, self.bad.back()?.1);
        let count = last.saturating_sub(first);
        (count >= BROKEN).then_some(UnderlayCondition::BadChecksums { count, port, device })
    }

    /// The warning about devices that send and never received anything.
    fn silent(&self) -> Option<UnderlayCondition> {
        let sent = |silence: &Silence| silence.now - silence.before;
        let lasts = |silence: &Silence| silence.last.duration_since(silence.since) >= WINDOW && sent(silence) >= SENT;
        let lasting = self.silent.iter().filter(|(_, silence)| lasts(silence));
        let devices: Vec<(LinkName, u64)> = lasting.map(|(device, silence)| (*device, sent(silence))).collect();
        (!devices.is_empty()).then_some(UnderlayCondition::NothingReceived { devices, port: self.port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> LinkName {
        "flannel.1".parse().unwrap()
    }

    /// The second, packets received and sent, and wrong checksums.
    type Sample = (u64, u64, u64, u64);

    /// The warnings after these samples.
    fn said_of(peers: usize, samples: &[Sample]) -> (Option<String>, Option<String>) {
        let mut watch = Watch { devices: vec![name()], port: Some(8472), ..Watch::default() };
        let start = Instant::now();
        for (second, received, sent, bad_checksums) in samples.iter().copied() {
            let devices = [(name(), DeviceCounters { received, sent })].into();
            watch.note(start + Duration::from_secs(second), &Traffic { devices, bad_checksums }, peers);
        }
        let text = |condition: UnderlayCondition| condition.message().to_string();
        (watch.silent().map(text), watch.broken().map(text))
    }

    #[test]
    fn a_device_that_has_sent_for_a_minute_and_never_received_is_named_with_its_port() {
        let (silent, broken) = said_of(2, &[(0, 0, 5, 0), (30, 0, 15, 0), (60, 0, 25, 0)]);
        let silent = silent.unwrap();
        assert!(
            silent.starts_with("20 packets were sent to peers through flannel.1, and none was ever received"),
            "{silent}"
        );
        assert!(silent.contains("UDP port 8472") && silent.contains("Backend.Port"), "{silent}");
        assert_eq!(broken, None);
    }

    #[test]
    fn nothing_is_said_without_peers_of_little_traffic_or_where_anything_has_ever_come() {
        let cases: [(&str, usize, &[Sample]); 7] = [
            ("no peers", 0, &[(0, 0, 0, 0), (60, 0, 500, 0)]),
            ("idle", 2, &[(0, 0, 0, 0), (600, 0, 0, 0)]),
            ("few packets", 2, &[(0, 0, 0, 0), (60, 0, 19, 0)]),
            ("too soon", 2, &[(0, 0, 0, 0), (59, 0, 500, 0)]),
            ("answered at last", 2, &[(0, 0, 0, 0), (60, 0, 500, 0), (65, 1, 501, 0)]),
            ("answered long ago, and one-way since", 2, &[(0, 7, 100, 0), (60, 7, 900, 0)]),
            ("a device made anew", 2, &[(0, 0, 100, 0), (55, 0, 3, 0), (70, 0, 40, 0)]),
        ];
        for (what, peers, samples) in cases {
            assert_eq!(said_of(peers, samples), (None, None), "{what}");
        }
    }

    #[test]
    fn wrong_checksums_that_grow_are_named_with_the_remedy_and_forgotten_when_they_end() {
        let (_, broken) = said_of(2, &[(0, 9, 9, 100), (5, 9, 9, 103)]);
        let broken = broken.unwrap();
        assert!(broken.starts_with("3 UDP packets came with wrong checksums"), "{broken}");
        assert!(broken.contains("ethtool -K flannel.1 tx-checksum-ip-generic off") && broken.contains("Backend.Port"));
        for samples in [
            &[(0, 9, 9, 100), (5, 9, 9, 102)][..],
            &[(0, 9, 9, 100), (5, 9, 9, 200), (66, 9, 9, 200)],
            &[(0, 9, 9, 5_000)],
        ] {
            assert_eq!(said_of(2, samples).1, None, "{samples:?}");
        }
    }
}
