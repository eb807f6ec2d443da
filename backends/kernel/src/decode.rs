//! Decodes the kernel's messages into entries of a [`wire_state::NetState`]. A function returns `None` for a message that is invalid, or
//! that does not concern the agent.

mod bridge;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use wire_net::{Family, LinkName, MacAddr, Mtu, Prefix, Vni};
use wire_netlink::attribute::{address, attributes, mac, number, text};
use wire_state::{
    ALIAS, Address, BridgeFdbKey, FdbKey, FdbTarget, FloodEntry, FloodPath, Ipip, LinkId, Macvlan, MacvlanMode,
    Namespace, NeighbourKey, NextHop, ObservedKind, ObservedLink, ObservedRoute, ObservedVxlan, Owner, PROTOCOL,
    ReceiveFlag, RouteKey, Scope, Veth, Via, Vlan,
};

pub(crate) use self::bridge::{BridgeEntry, port};
use super::{
    nexthop::Nexthops,
    uapi::{
        RT_TABLE_MAIN, af, ifa, iff, ifla, ifla_iptun, ifla_macvlan, ifla_tun, ifla_vlan, ifla_vxlan, nda, rta, rtm,
        rtn, rtprot,
    },
};

/// Names of links by their interface indexes.
pub(crate) type Names = BTreeMap<u32, LinkName>;

/// The name for a link that no longer exists or whose name is not known.
pub(crate) fn fallback_name(index: u32) -> LinkName {
    format!("if{index}").parse().expect("twelve letters and digits at most")
}

/// A namespace, and the IDs that it has for others (`RTM_GETNSID` of linux/rtnetlink.h).
#[derive(Clone, Debug)]
pub(crate) struct Namespaces {
    pub(crate) own: Namespace,
    pub(crate) others: BTreeMap<i32, Namespace>,
}

impl Namespaces {
    /// The host's namespace without IDs for others.
    pub(crate) const HOST: Self = Self { own: Namespace::Host, others: BTreeMap::new() };

    /// A link by its index and its namespace's ID; `None` if that namespace is not read. The caller sets its name.
    fn link(&self, index: u32, namespace: Option<i32>) -> Option<LinkId> {
        let namespace = match namespace {
            None => self.own,
            Some(number) => *self.others.get(&number)?,
        };
        (index != 0).then(|| LinkId { namespace, index, name: fallback_name(index) })
    }
}

/// A link message (`struct ifinfomsg`): the link and its name. The caller sets its owner, and the names of the links that it refers to.
pub(crate) fn link(body: &[u8], namespaces: &Namespaces) -> Option<(LinkName, ObservedLink)> {
    let (index, flags) = (number(body.get(4..8)?)?, number(body.get(8..12)?)?);
    let (mut name, mut found_mac, mut mtu, mut info) = (None, None, 0, [].as_slice());
    let (mut lower, mut master, mut elsewhere, mut is_marked) = (0, 0, None, false);
    for (number_of, value) in attributes(body.get(16..)?) {
        match number_of {
            ifla::ADDRESS => found_mac = mac(value),
            ifla::IFNAME => name = text(value)?.parse().ok(),
            ifla::MTU => mtu = number(value)?,
            ifla::LINK => lower = number(value)?,
            ifla::MASTER => master = number(value)?,
            ifla::LINKINFO => info = value,
            ifla::IFALIAS => is_marked = text(value) == Some(ALIAS),
            ifla::LINK_NETNSID => elsewhere = Some(i32::from_ne_bytes(value.try_into().ok()?)),
            _ => {}
        }
    }
    let kind = link_kind(info, lower, |index| namespaces.link(index, elsewhere))?;
    let master = namespaces.link(master, None);
    let (mtu, up) = (Mtu(mtu), flags & iff::UP != 0);
    let (port, owner) = (bridge::port_in(info), Owner::Foreign);
    Some((name?, ObservedLink { kind, mac: found_mac, mtu, up, master, port, is_marked, owner, index }))
}

/// The kind of a link, from `IFLA_LINKINFO`. `lower` is the index of the link that it is on (`IFLA_LINK`); `find` returns a link by its
/// index.
fn link_kind(info: &[u8], lower: u32, find: impl Fn(u32) -> Option<LinkId>) -> Option<ObservedKind> {
    let (mut kind, mut data) = ("", [].as_slice());
    for (number, value) in attributes(info) {
        match number {
            ifla::INFO_KIND => kind = text(value)?,
            ifla::INFO_DATA => data = value,
            _ => {}
        }
    }
    let known = match kind {
        "vxlan" => vxlan(data, &find).map(ObservedKind::Vxlan),
        "tun" => is_made_as_ours(data).then_some(ObservedKind::Tun(None)),
        "bridge" => Some(ObservedKind::Bridge(bridge::options(data))),
        "veth" => Some(ObservedKind::Veth(Veth { peer: find(lower) })),
        "vlan" => vlan_id(data).map(|id| ObservedKind::Vlan(Vlan { parent: find(lower), id })),
        "macvlan" => macvlan_mode(data).map(|mode| ObservedKind::Macvlan(Macvlan { parent: find(lower), mode })),
        "ipip" => ipip(data, &find).map(ObservedKind::Ipip),
        _ => None,
    };
    Some(known.unwrap_or_else(|| ObservedKind::Other(kind.to_owned())))
}

/// The VLAN ID of an 802.1Q link; `None` for 802.1ad, which ours never are.
fn vlan_id(bytes: &[u8]) -> Option<u16> {
    /// `ETH_P_8021Q` of linux/if_ether.h, in network byte order.
    const DOT1Q: [u8; 2] = [0x81, 0x00];
    let (mut id, mut is_dot1q) = (None, true);
    for (kind, value) in attributes(bytes) {
        match kind {
            ifla_vlan::ID => id = value.first_chunk().copied().map(u16::from_ne_bytes),
            ifla_vlan::PROTOCOL => is_dot1q = value == DOT1Q,
            _ => {}
        }
    }
    id.filter(|_| is_dot1q)
}

fn macvlan_mode(bytes: &[u8]) -> Option<MacvlanMode> {
    let (_, value) = attributes(bytes).find(|(kind, _)| *kind == ifla_macvlan::MODE)?;
    let found = number(value)?;
    MacvlanMode::ALL.iter().find(|(_, number, _)| *number == found).map(|(mode, ..)| *mode)
}

/// An ipip device without a fixed remote host, as ours are; `None` for one with a fixed remote.
fn ipip(bytes: &[u8], find: impl Fn(u32) -> Option<LinkId>) -> Option<Ipip<LinkId>> {
    let mut found = Ipip { parent: None, local: None };
    for (kind, value) in attributes(bytes) {
        match kind {
            ifla_iptun::LINK => found.parent = number(value).and_then(&find),
            ifla_iptun::LOCAL => found.local = address(value).and_then(v4).filter(|local| !local.is_unspecified()),
            ifla_iptun::REMOTE if address(value).is_some_and(|remote| !remote.is_unspecified()) => return None,
            _ => {}
        }
    }
    Some(found)
}

const fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Whether a TUN or TAP device has the settings of ours: persistent, with a vnet header and no packet information, with several queues.
/// Those of flannel and of VPNs do not have them.
fn is_made_as_ours(bytes: &[u8]) -> bool {
    let has = |kind, wanted| attributes(bytes).any(|(number, value)| number == kind && value == [wanted]);
    (has(ifla_tun::TYPE, ifla_tun::IFF_TUN) || has(ifla_tun::TYPE, ifla_tun::IFF_TAP))
        && has(ifla_tun::PI, 0)
        && has(ifla_tun::VNET_HDR, 1)
        && has(ifla_tun::PERSIST, 1)
        && has(ifla_tun::MULTI_QUEUE, 1)
}

fn vxlan(bytes: &[u8], find: impl Fn(u32) -> Option<LinkId>) -> Option<ObservedVxlan> {
    let mut found = ObservedVxlan::new(Vni::new(0)?);
    for (kind, value) in attributes(bytes) {
        let flag = value.first().is_some_and(|byte| *byte != 0);
        match kind {
            ifla_vxlan::ID => found.vni = Vni::new(number(value)?)?,
            ifla_vxlan::GROUP | ifla_vxlan::GROUP6 => {
                found.group = address(value).filter(|group| !group.is_unspecified());
            }
            ifla_vxlan::LINK => found.parent = number(value).and_then(&find),
            ifla_vxlan::LOCAL | ifla_vxlan::LOCAL6 => {
                found.local = address(value).filter(|local| !local.is_unspecified());
            }
            ifla_vxlan::LEARNING => found.learning = flag,
            ifla_vxlan::RSC if flag => found.receive_flag = Some(ReceiveFlag::ShortCircuit),
            ifla_vxlan::L2MISS => found.l2miss = flag,
            ifla_vxlan::PORT => found.port = u16::from_be_bytes(*value.first_chunk()?),
            ifla_vxlan::UDP_ZERO_CSUM6_RX if flag => found.receive_flag = Some(ReceiveFlag::ZeroChecksums),
            ifla_vxlan::REMCSUM_RX if flag => found.receive_flag = Some(ReceiveFlag::RemoteChecksums),
            ifla_vxlan::GBP => found.gbp = true,
            ifla_vxlan::COLLECT_METADATA if flag => found.receive_flag = Some(ReceiveFlag::Metadata),
            // Metadata matters more: with it, the device receives packets of both families.
            ifla_vxlan::GPE => found.receive_flag = found.receive_flag.or(Some(ReceiveFlag::Gpe)),
            _ => {}
        }
    }
    Some(found)
}

/// An address message (`struct ifaddrmsg`): the link's index, the address, and the length of its prefix in bits.
pub(crate) fn any_address(body: &[u8]) -> Option<(u32, IpAddr, u8)> {
    let (mut found, mut local) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ifa::ADDRESS => found = address(value),
            ifa::LOCAL => local = address(value),
            _ => {}
        }
    }
    // On a point-to-point link, IFA_ADDRESS is the peer's address.
    Some((number(&body[4..8])?, local.or(found)?, body[1]))
}

/// Whether a route message (`struct rtmsg`) is of a default route in the main table.
pub(crate) fn is_default_route(body: &[u8]) -> bool {
    let (len, table, kind) = (body.get(1), body.get(4), body.get(7));
    (len, table, kind) == (Some(&0), Some(&RT_TABLE_MAIN), Some(&rtn::UNICAST))
}

/// An address of one of `devices`.
pub(crate) fn device_address(body: &[u8], devices: &Names) -> Option<Address> {
    let (index, address, len) = any_address(body)?;
    let link_local = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let link = *devices.get(&index).filter(|_| !link_local)?;
    Some(Address { link, address, len })
}

/// An entry of the neighbour table or of the FDB.
#[derive(Clone, Copy)]
pub(crate) enum NeighbourEntry {
    Neighbour(NeighbourKey, MacAddr),
    Fdb(FdbKey, FdbTarget),
    Flood(FloodEntry),
    /// With the port that it leads to.
    BridgeFdb(BridgeFdbKey, LinkName),
}

impl NeighbourEntry {
    /// The device that packets are sent to.
    pub(crate) const fn device(&self) -> LinkName {
        match self {
            Self::Neighbour(NeighbourKey { link, .. }, _)
            | Self::Fdb(FdbKey { link, .. }, _)
            | Self::Flood(FloodEntry { link, .. })
            | Self::BridgeFdb(_, link) => *link,
        }
    }
}

/// A neighbour message (`struct ndmsg`) of one of `devices`. Only permanent entries: the kernel adds and removes the others itself.
pub(crate) fn neighbour(body: &[u8], devices: &Names) -> Option<NeighbourEntry> {
    let link = *devices.get(&number(body.get(4..8)?)?)?;
    let (family, state, flags) = (body[0], u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?), *body.get(10)?);
    let (mut destination, mut found_mac, mut by) = (None, None, FloodPath::default());
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            nda::DST => destination = address(value),
            nda::LLADDR => found_mac = mac(value),
            nda::PORT => by.port = value.first_chunk().copied().map(u16::from_be_bytes),
            nda::VNI => by.vni = number(value),
            nda::IFINDEX => by.link = number(value),
            // The entry is in the FDB of the bridge whose port the device is, not in the device's own.
            nda::MASTER if family == af::BRIDGE => return BridgeEntry::decode(body, devices)?.kept(devices),
            _ => {}
        }
    }
    match family {
        af::BRIDGE if state & (nda::NUD_PERMANENT | nda::NUD_NOARP) != 0 => {
            // Without a destination, frames go to the device's group if it has one. The unspecified address stands for that.
            let to = destination.unwrap_or(IpAddr::from([0; 4]));
            let mac = found_mac?;
            Some(if mac.is_unicast() {
                NeighbourEntry::Fdb(FdbKey { link, mac }, FdbTarget { to, port: by.port })
            } else {
                NeighbourEntry::Flood(FloodEntry { link, mac, to, by })
            })
        }
        af::INET | af::INET6 if state & nda::NUD_PERMANENT != 0 && flags & nda::NTF_PROXY == 0 => {
            Some(NeighbourEntry::Neighbour(NeighbourKey { link, address: destination? }, found_mac?))
        }
        _ => None,
    }
}

/// The key of a neighbour message, whatever its state.
pub(crate) fn neighbour_key(body: &[u8], devices: &Names) -> Option<NeighbourKey> {
    let link = *devices.get(&number(body.get(4..8)?)?)?;
    let (_, destination) = attributes(body.get(12..)?).find(|(kind, _)| *kind == nda::DST)?;
    (body[0] != af::BRIDGE).then_some(NeighbourKey { link, address: address(destination)? })
}

/// The state that is needed to decode routes.
pub(crate) struct RouteContext<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) names: &'a Names,
    /// Our own devices.
    pub(crate) devices: &'a Names,
    pub(crate) nexthops: &'a Nexthops,
}

/// The attributes of a route message.
#[derive(Default)]
pub(crate) struct RouteFields {
    pub(crate) destination: Option<IpAddr>,
    pub(crate) table: u32,
    pub(crate) metric: u32,
    pub(crate) device: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    nexthop: Option<u32>,
    pub(crate) multipath: bool,
}

/// A route message (`struct rtmsg`) of the main table, with the ID of its nexthop object: a route of ours, or a foreign one to a prefix
/// in the overlay's networks, which may conflict with ours.
pub(crate) fn route(body: &[u8], context: &RouteContext<'_>) -> Option<(RouteKey, ObservedRoute, Option<u32>)> {
    let header = body.first_chunk::<12>()?;
    let [family, len, _, _, table, protocol, _, kind, ..] = *header;
    let flags = number(&header[8..])?;
    let fields = route_fields(&body[12..], table);
    let family = match family {
        af::INET => Family::V4,
        af::INET6 => Family::V6,
        _ => return None,
    };
    if fields.table != RouteKey::MAIN || flags & rtm::F_CLONED != 0 {
        return None;
    }
    let hop = fields.nexthop.and_then(|id| context.nexthops.by_id(id));
    let device = fields.device.or(hop.map(|hop| hop.device));
    let gateway = fields.gateway.or(hop.map(|hop| hop.gateway));
    let link = device.and_then(|index| context.names.get(&index)).copied();
    let unspecified = match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    let destination = Prefix::new(fields.destination.unwrap_or(unspecified), len).ok()?;
    let via = match (kind, link, gateway) {
        (_, Some(_), _) if fields.multipath => Via::Other("multipath".to_owned()),
        (rtn::UNICAST, Some(link), Some(gateway)) => {
            Via::NextHop(NextHop::Gateway { gateway, link, onlink: flags & rtm::RTNH_F_ONLINK != 0 })
        }
        (rtn::UNICAST, Some(link), None) => Via::NextHop(NextHop::Link(link)),
        (rtn::BLACKHOLE, ..) => Via::NextHop(NextHop::Blackhole),
        _ => Via::Other(describe(kind, device, gateway)),
    };
    let uses_nexthop = fields.nexthop.is_some();
    let route = ObservedRoute { via, protocol, uses_nexthop, owner: Owner::Foreign };
    let is_on_ours = device.is_some_and(|index| context.devices.contains_key(&index));
    let owner = owner(destination, &route, is_on_ours, context.scope)?;
    Some((
        RouteKey { table: fields.table, destination, metric: fields.metric },
        ObservedRoute { owner, ..route },
        fields.nexthop,
    ))
}

/// The index of the link of a route from a router advertisement.
pub(crate) fn learnt_from_router(body: &[u8]) -> Option<u32> {
    let is_advertised = body.get(5) == Some(&rtprot::RA);
    is_advertised.then(|| route_fields(body.get(12..).unwrap_or_default(), 0).device).flatten()
}

pub(crate) fn route_fields(bytes: &[u8], table: u8) -> RouteFields {
    let mut fields = RouteFields { table: table.into(), ..RouteFields::default() };
    for (kind, value) in attributes(bytes) {
        match kind {
            rta::DST => fields.destination = address(value),
            rta::OIF => fields.device = number(value),
            rta::GATEWAY => fields.gateway = address(value),
            rta::PRIORITY => fields.metric = number(value).unwrap_or_default(),
            rta::MULTIPATH => fields.multipath = true,
            rta::TABLE => fields.table = number(value).unwrap_or_default(),
            // A gateway of the other family, after the number of that family (`struct rtvia`).
            rta::VIA => fields.gateway = value.get(2..).and_then(address),
            rta::NH_ID => fields.nexthop = number(value),
            _ => {}
        }
    }
    fields
}

/// Whether a route is ours; `None` if it does not concern the agent. A route of our protocol is ours on any link, since it may be on a
/// device of an earlier network config.
pub(crate) fn owner(destination: Prefix, route: &ObservedRoute, is_on_ours: bool, scope: &Scope) -> Option<Owner> {
    let inside = scope.networks.iter().any(|network| network.covers(destination));
    match route.via.link() {
        Some(_) if is_on_ours => (route.protocol != rtprot::KERNEL).then_some(Owner::Ours),
        Some(_) | None => inside.then_some(if route.protocol == PROTOCOL { Owner::Ours } else { Owner::Foreign }),
    }
}

fn describe(kind: u8, device: Option<u32>, gateway: Option<IpAddr>) -> String {
    let kind = match kind {
        rtn::UNICAST => "",
        rtn::UNREACHABLE => "unreachable ",
        rtn::PROHIBIT => "prohibit ",
        rtn::THROW => "throw ",
        _ => "special ",
    };
    let gateway = gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
    let device = device.map(|device| format!("dev #{device}")).unwrap_or_default();
    format!("{kind}{gateway}{device}").trim_end().to_owned()
}

/// The index of the link of a route message, if it is not in `names`.
pub(crate) fn unnamed_device(body: &[u8], names: &Names) -> Option<u32> {
    route_fields(body.get(12..)?, 0).device.filter(|index| !names.contains_key(index))
}
