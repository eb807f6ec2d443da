//! Bridges, their ports, and their FDB.

use netlink_packet_route::{
    AddressFamily,
    link::{
        BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute,
        LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use wire_net::{LinkName, MacAddr};
use wire_netlink::Batch;
use wire_state::{Bridge, PortFlag, PortFlags};

use super::{DELNEIGH, NEWLINK, NEWNEIGH, SET};
use crate::uapi::ifla_brport;

/// The options of a bridge.
pub(super) fn options(bridge: Bridge) -> InfoData {
    let state = if bridge.spanning_tree { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    InfoData::Bridge(vec![InfoBridge::StpState(state), InfoBridge::MulticastSnooping(bridge.snooping)])
}

/// Sets the options of an existing bridge.
pub(crate) fn change_bridge(batch: &mut Batch, index: u32, bridge: Bridge) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(options(bridge))];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    batch.push(NEWLINK, 0, &message);
}

/// Sets the flags of a link that is a port of a bridge.
pub(crate) fn set_port(batch: &mut Batch, name: LinkName, flags: PortFlags) {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    let data = PortFlag::ALL.iter().map(|(flag, _)| port_flag(*flag, flags.has(*flag))).collect();
    let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(data))];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    batch.push(NEWLINK, 0, &message);
}

const fn port_flag(flag: PortFlag, on: bool) -> InfoBridgePort {
    match flag {
        PortFlag::Learning => InfoBridgePort::Learning(on),
        PortFlag::Flood => InfoBridgePort::UnicastFlood(on),
        PortFlag::MulticastFlood => InfoBridgePort::MulticastFlood(on),
        PortFlag::BroadcastFlood => InfoBridgePort::BroadcastFlood(on),
        PortFlag::NeighbourSuppression => InfoBridgePort::NeighSupress(on),
        PortFlag::Isolated => InfoBridgePort::Isolated(on),
        PortFlag::GroupForwarding => InfoBridgePort::GroupFwdMask(if on { ifla_brport::ALL_GROUPS } else { 0 }),
    }
}

/// Sets the port of a MAC in its bridge's FDB. The entry is sticky (`NTF_STICKY`, since Linux 5.0): no packet from elsewhere moves it to
/// another port.
pub(crate) fn put_bridge_fdb(batch: &mut Batch, port: u32, mac: MacAddr) {
    let mut message = fdb_message(port, mac);
    message.header.flags |= NeighbourFlags::Sticky;
    batch.push(NEWNEIGH, SET, &message);
}

/// Removes a MAC from its bridge's FDB, if it leads to this port (`fdb_delete_by_addr_and_port` of net/bridge/br_fdb.c).
pub(crate) fn delete_bridge_fdb(batch: &mut Batch, port: u32, mac: MacAddr) {
    batch.push(DELNEIGH, 0, &fdb_message(port, mac));
}

fn fdb_message(port: u32, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message
}
