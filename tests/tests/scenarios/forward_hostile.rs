//! The userspace path: what is crafted to harm is dropped, counted under its reason, and answered by nothing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use wire_tests::{
    Capture, Encapsulation, Etcd, Family, Host, IPV4, IPV6, IpPacket, Lab, LabError, Result, Vxlan, check, eventually,
    lab, peers_of,
};

use crate::{
    cluster::{PROMPT, START},
    datapath::Datapath,
    ends::{End, KERNELS_OWN, ends},
    seat::BACK,
};

/// So many of each are sent.
const COUNT: u64 = 20;
/// The port in the victim's leg that hears what is let in.
const EAR: u16 = 9;
/// The packet filter, which would drop most of it first, lets it through to where the userspace path looks.
const UNFILTERED: &str = "--peers-only=false";
/// Lets in what comes from any address of the underlay.
const UNCHECKED: &str = "--forward-source-check=false";
/// Neither a subnet of any host, nor in the network.
const NOWHERE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Where what is not for this host may be dropped: where it comes in, or where it would leave again.
const NOT_FOR_US: &[&str] = &["no_route", "loop", "source_subnet", "destination", "multicast"];

#[test]
fn what_is_crafted_to_harm_raw_udp_is_dropped_and_counted_over_ipv4() -> Result {
    attack(&lab!(), Datapath::UserspaceUdp, Family::V4)
}

#[test]
fn what_is_crafted_to_harm_raw_udp_is_dropped_and_counted_over_ipv6() -> Result {
    attack(&lab!(), Datapath::UserspaceUdp, Family::V6)
}

#[test]
fn what_is_crafted_to_harm_userspace_vxlan_is_dropped_and_counted_over_ipv4() -> Result {
    attack(&lab!(), Datapath::UserspaceVxlan, Family::V4)
}

#[test]
fn what_is_crafted_to_harm_userspace_vxlan_is_dropped_and_counted_over_ipv6() -> Result {
    attack(&lab!(), Datapath::UserspaceVxlan, Family::V6)
}

fn attack(lab: &Lab, datapath: Datapath, family: Family) -> Result {
    let (etcd, [mut victim, member, third]) = ends(lab, [datapath; 3], &[UNFILTERED])?;
    let stranger = lab.host("stranger")?;
    let pid = victim.node.agent.pid()?;
    let scene = Scene::new((&etcd, family), [&victim, &member, &third])?;
    // The control: what the others are made from is let in.
    let ear = ear(&victim, family)?;
    send(&member.node.host, &victim, &scene.good_shot()?, family)?;
    check(ear.recv(&mut [0; 100]).is_ok(), || "a packet without any fault is not let in".to_owned())?;

    let capture = Capture::start(lab.namespace(), victim.node.host.port())?;
    for shot in scene.shots()? {
        let from = match shot.from {
            From::Member => &member.node.host,
            From::Stranger => &stranger,
            From::Itself => &victim.node.host,
        };
        fire(&victim, from, &shot, family)?;
    }
    // The bridge receives what the victim sends.
    let answers = capture.stop_at_port(datapath.encapsulation().port())?;
    let answers: Vec<_> = answers.iter().filter(|(outgoing, _)| !outgoing).map(|(_, datagram)| datagram).collect();
    check(answers.is_empty(), || format!("{} datagrams were sent in answer: {:?}", answers.len(), answers.first()))?;

    member.greets(&victim, family)?;
    victim.greets(&third, family)?;
    check(victim.node.agent.is_running() && victim.node.agent.pid()? == pid, || "the agent has ended".to_owned())?;
    [&victim, &member, &third].into_iter().try_for_each(End::undamaged)
}

/// The control: a kernel VXLAN device lets in what the crafted datagrams are made from, and none of those that are no good VXLAN.
#[test]
fn kernel_vxlan_takes_the_same_view_of_what_is_crafted() -> Result {
    let lab = lab!();
    let (etcd, [victim, member]) = ends(&lab, [Datapath::KernelVxlan; 2], &[UNFILTERED])?;
    for family in Family::ALL {
        let macs = Some([mac(&etcd, &victim, &member, family)?, mac(&etcd, &member, &victim, family)?]);
        let scene = Scene { family, macs, victim: &victim, member: &member, third: &member };
        let ear = ear(&victim, family)?;
        let good = scene.good()?;
        let shots = scene.frame(&good).map(|frame| vxlan(&frame)).unwrap_or_default();
        check(shots.len() == 10, || format!("{} shots", shots.len()))?;
        // First what must not be heard, then what must, so that there is no need to wait for silence.
        for shot in shots {
            send(&member.node.host, &victim, &shot, family)?;
        }
        let marked = packet(good.source(), good.destination(), 51);
        send(&member.node.host, &victim, &shot("a good packet", scene.wrap(&marked), &[]), family)?;
        for number in 0..COUNT {
            let heard = ear.recv(&mut [0; 100]).ok();
            check(heard == Some(51), || format!("{heard:?} bytes were heard as packet {number}"))?;
        }
    }
    victim.undamaged()
}

/// The check is for all but hosts behind addresses that no lease has.
#[test]
fn a_stranger_is_heard_only_where_the_source_check_is_off() -> Result {
    let lab = lab!();
    let (_etcd, [mut victim, member]) = ends(&lab, [Datapath::UserspaceUdp; 2], &[UNFILTERED, UNCHECKED])?;
    let stranger = lab.host("stranger")?;
    let ear = ear(&victim, Family::V4)?;
    let scene = Scene { family: Family::V4, macs: None, victim: &victim, member: &member, third: &member };
    let shot = Shot { name: "a stranger's packet", reasons: &["source_address"], ..scene.good_shot()? };
    send(&stranger, &victim, &shot, Family::V4)?;
    for number in 0..shot.count {
        check(ear.recv(&mut [0; 100]).is_ok(), || format!("the stranger is not heard after {number} packets"))?;
    }

    victim.node.agent.terminate()?;
    victim.node.agent.spec_mut().flags.retain(|flag| flag != UNCHECKED);
    victim.node.agent.restart()?;
    victim.node.agent.wait_ready(START)?;
    fire(&victim, &stranger, &shot, Family::V4)?;
    check(ear.recv(&mut [0; 100]).is_err(), || "the stranger is heard".to_owned())
}

#[test]
fn what_is_forged_is_dropped_in_front_of_raw_udp() -> Result {
    forge(&lab!(), Datapath::UserspaceUdp)
}

#[test]
fn what_is_forged_is_dropped_in_front_of_userspace_vxlan() -> Result {
    forge(&lab!(), Datapath::UserspaceVxlan)
}

/// The packet filter knows where a framing has the inner source, and drops what is no good before any work is done.
fn forge(lab: &Lab, datapath: Datapath) -> Result {
    let (etcd, [victim, member, third]) = ends(lab, [datapath; 3], &[])?;
    let stranger = lab.host("stranger")?;
    for (family, before) in Family::ALL.into_iter().zip([0, COUNT]) {
        let scene = Scene::new((&etcd, family), [&victim, &member, &third])?;
        let ear = ear(&victim, family)?;
        let forged = scene.wrap(&packet(third.address(family)?, victim.address(family)?, 51));
        send(&member.node.host, &victim, &shot("another member's source", forged.clone(), &[]), family)?;
        send(&stranger, &victim, &shot("a stranger's packet", forged, &[]), family)?;
        send(&member.node.host, &victim, &scene.good_shot()?, family)?;
        for number in 0..COUNT {
            let heard = ear.recv(&mut [0; 100]).ok();
            check(heard == Some(50), || format!("{heard:?} bytes were heard as packet {number}"))?;
        }
        eventually(BACK + PROMPT, || {
            let dropped = (victim.node.filtered("spoofed")?, victim.node.filtered("strangers")?);
            let sent = before + COUNT;
            check(dropped == (sent, sent), || format!("{dropped:?} of {sent} were dropped"))
        })?;
        victim.undamaged()?;
    }
    Ok(())
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
enum From {
    /// A host with a lease.
    Member,
    /// A host without one.
    Stranger,
    /// The victim, from its own address.
    Itself,
}

/// A datagram that must be dropped.
struct Shot {
    name: &'static str,
    from: From,
    payload: Vec<u8>,
    /// The reasons it may be counted under.
    reasons: &'static [&'static str],
    count: u64,
}

/// Who is there.
struct Scene<'a> {
    family: Family,
    /// With VXLAN, the MACs of the member's and the victim's VTEPs.
    macs: Option<[[u8; 6]; 2]>,
    victim: &'a End,
    member: &'a End,
    third: &'a End,
}

impl<'a> Scene<'a> {
    fn new((etcd, family): (&Etcd, Family), [victim, member, third]: [&'a End; 3]) -> Result<Self> {
        let macs = match victim.node.datapath.encapsulation() {
            Encapsulation::RawIp => None,
            Encapsulation::Vxlan => Some([mac(etcd, third, member, family)?, mac(etcd, third, victim, family)?]),
        };
        Ok(Self { family, macs, victim, member, third })
    }

    fn shots(&self) -> Result<Vec<Shot>> {
        let good = self.good()?;
        let of_framing = match self.frame(&good) {
            None => raw(&good),
            Some(frame) => vxlan(&frame),
        };
        Ok([self.outer()?, self.inner()?, of_framing].into_iter().flatten().collect())
    }

    /// A packet from the member's leg to the victim's.
    fn good(&self) -> Result<IpPacket> {
        Ok(packet(self.member.address(self.family)?, self.victim.address(self.family)?, 50))
    }

    /// What must not be dropped.
    fn good_shot(&self) -> Result<Shot> {
        Ok(shot("a good packet", self.wrap(&self.good()?), &[]))
    }

    fn wrap(&self, packet: &IpPacket) -> Vec<u8> {
        self.frame(packet).map_or_else(|| packet.bytes().to_vec(), |frame| frame.to_payload())
    }

    /// `None`: packets are not framed.
    fn frame(&self, packet: &IpPacket) -> Option<Vxlan> {
        let [source_mac, destination_mac] = self.macs?;
        let (ether_type, packet) = (packet.ether_type(), packet.bytes().to_vec());
        Some(Vxlan { flags: Vxlan::HAS_VNI, vni: 1, destination_mac, source_mac, ether_type, packet })
    }

    /// What is wrong with the datagram itself, or with who sends it.
    fn outer(&self) -> Result<Vec<Shot>> {
        let whole = self.wrap(&self.good()?);
        let header = whole.len() - self.good()?.bytes().len() + 10;
        Ok(vec![
            shot("nothing", Vec::new(), &["malformed"]),
            shot("one byte", vec![0x45], &["malformed"]),
            shot("half a header", whole[..header].to_vec(), &["malformed"]),
            shot("one byte too few", whole[..whole.len() - 1].to_vec(), &["malformed"]),
            shot("noise", vec![0xff; 100], &["malformed", "not_ip", "vni"]),
            Shot { from: From::Stranger, ..shot("an unknown sender", whole.clone(), &["source_address"]) },
            Shot { from: From::Itself, ..shot("its own address", whole, &["loop"]) },
        ])
    }

    /// What is wrong with the inner packet.
    fn inner(&self) -> Result<Vec<Shot>> {
        let (member, victim) = (self.member.address(self.family)?, self.victim.address(self.family)?);
        let third = self.third.address(self.family)?;
        let addresses = |[v4, v6]: [&str; 2]| match self.family {
            Family::V4 => (address(v4), address(v6)),
            Family::V6 => (address(v6), address(v4)),
        };
        let (nowhere, other_family) = addresses(NOWHERE);
        let ((everyone, _), (group, _)) =
            (addresses(["255.255.255.255", "ff02::1"]), addresses(["224.0.0.251", "ff0e::fb"]));
        let between = |name, from, to, reasons| shot(name, self.wrap(&packet(from, to, 50)), reasons);
        Ok(vec![
            Shot { count: 3, ..shot("a huge one", self.wrap(&packet(member, victim, 60_000)), &["too_big"]) },
            between("a source in another's subnet", third, victim, &["source_subnet"]),
            between("a source outside the network", nowhere, victim, &["source_subnet"]),
            between("a source in the victim's subnet", victim, victim, &["source_subnet", "loop"]),
            between("to another host", member, third, NOT_FOR_US),
            between("back to the sender", member, member, NOT_FOR_US),
            between("to nowhere", member, nowhere, NOT_FOR_US),
            between("to everyone", member, everyone, NOT_FOR_US),
            between("to a group", member, group, NOT_FOR_US),
            between("the other family", other_family, other_family, &["not_ip", "malformed", "source_subnet"]),
        ])
    }
}

/// What raw IP alone can have wrong.
fn raw(good: &IpPacket) -> Vec<Shot> {
    let mut unknown = good.bytes().to_vec();
    unknown[0] = 0xf5;
    vec![shot("an unknown version", unknown, &["not_ip", "malformed"])]
}

/// What VXLAN alone can have wrong.
fn vxlan(good: &Vxlan) -> Vec<Shot> {
    let changed = |name, reasons, change: fn(&mut Vxlan)| {
        let mut frame = good.clone();
        change(&mut frame);
        shot(name, frame.to_payload(), reasons)
    };
    vec![
        shot("half a VXLAN header", good.to_payload()[..4].to_vec(), &["malformed"]),
        shot("half an Ethernet header", good.to_payload()[..18].to_vec(), &["malformed"]),
        changed("another network", &["vni"], |frame| frame.vni = 2),
        changed("the largest network", &["vni"], |frame| frame.vni = 0xff_ffff),
        changed("no network", &["vni", "malformed"], |frame| frame.flags = 0),
        changed("the broadcast MAC", &["inner_mac"], |frame| frame.destination_mac = [0xff; 6]),
        changed("a multicast MAC", &["inner_mac"], |frame| frame.destination_mac = [1, 0, 0x5e, 0, 0, 0xfb]),
        changed("another's MAC", &["inner_mac"], |frame| frame.destination_mac[5] ^= 1),
        changed("ARP", &["not_ip"], |frame| frame.ether_type = 0x0806),
        // IPv4 becomes IPv6 and the other way round.
        changed("an EtherType that lies", &["not_ip", "malformed"], |frame| frame.ether_type ^= IPV4 ^ IPV6),
    ]
}

/// One from the member, as most are.
fn shot(name: &'static str, payload: Vec<u8>, reasons: &'static [&'static str]) -> Shot {
    Shot { name, from: From::Member, payload, reasons, count: COUNT }
}

fn packet(from: IpAddr, to: IpAddr, len: usize) -> IpPacket {
    IpPacket::udp(SocketAddr::new(from, 4000), SocketAddr::new(to, EAR), &vec![0x5a; len])
}

/// Sends a shot and checks that all of it was dropped for its reason, and nothing for any other.
fn fire(victim: &End, from: &Host, shot: &Shot, family: Family) -> Result {
    let before = victim.node.tunnel(family)?.dropped();
    send(from, victim, shot, family)?;
    let mut more = BTreeMap::new();
    let counted = eventually(PROMPT, || {
        let after = victim.node.tunnel(family)?.dropped().into_iter();
        more =
            after.map(|(reason, count)| (reason.clone(), count - before.get(&reason).copied().unwrap_or(0))).collect();
        more.retain(|_, count| *count > 0);
        let ours: u64 = shot.reasons.iter().filter_map(|reason| more.get(*reason)).sum();
        check(ours >= shot.count, || format!("{}: of {}, dropped were {more:?}", shot.name, shot.count))
    });
    counted?;
    more.retain(|reason, _| !KERNELS_OWN.contains(&reason.as_str()) && !shot.reasons.contains(&reason.as_str()));
    check(more.is_empty(), || format!("{}: also dropped were {more:?}", shot.name))
}

/// Sends the datagrams of a shot, a millisecond apart: each must be read before the next, however large.
fn send(from: &Host, to: &End, shot: &Shot, family: Family) -> Result {
    let to = SocketAddr::new(to.node.host.on_underlay(family), to.node.datapath.encapsulation().port());
    let io = |source| LabError::Io { what: format!("cannot send {}", shot.name), source };
    let own = SocketAddr::new(from.on_underlay(family), 0);
    let socket = from.namespace().inside(|| UdpSocket::bind(own))?.map_err(io)?;
    for _ in 0..shot.count {
        socket.send_to(&shot.payload, to).map_err(io)?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A socket in the victim's leg that hears what is let in.
fn ear(victim: &End, family: Family) -> Result<UdpSocket> {
    let address = SocketAddr::new(victim.address(family)?, EAR);
    let socket = victim.leg.namespace().inside(|| {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(PROMPT))?;
        Ok(socket)
    })?;
    socket.map_err(|source| LabError::Io { what: format!("cannot listen on {address}"), source })
}

fn mac(etcd: &Etcd, seen_by: &End, of: &End, family: Family) -> Result<[u8; 6]> {
    let own = of.node.host.on_underlay(family);
    let peer = peers_of(&seen_by.node.host, etcd, family)?.into_iter().find(|peer| peer.public == own);
    let mac = peer.map(|peer| peer.mac).unwrap_or_default();
    let bytes: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().map_err(|_| LabError::Wrong(format!("the lease of {own} has the MAC {mac:?}")))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
