//! Conditions of the underlay: its interface and addresses, and packets that are lost on it.

use std::net::IpAddr;

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
}

impl UnderlayCondition {
    kinds! {
        LOST = Kind::fault("underlay-lost", "underlay");
        RENAMED = Kind::warning("underlay-renamed", "underlay").logged(Log::Beginning);
        OVERLAPS = Kind::warning("bridge-overlaps-leases", "overlaps").logged(Log::Beginning);
        PUBLIC_ADDRESS = Kind::warning("public-address-unused", "public address").logged(Log::Beginning);
        CHECKSUMS = Kind::warning("bad-checksums", "checksums").logged(Log::Beginning);
        SILENCE = Kind::warning("nothing-received", "silence").logged(Log::Beginning);
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
        }
    }
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
