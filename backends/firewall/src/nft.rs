//! Writes scripts for `nft -f -`; each is one transaction. Pure.

use std::{fmt::Write as _, net::IpAddr};

use imbl::OrdSet;
use wire_net::{Family, LinkName};
use wire_state::{Attachment, DesiredTable, Element, SetKind, TableName};

use super::render::nft::ip;

/// Deletes a table. Adding one that exists does nothing, so deleting it never fails.
pub(crate) fn delete_table(name: &TableName) -> String {
    format!("add table {name}\ndelete table {name}\n")
}

/// Replaces a table of ours.
pub(crate) fn put_table(table: &DesiredTable) -> String {
    let name = &table.name;
    let mut text = format!("add table {name}\ndelete table {name}\nadd table {name}\n");
    for counter in &table.counters {
        line(&mut text, format_args!("add counter {name} {counter}"));
    }
    for (set, content) in &table.sets {
        let spec = match content.kind {
            SetKind::Addresses(family) => format!("type {};", address(family)),
            SetKind::Links => "type ifname;".to_owned(),
            SetKind::Leases(family) => format!("{} flags interval;", pair(family, family.bits())),
            SetKind::Subnets(family, len) => pair(family, len),
            SetKind::Sources(family, _) => format!("type {};", address(family)),
            SetKind::Vnis => "typeof @th,96,24;".to_owned(),
            SetKind::Ports => "type inet_service;".to_owned(),
            SetKind::Vteps(family) => format!("typeof {} saddr . @th,96,24;", ip(family)),
            SetKind::Behind(outer, inner, _) => behind(outer, inner),
            SetKind::Within => "type ifname . ifname;".to_owned(),
            SetKind::Senders(Family::V4) => "type ifname . ether_addr . ipv4_addr;".to_owned(),
            SetKind::Senders(Family::V6) | SetKind::Advertised(_) => {
                "typeof iifname . ether saddr . @nh,64,128;".to_owned()
            }
            SetKind::Seen(family) => format!("type {}; {FILLED_BY_PACKETS}", address(family)),
            SetKind::Claims(family) => format!("{} {FILLED_BY_PACKETS}", pair(family, family.bits())),
        };
        line(&mut text, format_args!("add set {name} {set} {{ {spec} }}"));
        if !content.elements.is_empty() {
            line(&mut text, format_args!("add element {name} {set} {}", braces(&content.elements)));
        }
    }
    for (flowtable, content) in &table.flowtables {
        let devices: Vec<String> = content.devices.iter().map(|device| format!("\"{device}\"")).collect();
        let (priority, devices) = (content.priority, devices.join(", "));
        let spec = format!("hook ingress priority {priority}; devices = {{ {devices} }};");
        line(&mut text, format_args!("add flowtable {name} {flowtable} {{ {spec} }}"));
    }
    // All chains first: rules call them.
    for (chain, content) in &table.chains {
        let spec = content.attachment.as_ref().map(place).unwrap_or_default();
        line(&mut text, format_args!("add chain {name} {chain}{spec}"));
    }
    for (chain, content) in &table.chains {
        for rule in &content.rules {
            line(&mut text, format_args!("add rule {name} {chain} {} comment \"{}\"", rule.text, rule.mark));
        }
    }
    text
}

/// The place of a chain that the kernel calls.
fn place(Attachment { kind, hook, priority, device }: &Attachment) -> String {
    let device = device.map(|device| format!("device \"{device}\" ")).unwrap_or_default();
    format!(" {{ type {kind} hook {hook} {device}priority {priority}; policy accept; }}")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}

fn braces(elements: &OrdSet<Element>) -> String {
    let elements: Vec<String> = elements.iter().map(element).collect();
    format!("{{ {} }}", elements.join(", "))
}

fn element(element: &Element) -> String {
    match element {
        Element::Address(address) => address.to_string(),
        Element::Link(link) => format!("\"{link}\""),
        // To nft, raw bytes of a packet are a number. It refuses a range of a single one.
        Element::Lease(public, subnet) => match (subnet.first_bits(), subnet.last_bits()) {
            (first, last) if first == last => format!("{public} . {first:#x}"),
            (first, last) => format!("{public} . {first:#x}-{last:#x}"),
        },
        Element::Source(subnet) => subnet.network().to_string(),
        Element::Vni(vni) => vni.to_string(),
        Element::Port(port) => port.to_string(),
        Element::Vtep(host, vni) => format!("{host} . {vni}"),
        Element::Behind(host, vni, mac, block) => {
            let [a, b, c, d, e, g] = mac.octets();
            format!("{host} . {vni} . {:#x} . {:#x}", u64::from_be_bytes([0, 0, a, b, c, d, e, g]), block.first_bits())
        }
        Element::Within(link) => format!("\"{link}\" . \"{link}\""),
        Element::Sender(port, mac, IpAddr::V4(address)) => format!("\"{port}\" . {mac} . {address}"),
        Element::Sender(port, mac, IpAddr::V6(address)) => format!("\"{port}\" . {mac} . {:#x}", address.to_bits()),
        Element::Subnet(public, subnet) => {
            let leading = subnet.first_bits() >> (subnet.family().bits() - subnet.len());
            format!("{public} . {leading:#x}")
        }
    }
}

/// True if nft takes the name literally: other names are patterns, or end the quoted text.
pub(crate) fn is_plain(link: &LinkName) -> bool {
    link.as_str().chars().all(|letter| letter.is_ascii_alphanumeric() || "_.@:-".contains(letter))
}

/// Bounded: who forges many sources can do no more than fill the set.
const FILLED_BY_PACKETS: &str = "size 64; flags dynamic, timeout; timeout 1h;";

/// The key type of a public address and the first `bits` of an inner source. In a type only the width of the raw bytes
/// matters; their offset is in the rule.
fn pair(family: Family, bits: u8) -> String {
    match family {
        Family::V4 => format!("typeof ip saddr . @th,336,{bits};"),
        Family::V6 => format!("typeof ip6 saddr . @th,304,{bits};"),
    }
}

/// The key type of a public address, a VNI, an inner MAC and an inner source of any family.
fn behind(outer: Family, inner: Family) -> String {
    let inner = match inner {
        Family::V4 => "@th,336,32",
        Family::V6 => "@th,304,128",
    };
    format!("typeof {} saddr . @th,96,24 . @th,176,48 . {inner};", ip(outer))
}

const fn address(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}
