//! The steps of a packet on one host, and its fate there, as sentences.

use std::{fmt, net::IpAddr};

use wire_net::{LinkName, MacAddr, Prefix, Vni};

use super::packet::Packet;
use crate::{
    BridgeFdbKey, FdbKey, FdbTarget, Forward, ForwardKey, NeighbourKey, NextHop, Purpose, RouteKey, SegmentPurpose,
    Setting, TableFamily,
};

/// A step of a packet on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It comes in by a link.
    Arrived(LinkName),
    /// A rule of ours lets it in.
    LetIn(Purpose),
    /// A rule about networks over several hosts, of our table of that family, lets it pass.
    Accepted(TableFamily, SegmentPurpose),
    /// Its route.
    Route(RouteKey, NextHop),
    /// The MAC of the next hop.
    Neighbour(NeighbourKey, MacAddr),
    /// The host behind that MAC.
    Fdb(FdbKey, FdbTarget),
    /// The only host to which frames without an FDB entry are flooded.
    Flooded(LinkName, IpAddr),
    /// The host that a tunnel of the agent sends to.
    Forward(ForwardKey, Forward),
    /// The outer packet.
    Encapsulated(Packet),
    /// A container behind a port of a bridge has the next address.
    Answers {
        /// The address.
        address: IpAddr,
        /// The port.
        port: LinkName,
        /// The container's MAC.
        mac: MacAddr,
    },
    /// The port of a bridge that the destination is behind.
    BridgeFdb(BridgeFdbKey, LinkName),
    /// The port of the container with that MAC, which the bridge has not learnt yet.
    Behind(BridgeFdbKey, LinkName),
    /// The port by which a frame leaves that the bridge floods.
    BridgeFloods(BridgeFdbKey, LinkName),
    /// It gets this source.
    Masqueraded(IpAddr),
    /// A device takes the inner packet out.
    Decapsulated(LinkName, Packet),
}

/// The fate of a packet on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has arrived.
    Delivered(Delivery),
    /// It leaves for another host.
    Sent(Sending),
    /// It is dropped here.
    Dropped(Reason),
    /// It is not known, since something that decides was not looked at.
    Unknown(Gap),
}

/// The place where a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// This host itself.
    Here(IpAddr),
    /// A neighbour on a link of this host, as a container is.
    OnLink(LinkName, IpAddr),
    /// A container behind this port of a bridge.
    AtPort(LinkName, IpAddr),
}

/// A packet that leaves a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The link that it leaves by.
    pub link: LinkName,
    /// The address on that link that it is sent to.
    pub next_hop: IpAddr,
    /// The MAC of the next hop; `None` if it is not in the neighbour table, and is asked for.
    pub mac: Option<MacAddr>,
    /// The packet, which is the outer one if it was encapsulated.
    pub packet: Packet,
}

/// The reason why a packet is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such link.
    NoLink(LinkName),
    /// The link is down.
    LinkDown(LinkName),
    /// The link has no carrier.
    NoCarrier(LinkName),
    /// No route leads to the destination.
    NoRoute(IpAddr),
    /// A route or a rule drops it; the text names it.
    Refused(String),
    /// The host does not forward.
    NoForwarding(Setting),
    /// Its source is an address of this host, but it comes from outside.
    OwnSource(IpAddr, LinkName),
    /// The route back to its source leads elsewhere, and the link is checked (`rp_filter`).
    ReversePath(IpAddr, LinkName),
    /// The next hop's MAC is not known, and nobody can be asked for it.
    NoNeighbour(NeighbourKey),
    /// No host is known behind the MAC.
    NoFdb(FdbKey),
    /// No port of a bridge is known for the MAC, and the bridge floods such frames to no other host.
    NoBridgeFdb(BridgeFdbKey),
    /// The entry of the bridge leads to the port that the frame came by.
    BackToPort(BridgeFdbKey, LinkName),
    /// The tunnel knows no host for the destination.
    NoForward(LinkName, IpAddr),
    /// The outer packet would be sent into the same device.
    Circle(LinkName),
    /// A rule of our table drops it.
    Rule {
        /// Its chain.
        chain: &'static str,
        /// Its purpose.
        purpose: Purpose,
    },
    /// A rule about networks over several hosts drops it.
    SegmentRule {
        /// The family of our table.
        table: TableFamily,
        /// Its chain.
        chain: &'static str,
        /// Its purpose.
        purpose: SegmentPurpose,
    },
    /// The policy of a chain of our table drops it.
    Policy {
        /// The family of our table.
        table: TableFamily,
        /// The chain.
        chain: &'static str,
    },
    /// No device takes packets with that port and VNI.
    NoDevice {
        /// The UDP port; `None` for IPIP.
        port: Option<u16>,
        /// The VNI, if the packet has one.
        vni: Option<Vni>,
    },
    /// The frame is for another MAC.
    OtherMac {
        /// The link that receives it.
        link: LinkName,
        /// The destination of the frame.
        mac: MacAddr,
    },
    /// The inner source MAC is the device's own.
    OwnMac(LinkName, MacAddr),
    /// The inner destination is not in this host's subnet.
    NotOwn(IpAddr, Prefix),
    /// The inner source belongs to another host than the outer one.
    OtherSource(IpAddr, IpAddr),
    /// No host has the address of the next hop.
    NobodyHas(IpAddr),
    /// It went through too many hosts.
    TooManyHosts,
}

/// A thing that decides about a packet and is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// A rule or route of this text.
    Route(String),
    /// Which host answers when a device asks for a neighbour.
    Asked(NeighbourKey),
    /// Which of several hosts takes a flooded frame.
    Flooded(LinkName),
    /// The table of a tunnel that another process holds.
    TunnelElsewhere(LinkName),
    /// A device of a kind that is not followed.
    Kind(LinkName, String),
    /// Who takes packets to all hosts of a link, or to several.
    Several(IpAddr),
    /// Addresses of one link only.
    LinkLocal(IpAddr),
    /// The way of an outer packet to this host itself.
    ToItself(IpAddr),
    /// A router that is none of the hosts.
    Router(IpAddr),
}

impl From<Reason> for Box<Outcome> {
    fn from(reason: Reason) -> Self {
        Self::new(Outcome::Dropped(reason))
    }
}

impl From<Gap> for Box<Outcome> {
    fn from(gap: Gap) -> Self {
        Self::new(Outcome::Unknown(gap))
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrived(link) => write!(f, "comes in by {link}"),
            Self::LetIn(purpose) => write!(f, "rule '{purpose}' of table inet wire-agent lets it in"),
            Self::Accepted(table, purpose) => write!(f, "rule '{purpose}' of table {table} wire-agent lets it pass"),
            Self::Route(key, hop) => write!(f, "route {key} {hop}"),
            Self::Neighbour(key, mac) => write!(f, "neighbour {} on {} has MAC {mac}", key.address, key.link),
            Self::Fdb(key, to) => write!(f, "FDB entry of {} on {} leads to host {to}", key.mac, key.link),
            Self::Flooded(link, to) => write!(f, "{link} floods frames without an FDB entry to host {to}"),
            Self::Forward(key, forward) => write!(f, "tunnel {} has {} {forward}", key.link, key.destination),
            Self::Encapsulated(packet) => write!(f, "outer packet {packet}"),
            Self::Answers { address, port, mac } => write!(f, "{address} is behind {port} and has MAC {mac}"),
            Self::BridgeFdb(key, port) => {
                write!(f, "FDB entry of {} on bridge {} leads to {port}", key.mac, key.bridge)
            }
            Self::Behind(key, port) => write!(f, "the container with MAC {} is behind {port}", key.mac),
            Self::BridgeFloods(key, port) => {
                write!(f, "bridge {} has no FDB entry of {}, and floods the frame to {port} too", key.bridge, key.mac)
            }
            Self::Masqueraded(source) => write!(f, "masqueraded: it gets the source {source}"),
            Self::Decapsulated(link, packet) => write!(f, "{link} takes out the inner packet {packet}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered(Delivery::Here(address)) => write!(f, "delivered: {address} is an address of this host"),
            Self::Delivered(Delivery::OnLink(link, address)) => write!(f, "delivered to {address} on {link}"),
            Self::Delivered(Delivery::AtPort(port, address)) => write!(f, "delivered to {address} behind {port}"),
            Self::Sent(Sending { link, next_hop, mac, .. }) => {
                write!(f, "sent to {next_hop} by {link}")?;
                match mac {
                    Some(mac) => write!(f, ", MAC {mac}"),
                    None => f.write_str(", whose MAC is asked for"),
                }
            }
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
            Self::Unknown(gap) => write!(f, "not known: {gap}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLink(link) => write!(f, "there is no link {link}"),
            Self::LinkDown(link) => write!(f, "{link} is down"),
            Self::NoCarrier(link) => write!(f, "{link} has no carrier"),
            Self::NoRoute(address) => write!(f, "no route to {address}"),
            Self::Refused(what) => write!(f, "{what} drops it"),
            Self::NoForwarding(setting) => write!(f, "{setting} is 0"),
            Self::OwnSource(source, link) => {
                write!(f, "it comes in by {link} with source {source}, which is an address of this host")
            }
            Self::ReversePath(source, link) => {
                write!(f, "rp_filter of {link} drops it: the route back to {source} leads elsewhere")
            }
            Self::NoNeighbour(key) => write!(f, "no neighbour entry for {} on {}", key.address, key.link),
            Self::NoFdb(key) => write!(f, "no FDB entry for {} on {}", key.mac, key.link),
            Self::NoBridgeFdb(key) => {
                write!(f, "no FDB entry for {} on bridge {}, and no container has it", key.mac, key.bridge)
            }
            Self::BackToPort(key, port) => {
                write!(f, "FDB entry of {} on bridge {} leads back to {port}", key.mac, key.bridge)
            }
            Self::NoForward(link, address) => write!(f, "tunnel {link} knows no host for {address}"),
            Self::Circle(link) => write!(f, "the route of the outer packet leads into {link} again"),
            Self::Rule { chain, purpose } => {
                write!(f, "rule '{purpose}' in chain {chain} of table inet wire-agent drops it")
            }
            Self::SegmentRule { table, chain, purpose } => {
                write!(f, "rule '{purpose}' in chain {chain} of table {table} wire-agent drops it")
            }
            Self::Policy { table, chain } => {
                write!(f, "the policy of chain {chain} of table {table} wire-agent drops it")
            }
            Self::NoDevice { port, vni } => {
                match port {
                    Some(port) => write!(f, "no device takes packets to UDP port {port}")?,
                    None => f.write_str("no device takes IPIP packets")?,
                }
                vni.map_or(Ok(()), |vni| write!(f, " with VNI {vni}"))
            }
            Self::OtherMac { link, mac } => write!(f, "the frame is for {mac}, which is not the MAC of {link}"),
            Self::OwnMac(link, mac) => write!(f, "the inner source MAC {mac} is that of {link} itself"),
            Self::NotOwn(address, own) => write!(f, "{address} is not in this host's subnet {own}"),
            Self::OtherSource(source, host) => write!(f, "{source} is not in a subnet of host {host}"),
            Self::NobodyHas(address) => write!(f, "no host has the address {address}"),
            Self::TooManyHosts => f.write_str("it went through too many hosts"),
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(what) => write!(f, "{what} is not followed"),
            Self::Asked(key) => write!(f, "which host answers on {} for {}", key.link, key.address),
            Self::Flooded(link) => write!(f, "{link} floods it to several hosts"),
            Self::TunnelElsewhere(link) => write!(f, "the table of tunnel {link} is held by another process"),
            Self::Kind(link, kind) => write!(f, "{link} is of the kind {kind}, which is not followed"),
            Self::Several(address) => write!(f, "{address} stands for several hosts"),
            Self::LinkLocal(address) => write!(f, "{address} is valid on one link only"),
            Self::ToItself(address) => write!(f, "the outer packet goes to {address}, an address of this host"),
            Self::Router(address) => write!(f, "router {address} is none of the hosts"),
        }
    }
}
