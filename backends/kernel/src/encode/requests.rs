//! Requests for what the kernel holds. They change nothing.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    address::AddressMessage,
    link::{LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourMessage},
    route::{RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::RouteMessageBuilder;
use wire_net::{Family, LinkName};
use wire_netlink::Batch;

use super::{GETADDR, GETLINK, GETNEIGH, GETROUTE, address_family};
use crate::uapi::RT_TABLE_MAIN;

/// Requests one link, without its statistics.
pub(crate) fn get_link(batch: &mut Batch, name: Option<LinkName>, index: u32) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message.attributes.extend(name.map(|name| LinkAttribute::IfName(name.to_string())));
    batch.push(GETLINK, 0, &message);
}

/// Requests all links, or those of one kind.
pub(crate) fn list_links(batch: &mut Batch, flags: u16, kind: Option<&str>) {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    if let Some(kind) = kind {
        let kind = LinkInfo::Kind(kind.into());
        message.attributes.push(LinkAttribute::LinkInfo(vec![kind]));
    }
    batch.push(GETLINK, flags, &message);
}

/// Requests the addresses of one link, or with index 0 those of all.
pub(crate) fn list_addresses(batch: &mut Batch, flags: u16, family: Family, index: u32) {
    let mut message = AddressMessage::default();
    message.header.family = address_family(family);
    message.header.index = index;
    batch.push(GETADDR, flags, &message);
}

/// Requests the neighbours of one device, or with index 0 those of all, or without a family its FDB.
pub(crate) fn list_neighbours(batch: &mut Batch, flags: u16, family: Option<Family>, index: u32) {
    let mut message = NeighbourMessage::default();
    message.header.family = family.map_or(AddressFamily::Bridge, address_family);
    if index != 0 {
        message.attributes.push(NeighbourAttribute::IfIndex(index));
    }
    batch.push(GETNEIGH, flags, &message);
}

/// Requests the routes of the main table.
pub(crate) fn list_routes(batch: &mut Batch, flags: u16, family: Family) {
    list_routes_of(batch, flags, family, RT_TABLE_MAIN);
}

/// Requests the routes of all tables (`RT_TABLE_UNSPEC`).
pub(crate) fn list_all_routes(batch: &mut Batch, flags: u16, family: Family) {
    list_routes_of(batch, flags, family, 0);
}

fn list_routes_of(batch: &mut Batch, flags: u16, family: Family, table: u8) {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = table;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unspec;
    message.header.protocol = RouteProtocol::Unspec;
    batch.push(GETROUTE, flags, &message);
}

/// Requests the route that packets to `address` take.
pub(crate) fn get_route(batch: &mut Batch, address: IpAddr) {
    let family = Family::of(address);
    let message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, family.bits())
        .expect("the family's own length")
        .build();
    let mut message = message;
    message.header.table = 0;
    message.header.protocol = RouteProtocol::Unspec;
    message.header.kind = RouteType::Unspec;
    message.header.scope = RouteScope::Universe;
    batch.push(GETROUTE, 0, &message);
}
