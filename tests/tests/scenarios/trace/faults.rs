//! Faults on two hosts: a packet arrives if, and only if, a trace over both kernels says so; and it is dropped on the host that it names.

mod kinds;
mod restore;

use std::{net::IpAddr, time::Duration};

use wire_state::{Delivery, Entry, Journey, Outcome, Packet, Reason, trace_across};
use wire_tests::{Family, Host, Lab, LabError, Leg, Result, check, eventually, lab};

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
}

#[test]
fn a_packet_arrives_if_and_only_if_a_trace_over_both_kernels_says_so() -> Result {
    let lab = lab!();
    let mut random = Random::from_environment();
    let stage = stage(&lab)?;
    let places: Vec<[Place; 2]> = Family::ALL.iter().map(|family| stage.places(*family)).collect::<Result<_>>()?;
    let mut receivers = Vec::new();
    for ([a, b], family) in places.iter().zip(Family::ALL) {
        receivers.push([Probe::new(&stage.legs[0], a.container)?, Probe::new(&stage.legs[1], b.container)?]);
        let _ = family;
    }
    let mut readers = [Reader::new(), Reader::new()];
    let (mut arrived, mut wrong, mut met) = (0, Vec::new(), std::collections::BTreeMap::new());
    for number in 0..FAULTS {
        let (of, from) = (random.below(2), random.below(2));
        let direction = Direction { family: Family::ALL[of], from: &places[of][from], to: &places[of][1 - from] };
        let all = kinds(&direction);
        // Every fault is met; half of the times with a second one.
        let mut chosen: Vec<&Fault> = vec![&all[number % all.len()]];
        if random.below(2) == 0 {
            chosen.push(random.one_of(&all));
        }
        let names: Vec<&str> = chosen.iter().map(|fault| fault.name).collect();
        for (place, fault) in chosen.iter().enumerate() {
            // The second one may find that the first has removed what it would remove.
            let script = if place == 0 { fault.script.clone() } else { format!("set +e\n{}\ntrue", fault.script) };
            stage.hosts[fault.host].namespace().sh(&script)?;
        }
        for (reader, host) in readers.iter_mut().zip(&stage.hosts) {
            reader.read(host)?;
        }
        let site = [readers[0].state(), readers[1].state()];
        let packet = Packet { udp_port: Some(PORT), ..Packet::new(direction.from.container, direction.to.container) };
        let entry = Entry::Link("leg0".parse().expect("a valid name"));
        let journey = trace_across(site.as_slice(), &direction.from.host, &packet, entry);
        let arrives = expected_arrival(&journey, &direction)?;
        let port = stage.hosts[direction.from.host].port();
        let before = counted(lab.namespace(), port)?;
        let tag = u32::try_from(number).unwrap_or_default();
        receivers[of][from].send(direction.to.container, tag);
        let limit = if arrives { ARRIVES } else { LOST };
        let comes = receivers[of][1 - from].takes(tag, limit)?;
        let leaves = counted(lab.namespace(), port)? > before;
        arrived += u32::from(comes);
        let said = || journey.legs.iter().map(|leg| format!("{}: {}", leg.host, leg.trace.outcome)).collect::<Vec<_>>();
        if comes != arrives {
            wrong.push(format!("{names:?} {}: comes: {comes}, but {:?}", direction.family, said()));
        }
        if expected_leaving(&journey).is_some_and(|expected| expected != leaves) {
            wrong.push(format!("{names:?} {}: leaves: {leaves}, but {:?}", direction.family, said()));
        }
        *met.entry(said().pop().unwrap_or_default().replace(|letter: char| letter.is_ascii_digit(), ""))
            .or_insert(0) += 1;
        for fault in chosen.iter().rev() {
            let _ = stage.hosts[fault.host].namespace().sh(&fault.undo);
        }
        for fault in &chosen {
            stage.saved[fault.host].restore(&stage.hosts[fault.host], fault.touches_filter)?;
        }
    }
    check(wrong.is_empty(), || format!("{} wrong: {wrong:#?}", wrong.len()))?;
    // Both were met often enough to say something, and for many reasons.
    check((20..=180).contains(&arrived), || format!("{arrived} arrived"))?;
    check(met.len() > 15, || format!("{met:#?}"))
}

/// Whether the packet should come. Nothing may be left unknown.
fn expected_arrival(journey: &Journey<usize>, direction: &Direction<'_>) -> Result<bool> {
    let (host, outcome) = journey.end().ok_or_else(|| LabError::Wrong("an empty journey".to_owned()))?;
    match outcome {
        Outcome::Delivered(Delivery::OnLink(_, address)) => {
            Ok(*host == direction.to.host && *address == direction.to.container)
        }
        Outcome::Delivered(Delivery::Here(_)) | Outcome::Dropped(_) => Ok(false),
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
    Ok(Stage { hosts, legs, saved })
}

impl Stage {
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
