//! `trace` in networks by name, over bridges and ports of containers: it agrees with what a ping does, on two hosts with two networks, in both
//! families, and names what drops a packet.

use std::{net::IpAddr, process::Command};

use serde_json::Value;
use wire_state::{Entry, HostState, Packet, trace_across};
use wire_tests::{Family, Lab, LabError, Process, Result, check, eventually, lab, output};

use super::held::Reader;
use crate::{
    attach_site::{Made, attach, helper},
    cluster::{DUAL, Node, START, cluster},
    named::{asked, expose_on, network, silent},
};

/// A network without broadcasts, so that what is not known is not asked for.
const NETWORKS: [(&str, &str); 2] = [("app", ""), ("quiet", " --no-broadcast")];

/// A namespace on a network.
struct Guest {
    made: Made,
    addresses: Vec<IpAddr>,
}

impl Guest {
    fn of(&self, family: Family) -> Result<IpAddr> {
        let found = self.addresses.iter().copied().find(|address| Family::of(*address) == family);
        found.ok_or_else(|| LabError::Wrong(format!("no {family} in {:?}", self.addresses)))
    }

    fn run(&self, words: &str) -> Result<String> {
        output(Command::new("ip").args(["netns", "exec", self.made.name()]).args(words.split_whitespace()))
    }

    fn pings(&self, from: IpAddr, to: IpAddr) -> bool {
        self.run(&format!("ping -c 1 -W 1 -I {from} {to}")).is_ok()
    }

    /// The MAC that belongs to its addresses.
    fn mac(&self) -> Result<String> {
        let IpAddr::V4(v4) = self.of(Family::V4)? else { return Err(LabError::Wrong("no IPv4".to_owned())) };
        let [a, b, c, d] = v4.octets();
        Ok(format!("02:57:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
    }
}

/// Two hosts with a guest of each on each network.
struct Stage {
    nodes: [Node; 2],
    _helpers: Vec<Process>,
    /// By network, then by host.
    guests: [[Guest; 2]; 2],
    vnis: [u64; 2],
    readers: [Reader; 2],
}

/// The end of a packet, by its host and as a sentence, and whether it arrives.
struct End {
    host: usize,
    sentence: String,
    arrives: bool,
}

impl Stage {
    fn new(lab: &Lab) -> Result<(wire_tests::Etcd, Self)> {
        let (etcd, nodes) = cluster::<2>(lab, DUAL)?;
        let helpers = nodes.iter().map(|node| helper(node, "/nobody/listens.sock")).collect::<Result<Vec<_>>>()?;
        let mut vnis = Vec::new();
        for (name, flags) in NETWORKS {
            network(&nodes[0], &format!("create {name} --ipv6{flags}"))?;
            let inspected = asked(&nodes[0], &format!("inspect {name}"))?;
            vnis.push(inspected["vni"].as_u64().ok_or_else(|| LabError::Wrong(inspected.to_string()))?);
        }
        let guest = |network: usize, host: usize| {
            let (node, name): (&Node, _) = (&nodes[host], NETWORKS[network].0);
            let made = Made::new(&format!("{}-{name}", node.host.namespace().name()))?;
            let addresses = attach(node, &format!("/run/netns/{} {name}", made.name()))?;
            Ok::<_, LabError>(Guest { made, addresses })
        };
        let guests = [[guest(0, 0)?, guest(0, 1)?], [guest(1, 0)?, guest(1, 1)?]];
        let vnis = [vnis[0], vnis[1]];
        Ok((etcd, Self { nodes, _helpers: helpers, guests, vnis, readers: [Reader::new(), Reader::new()] }))
    }

    fn read(&mut self) -> Result {
        for (reader, node) in self.readers.iter_mut().zip(&self.nodes) {
            reader.read(&node.host)?;
        }
        Ok(())
    }

    /// Follows a packet of a host over both kernels as they are now. `at` is the place where it begins; else that follows from its source.
    fn end(&mut self, host: usize, (from, to): (IpAddr, IpAddr), at: Option<Entry>) -> Result<End> {
        self.read()?;
        let site: [HostState<'_>; 2] = [self.readers[0].state(), self.readers[1].state()];
        let entry = at.or_else(|| site[host].entry_of(from, to));
        let entry = entry.ok_or_else(|| LabError::Wrong(format!("no link leads to {from}")))?;
        let journey = trace_across(site.as_slice(), &host, &Packet::new(from, to), entry);
        let (end, outcome) = journey.end().ok_or_else(|| LabError::Wrong("an empty journey".to_owned()))?;
        Ok(End { host: *end, sentence: outcome.to_string(), arrives: journey.arrives() })
    }

    /// A ping of a guest and its trace agree: it arrives.
    fn arrives(&mut self, (network, host): (usize, usize), to: IpAddr) -> Result {
        let guest = &self.guests[network][host];
        let from = guest.of(Family::of(to))?;
        eventually(START, || check(guest.pings(from, to), || format!("no ping from {from} to {to}")))?;
        let end = self.end(host, (from, to), None)?;
        check(end.arrives, || format!("{from} to {to}: host {} says {}", end.host, end.sentence))
    }

    /// Both agree that it does not, and the trace ends on this host with these words.
    fn ends(&mut self, (network, host): (usize, usize), to: IpAddr, (at, words): (usize, &str)) -> Result {
        let guest = &self.guests[network][host];
        let from = guest.of(Family::of(to))?;
        check(!guest.pings(from, to), || format!("{to} answers {from}"))?;
        let end = self.end(host, (from, to), None)?;
        check(!end.arrives && end.host == at && end.sentence.contains(words), || {
            format!("{from} to {to}: host {} says {} and not {words}", end.host, end.sentence)
        })
    }

    fn sh(&self, host: usize, script: &str) -> Result {
        self.nodes[host].host.namespace().sh(script).map(drop)
    }

    fn traced(&self, host: usize, to: IpAddr, from: IpAddr, more: &[&str]) -> Result<wire_tests::Comparison> {
        let (to, from) = (to.to_string(), from.to_string());
        self.nodes[host].agent.compare(&[&["trace", &to, "--from", &from], more].concat())
    }
}

#[test]
fn a_trace_agrees_with_pings_within_networks_by_name_and_between_them() -> Result {
    let lab = lab!();
    let (_etcd, mut stage) = Stage::new(&lab)?;
    let own = expose_on(&stage.nodes[0], "app")?;
    silent(&[&stage.nodes[0], &stage.nodes[1]])?;
    for family in Family::ALL {
        let [[app, far], [quiet, far_quiet]] =
            stage.guests.each_ref().map(|of| of.each_ref().map(|guest| guest.of(family)));
        let (app, far, quiet, far_quiet) = (app?, far?, quiet?, far_quiet?);
        for host in [0, 1] {
            stage.arrives((0, host), if host == 0 { far } else { app })?;
            stage.arrives((1, host), if host == 0 { far_quiet } else { quiet })?;
        }
        // To the host in the network, here and from elsewhere, and from it to containers.
        let exposed = own.iter().copied().find(|own| Family::of(*own) == family);
        let exposed = exposed.ok_or_else(|| LabError::Wrong(format!("no {family} in {own:?}")))?;
        stage.arrives((0, 0), exposed)?;
        stage.arrives((0, 1), exposed)?;
        for to in [app, far] {
            check(stage.nodes[0].host.reaches(to), || format!("the host does not reach {to}"))?;
            let end = stage.end(0, (exposed, to), Some(Entry::Here))?;
            check(end.arrives, || format!("{exposed} to {to}: host {} says {}", end.host, end.sentence))?;
        }
        // Never to another network.
        for to in [quiet, far_quiet] {
            stage.ends((0, 0), to, (0, "rule 'between networks' in chain segments-through"))?;
        }
        // As a person asks.
        let answer = stage.traced(0, far, app, &["--json"])?;
        let report: Value = serde_json::from_str(&answer.text).map_err(|error| LabError::Wrong(error.to_string()))?;
        let vni = &report["sent"]["vni"];
        check(answer.status == Some(0) && *vni == stage.vnis[0], || format!("{report}"))?;
        let kinds = ["arrived", "neighbour", "accepted", "bridge-fdb", "fdb", "encapsulated", "route"];
        let hops = report["hops"].as_array().cloned().unwrap_or_default();
        check(hops.iter().map(|hop| &hop["kind"]).eq(&kinds), || format!("{report}"))?;
        let here = stage.traced(1, far, app, &[])?;
        check(here.status == Some(0) && here.text.contains(&format!("delivered to {far} behind wp")), || {
            format!("{here:?}")
        })?;
        let dropped = stage.traced(0, far_quiet, app, &[])?;
        check(dropped.status == Some(1), || format!("{dropped:?}"))?;
    }
    Ok(())
}

#[test]
fn a_trace_names_the_entry_that_is_missing_or_forged_in_a_network_by_name() -> Result {
    let lab = lab!();
    let (_etcd, mut stage) = Stage::new(&lab)?;
    silent(&[&stage.nodes[0], &stage.nodes[1]])?;
    for family in Family::ALL {
        for network in [0, 1] {
            let to = stage.guests[network][1].of(family)?;
            stage.arrives((network, 0), to)?;
        }
    }
    stage.nodes.iter_mut().for_each(|node| node.agent.kill());
    let [overlay, quiet] = stage.vnis.map(|vni| format!("wv.{vni}"));
    let [mac, far] = [stage.guests[0][1].mac()?, stage.guests[1][1].mac()?];
    let v4 = stage.guests[1][1].of(Family::V4)?;
    let public = stage.nodes[1].host.on_underlay(Family::V4);
    let nobody = nobodys(public);
    for family in Family::ALL {
        let (loud, to) = (stage.guests[0][1].of(family)?, stage.guests[1][1].of(family)?);
        // Where frames for all go to the only other host, they go there without an entry too.
        let entry = format!("{mac} dev {overlay} dst {public} self permanent");
        stage.sh(0, &format!("bridge fdb del {mac} dev {overlay} self"))?;
        stage.arrives((0, 0), loud)?;
        stage.sh(0, &format!("bridge fdb replace {entry}"))?;
        let entry = format!("{far} dev {quiet} dst {public} self permanent");
        stage.sh(0, &format!("bridge fdb del {far} dev {quiet} self"))?;
        stage.ends((1, 0), to, (0, &format!("no FDB entry for {far} on {quiet}")))?;
        stage.sh(0, &format!("bridge fdb replace {far} dev {quiet} dst {nobody} self permanent"))?;
        stage.ends((1, 0), to, (0, &format!("no host has the address {nobody}")))?;
        stage.sh(0, &format!("bridge fdb replace {entry}"))?;
        stage.sh(0, &format!("bridge fdb del {far} dev {quiet} master"))?;
        stage.ends((1, 0), to, (0, &format!("no FDB entry for {far} on bridge")))?;
        stage.sh(0, &format!("bridge fdb replace {far} dev {quiet} master static"))?;
        stage.arrives((1, 0), to)?;
        // A source that the container does not have.
        let from = stage.guests[1][0].of(family)?;
        let next = behind(from);
        let len = if to.is_ipv4() { "32" } else { "128 nodad" };
        let (first, rest) = len.split_once(' ').unwrap_or((len, ""));
        stage.guests[1][0].run(&format!("ip address add {next}/{first} dev lo {rest}"))?;
        check(!stage.guests[1][0].pings(next, to), || format!("{to} answers {next}"))?;
        let port = stage.readers[0].state().entry_of(from, to);
        let end = stage.end(0, (next, to), port)?;
        check(end.host == 0 && end.sentence.contains("rule 'forged' in chain senders"), || end.sentence.clone())?;
        // A sender that the other host does not know.
        let inner = if to.is_ipv4() { "v4" } else { "v6" };
        let sets =
            format!("$(nft list table inet wire-agent | grep -o 'set behind-v4-{inner}-[0-9]*' | cut -d' ' -f2)");
        stage.sh(1, &format!("for set in {sets}; do nft flush set inet wire-agent $set; done"))?;
        let rule = format!("rule 'forged {inner}' in chain segments-in of table inet wire-agent");
        stage.ends((1, 0), to, (1, &rule))?;
    }
    let network = stage.vnis[1];
    stage.sh(1, "nft flush set inet wire-agent vteps-v4")?;
    stage.ends((1, 0), v4, (1, "rule 'no members' in chain segments-in of table inet wire-agent"))?;
    let answer = stage.traced(0, v4, stage.guests[1][0].of(Family::V4)?, &[])?;
    check(answer.status == Some(0) && answer.text.contains(&format!("VNI {network}")), || format!("{answer:?}"))
}

/// An address beside a host's on the underlay that nobody has.
fn nobodys(public: IpAddr) -> IpAddr {
    match public {
        IpAddr::V4(address) => std::net::Ipv4Addr::from_bits(address.to_bits() & !0xff | 0xc8).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address behind another one.
fn behind(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => std::net::Ipv4Addr::from_bits(address.to_bits() + 1).into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(address.to_bits() + 1).into(),
    }
}
