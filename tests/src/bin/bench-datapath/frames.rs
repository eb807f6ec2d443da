//! What frames cross the underlay: such as a wire carries, or the large ones that a veth passes on unsegmented.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use wire_tests::{Host, LabError, Namespace, Result, Underlay, check};

/// How a veth sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Frames {
    /// All segmentation offload is off at both ends of each veth: a frame is no longer than the MTU, as on a wire.
    Real,
    /// As a veth comes: it says that it segments, and hands up to 64 KiB over in one piece.
    Offloads,
}

impl Frames {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Real, Self::Offloads];

    /// Its name on the command line and for programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Offloads => "offloads",
        }
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Real => "real frames",
            Self::Offloads => "offloads on",
        })
    }
}

/// The veths of all hosts, at both ends.
pub(crate) struct Uplinks {
    devices: Vec<Device>,
    segmentation: Vec<String>,
}

/// How the veths are set, as `ethtool -k` has it.
#[derive(Serialize)]
pub(crate) struct Setting {
    /// What is off with real frames, and on else, at both ends.
    pub(crate) segmentation: Vec<String>,
    /// `tx-checksumming` at both ends, always.
    pub(crate) tx_checksumming: bool,
    /// `generic-receive-offload` of the hosts' uplinks, always.
    pub(crate) gro_at_hosts: bool,
    /// `generic-receive-offload` of the bridge's ports, always: a switch merges nothing.
    pub(crate) gro_at_bridge: bool,
}

struct Device {
    namespace: Namespace,
    name: String,
}

impl Uplinks {
    /// Those of these hosts, with or without GRO where frames come into a host.
    ///
    /// # Errors
    /// Where `ethtool` does not do as it is told.
    pub(crate) fn new<'a>(underlay: &Underlay, hosts: impl Iterator<Item = &'a Host>, gro: bool) -> Result<Self> {
        let mut devices = Vec::new();
        for host in hosts {
            let uplink = Device { namespace: host.namespace().clone(), name: "eth0".to_owned() };
            uplink.switch(&[GRO.to_owned()], gro)?;
            devices.push(uplink);
            devices.push(Device { namespace: underlay.namespace().clone(), name: host.port().to_owned() });
        }
        let first = devices.first().ok_or_else(|| LabError::Wrong("there are no hosts".to_owned()))?;
        let segmentation = segmentation(&first.features()?);
        Ok(Self { devices, segmentation })
    }

    /// Makes all veths send such frames.
    ///
    /// # Errors
    /// Where `ethtool` does not do as it is told.
    pub(crate) fn set(&self, frames: Frames) -> Result {
        self.devices.iter().try_for_each(|device| device.switch(&self.segmentation, frames == Frames::Offloads))
    }

    /// How they are set, besides what [`Uplinks::set`] changes.
    ///
    /// # Errors
    /// Where `ethtool` fails.
    pub(crate) fn setting(&self) -> Result<Setting> {
        let all_on = |feature: &str, uplinks: bool| {
            let devices = self.devices.iter().filter(|device| (device.name == "eth0") == uplinks);
            let on = devices.map(|device| Ok(device.features()?.get(feature) == Some(&State::On)));
            Ok::<_, LabError>(on.collect::<Result<Vec<_>>>()?.into_iter().all(|on| on))
        };
        Ok(Setting {
            segmentation: self.segmentation.clone(),
            tx_checksumming: all_on(CHECKSUMS, true)? && all_on(CHECKSUMS, false)?,
            gro_at_hosts: all_on(GRO, true)?,
            gro_at_bridge: all_on(GRO, false)?,
        })
    }
}

/// What merges received segments.
const GRO: &str = "generic-receive-offload";
/// What leaves a checksum for the device to fill in.
const CHECKSUMS: &str = "tx-checksumming";
/// What hands unsegmented packets to a device that can segment none of their kind.
const GSO: &str = "generic-segmentation-offload";

impl Device {
    /// Turns features on or off, and checks that they are.
    fn switch(&self, names: &[String], on: bool) -> Result {
        let state = if on { "on" } else { "off" };
        let words: Vec<String> = names.iter().map(|name| format!("{name} {state}")).collect();
        self.namespace.exec(&format!("ethtool -K {} {}", self.name, words.join(" ")))?;
        let (have, want) = (self.features()?, if on { State::On } else { State::Off });
        let unmoved: Vec<&String> = names.iter().filter(|name| have.get(*name) != Some(&want)).collect();
        check(unmoved.is_empty(), || format!("{} does not turn {state}: {unmoved:?}", self.name))
    }

    fn features(&self) -> Result<BTreeMap<String, State>> {
        Ok(parse(&self.namespace.exec(&format!("ethtool -k {}", self.name))?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    On,
    Off,
    Fixed,
}

/// Reads `ethtool -k`: a line each, `tx-udp-segmentation: on` or `tx-gso-partial: off [fixed]`.
fn parse(text: &str) -> BTreeMap<String, State> {
    let feature = |line: &str| {
        let (name, state) = line.trim().split_once(": ")?;
        let state = match state {
            "on" => State::On,
            "off" => State::Off,
            _ => State::Fixed,
        };
        Some((name.to_owned(), state))
    };
    text.lines().filter_map(feature).collect()
}

/// The features by which a device takes packets larger than its MTU, as far as they are on and can be turned off.
fn segmentation(features: &BTreeMap<String, State>) -> Vec<String> {
    let segments = |name: &str| name == GSO || name.starts_with("tx-gso-") || name.ends_with("-segmentation");
    let on = features.iter().filter(|(name, state)| **state == State::On && segments(name));
    on.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_segments_is_found_and_nothing_else() {
        let text = "Features for eth0:\nrx-checksumming: on\ntx-checksumming: on\n\ttx-checksum-ip-generic: on\n\
                    scatter-gather: on\ntcp-segmentation-offload: on\n\ttx-tcp-segmentation: on\n\
                    \ttx-tcp-mangleid-segmentation: off\ngeneric-segmentation-offload: on\n\
                    generic-receive-offload: off\ntx-gso-partial: off [fixed]\ntx-gso-list: on\n\
                    tx-udp-segmentation: on\ntx-esp-segmentation: off [fixed]\n";
        let features = parse(text);
        let expected = [GSO, "tx-gso-list", "tx-tcp-segmentation", "tx-udp-segmentation"];
        assert_eq!(segmentation(&features), expected);
        assert_eq!(features[GRO], State::Off);
    }
}
