//! The rules of one family. Pure; both families are this with other words.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use wire_lease::{Entry, Family, LeaseTable, Prefix};

use super::{
    overlay::Overlay,
    policy::{ACCEPT_MARK, Masquerade, OverlayDevice, Senders, is_plain},
    state::{Element, Rule, Set, SetKind},
};
use crate::{LinkName, forward::vxlan_header};

/// Named counters of our table: what was dropped, and what was let in.
pub(crate) mod counter {
    use wire_lease::Family;

    /// Encapsulated packets from hosts that have no lease.
    pub(crate) const STRANGERS: &str = "strangers";
    /// Encapsulated packets from containers.
    pub(crate) const CONTAINERS: &str = "containers";
    /// Packets out of the overlay whose source is none that their sender may have.
    pub(crate) const SPOOFED: &str = "spoofed";
    /// Encapsulated packets let in by us, a counter for each family.
    pub(crate) const fn arrived(family: Family) -> &'static str {
        match family {
            Family::V4 => "arrived-v4",
            Family::V6 => "arrived-v6",
        }
    }

    /// Encapsulated packets let in by everyone else too, a counter for each family.
    pub(crate) const fn delivered(family: Family) -> &'static str {
        match family {
            Family::V4 => "delivered-v4",
            Family::V6 => "delivered-v6",
        }
    }
}

/// The set of the links that containers are on.
pub(super) const BRIDGES: &str = "bridges";

/// One family's part.
pub(super) struct Side {
    pub(super) family: Family,
    pub(super) network: Prefix,
    /// Of the network what hosts lease.
    pub(super) overlay: Overlay,
    /// The length of the subnets that are leased by the config there is, in bits. Leases of before it was changed may have others.
    pub(super) subnet_len: u8,
    pub(super) own: Prefix,
    pub(super) device: Option<OverlayDevice>,
}

impl Side {
    /// nft's word for the family.
    const fn word(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    pub(super) const fn multicast(&self) -> &'static str {
        match self.family {
            Family::V4 => "224.0.0.0/4",
            Family::V6 => "ff00::/8",
        }
    }

    /// flannel's rules (the chain FLANNEL-POSTRTG), except that within the overlay a packet keeps its source whatever rules
    /// of others follow.
    pub(super) fn nat(&self, masquerade: Masquerade) -> Vec<Rule> {
        let (ip, all, overlay, own) = (self.word(), self.network, self.overlay, self.own);
        let keep =
            |matching: String| Rule::new("overlay keeps its sources", format!("{matching} snat {ip} to {ip} saddr"));
        let mut rules = vec![
            // A container that calls its own published port needs Docker's rule for that.
            Rule::new("within this host", format!("{ip} saddr {own} {ip} daddr {own} return")),
            keep(format!("{ip} saddr {own} {ip} daddr {overlay}")),
            keep(format!("{ip} saddr {all} {ip} daddr {own}")),
        ];
        if let Some(link) = self.beyond() {
            rules.push(keep(format!("{ip} saddr {own} oifname \"{link}\"")));
        }
        let flag = match masquerade {
            Masquerade::Off => return rules,
            Masquerade::Random => " fully-random",
            Masquerade::Plain => "",
        };
        rules.push(Rule::new("containers see who calls", format!("{ip} saddr != {all} {ip} daddr {own} return")));
        let group = self.multicast();
        rules.push(Rule::new("masquerade", format!("{ip} saddr {overlay} {ip} daddr != {group} masquerade{flag}")));
        let entering = format!("{ip} saddr != {overlay} {ip} daddr {overlay}");
        rules.push(Rule::new("masquerade", format!("{entering} masquerade{flag}")));
        rules
    }

    /// The device behind which leases may be that the config no longer offers.
    pub(super) fn beyond(&self) -> Option<LinkName> {
        match self.overlay {
            Overlay::Whole(_) => None,
            Overlay::Range(..) => self.device.map(|device| device.link),
        }
    }

    /// What the kernel's rp_filter does for IPv4, for both families and counted: a source must be one that we would answer
    /// through the device it came from.
    pub(super) fn spoofed(&self) -> Option<Rule> {
        let OverlayDevice { link, .. } = self.device?;
        let matching = format!("iifname \"{link}\" fib saddr . iif oif 0");
        Some(Rule::new("sources outside leases", format!("{matching} {}", drop(counter::SPOOFED))))
    }

    /// For Docker's tables of nftables, before which no accept of ours counts.
    pub(super) fn marked(&self) -> Option<Rule> {
        let OverlayDevice { link, .. } = self.device?;
        let (ip, all, own) = (self.word(), self.network, self.own);
        let matching = format!("iifname \"{link}\" {ip} saddr {all} {ip} daddr {own}");
        Some(Rule::new("accepted by Docker", format!("{matching} meta mark set meta mark or {ACCEPT_MARK:#x}")))
    }

    /// Nearly all that comes in encapsulated: from a peer's address over the link to the other hosts, with an inner source of a subnet
    /// of the usual length that is leased to this address. All that differs is judged by the rules of [`Self::encapsulated`], and
    /// so is all of that link where containers are on it.
    ///
    /// `tracked` is whether somebody else needs to know which connection such a packet belongs to.
    pub(super) fn usual(&self, bridges: &BTreeSet<LinkName>, tracked: bool) -> Option<Rule> {
        let OverlayDevice { parent, local, .. } = self.device?;
        let parent = parent.filter(|parent| !bridges.contains(parent));
        let from = match parent.filter(is_plain) {
            Some(parent) => format!("iifname \"{parent}\""),
            None => format!("iifname != @{BRIDGES}"),
        };
        let verdict = if tracked { "accept" } else { "notrack accept" };
        let to_us = format!("{} daddr {}", self.word(), local?);
        let matching = format!("{from} {to_us} {}{}", self.inner_type(), self.of_usual_len()?);
        Some(Rule::new(usual_mark(self.family), format!("{matching} counter {verdict}")))
    }

    /// Lets in what `from` names, where it is a packet of this family.
    fn let_in(&self, from: &str) -> Rule {
        let ours = self.inner_type();
        Rule::new("peers", format!("{ours}{from} {} accept", count(counter::arrived(self.family))))
    }

    /// What comes from the address that a subnet of the usual length is leased to.
    fn of_usual_len(&self) -> Option<String> {
        let len = self.usual_len()?;
        Some(format!("{} @{}", self.pair(len)?, subnets(self.family_name(), len)))
    }

    /// The length of subnets whose leading bits are compared as whole bytes.
    fn usual_len(&self) -> Option<u8> {
        Some(self.subnet_len).filter(|len| is_usual_len(*len))
    }

    /// What may come in encapsulated. The overlay of a family runs over the underlay of that family.
    pub(super) fn encapsulated(&self, senders: Senders, source_check: bool) -> Vec<Rule> {
        let (ip, family) = (self.word(), self.family_name());
        let mut rules = self.remote_containers("");
        if senders == Senders::Peers
            && let Some(pair) = self.pair(self.family.bits())
        {
            if source_check {
                rules.extend(self.of_usual_len().map(|from| self.let_in(&from)));
                rules.push(self.let_in(&format!("{pair} @leases-{family}")));
            } else {
                rules.push(self.let_in(&format!("{ip} saddr @peers-{family}")));
            }
            let forged = format!("{ip} saddr @peers-{family} {}", drop(counter::SPOOFED));
            rules.push(Rule::new("sources of other leases", forged));
            if source_check {
                let ours = self.inner_type();
                let claim = format!("{ours}update @claims-{family} {{ {pair} }}");
                rules.push(Rule::new("what strangers claim is noted", claim));
            }
            // A rule of its own: a full set ends a rule.
            let note = format!("{ip} saddr != @peers-{family} update @strangers-{family} {{ {ip} saddr }}");
            rules.push(Rule::new("strangers are noted", note));
            let stranger = format!("meta nfproto {} {}", self.nfproto(), drop(counter::STRANGERS));
            rules.push(Rule::new("strangers", stranger));
        }
        rules
    }

    /// Counts what is left of this family.
    pub(super) fn counted(&self, what: &str, counter: &str) -> Rule {
        Rule::new(what, format!("meta nfproto {} {}", self.nfproto(), count(counter)))
    }

    /// Compares the inner EtherType with this family's: the kernel takes off as many VLAN tags with VID 0 as there are, and behind
    /// those the inner source lies elsewhere than we look. Nothing where no Ethernet header is before an inner packet.
    fn inner_type(&self) -> String {
        let Some(OverlayDevice { inner, vni: Some(_), .. }) = self.device else { return String::new() };
        // IEEE 802 numbers.
        let ether_type = match self.family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        };
        format!("@th,{},16 {ether_type:#06x} ", (inner - 2) * 8)
    }

    /// The outer source and the first bits of the inner one, which nft reads as raw bytes.
    fn pair(&self, bits: u8) -> Option<String> {
        let OverlayDevice { inner, .. } = self.device?;
        Some(format!("{} saddr . @th,{},{bits}", self.word(), inner * 8 + self.source_offset()))
    }

    /// Where an IP header has the source, in bits (RFC 791 §3.1, RFC 8200 §3).
    const fn source_offset(&self) -> usize {
        match self.family {
            Family::V4 => 12 * 8,
            Family::V6 => 8 * 8,
        }
    }

    /// Other hosts would take a masqueraded packet of a container for ours.
    pub(super) fn through(&self) -> Vec<Rule> {
        let out = format!("{} daddr != {} ", self.word(), self.overlay);
        std::iter::once(containers(&format!("iifname @{BRIDGES} {out}"))).chain(self.remote_containers(&out)).collect()
    }

    /// What containers of other hosts send, told by a source that may be leased; and where hosts may live in the network themselves, by
    /// the device it comes from.
    fn remote_containers(&self, out: &str) -> Vec<Rule> {
        let source = containers(&format!("{} saddr {} {out}", self.word(), self.overlay));
        let link = self.beyond().map(|link| containers(&format!("iifname \"{link}\" {out}")));
        link.into_iter().chain([source]).collect()
    }

    /// What goes out with an address that it was given on the way. Our own has this host's from the start.
    pub(super) fn masqueraded(&self) -> Option<Rule> {
        let (ip, local) = (self.word(), self.device?.local?);
        let matching = format!("ct status snat ct original {ip} saddr != {local}");
        Some(Rule::new("masqueraded containers", format!("{matching} {}", drop(counter::CONTAINERS))))
    }

    pub(super) fn sets(&self, leases: &LeaseTable, source_check: bool) -> Vec<(String, Set)> {
        let public = |entry: &Arc<Entry>| entry.lease.public.of(self.family).copied();
        let peers: BTreeSet<IpAddr> = leases.peers.values().filter_map(public).collect();
        let elements = peers.into_iter().map(Element::Address).collect();
        let lease = |entry: &Arc<Entry>| Some((public(entry)?, entry.lease.subnet.of(self.family)?));
        let usual = self.usual_len();
        // What claims to be at an address of the overlay is none that the usual rule may take for a host.
        let is_usual =
            |(public, subnet): &(IpAddr, Prefix)| usual == Some(subnet.len()) && !self.overlay.holds(*public);
        let (pairs, others): (Vec<_>, Vec<_>) = leases.peers.values().filter_map(lease).partition(is_usual);
        let family = self.family_name();
        let mut sets = vec![
            (format!("peers-{family}"), Set { kind: SetKind::Addresses(self.family), elements }),
            (format!("strangers-{family}"), Set { kind: SetKind::Seen(self.family), elements: BTreeSet::new() }),
        ];
        if source_check {
            let elements = others.into_iter().map(|(public, subnet)| Element::Lease(public, subnet)).collect();
            sets.push((format!("leases-{family}"), Set { kind: SetKind::Leases(self.family), elements }));
            if let Some(len) = usual {
                let elements = pairs.into_iter().map(|(public, subnet)| Element::Subnet(public, subnet)).collect();
                sets.push((subnets(family, len), Set { kind: SetKind::Subnets(self.family, len), elements }));
            }
            let claims = Set { kind: SetKind::Claims(self.family), elements: BTreeSet::new() };
            sets.push((format!("claims-{family}"), claims));
        }
        sets
    }

    const fn nfproto(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }

    const fn family_name(&self) -> &'static str {
        match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }
}

/// Lets all but what goes to the port of encapsulated packets go on at once.
pub(super) fn to_port(device: &OverlayDevice) -> [Rule; 2] {
    ["meta l4proto != udp accept".to_owned(), format!("udp dport != {} accept", device.port)].map(not_encapsulated)
}

/// Lets what is of another network go on: it may have the same port.
pub(super) fn of_network(device: &OverlayDevice) -> Option<Rule> {
    // Behind UDP's 8 bytes. Where any other bit is set, neither the kernel's device (vxlan_rcv) nor ours takes a packet.
    let header = |vni| u64::from_be_bytes(vxlan_header(vni));
    device.vni.map(|vni| not_encapsulated(format!("@th,64,64 != {:#018x} accept", header(vni))))
}

/// Lets what is only on its way through this host go on.
pub(super) fn passing() -> Rule {
    not_encapsulated("fib daddr type unicast accept".to_owned())
}

fn not_encapsulated(text: String) -> Rule {
    Rule::new("not encapsulated", text)
}

/// What the rule that finds nearly all packets of a family is for.
pub(super) const fn usual_mark(family: Family) -> &'static str {
    match family {
        Family::V4 => "usual v4",
        Family::V6 => "usual v6",
    }
}

/// Whether the leading bits of a subnet of this length are compared as whole bytes.
pub(super) const fn is_usual_len(len: u8) -> bool {
    len.is_multiple_of(8) && len > 0
}

/// The name of the set of leased subnets of one length.
fn subnets(family: &str, len: u8) -> String {
    format!("subnets-{family}-{len}")
}

/// Drops what containers send.
pub(super) fn containers(matching: &str) -> Rule {
    Rule::new("containers", format!("{matching}{}", drop(counter::CONTAINERS)))
}

fn count(counter: &str) -> String {
    format!("counter name \"{counter}\"")
}

fn drop(counter: &str) -> String {
    format!("{} drop", count(counter))
}
