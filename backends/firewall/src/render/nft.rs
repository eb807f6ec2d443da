//! Rules in nft's language, with their marks. The checksum in a mark is that of the text: another text for the same rule
//! is put anew on each host.

use std::{collections::BTreeSet, net::IpAddr};

use wire_net::{Family, MacAddr, NetworkName};
use wire_state::names;

use crate::rule::{Action, Addresses, Behind, By, Header, Is, Leading, Links, Match, Pair, Rule, SourcePort};
use crate::segments::behind;

/// A rule of this network.
pub(crate) fn rule(rule: &Rule, network: &NetworkName) -> wire_state::Rule {
    let matches = rule.matches.iter().map(|matching| condition(matching, network));
    let words: Vec<String> = matches.chain(rule.actions.iter().map(|then| action(then, network))).collect();
    wire_state::Rule::new(rule.purpose, words.join(" "))
}

/// nft's keyword for the family.
pub(crate) const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The beginning of the names of all overlay devices, flanneld's too.
const OVERLAYS: &str = "flannel";

fn condition(condition: &Match, network: &NetworkName) -> String {
    match condition {
        Match::From(from) => format!("iifname {}", links(from)),
        Match::To(link) => format!("oifname \"{link}\""),
        Match::FromAnyOverlay => format!("iifname \"{OVERLAYS}*\""),
        Match::ToAnyOverlay => format!("oifname \"{OVERLAYS}*\""),
        Match::Source(family, source) => format!("{} saddr {}", ip(*family), addresses(source)),
        Match::Destination(family, destination) => format!("{} daddr {}", ip(*family), addresses(destination)),
        Match::Family(Family::V4) => "meta nfproto ipv4".to_owned(),
        Match::Family(Family::V6) => "meta nfproto ipv6".to_owned(),
        Match::Tcp => "meta l4proto tcp".to_owned(),
        Match::NotUdp => "meta l4proto != udp".to_owned(),
        // By number: not every nft knows the name (RFC 2003).
        Match::NotIpip => "meta l4proto != 4".to_owned(),
        Match::PortIsNot(port) => format!("udp dport != {port}"),
        Match::PortIn(set) => format!("udp dport @{set}"),
        Match::PortNotIn(set) => format!("udp dport != @{set}"),
        Match::ToOneOf(family, all) => format!("{} daddr {}", ip(*family), one_or_all(all)),
        // UDP's header and that of VXLAN, in bytes (RFC 768, RFC 7348 §5).
        Match::Short => "udp length < 16".to_owned(),
        Match::Header(is, Header::Whole(bytes)) => {
            format!("@th,64,64 {}{:#018x}", operator(*is), u64::from_be_bytes(*bytes))
        }
        Match::Header(is, Header::Vni(vni)) => format!("@th,96,24 {}{}", operator(*is), vni.number()),
        Match::EtherType(at, number) => format!("@th,{},16 {number:#06x}", at * 8),
        Match::Pair(key, set) => format!("{} @{set}", pair(key)),
        Match::Leading(is, Leading { mask, set }) => {
            format!("{} saddr & {mask} {}@{set}", ip(Family::of(*mask)), operator(*is))
        }
        Match::Mark(bits) => format!("meta mark & {bits:#x} == {bits:#x}"),
        Match::LetIn(is, by) => format!("meta priority {}{}", operator(*is), priority(*by, network)),
        Match::AnsweredElsewhere => "fib saddr . iif oif 0".to_owned(),
        Match::OnlyPassing => "fib daddr type unicast".to_owned(),
        Match::TcpOrUdp => "meta l4proto { tcp, udp }".to_owned(),
        Match::Established => "ct state established".to_owned(),
        Match::VxlanTo(set) => format!("udp dport @{set} udp length >= 16"),
        Match::VniIn(set) => format!("@th,96,24 @{set}"),
        Match::Vtep(family, set) => format!("{} saddr . @th,96,24 @{set}", ip(*family)),
        Match::Behind(key) => behind_key(key),
        Match::Unspecified(offset, inner) => format!("@th,{offset},{} 0", inner.bits()),
        Match::FromLike(start) => format!("iifname \"{start}*\""),
        Match::FromVeth => "meta iifkind \"veth\"".to_owned(),
        Match::ToLike(is, start) => format!("oifname {}\"{start}*\"", operator(*is)),
        Match::ToIn(set) => format!("oifname @{set}"),
        Match::Between(set) => format!("iifname . oifname @{set}"),
        // Of a link's groups the first four bytes are enough: others go on to the rules about these.
        Match::UsualFrame => "ether type ip @ll,0,32 != 0x0180c200".to_owned(),
        Match::Frame(number) => format!("ether type {number:#06x}"),
        // Also of a tag that the kernel holds beside the frame (`nft_payload_copy_vlan` of net/netfilter/nft_payload.c).
        Match::Tagged => "@ll,96,16 { 0x8100, 0x88a8 }".to_owned(),
        Match::ToLinkGroup => "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00".to_owned(),
        Match::Routers => "icmpv6 type { nd-router-advert, nd-redirect }".to_owned(),
        Match::Sender(Family::V4, set) => format!("iifname . ether saddr . ip saddr @{set}"),
        // As raw bytes, so that the same set serves for advertised addresses, which nft 1.0.2 has no name for.
        Match::Sender(Family::V6, set) => format!("meta protocol ip6 iifname . ether saddr . @nh,64,128 @{set}"),
        Match::ArpSender(set) => {
            format!("iifname . ether saddr . arp saddr ip @{set} iifname . arp saddr ether . arp saddr ip @{set}")
        }
        Match::Advertised(is, set) => {
            format!("icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 {}@{set}", operator(*is))
        }
        Match::AdvertisedBlock(len, set) => {
            let (mac, address) = (leading(48, 128 - len), leading(128, 128 - len));
            format!(
                "icmpv6 type nd-neighbor-advert iifname . ether saddr & {} . @th,64,128 & {address:#x} @{set}",
                hardware(mac)
            )
        }
        Match::Published => "ct status dnat".to_owned(),
        // Not `!= snat`, which compares all other bits too.
        Match::SourceKept => "ct status & snat == 0".to_owned(),
        Match::SourceWasNot(family, source) => format!("ct status snat ct original {} saddr != {source}", ip(*family)),
    }
}

fn action(action: &Action, network: &NetworkName) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Return => "return".to_owned(),
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Count => "counter".to_owned(),
        Action::CountIn(counter) => format!("counter name \"{counter}\""),
        Action::NoTrack => "notrack".to_owned(),
        Action::LetIn(by) => format!("meta priority set {}", priority(*by, network)),
        Action::LetInNoMore => "meta priority set none".to_owned(),
        Action::SetMark(bits) => format!("meta mark set meta mark or {bits:#x}"),
        Action::NoteSource(family, set) => format!("update @{set} {{ {} saddr }}", ip(*family)),
        Action::NotePair(key, set) => format!("update @{set} {{ {} }}", pair(key)),
        Action::KeepSource(family) => format!("snat {0} to {0} saddr", ip(*family)),
        Action::FlowAdd(flowtable) => format!("flow add @{flowtable}"),
        Action::Masquerade(SourcePort::Kept) => "masquerade".to_owned(),
        Action::Masquerade(SourcePort::Random) => "masquerade fully-random".to_owned(),
    }
}

fn links(links: &Links) -> String {
    match links {
        Links::Is(link) => format!("\"{link}\""),
        Links::IsNot(link) => format!("!= \"{link}\""),
        Links::In(set) => format!("@{set}"),
        Links::NotIn(set) => format!("!= @{set}"),
    }
}

fn addresses(addresses: &Addresses) -> String {
    match addresses {
        Addresses::Is(address) => address.to_string(),
        Addresses::IsNot(address) => format!("!= {address}"),
        Addresses::In(range) => range.to_string(),
        Addresses::NotIn(range) => format!("!= {range}"),
        Addresses::Set(set) => format!("@{set}"),
        Addresses::NotInSet(set) => format!("!= @{set}"),
    }
}

fn pair(pair: &Pair) -> String {
    let Pair { family, offset, bits } = pair;
    format!("{} saddr . @th,{offset},{bits}", ip(*family))
}

/// Of raw bytes the leading bits are compared by a mask: nft 1.0.6 shifts shorter ones, and as the kernel does it they end in another order than in a
/// set's key.
fn behind_key(Behind { outer, inner, len, mac, source }: &Behind) -> String {
    let (free, set) = (inner.bits() - len, behind(*outer, *inner, *len));
    let (mac, source) = (raw(*mac, 48, free), raw(*source, inner.bits(), free));
    format!("{} saddr . @th,96,24 . {mac} . {source} @{set}", ip(*outer))
}

/// Raw bytes, of which the last bits are free.
fn raw(offset: usize, bits: u8, free: u8) -> String {
    match free {
        0 => format!("@th,{offset},{bits}"),
        _ => format!("@th,{offset},{bits} & {:#x}", leading(bits, free)),
    }
}

/// The mask of a number of bits of which the last ones are free.
fn leading(bits: u8, free: u8) -> u128 {
    let (all, free) = (u128::MAX >> (128 - bits), free.min(bits));
    all & u128::MAX.checked_shl(free.into()).unwrap_or_default()
}

fn hardware(mask: u128) -> MacAddr {
    let [.., a, b, c, d, e, g] = mask.to_be_bytes();
    MacAddr::new([a, b, c, d, e, g])
}

/// A comparison with a single address costs less than a set of one.
fn one_or_all(addresses: &BTreeSet<IpAddr>) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if let [one] = all.as_slice() { one.clone() } else { format!("{{ {} }}", all.join(", ")) }
}

/// The comparison before a value; nft needs none for equality.
const fn operator(is: Is) -> &'static str {
    match is {
        Is::So => "",
        Is::NotSo => "!= ",
    }
}

/// A number of its own for each network: what one has let in must not open the device of another.
fn priority(by: By, network: &NetworkName) -> String {
    let number = names::let_in_number(network);
    match by {
        By::Header => format!("7769:{number:x}"),
        By::Port => format!("7769:{:x}", number + 1),
        // The VNI and all else was compared, so all networks have the same.
        By::Member => "776a:0".to_owned(),
    }
}
