//! Conditions of the underlay: its interface and addresses, and packets that are lost on it.

use std::net::IpAddr;

use wire_backends::Addresses;
use wire_net::{Family, LinkName};

use super::{Kind, Log, Message, kinds};
use crate::settings::public_flag;

#[derive(Clone, Debug)]
pub(crate) enum UnderlayCondition {
    /// There is no interface for the underlay at the moment: the reason.
    Lost(String),
    /// A flag has the old name of the interface.
    Renamed { before: LinkName, now: LinkName },
    /// Bridges of this host overlap leased subnets.
    Overlaps(Message),
    /// A public address from the flags is of a family that the network does not have.
    PublicAddressUnused { family: Family, address: IpAddr },
    /// Packets arrive with wrong checksums.
    BadChecksums { count: u64, port: u16, device: LinkName },
    /// Devices that send to peers and have never received anything, with the numbers of packets sent.
    NothingReceived { devices: Vec<(LinkName, u64)>, port: Option<u16> },
    /// Peers send from other addresses than those of their leases.
    MisplacedPeers(Message),
    /// The public addresses of peers that are not on the underlay's link, and the backend reaches no others.
    BeyondLink(Addresses),
}

impl UnderlayCondition {
    kinds! {
        LOST = Kind::fault("underlay-lost", "underlay");
        RENAMED = Kind::warning("underlay-renamed", "underlay").logged(Log::Beginning);
        OVERLAPS = Kind::warning("bridge-overlaps-leases", "overlaps").logged(Log::Beginning);
        PUBLIC_ADDRESS = Kind::warning("public-address-unused", "public address").logged(Log::Beginning);
        CHECKSUMS = Kind::warning("bad-checksums", "checksums").logged(Log::Beginning);
        SILENCE = Kind::warning("nothing-received", "silence").logged(Log::Beginning);
        BEYOND_LINK = Kind::warning("peers-beyond-link", "peers beyond the link").logged(Log::Texts);
        MISPLACED_PEERS = Kind::warning("peers-at-other-addresses", "peers").logged(Log::Texts);
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Lost(_) => Self::LOST,
            Self::Renamed { .. } => Self::RENAMED,
            Self::Overlaps(_) => Self::OVERLAPS,
            Self::PublicAddressUnused { .. } => Self::PUBLIC_ADDRESS,
            Self::BadChecksums { .. } => Self::CHECKSUMS,
            Self::NothingReceived { .. } => Self::SILENCE,
            Self::MisplacedPeers(_) => Self::MISPLACED_PEERS,
            Self::BeyondLink(_) => Self::BEYOND_LINK,
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::Lost(why) => Message::split(why, &[("; ", "choose one with --iface")]),
            Self::Renamed { before, now } => Message::plain(format!(
                "the underlay's interface {now} was named {before} when it was chosen by that name; after a restart \
                 wire-agent will not find it"
            ))
            .remedy(": ", "change --iface or --iface-regex"),
            Self::Overlaps(message) | Self::MisplacedPeers(message) => message.clone(),
            Self::PublicAddressUnused { family, address } => {
                let flag = public_flag(*family);
                Message::plain(format!("{flag}={address} is ignored: the network has no {family}"))
                    .remedy("; ", format!("remove it, or turn {family} on in the network config"))
            }
            Self::BadChecksums { count, port, device } => Message::plain(format!(
                "{count} UDP packets came with wrong checksums within a minute, and were dropped: if peers do not get \
                 through on UDP port {port}, a network card on the way computes no checksums"
            ))
            .remedy(
                "; ",
                format!(
                    "run ethtool -K {device} tx-checksum-ip-generic off on the hosts that send, or set another \
                     Backend.Port in the network config"
                ),
            ),
            Self::NothingReceived { devices, port } => nothing_received(devices, *port),
            Self::BeyondLink(peers) => beyond_link(peers),
        }
    }
}

/// The most peers that are named.
const NAMED: usize = 3;

fn beyond_link(peers: &Addresses) -> Message {
    let named: Vec<String> = peers.iter().take(NAMED).map(ToString::to_string).collect();
    let more = peers.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Message::plain(format!(
        "no route to the containers of {}{more}: these hosts are not on the underlay's link, and host-gw reaches no others",
        named.join(", ")
    ))
    .remedy("; ", "put the hosts on one link, or set Backend to {\"Type\":\"vxlan\",\"DirectRouting\":true} in the network config")
}

fn nothing_received(devices: &[(LinkName, u64)], port: Option<u16>) -> Message {
    let named = devices.iter().map(|(device, sent)| format!("{sent} packets were sent to peers through {device}"));
    let (dropped, remedy) = match port {
        Some(port) => (
            format!("UDP port {port}"),
            "open it in both directions, or set another Backend.Port in the network config",
        ),
        None => ("encapsulated packets".to_owned(), "let them through in both directions"),
    };
    Message::plain(format!(
        "{}, and none was ever received: something between the hosts may drop {dropped}",
        named.collect::<Vec<_>>().join(", ")
    ))
    .remedy("; ", remedy)
}
