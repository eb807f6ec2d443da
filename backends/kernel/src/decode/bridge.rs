//! Bridges, their ports, and their FDB.

use wire_net::MacAddr;
use wire_netlink::attribute::{attributes, mac, number, text};
use wire_state::{Bridge, BridgeFdbKey, PortFlag, PortFlags};

use super::{Names, NeighbourEntry};
use crate::uapi::{af, ifla, ifla_br, ifla_brport, nda};

/// The options of a bridge (`IFLA_INFO_DATA`). A kernel without snooping names none.
pub(super) fn options(bytes: &[u8]) -> Bridge {
    let mut found = Bridge { snooping: false, spanning_tree: false };
    for (kind, value) in attributes(bytes) {
        match kind {
            ifla_br::STP_STATE => found.spanning_tree = number(value) != Some(0),
            ifla_br::MCAST_SNOOPING => found.snooping = value != [0],
            _ => {}
        }
    }
    found
}

/// The flags of a link as a port of a bridge, from `IFLA_LINKINFO`; `None` if it is in none.
pub(super) fn port_in(info: &[u8]) -> Option<PortFlags> {
    let find = |wanted| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let is_bridges = find(ifla::INFO_SLAVE_KIND).and_then(text) == Some("bridge");
    find(ifla::INFO_SLAVE_DATA).filter(|_| is_bridges).map(flags)
}

/// A link message of a bridge about one of its ports (`br_fill_ifinfo` of net/bridge/br_netlink.c): the port's index, and its flags if the
/// message has them.
pub(crate) fn port(body: &[u8]) -> Option<(u32, PortFlags)> {
    if body.first() != Some(&af::BRIDGE) {
        return None;
    }
    let (_, value) = attributes(body.get(16..)?).find(|(kind, _)| *kind == ifla::PROTINFO)?;
    Some((number(body.get(4..8)?)?, flags(value)))
}

fn flags(bytes: &[u8]) -> PortFlags {
    let mut found = PortFlags::none();
    for (kind, value) in attributes(bytes) {
        let flag = PortFlag::ALL.iter().find(|(flag, _)| attribute_of(*flag) == kind);
        if let Some((flag, _)) = flag {
            found = found.with(*flag, is_on(*flag, value));
        }
    }
    found
}

/// A mask of some groups is not on.
fn is_on(flag: PortFlag, value: &[u8]) -> bool {
    match flag {
        PortFlag::GroupForwarding => value == ifla_brport::ALL_GROUPS.to_ne_bytes(),
        PortFlag::Learning
        | PortFlag::Flood
        | PortFlag::MulticastFlood
        | PortFlag::BroadcastFlood
        | PortFlag::NeighbourSuppression
        | PortFlag::Isolated => value != [0],
    }
}

const fn attribute_of(flag: PortFlag) -> u16 {
    match flag {
        PortFlag::Learning => ifla_brport::LEARNING,
        PortFlag::Flood => ifla_brport::UNICAST_FLOOD,
        PortFlag::MulticastFlood => ifla_brport::MCAST_FLOOD,
        PortFlag::BroadcastFlood => ifla_brport::BCAST_FLOOD,
        PortFlag::NeighbourSuppression => ifla_brport::NEIGH_SUPPRESS,
        PortFlag::Isolated => ifla_brport::ISOLATED,
        PortFlag::GroupForwarding => ifla_brport::GROUP_FWD_MASK,
    }
}

/// An entry in the FDB of a bridge, whatever its state (`fdb_fill_info` of net/bridge/br_fdb.c).
pub(crate) struct BridgeEntry {
    pub(crate) key: BridgeFdbKey,
    /// The index of the port.
    pub(crate) port: u32,
    pub(crate) is_static: bool,
}

impl BridgeEntry {
    /// Decodes an entry in the FDB of one of `devices`; `None` for one of a VLAN, which ours never are.
    pub(crate) fn decode(body: &[u8], devices: &Names) -> Option<Self> {
        if body.first() != Some(&af::BRIDGE) {
            return None;
        }
        let (port, state) = (number(body.get(4..8)?)?, u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?));
        let (mut found, mut bridge) = (None, None);
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                nda::LLADDR => found = mac(value),
                nda::MASTER => bridge = number(value),
                nda::VLAN => return None,
                _ => {}
            }
        }
        let mac = found.filter(|mac: &MacAddr| mac.is_unicast())?;
        let key = BridgeFdbKey { bridge: *devices.get(&bridge?)?, mac };
        Some(Self { key, port, is_static: state & nda::NUD_NOARP != 0 })
    }

    /// The entry, if it is static and leads to one of `devices`.
    pub(super) fn kept(self, devices: &Names) -> Option<NeighbourEntry> {
        let port = *devices.get(&self.port)?;
        self.is_static.then_some(NeighbourEntry::BridgeFdb(self.key, port))
    }
}
