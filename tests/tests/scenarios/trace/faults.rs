//! Faults on two hosts: a packet arrives if, and only if, a trace over both kernels says so; and it is dropped on the host that it names.

mod kinds;
mod restore;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use wire_state::{Delivery, Entry, Journey, Outcome, Packet, Reason, trace_across};
use wire_tests::{Family, Host, Lab, LabError, Leg, Namespace, Result, check, eventually, lab};

use self::{
    kinds::{Fault, kinds},
    restore::Saved,
};
use super::{
    Random,
    held::Reader,
    probe::{PORT, Probe, count_on, counted},
};
use crate::cluster::{DUAL, Node, START, cluster, device};

const FAULTS: usize = 200;
/// How long a packet that should arrive may take, and one that should not.
const ARRIVES: Duration = Duration::from_secs(3);
const LOST: Duration = Duration::from_millis(40);

/// The places of one direction, in one family.
pub(crate) struct Direction<'a> {
    pub(crate) family: Family,
    pub(crate) from: &'a Place,
    pub(crate) to: &'a Place,
}

/// The addresses of one host in one family.
pub(crate) struct Place {
    pub(crate) host: usize,
    pub(crate) device: &'static str,
    /// The MAC of its device.
    pub(crate) mac: String,
    /// The address of its device.
    pub(crate) vtep: IpAddr,
    /// `10.5.7.0/24`.
    pub(crate) subnet: String,
    pub(crate) public: IpAddr,
    pub(crate) container: IpAddr,
}

/// Two hosts without their agents, each with a container.
struct Stage {
    hosts: [Host; 2],
    legs: [Leg; 2],
    saved: [Saved; 2],
    readers: [Reader; 2],
    /// Whether each must be read again.
    is_changed: [bool; 2],
}

#[test]
fn a_packet_arrives_if_and_only_if_a_trace_over_both_kernels_says_so() -> Result {
    let lab = lab!();
    let mut random = Random::from_environment();
    let mut stage = stage(&lab)?;
    let places = [stage.places(Family::V4)?, stage.places(Family::V6)?];
    let probes = [stage.probes(Family::V4)?, stage.probes(Family::V6)?];
    let mut seen = Seen::default();
    for number in 0..FAULTS {
        let (of, from) = (random.below(2), random.below(2));
        let direction = Direction { family: Family::ALL[of], from: &places[of][from], to: &places[of][1 - from] };
        let all = kinds(&direction);
        // Every fault is met; half of the times with a second one.
        let mut faults = vec![&all[number % all.len()]];
        if random.below(2) == 0 {
            faults.push(random.one_of(&all));
        }
        stage.damage(&faults)?;
        let journey = stage.traced(&direction)?;
        let expected = expected_arrival(&journey, &direction)?;
        let sent = Sent { probes: &probes[of], number: u32::try_from(number).unwrap_or_default(), expected };
        let (comes, leaves) = stage.send(lab.namespace(), &direction, &sent)?;
        seen.compare(&faults, &journey, Real { comes, leaves, expected });
        stage.restore(&faults)?;
    }
    check(seen.wrong.is_empty(), || format!("{} wrong: {:#?}", seen.wrong.len(), seen.wrong))?;
    // Both were met often enough to say something, and for many reasons.
    check((20..=180).contains(&seen.arrived), || format!("{} arrived", seen.arrived))?;
    check(seen.fates.len() > 15, || format!("{:#?}", seen.fates))
}

/// A packet to send.
struct Sent<'a> {
    probes: &'a [Probe; 2],
    number: u32,
    expected: bool,
}

/// What has become of a packet.
#[derive(Clone, Copy)]
struct Real {
    comes: bool,
    leaves: bool,
    expected: bool,
}

/// What was seen of all packets.
#[derive(Default)]
struct Seen {
    arrived: u32,
    wrong: Vec<String>,
    fates: BTreeSet<String>,
}

impl Seen {
    fn compare(&mut self, faults: &[&Fault], journey: &Journey<usize>, real: Real) {
        let names: Vec<&str> = faults.iter().map(|fault| fault.name).collect();
        let legs: Vec<String> = journey.legs.iter().map(|leg| format!("{}: {}", leg.host, leg.trace.outcome)).collect();
        let Real { comes, leaves, expected } = real;
        self.arrived += u32::from(comes);
        if comes != expected {
            self.wrong.push(format!("{names:?}: comes: {comes}, but {legs:?}"));
        }
        if expected_leaving(journey).is_some_and(|expected| expected != leaves) {
            self.wrong.push(format!("{names:?}: leaves: {leaves}, but {legs:?}"));
        }
        // Without addresses and numbers, so that only the reason counts.
        let last = legs.last().map(String::as_str).unwrap_or_default();
        self.fates.insert(last.split(|letter: char| letter.is_ascii_digit()).collect());
    }
}

/// Whether the packet should come. Nothing may be left unknown.
fn expected_arrival(journey: &Journey<usize>, direction: &Direction<'_>) -> Result<bool> {
    let (host, outcome) = journey.end().ok_or_else(|| LabError::Wrong("an empty journey".to_owned()))?;
    match outcome {
        Outcome::Delivered(Delivery::OnLink(_, address)) => {
            Ok(*host == direction.to.host && *address == direction.to.container)
        }
        Outcome::Delivered(Delivery::Here(_) | Delivery::AtPort(..)) | Outcome::Dropped(_) => Ok(false),
        Outcome::Sent(_) | Outcome::Unknown(_) => Err(LabError::Wrong(format!("{journey:?}"))),
    }
}

/// Whether the outer packet should leave the first host. If no host has its address, that depends on who answers for it.
fn expected_leaving(journey: &Journey<usize>) -> Option<bool> {
    let is_nobodys = matches!(journey.end(), Some((_, Outcome::Dropped(Reason::NobodyHas(_)))));
    (!is_nobodys).then_some(journey.legs.len() > 1)
}

fn stage(lab: &Lab) -> Result<Stage> {
    let (_etcd, nodes) = cluster::<2>(lab, DUAL)?;
    let mut legs = Vec::new();
    for node in &nodes {
        legs.push(Leg::new(&node.host, &[node.subnet(Family::V4)?, node.subnet(Family::V6)?], 1450)?);
        let filter = || node.host.exec("nft list set inet wire-agent subnets-v4-24");
        eventually(START, || check(filter()?.contains("elements"), || "no peers in the filter yet".to_owned()))?;
    }
    let hosts = nodes.map(|Node { mut agent, host, .. }| {
        agent.kill();
        host
    });
    let legs: [Leg; 2] = legs.try_into().map_err(|_| LabError::Wrong("not two".to_owned()))?;
    count_on(lab.namespace(), [hosts[0].port(), hosts[1].port()])?;
    for host in &hosts {
        // Only routes that are named here lead out.
        host.namespace().sh("ip route del default; ip -6 route del default")?;
    }
    let saved = [Saved::of(&hosts[0], &hosts[1], &legs[0])?, Saved::of(&hosts[1], &hosts[0], &legs[1])?];
    for (saved, host) in saved.iter().zip(&hosts) {
        saved.restore(host, false)?;
    }
    let readers = [Reader::new(), Reader::new()];
    Ok(Stage { hosts, legs, saved, readers, is_changed: [true, true] })
}

impl Stage {
    fn damage(&mut self, faults: &[&Fault]) -> Result {
        for (place, fault) in faults.iter().enumerate() {
            // The second one may find that the first has removed what it would remove.
            let script = if place == 0 { fault.script.clone() } else { format!("set +e\n{}\ntrue", fault.script) };
            self.hosts[fault.host].namespace().sh(&script)?;
            self.is_changed[fault.host] = true;
        }
        Ok(())
    }

    fn restore(&mut self, faults: &[&Fault]) -> Result {
        for fault in faults.iter().rev() {
            // It may fail where the other fault has removed what it would take back.
            let _ = self.hosts[fault.host].namespace().sh(&fault.undo);
        }
        let with_filter = |host| faults.iter().any(|fault| fault.host == host && fault.touches_filter);
        for host in [0, 1] {
            if faults.iter().any(|fault| fault.host == host) {
                self.saved[host].restore(&self.hosts[host], with_filter(host))?;
                self.is_changed[host] = true;
            }
        }
        Ok(())
    }

    /// Follows a packet over both kernels as they are now.
    fn traced(&mut self, direction: &Direction<'_>) -> Result<Journey<usize>> {
        for ((reader, host), is_changed) in self.readers.iter_mut().zip(&self.hosts).zip(&mut self.is_changed) {
            if std::mem::take(is_changed) {
                reader.read(host)?;
            }
        }
        let site = [self.readers[0].state(), self.readers[1].state()];
        let packet = Packet { udp_port: Some(PORT), ..Packet::new(direction.from.container, direction.to.container) };
        let entry = Entry::Link("leg0".parse().expect("a valid name"));
        Ok(trace_across(site.as_slice(), &direction.from.host, &packet, entry))
    }

    /// Sends a packet. Tells whether it comes, and whether an outer packet leaves the host.
    fn send(&self, underlay: &Namespace, direction: &Direction<'_>, sent: &Sent<'_>) -> Result<(bool, bool)> {
        let (from, to) = (direction.from.host, direction.to.host);
        let port = self.hosts[from].port();
        let before = counted(underlay, port)?;
        sent.probes[from].send(direction.to.container, sent.number);
        let comes = sent.probes[to].takes(sent.number, if sent.expected { ARRIVES } else { LOST })?;
        Ok((comes, counted(underlay, port)? > before))
    }

    fn probes(&self, family: Family) -> Result<[Probe; 2]> {
        let [one, other] = &self.legs;
        Ok([Probe::new(one, one.address(family)?)?, Probe::new(other, other.address(family)?)?])
    }

    fn places(&self, family: Family) -> Result<[Place; 2]> {
        Ok([self.place(0, family)?, self.place(1, family)?])
    }

    fn place(&self, number: usize, family: Family) -> Result<Place> {
        let (host, device) = (&self.hosts[number], device(family));
        let link = host.kernel().link(device)?.ok_or_else(|| LabError::Wrong(format!("no {device}")))?;
        let container = self.legs[number].address(family)?;
        let own = host.kernel().addresses(device)?;
        let vtep = own.iter().find(|address| Family::of(address.local) == family && address.scope == "global");
        let vtep = vtep.map(|address| address.local).ok_or_else(|| LabError::Wrong(format!("{own:?}")))?;
        let len = match family {
            Family::V4 => 24,
            Family::V6 => 64,
        };
        let prefix = wire_net::Prefix::new(container, len).map_err(|error| LabError::Wrong(error.to_string()))?;
        let public = host.on_underlay(family);
        let (mac, subnet) = (link.address, prefix.to_string());
        Ok(Place { host: number, device, mac, vtep, subnet, public, container })
    }
}
