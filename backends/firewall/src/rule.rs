//! Rules of nftables as values. [`super::render::nft`] has their text. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use wire_net::{Family, LinkName, Vni};

use super::address_range::AddressRange;

/// A rule: if all of its matches hold, its actions are carried out in order.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Its purpose in a few words, which is part of its mark.
    pub(super) purpose: &'static str,
    pub(super) matches: Vec<Match>,
    pub(super) actions: Vec<Action>,
}

/// A condition on a packet.
#[derive(Clone, Debug)]
pub(super) enum Match {
    /// The incoming link.
    From(Links),
    /// The outgoing link.
    To(LinkName),
    /// It came by the overlay device of some network.
    FromAnyOverlay,
    /// It leaves by the overlay device of some network.
    ToAnyOverlay,
    Source(Family, Addresses),
    Destination(Family, Addresses),
    Family(Family),
    Tcp,
    NotUdp,
    /// It goes to another UDP port than this one.
    PortIsNot(u16),
    /// It goes to a UDP port that is in this set.
    PortIn(&'static str),
    /// It goes to a UDP port that is not in this set.
    PortNotIn(&'static str),
    NotIpip,
    /// Shorter than a UDP and a VXLAN header.
    Short,
    Header(Is, Header),
    /// The inner EtherType: its offset from the start of the UDP header, in bytes, and its value.
    EtherType(usize, u16),
    /// Its source and inner source are in this set.
    Pair(Pair, String),
    /// The leading bits of its source are in this set, or not.
    Leading(Is, Leading),
    /// All of these bits of its mark are set.
    Mark(u32),
    /// A rule has let it in, or the packet that it came in ([`By`]).
    LetIn(Is, By),
    /// The route back to its source leaves by another link than it came by (a reverse path check).
    AnsweredElsewhere,
    /// Its destination is another host, by the kernel's own table of local addresses.
    OnlyPassing,
    /// Of a protocol that a flowtable can hold.
    TcpOrUdp,
    /// Its connection was answered.
    Established,
    /// It goes to a UDP port in this set and has a VXLAN header.
    VxlanTo(&'static str),
    /// Its destination is one of these addresses.
    ToOneOf(Family, BTreeSet<IpAddr>),
    /// Its VNI is in this set.
    VniIn(&'static str),
    /// Its source and its VNI are in this set.
    Vtep(Family, &'static str),
    /// Its source, its VNI, and the leading bits of an inner MAC and an inner source are in a set.
    Behind(Behind),
    /// The inner address of this family at this offset, in bits, is unspecified.
    Unspecified(usize, Family),
    /// It comes by a link whose name begins so.
    FromLike(&'static str),
    /// It comes by the host's end of a pair of links.
    FromVeth,
    /// It leaves by a link whose name begins so, or not.
    ToLike(Is, &'static str),
    /// It leaves by a link in this set.
    ToIn(&'static str),
    /// The links that it comes by and leaves by are in this set.
    Between(&'static str),
    /// A frame of IPv4 without a VLAN tag, and to none of the groups that bridges do not forward.
    UsualFrame,
    /// A frame with this EtherType.
    Frame(u16),
    /// A frame with a VLAN tag.
    Tagged,
    /// A frame to a group that bridges do not forward (01:80:c2:00:00:00 to 0f, IEEE 802.1D).
    ToLinkGroup,
    /// The port of a bridge, the source MAC and the source address are in this set.
    Sender(Family, &'static str),
    /// The same for ARP: by the MAC of the frame, and by the one that it tells.
    ArpSender(&'static str),
    /// It advertises a router, or redirects (RFC 4861 §4.2, §4.5).
    Routers,
    /// It advertises an address that is, with its port and MAC, in this set, or not (RFC 4861 §4.4).
    Advertised(Is, &'static str),
    /// The leading bits of that, this many of the address, are with its port and those of its MAC in this set.
    AdvertisedBlock(u8, String),
    /// Its connection goes to a port that was published: the destination was translated.
    Published,
    /// It is of a connection whose source was not translated.
    SourceKept,
    /// Its source was translated, and was not this address before.
    SourceWasNot(Family, IpAddr),
}

/// Equal or not equal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Is {
    So,
    NotSo,
}

/// A VXLAN header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header {
    /// All eight bytes.
    Whole([u8; 8]),
    /// Its VNI alone.
    Vni(Vni),
}

/// A condition on the incoming link.
#[derive(Clone, Debug)]
pub(super) enum Links {
    Is(LinkName),
    IsNot(&'static str),
    In(&'static str),
    NotIn(&'static str),
}

/// A condition on an address.
#[derive(Clone, Debug)]
pub(super) enum Addresses {
    Is(IpAddr),
    IsNot(IpAddr),
    In(AddressRange),
    NotIn(AddressRange),
    Set(String),
    NotInSet(String),
}

/// An outer source and the leading bits of an inner one, which nft reads as raw bytes from the end of the outer IP header.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) family: Family,
    /// Offset of the inner source, in bits.
    pub(super) offset: usize,
    /// Number of leading bits that are compared.
    pub(super) bits: u8,
}

/// The leading bits of a source, as an address, and the set that they are looked up in.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    pub(super) mask: IpAddr,
    pub(super) set: String,
}

/// An outer source, a VNI, and the leading bits of an inner MAC and an inner source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    pub(super) outer: Family,
    pub(super) inner: Family,
    /// Number of leading bits of the source that are compared. Of the MAC as many are left out.
    pub(super) len: u8,
    /// Offset of the MAC from the UDP header, in bits.
    pub(super) mac: usize,
    /// Offset of the source, in bits.
    pub(super) source: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Accept,
    Drop,
    /// Leaves the chain.
    Return,
    /// Goes through this chain first.
    Jump(String),
    /// Counts it in a counter inside the rule.
    Count,
    /// Counts it in a named counter.
    CountIn(&'static str),
    /// Keeps it out of connection tracking.
    NoTrack,
    /// Sets bits of its mark.
    SetMark(u32),
    /// Marks it as let in, for later rules and for the packet inside it ([`By`]).
    LetIn(By),
    /// Takes the mark away: who is inside of a packet that was let in was not.
    LetInNoMore,
    /// Adds its source to a set.
    NoteSource(Family, String),
    /// Adds its source and inner source to a set.
    NotePair(Pair, String),
    /// Keeps its source, whatever rules of others follow.
    KeepSource(Family),
    /// Adds its flow to a flowtable.
    FlowAdd(&'static str),
    /// Gives it this host's address.
    Masquerade(SourcePort),
}

/// The source port of a packet that is masqueraded.
#[derive(Clone, Copy, Debug)]
pub(super) enum SourcePort {
    Random,
    /// Its own, if that is free.
    Kept,
}

impl Rule {
    pub(super) fn new(purpose: &'static str, matches: impl Into<Vec<Match>>, actions: impl Into<Vec<Action>>) -> Self {
        Self { purpose, matches: matches.into(), actions: actions.into() }
    }
}

/// The evidence by which a packet was let in as encapsulated. Each has a priority (`skb->priority`) by which later
/// rules know what was let in.
///
/// No sender can set this priority: packets from a wire have none, or one of the few that VLAN priorities map to, and
/// packets of containers lose theirs when they leave the namespace (____dev_forward_skb). It names no class of a
/// queueing discipline. A packet that the kernel decapsulates keeps the priority of the outer one (vxlan_rcv and
/// ip_tunnel_rcv clear mark and connection at most), so each kind has its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    /// By a VXLAN header, or by the protocol number of IPIP.
    Header,
    /// By its port alone.
    Port,
    /// As that of a member of a network over several hosts, by what is inside too.
    Member,
}
