//! Rules of nftables as values, and how nft writes them. Pure.

use std::{fmt, net::IpAddr};

use wire_net::{Family, LinkName, Prefix, Vni};

use super::overlay::Overlay;

/// A rule: all of its matches must hold, then its actions are carried out in their order.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// What it is for, in a few words.
    pub(super) purpose: &'static str,
    pub(super) matches: Vec<Match>,
    pub(super) actions: Vec<Action>,
}

/// Something about a packet that must hold.
#[derive(Clone, Debug)]
pub(super) enum Match {
    /// It came in by this link, or by one of a set, or by none of a set.
    From(Links),
    /// It leaves by this link.
    To(LinkName),
    Source(Family, Addresses),
    Destination(Family, Addresses),
    Family(Family),
    NotUdp,
    PortIsNot(u16),
    /// It ends before what encapsulated packets begin with.
    Short,
    Header(Is, Header),
    /// Its inner Ethernet header, so many bytes behind the start of the UDP header, says that this is inside.
    EtherType(usize, u16),
    /// Its source and its inner source are in this set.
    Pair(Pair, String),
    /// All bits of this mark are set.
    Mark(&'static str),
    /// Whether a rule has let it in, or what it came in.
    LetIn(Is, By),
    /// An answer to it would leave by another link than this packet came by.
    AnsweredElsewhere,
    /// It is for another host, as far as this one's own table of local addresses goes.
    OnlyPassing,
    /// It is of a protocol whose flows a flowtable can hold.
    TcpOrUdp,
    /// It is of a connection that was answered.
    Established,
    /// It was given another source than this one, which it had before.
    SourceWasNot(Family, IpAddr),
}

/// Whether something is so.
#[derive(Clone, Copy, Debug)]
pub(super) enum Is {
    So,
    NotSo,
}

/// A VXLAN header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header {
    /// All of its bytes.
    Whole([u8; 8]),
    /// Of its bytes those of the VNI alone.
    Vni(Vni),
}

/// The links that a packet may have come by.
#[derive(Clone, Debug)]
pub(super) enum Links {
    Is(LinkName),
    IsNot(&'static str),
    In(&'static str),
    NotIn(&'static str),
}

/// The addresses that one is compared with.
#[derive(Clone, Debug)]
pub(super) enum Addresses {
    Is(IpAddr),
    IsNot(IpAddr),
    In(Prefix),
    NotIn(Prefix),
    Of(Overlay),
    NotOf(Overlay),
    /// Those of multicast are none of them.
    NotMulticast,
    Set(String),
    NotInSet(String),
}

/// An outer source and the leading bits of an inner one, which nft reads as raw bytes behind the start of the UDP header.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) family: Family,
    /// Where the inner source lies, in bits.
    pub(super) offset: usize,
    /// How many of its bits count.
    pub(super) bits: u8,
}

/// What is done with a packet.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Accept,
    Drop,
    /// Leaves the chain.
    Return,
    /// Counts it in the rule itself.
    Count,
    /// Counts it in a counter that has a name.
    CountIn(&'static str),
    /// Keeps it out of the tracking of connections.
    NoTrack,
    /// Sets bits of its mark.
    SetMark(u32),
    /// Notes that it is let in, for what comes in it.
    LetIn(By),
    /// Puts its source into a set.
    NoteSource(Family, String),
    /// Puts its source and its inner source into a set.
    NotePair(Pair, String),
    /// Lets it keep its source, whatever rules of others follow.
    KeepSource(Family),
    /// Puts its flow into a flowtable.
    FlowAdd(&'static str),
    /// Gives it this host's address, with any free port or where it can be its own.
    Masquerade {
        random_port: bool,
    },
}

impl Rule {
    pub(super) fn new(purpose: &'static str, matches: impl Into<Vec<Match>>, actions: impl Into<Vec<Action>>) -> Self {
        Self { purpose, matches: matches.into(), actions: actions.into() }
    }

    /// As nft reads it, with its mark.
    pub(super) fn in_nft(self) -> wire_state::Rule {
        let words: Vec<String> = self.matches.iter().map(ToString::to_string).collect();
        let actions = self.actions.into_iter().map(|action| action.to_string());
        wire_state::Rule::new(self.purpose, words.into_iter().chain(actions).collect::<Vec<_>>().join(" "))
    }
}

/// How a packet is known to be encapsulated. Each has a priority (`skb->priority`) by which later rules know what was let in.
///
/// No sender can give it to a packet: what comes over a wire has none, or the few that tags of VLANs stand for, and what containers send
/// loses its own on the way out of their namespace (____dev_forward_skb). It names no class of a queue. The packet that the kernel takes out
/// of another one keeps it (vxlan_rcv clears mark and connection at most), so each kind has one of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    /// By a VXLAN header.
    Header,
    /// By its port alone.
    Port,
}

/// nft's word for the family.
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

/// Addresses of a family.
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
