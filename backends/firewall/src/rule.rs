//! Rules of nftables as values, and their text for nft. Pure.

use std::{fmt, net::IpAddr};

use wire_net::{Family, LinkName, Prefix, Vni};

use super::overlay::Overlay;

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
    Source(Family, Addresses),
    Destination(Family, Addresses),
    Family(Family),
    NotUdp,
    PortIsNot(u16),
    /// Shorter than a UDP and a VXLAN header.
    Short,
    Header(Is, Header),
    /// The inner EtherType: its offset from the start of the UDP header, in bytes, and its value.
    EtherType(usize, u16),
    /// Its source and inner source are in this set.
    Pair(Pair, String),
    /// All bits of this mark are set.
    Mark(&'static str),
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
    In(Prefix),
    NotIn(Prefix),
    Of(Overlay),
    NotOf(Overlay),
    /// Any address but multicast.
    NotMulticast,
    Set(String),
    NotInSet(String),
}

/// An outer source and the leading bits of an inner one, which nft reads as raw bytes from the start of the UDP header.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) family: Family,
    /// Offset of the inner source, in bits.
    pub(super) offset: usize,
    /// Number of leading bits that are compared.
    pub(super) bits: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Accept,
    Drop,
    /// Leaves the chain.
    Return,
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
    /// Adds its source to a set.
    NoteSource(Family, String),
    /// Adds its source and inner source to a set.
    NotePair(Pair, String),
    /// Keeps its source, whatever rules of others follow.
    KeepSource(Family),
    /// Adds its flow to a flowtable.
    FlowAdd(&'static str),
    /// Gives it this host's address, with a random port or with its own if that is free.
    Masquerade {
        random_port: bool,
    },
}

impl Rule {
    pub(super) fn new(purpose: &'static str, matches: impl Into<Vec<Match>>, actions: impl Into<Vec<Action>>) -> Self {
        Self { purpose, matches: matches.into(), actions: actions.into() }
    }

    /// The rule in nft's syntax, with its mark.
    pub(super) fn in_nft(self) -> wire_state::Rule {
        let words: Vec<String> = self.matches.iter().map(ToString::to_string).collect();
        let actions = self.actions.into_iter().map(|action| action.to_string());
        wire_state::Rule::new(self.purpose, words.into_iter().chain(actions).collect::<Vec<_>>().join(" "))
    }
}

/// The evidence by which a packet was let in as encapsulated. Each has a priority (`skb->priority`) by which later
/// rules know what was let in.
///
/// No sender can set this priority: packets from a wire have none, or one of the few that VLAN priorities map to, and
/// packets of containers lose theirs when they leave the namespace (____dev_forward_skb). It names no class of a
/// queueing discipline. A packet that the kernel decapsulates keeps the priority of the outer one (vxlan_rcv clears
/// mark and connection at most), so each kind has its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    /// By a VXLAN header.
    Header,
    /// By its port alone.
    Port,
}

/// nft's keyword for the family.
pub(super) const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(links) => write!(f, "iifname {links}"),
            Self::To(link) => write!(f, "oifname \"{link}\""),
            Self::Source(family, addresses) => write!(f, "{} saddr {}", ip(*family), In(*family, addresses)),
            Self::Destination(family, addresses) => write!(f, "{} daddr {}", ip(*family), In(*family, addresses)),
            Self::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Self::NotUdp => f.write_str("meta l4proto != udp"),
            Self::PortIsNot(port) => write!(f, "udp dport != {port}"),
            // UDP's header and that of VXLAN, in bytes (RFC 768, RFC 7348 §5).
            Self::Short => f.write_str("udp length < 16"),
            Self::Header(is, Header::Whole(bytes)) => write!(f, "@th,64,64 {is}{:#018x}", u64::from_be_bytes(*bytes)),
            Self::Header(is, Header::Vni(vni)) => write!(f, "@th,96,24 {is}{}", vni.number()),
            Self::EtherType(at, number) => write!(f, "@th,{},16 {number:#06x}", at * 8),
            Self::Pair(pair, set) => write!(f, "{pair} @{set}"),
            Self::Mark(mark) => write!(f, "meta mark & {mark} == {mark}"),
            Self::LetIn(is, by) => write!(f, "meta priority {is}{by}"),
            Self::AnsweredElsewhere => f.write_str("fib saddr . iif oif 0"),
            Self::OnlyPassing => f.write_str("fib daddr type unicast"),
            Self::TcpOrUdp => f.write_str("meta l4proto { tcp, udp }"),
            Self::Established => f.write_str("ct state established"),
            Self::SourceWasNot(family, source) => {
                write!(f, "ct status snat ct original {} saddr != {source}", ip(*family))
            }
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "7769:0",
            Self::Port => "7769:1",
        })
    }
}

impl fmt::Display for Is {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::So => "",
            Self::NotSo => "!= ",
        })
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(link) => write!(f, "\"{link}\""),
            Self::IsNot(link) => write!(f, "!= \"{link}\""),
            Self::In(set) => write!(f, "@{set}"),
            Self::NotIn(set) => write!(f, "!= @{set}"),
        }
    }
}

/// A condition on an address, written for its family.
struct In<'a>(Family, &'a Addresses);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Addresses::Is(address) => address.fmt(f),
            Addresses::IsNot(address) => write!(f, "!= {address}"),
            Addresses::In(prefix) => prefix.fmt(f),
            Addresses::NotIn(prefix) => write!(f, "!= {prefix}"),
            Addresses::Of(overlay) => overlay.fmt(f),
            Addresses::NotOf(overlay) => write!(f, "!= {overlay}"),
            Addresses::NotMulticast => write!(f, "!= {}", multicast(self.0)),
            Addresses::Set(set) => write!(f, "@{set}"),
            Addresses::NotInSet(set) => write!(f, "!= @{set}"),
        }
    }
}

/// The addresses of multicast (RFC 5771, RFC 4291 §2.7).
pub(super) const fn multicast(family: Family) -> &'static str {
    match family {
        Family::V4 => "224.0.0.0/4",
        Family::V6 => "ff00::/8",
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, offset, bits } = self;
        write!(f, "{} saddr . @th,{offset},{bits}", ip(*family))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Count => f.write_str("counter"),
            Self::CountIn(counter) => write!(f, "counter name \"{counter}\""),
            Self::NoTrack => f.write_str("notrack"),
            Self::LetIn(by) => write!(f, "meta priority set {by}"),
            Self::SetMark(bits) => write!(f, "meta mark set meta mark or {bits:#x}"),
            Self::NoteSource(family, set) => write!(f, "update @{set} {{ {} saddr }}", ip(*family)),
            Self::NotePair(pair, set) => write!(f, "update @{set} {{ {pair} }}"),
            Self::KeepSource(family) => write!(f, "snat {0} to {0} saddr", ip(*family)),
            Self::FlowAdd(flowtable) => write!(f, "flow add @{flowtable}"),
            Self::Masquerade { random_port: false } => f.write_str("masquerade"),
            Self::Masquerade { random_port: true } => f.write_str("masquerade fully-random"),
        }
    }
}
