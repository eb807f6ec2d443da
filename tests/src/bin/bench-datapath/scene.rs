//! Who sends what to a host with all our rules, and what is seen of it there.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use wire_tests::{
    Agent, Etcd, Family, Host, IpPacket, LabError, Leg, Namespace, PeerLease, Result, Underlay, Vxlan, check,
    eventually,
};

use crate::{
    pair::{Network, START},
    rules,
    verdicts::{Case, Outcome},
};

/// Where containers listen.
const EAR: u16 = 7000;
/// The port of encapsulated packets.
const VXLAN: u16 = 8472;
/// How long a packet may be on its way.
const ARRIVES: Duration = Duration::from_secs(3);
/// How long it is waited for what should not come.
const SETTLES: Duration = Duration::from_millis(100);
/// How old what `status` counts may be, and how long a busy machine may take to tell it.
const TOLD: Duration = Duration::from_secs(15);
/// The MTU of the member: the least that IPv6 takes (RFC 8200 §5).
const MTU: usize = 1280;
/// The payload of what must come in fragments; without the headers outside it is no longer than a container's MTU.
const LONG: usize = 1370;

/// Two hosts with an agent and a container each, near and far.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) hosts: [&'a Host; 2],
    pub(crate) agents: &'a [Agent],
    pub(crate) legs: &'a [Leg],
}

/// The far host is sent packets, and what its container sends is seen.
pub(crate) struct Scene<'a> {
    family: Family,
    ends: Ends<'a>,
    /// The containers' addresses, near and far.
    inside: [IpAddr; 2],
    ears: [UdpSocket; 2],
    /// It has a lease, and no agent to mind what it sends.
    member: Host,
    /// An address of the member's lease.
    own: IpAddr,
    stranger: Host,
}

impl<'a> Scene<'a> {
    /// Adds a member and a stranger, and waits until the far host knows the member.
    ///
    /// # Errors
    /// Where it does not come to know it.
    pub(crate) fn set(
        underlay: &Underlay,
        etcd: &Etcd,
        network: &Network,
        ends: Ends<'a>,
        family: Family,
    ) -> Result<Self> {
        let [near, far] = ends.legs else { return Err(LabError::Wrong("two containers are wanted".to_owned())) };
        let ear = |leg: &Leg| {
            let address = SocketAddr::new(leg.address(family)?, EAR);
            let failed = || LabError::io(format!("cannot listen on {address}"));
            let ear = leg.namespace().inside(|| UdpSocket::bind(address))?.map_err(failed())?;
            ear.set_nonblocking(true).map_err(failed())?;
            Ok::<_, LabError>(ear)
        };
        let member = underlay.host(&format!("member-{family}"))?;
        member.namespace().ip(&format!("link set eth0 mtu {MTU}"))?;
        let lease = lease(&member, [near.address(Family::V4)?, far.address(Family::V4)?], family);
        etcd.put(&lease.key_in(&network.prefix), &lease.value())?;
        let expected = lease.expected(family).ok_or_else(|| LabError::Wrong(format!("no lease of {family}")))?;
        let own = match expected.subnet {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() + 5).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() + 5).into(),
        };
        let scene = Self {
            family,
            ends,
            inside: [near.address(family)?, far.address(family)?],
            ears: [ear(near)?, ear(far)?],
            own,
            stranger: underlay.host(&format!("stranger-{family}"))?,
            member,
        };
        eventually(START, || scene.knows_member())?;
        Ok(scene)
    }

    /// Sends a packet once, and tells what became of it.
    ///
    /// # Errors
    /// Where it cannot be sent, or does not come as it should.
    pub(crate) fn send(&self, case: Case) -> Result<Outcome> {
        let (before, whole) = (self.counted()?, self.member.kernel().fragments(self.family)?);
        self.dispatch(case)?;
        let pieces = case != Case::Fragments || self.member.kernel().fragments(self.family)? > whole;
        check(pieces, || "it has left in one piece".to_owned())?;
        let mut seen = Outcome::default();
        let mut look = || {
            seen.delivered |= self.heard()?;
            let now = self.counted()?;
            seen.counted = std::array::from_fn(|place| now[place].saturating_sub(before[place]));
            Ok::<_, LabError>(seen)
        };
        // Where it does not come true, what is seen is the wrong verdict.
        let _ = eventually(ARRIVES, || check(look()? == case.expected(), String::new));
        thread::sleep(SETTLES);
        look()
    }

    /// Checks that the far agent's `status` tells what `nft` has counted.
    ///
    /// # Errors
    /// Where it does not come to that.
    pub(crate) fn told(&self) -> Result {
        let counted = self.counted()?;
        let told = || {
            let status = self.far_agent()?.status()?;
            let firewall = status.rest.get("firewall");
            let told = Outcome::COUNTERS.map(|name| firewall.and_then(|told| told[name].as_u64()));
            check(told == counted.map(Some), || format!("{told:?} are told of {counted:?}"))
        };
        eventually(TOLD, told).map(drop)
    }

    fn dispatch(&self, case: Case) -> Result {
        let ([other, far], [near_leg, far_leg]) = (self.ends.hosts, self.inside);
        let payload = vec![b'x'; if case == Case::Fragments { LONG } else { 8 }];
        let unleased: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::new(10, 99, 9, 9).into(),
            Family::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 9).into(),
        };
        let (source, destination, host) = match case {
            Case::Honest | Case::Fragments | Case::Tagged => (self.own, far_leg, far),
            Case::Stranger | Case::OtherLease | Case::ContainerToOwn => (near_leg, far_leg, far),
            Case::NoLease => (unleased, far_leg, far),
            Case::ContainerToOther => (far_leg, near_leg, other),
        };
        let packet = IpPacket::udp(SocketAddr::new(source, 4000), SocketAddr::new(destination, EAR), &payload);
        let device = match self.family {
            Family::V4 => "flannel.1",
            Family::V6 => "flannel-v6.1",
        };
        let link = host.kernel().link(device)?.ok_or_else(|| LabError::Wrong(format!("there is no {device}")))?;
        let frame = Vxlan::carrying(&packet, &link.address, usize::from(case == Case::Tagged)).to_payload();
        let (sender, from): (&Namespace, IpAddr) = match case {
            Case::Stranger => (self.stranger.namespace(), self.stranger.on_underlay(self.family)),
            Case::ContainerToOther | Case::ContainerToOwn => (self.ends.legs[1].namespace(), far_leg),
            Case::Honest | Case::Fragments | Case::OtherLease | Case::NoLease | Case::Tagged => {
                (self.member.namespace(), self.member.on_underlay(self.family))
            }
        };
        let to = SocketAddr::new(host.on_underlay(self.family), VXLAN);
        let sent = sender.inside(|| UdpSocket::bind((from, 0))?.send_to(&frame, to))?;
        sent.map(drop).map_err(LabError::io(format!("cannot send to {to}")))
    }

    /// Whether anything has come to a container since the last look.
    fn heard(&self) -> Result<bool> {
        let mut heard = false;
        for ear in &self.ears {
            loop {
                match ear.recv(&mut [0; 2 * LONG]) {
                    Ok(_) => heard = true,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(LabError::io("cannot listen")(error)),
                }
            }
        }
        Ok(heard)
    }

    /// What `nft` has counted at the far host.
    fn counted(&self) -> Result<[u64; 3]> {
        let text = self.ends.hosts[1].exec("nft list counters table inet wire-agent")?;
        let counts = Outcome::COUNTERS.map(|name| packets(&text, name));
        match counts {
            [Some(strangers), Some(spoofed), Some(containers)] => Ok([strangers, spoofed, containers]),
            _ => Err(LabError::Answer { what: "nft".to_owned(), rule: format!("not all counters are there:\n{text}") }),
        }
    }

    /// Checks that the member is in the far host's sets and has a route there.
    fn knows_member(&self) -> Result {
        let (v4, public) = (self.member.v4().to_string(), self.member.on_underlay(self.family).to_string());
        let name = if self.family == Family::V4 { "v4" } else { "v6" };
        let set = rules::set(self.ends.hosts[1], &format!("peers-{name}"))?;
        let peers = self.far_agent()?.peers()?.peers;
        let programmed = peers.iter().any(|peer| peer.programmed && peer.public_ip.as_deref() == Some(&v4));
        check(set.contains(&public) && programmed, || format!("the far host does not know {public}"))
    }

    fn far_agent(&self) -> Result<&Agent> {
        self.ends.agents.last().ok_or_else(|| LabError::Wrong("there is no agent".to_owned()))
    }
}

/// A lease of a host beside those of two others, of which it is given an address.
fn lease(member: &Host, others: [IpAddr; 2], family: Family) -> PeerLease {
    let others = others.map(|other| if let IpAddr::V4(v4) = other { v4.octets() } else { [0; 4] });
    let [first, second, ..] = others[0];
    let free = (200..=u8::MAX).find(|third| others.iter().all(|other| other[2] != *third)).unwrap_or_default();
    let subnet = Ipv4Addr::new(first, second, free, 0);
    let lease = PeerLease { subnet, public_ip: member.v4(), ..PeerLease::numbered(200) };
    match family {
        Family::V4 => lease,
        Family::V6 => PeerLease {
            subnet_v6: Some(Ipv6Addr::new(0xfd00, 0x70, 0xabcd, 0xabcd, 0, 0, 0, 0)),
            public_ipv6: Some(member.v6()),
            ..lease
        },
    }
}

/// How many packets a counter has, in what `nft list counters` prints.
fn packets(text: &str, name: &str) -> Option<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let found = words.windows(5).find(|words| words[..4] == ["counter", name, "{", "packets"])?;
    found[4].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_by_its_name() {
        let text = "table inet wire-agent {\n\tcounter containers {\n\t\tpackets 3 bytes 99\n\t}\n\
                    \tcounter spoofed {\n\t\tpackets 12 bytes 0\n\t}\n}\n";
        assert_eq!((packets(text, "containers"), packets(text, "spoofed")), (Some(3), Some(12)));
        assert_eq!(packets(text, "strangers"), None);
    }
}
