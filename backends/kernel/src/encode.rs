//! Encodes operations as netlink messages. Requests that change nothing are in [`requests`].

mod bridge;
mod requests;

use std::{net::IpAddr, os::fd::RawFd};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        InfoData, InfoIpTunnel, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage, MacVlanMode,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::{LinkMessageBuilder, LinkVxlan, RouteMessageBuilder};
use wire_net::{Family, LinkName, MacAddr};
use wire_netlink::Batch;
use wire_state::{
    Address, DesiredLink, DesiredVxlan, FdbKey, FdbTarget, FloodEntry, FloodPath, KernelKind, MacvlanMode,
    NeighbourKey, NextHop, ObservedRoute, PROTOCOL, RouteKey,
};

pub(crate) use self::{
    bridge::{change_bridge, delete_bridge_fdb, put_bridge_fdb, set_port},
    requests::{get_link, get_route, list_addresses, list_all_routes, list_links, list_neighbours, list_routes},
};

/// Message types of linux/rtnetlink.h.
pub(crate) const NEWLINK: u16 = 16;
pub(crate) const DELLINK: u16 = 17;
pub(crate) const GETLINK: u16 = 18;
pub(crate) const SETLINK: u16 = 19;
pub(crate) const NEWADDR: u16 = 20;
pub(crate) const DELADDR: u16 = 21;
pub(crate) const GETADDR: u16 = 22;
pub(crate) const NEWROUTE: u16 = 24;
pub(crate) const DELROUTE: u16 = 25;
pub(crate) const GETROUTE: u16 = 26;
pub(crate) const NEWNEIGH: u16 = 28;
pub(crate) const DELNEIGH: u16 = 29;
pub(crate) const GETNEIGH: u16 = 30;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// The links that a new link refers to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BoundLinks {
    /// The link that it sends through.
    pub(crate) lower: Option<Lower>,
    /// The other end of a veth pair.
    pub(crate) peer: Option<VethPeer>,
    /// The index of the bridge whose port it is.
    pub(crate) master: Option<u32>,
}

/// The link that a new link sends through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lower {
    pub(crate) index: u32,
    /// The ID that the new link's namespace has for this link's, if they differ (`IFLA_LINK_NETNSID`).
    pub(crate) namespace: Option<i32>,
}

/// The other end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VethPeer {
    pub(crate) name: LinkName,
    /// A descriptor of its namespace, if that differs from the new link's (`IFLA_NET_NS_FD`).
    pub(crate) namespace: Option<RawFd>,
}

/// Makes a link. Its alias marks it as ours, if it has one (see [`mark`]).
pub(crate) fn create_link(batch: &mut Batch, name: LinkName, link: &DesiredLink<KernelKind>, bound: &BoundLinks) {
    let below = bound.lower.map(|lower| LinkAttribute::Link(lower.index));
    let (kind, data, below) = match &link.kind {
        KernelKind::Vxlan(vxlan) => {
            let mut message = vxlan_message(name, link, vxlan, bound.lower);
            message.attributes.extend(bound.elsewhere());
            batch.push(NEWLINK, CREATE, &message);
            return complete(batch, name, link);
        }
        KernelKind::Bridge(options) => (InfoKind::Bridge, Some(bridge::options(*options)), None),
        KernelKind::Veth(_) => {
            (InfoKind::Veth, bound.peer.map(|peer| InfoData::Veth(InfoVeth::Peer(peer.message(link)))), None)
        }
        KernelKind::Vlan(vlan) => (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(vlan.id)])), below),
        KernelKind::Macvlan(macvlan) => {
            let mode = InfoMacVlan::Mode(macvlan_mode(macvlan.mode));
            (InfoKind::MacVlan, Some(InfoData::MacVlan(vec![mode])), below)
        }
        KernelKind::Ipip(ipip) => {
            let parent = bound.lower.map(|lower| InfoIpTunnel::Link(lower.index));
            let local = ipip.local.map(|local| InfoIpTunnel::Local(local.into()));
            // Its lower link is in IFLA_IPTUN_LINK instead of IFLA_LINK.
            (InfoKind::IpIp, Some(InfoData::IpTunnel(parent.into_iter().chain(local).collect())), None)
        }
    };
    let mut message = LinkMessage::default();
    (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    let info = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data)).collect();
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message.attributes.extend(mtu_of_new(link));
    message.attributes.extend(link.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    message.attributes.extend(below);
    message.attributes.extend(bound.elsewhere());
    batch.push(NEWLINK, CREATE, &message);
    complete(batch, name, link);
}

/// Asks for a VXLAN device with an identifier that none can have: a kernel with VXLAN refuses it before anything is made (`vxlan_validate` of
/// drivers/net/vxlan), any other one does not know the kind.
pub(crate) fn impossible_vxlan(batch: &mut Batch) {
    let data = InfoData::Vxlan(vec![InfoVxlan::Id(u32::MAX)]);
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(data)]));
    batch.push(NEWLINK, CREATE, &message);
}

/// The MTU with which a link is made. A bridge gets it later: only then the kernel does not change it with its ports
/// (`BROPT_MTU_SET_BY_USER` of net/bridge).
fn mtu_of_new(link: &DesiredLink<KernelKind>) -> Option<LinkAttribute> {
    (!matches!(link.kind, KernelKind::Bridge(_))).then_some(LinkAttribute::Mtu(link.mtu.0))
}

/// Sets on a new link what the kernel does not take with the message that makes it.
fn complete(batch: &mut Batch, name: LinkName, link: &DesiredLink<KernelKind>) {
    let mtu = if mtu_of_new(link).is_none() { Some(LinkAttribute::Mtu(link.mtu.0)) } else { None };
    let late: Vec<LinkAttribute> = mark(link).into_iter().chain(mtu).collect();
    if !late.is_empty() {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        message.attributes.extend(late);
        batch.push(SETLINK, 0, &message);
    }
    if let (Some(flags), Some(_)) = (link.port, link.master) {
        set_port(batch, name, flags);
    }
}

fn vxlan_message(
    name: LinkName,
    link: &DesiredLink<KernelKind>,
    vxlan: &DesiredVxlan,
    lower: Option<Lower>,
) -> LinkMessage {
    let mut builder = vxlan_attributes(LinkVxlan::new(name.as_str(), vxlan.vni.number()), vxlan).mtu(link.mtu.0).up();
    if let Some(lower) = lower {
        builder = builder.dev(lower.index);
    }
    if let Some(mac) = link.mac {
        builder = builder.address(mac.octets().to_vec());
    }
    builder.build()
}

impl BoundLinks {
    /// The attributes for the bridge and for the namespace of the lower link.
    fn elsewhere(&self) -> impl Iterator<Item = LinkAttribute> {
        let namespace = self.lower.and_then(|lower| lower.namespace).map(LinkAttribute::LinkNetNsId);
        self.master.map(LinkAttribute::Controller).into_iter().chain(namespace)
    }
}

impl VethPeer {
    fn message(&self, first: &DesiredLink<KernelKind>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(self.name.to_string()));
        message.attributes.push(LinkAttribute::Mtu(first.mtu.0));
        message.attributes.extend(self.namespace.map(LinkAttribute::NetNsFd));
        message
    }
}

const fn macvlan_mode(mode: MacvlanMode) -> MacVlanMode {
    match mode {
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
        MacvlanMode::Source => MacVlanMode::Source,
    }
}

fn vxlan_attributes(mut builder: LinkMessageBuilder<LinkVxlan>, vxlan: &DesiredVxlan) -> LinkMessageBuilder<LinkVxlan> {
    builder = builder.learning(vxlan.learning);
    builder = match vxlan.local {
        Some(IpAddr::V4(local)) => builder.local(local),
        Some(IpAddr::V6(local)) => builder.local6(local),
        None => builder,
    };
    if let Some(port) = vxlan.port {
        builder = builder.port(port);
    }
    if vxlan.gbp { builder.append_info_data(InfoVxlan::Gbp) } else { builder }
}

/// The queue length of a TUN device, in packets. The kernel's default of 500 is less than a burst of many flows; and packets that are sent
/// while the agent restarts wait in this queue.
const TUN_QUEUE: u32 = 2048;

/// A change of an existing link in place.
pub(crate) struct LinkChange<'a, K> {
    pub(crate) index: u32,
    pub(crate) link: &'a DesiredLink<K>,
    /// The index of the bridge whose port it is; `None` does not change it.
    pub(crate) master: Option<u32>,
    /// An attribute that only links of its kind have.
    pub(crate) own: Option<LinkAttribute>,
}

/// Changes the settings of a link that can be changed in place.
pub(crate) fn change_link<K>(batch: &mut Batch, LinkChange { index, link, master, own }: LinkChange<'_, K>) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    message.attributes.push(LinkAttribute::Mtu(link.mtu.0));
    message.attributes.extend(link.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    message.attributes.extend(master.map(LinkAttribute::Controller));
    message.attributes.extend(own);
    batch.push(SETLINK, 0, &message);
}

pub(crate) const fn tun_queue() -> LinkAttribute {
    LinkAttribute::TxQueueLen(TUN_QUEUE)
}

/// The alias that marks a link as ours, if it has one.
pub(crate) fn mark(link: &DesiredLink<KernelKind>) -> Option<LinkAttribute> {
    link.alias().map(|alias| LinkAttribute::IfAlias(alias.to_owned()))
}

/// Sets whether an existing VXLAN device learns. The kernel accepts no MTU in the same message ("Cannot change mtu").
pub(crate) fn change_learning(batch: &mut Batch, index: u32, learning: bool) {
    let builder = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan).index(index).learning(learning);
    batch.push(NEWLINK, 0, &builder.build());
}

pub(crate) fn delete_link(batch: &mut Batch, index: u32) {
    let mut message = LinkMessage::default();
    message.header.index = index;
    batch.push(DELLINK, 0, &message);
}

pub(crate) fn put_address(batch: &mut Batch, index: u32, address: &Address) {
    let mut message = address_message(index, address);
    // No other host can have the address, since it is in our lease. With duplicate address detection (RFC 4862 §5.4), an IPv6 address
    // would be unusable for the first second.
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    batch.push(NEWADDR, CREATE, &message);
}

pub(crate) fn delete_address(batch: &mut Batch, index: u32, address: &Address) {
    batch.push(DELADDR, 0, &address_message(index, address));
}

fn address_message(index: u32, address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = address_family(Family::of(address.address));
    message.header.index = index;
    message.header.prefix_len = address.len;
    message.attributes.push(AddressAttribute::Local(address.address));
    message.attributes.push(AddressAttribute::Address(address.address));
    message
}

pub(crate) fn put_fdb(batch: &mut Batch, index: u32, key: &FdbKey, target: FdbTarget) {
    let mut message = fdb_message(index, key);
    message.attributes.push(NeighbourAttribute::Destination(target.to.into()));
    // Without it, an entry gets the device's port, also one that had another.
    message.attributes.extend(target.port.map(NeighbourAttribute::Port));
    batch.push(NEWNEIGH, SET, &message);
}

pub(crate) fn delete_fdb(batch: &mut Batch, index: u32, key: &FdbKey) {
    batch.push(DELNEIGH, 0, &fdb_message(index, key));
}

fn fdb_message(index: u32, key: &FdbKey) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(key.mac.octets().to_vec()));
    message
}

pub(crate) fn put_flood(batch: &mut Batch, index: u32, entry: &FloodEntry) {
    let mut message = fdb_message(index, &FdbKey { link: entry.link, mac: entry.mac });
    message.attributes.push(NeighbourAttribute::Destination(entry.to.into()));
    message.attributes.extend(flood_path(entry.by));
    batch.push(NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND, &message);
}

fn flood_path(FloodPath { port, vni, link }: FloodPath) -> impl Iterator<Item = NeighbourAttribute> {
    let port = port.map(NeighbourAttribute::Port);
    let (vni, link) = (vni.map(NeighbourAttribute::Vni), link.map(NeighbourAttribute::IfIndex));
    port.into_iter().chain(vni).chain(link)
}

pub(crate) fn delete_flood(batch: &mut Batch, index: u32, entry: &FloodEntry) {
    let mut message = fdb_message(index, &FdbKey { link: entry.link, mac: entry.mac });
    let to = (!entry.to.is_unspecified()).then(|| NeighbourAttribute::Destination(entry.to.into()));
    message.attributes.extend(to);
    // If it finds no such destination, the kernel deletes nothing and answers that all is well (`__vxlan_fdb_delete`).
    message.attributes.extend(flood_path(entry.by));
    batch.push(DELNEIGH, 0, &message);
}

pub(crate) fn put_neighbour(batch: &mut Batch, index: u32, key: &NeighbourKey, mac: MacAddr) {
    let mut message = neighbour_message(index, key);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    batch.push(NEWNEIGH, SET, &message);
}

pub(crate) fn delete_neighbour(batch: &mut Batch, index: u32, key: &NeighbourKey) {
    batch.push(DELNEIGH, 0, &neighbour_message(index, key));
}

fn neighbour_message(index: u32, key: &NeighbourKey) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(key.address));
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(key.address)));
    message
}

/// The form in which a route message holds its next hop.
#[derive(Clone, Copy)]
pub(crate) enum RouteTarget {
    /// The ID of a nexthop object.
    Nexthop(u32),
    /// The link's index, and the gateway if there is one.
    Link(u32),
    /// None: a blackhole.
    Blackhole,
}

pub(crate) fn put_route(batch: &mut Batch, replace: bool, key: &RouteKey, hop: &NextHop, through: RouteTarget) {
    let message = route_message(key, Some(hop), through, RouteScope::Universe);
    batch.push(NEWROUTE, if replace { SET } else { CREATE }, &message);
}

/// Deletes a route as it was read. The kernel compares next hop and protocol too, so that no other route is deleted.
pub(crate) fn delete_route(batch: &mut Batch, key: &RouteKey, route: &ObservedRoute, through: RouteTarget) {
    let mut message = route_message(key, route.via.next_hop(), through, RouteScope::NoWhere);
    message.header.protocol = route.protocol.into();
    batch.push(DELROUTE, 0, &message);
}

fn route_message(key: &RouteKey, hop: Option<&NextHop>, through: RouteTarget, scope: RouteScope) -> RouteMessage {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(key.destination.network(), key.destination.len())
        .expect("a prefix has a valid length")
        .protocol(RouteProtocol::from(PROTOCOL))
        .scope(scope)
        .table_id(key.table);
    if key.metric != 0 {
        builder = builder.priority(key.metric);
    }
    builder = match through {
        RouteTarget::Nexthop(id) => builder.nhid(id),
        RouteTarget::Link(index) => builder.output_interface(index),
        RouteTarget::Blackhole => builder.kind(RouteType::BlackHole),
    };
    if let (Some(NextHop::Gateway { gateway, onlink, .. }), RouteTarget::Link(_)) = (hop, through) {
        builder = builder.gateway(*gateway).expect("a gateway has its route's family");
        if *onlink {
            builder = builder.onlink();
        }
    }
    builder.build()
}

pub(crate) const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
