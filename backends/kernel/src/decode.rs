//! Decodes the kernel's messages into entries of a [`wire_state::NetState`]. A function returns `None` for a message that is invalid, or
//! that does not concern the agent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use wire_net::{Family, LinkName, MacAddr, Mtu, Prefix, Vni};
use wire_netlink::attribute::{address, attributes, mac, number, text};
use wire_state::{
    ALIAS, Address, Extra, FdbKey, FloodEntry, Ipip, LinkId, Macvlan, MacvlanMode, Namespace, NeighbourKey, NextHop,
    ObservedKind, ObservedLink, ObservedRoute, ObservedVxlan, Owner, PROTOCOL, RouteKey, Scope, Veth, Via, Vlan,
};

use super::nexthop::Nexthops;

/// Names of links by their interface indexes.
pub(crate) type Names = BTreeMap<u32, LinkName>;

/// The name for a link that no longer exists or whose name is not known.
pub(crate) fn fallback_name(index: u32) -> LinkName {
    format!("if{index}").parse().expect("twelve letters and digits at most")
}

/// `AF_INET`, `AF_INET6`, `AF_BRIDGE` of linux/socket.h.
pub(crate) const INET: u8 = 2;
pub(crate) const INET6: u8 = 10;
pub(crate) const BRIDGE: u8 = 7;

/// `RTPROT_KERNEL` of linux/rtnetlink.h: routes that the kernel makes and removes itself.
const PROTOCOL_KERNEL: u8 = 2;

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
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const LINK: u16 = 5;
    const MASTER: u16 = 10;
    const LINKINFO: u16 = 18;
    const ALIAS_TEXT: u16 = 20;
    const LINK_NETNSID: u16 = 37;
    const UP: u32 = 1;
    let (index, flags) = (number(body.get(4..8)?)?, number(body.get(8..12)?)?);
    let (mut name, mut found_mac, mut mtu, mut info) = (None, None, 0, [].as_slice());
    let (mut lower, mut master, mut elsewhere, mut is_marked) = (0, 0, None, false);
    for (number_of, value) in attributes(body.get(16..)?) {
        match number_of {
            ADDRESS => found_mac = mac(value),
            NAME => name = text(value)?.parse().ok(),
            MTU => mtu = number(value)?,
            LINK => lower = number(value)?,
            MASTER => master = number(value)?,
            LINKINFO => info = value,
            ALIAS_TEXT => is_marked = text(value) == Some(ALIAS),
            LINK_NETNSID => elsewhere = Some(i32::from_ne_bytes(value.try_into().ok()?)),
            _ => {}
        }
    }
    let kind = link_kind(info, lower, |index| namespaces.link(index, elsewhere))?;
    let master = namespaces.link(master, None);
    let (mtu, up) = (Mtu(mtu), flags & UP != 0);
    Some((name?, ObservedLink { kind, mac: found_mac, mtu, up, master, is_marked, owner: Owner::Foreign, index }))
}

/// The kind of a link, from `IFLA_LINKINFO`. `lower` is the index of the link that it is on (`IFLA_LINK`); `find` returns a link by its
/// index.
fn link_kind(info: &[u8], lower: u32, find: impl Fn(u32) -> Option<LinkId>) -> Option<ObservedKind> {
    const KIND: u16 = 1;
    const DATA: u16 = 2;
    let (mut kind, mut data) = ("", [].as_slice());
    for (number, value) in attributes(info) {
        match number {
            KIND => kind = text(value)?,
            DATA => data = value,
            _ => {}
        }
    }
    let known = match kind {
        "vxlan" => vxlan(data, &find).map(ObservedKind::Vxlan),
        "tun" => is_made_as_ours(data).then_some(ObservedKind::Tun(None)),
        "bridge" => Some(ObservedKind::Bridge),
        "veth" => Some(ObservedKind::Veth(Veth { peer: find(lower) })),
        "vlan" => vlan_id(data).map(|id| ObservedKind::Vlan(Vlan { parent: find(lower), id })),
        "macvlan" => macvlan_mode(data).map(|mode| ObservedKind::Macvlan(Macvlan { parent: find(lower), mode })),
        "ipip" => ipip(data, &find).map(ObservedKind::Ipip),
        _ => None,
    };
    Some(known.unwrap_or_else(|| ObservedKind::Other(kind.to_owned())))
}

/// The VLAN ID of an 802.1Q link (`IFLA_VLAN_*` of linux/if_link.h); `None` for 802.1ad, which ours never are.
fn vlan_id(bytes: &[u8]) -> Option<u16> {
    const ID: u16 = 1;
    const PROTOCOL: u16 = 5;
    const DOT1Q: [u8; 2] = [0x81, 0x00];
    let (mut id, mut is_dot1q) = (None, true);
    for (kind, value) in attributes(bytes) {
        match kind {
            ID => id = value.first_chunk().copied().map(u16::from_ne_bytes),
            PROTOCOL => is_dot1q = value == DOT1Q,
            _ => {}
        }
    }
    id.filter(|_| is_dot1q)
}

/// `IFLA_MACVLAN_MODE` of linux/if_link.h.
fn macvlan_mode(bytes: &[u8]) -> Option<MacvlanMode> {
    const MODE: u16 = 1;
    let (_, value) = attributes(bytes).find(|(kind, _)| *kind == MODE)?;
    let found = number(value)?;
    MacvlanMode::ALL.iter().find(|(_, number, _)| *number == found).map(|(mode, ..)| *mode)
}

/// An ipip device without a fixed remote host, as ours are (`IFLA_IPTUN_*` of linux/if_tunnel.h); `None` for one with a fixed remote.
fn ipip(bytes: &[u8], find: impl Fn(u32) -> Option<LinkId>) -> Option<Ipip<LinkId>> {
    const LINK: u16 = 1;
    const LOCAL: u16 = 2;
    const REMOTE: u16 = 3;
    let mut found = Ipip { parent: None, local: None };
    for (kind, value) in attributes(bytes) {
        match kind {
            LINK => found.parent = number(value).and_then(&find),
            LOCAL => found.local = address(value).and_then(v4).filter(|local| !local.is_unspecified()),
            REMOTE if address(value).is_some_and(|remote| !remote.is_unspecified()) => return None,
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

/// Whether a TUN device has the settings of ours: persistent, with a vnet header and no packet information, with several queues
/// (`IFLA_TUN_*` of linux/if_link.h). Those of flannel and of VPNs do not have them.
fn is_made_as_ours(bytes: &[u8]) -> bool {
    const TYPE: u16 = 3;
    const PACKET_INFO: u16 = 4;
    const VNET_HEADER: u16 = 5;
    const PERSISTENT: u16 = 6;
    const MULTI_QUEUE: u16 = 7;
    let has = |kind, wanted| attributes(bytes).any(|(number, value)| number == kind && value == [wanted]);
    // IFF_TUN of linux/if_tun.h.
    has(TYPE, 1) && has(PACKET_INFO, 0) && has(VNET_HEADER, 1) && has(PERSISTENT, 1) && has(MULTI_QUEUE, 1)
}

/// `IFLA_VXLAN_*` of linux/if_link.h.
fn vxlan(bytes: &[u8], find: impl Fn(u32) -> Option<LinkId>) -> Option<ObservedVxlan> {
    let mut found = ObservedVxlan::new(Vni::new(0)?);
    for (kind, value) in attributes(bytes) {
        let flag = value.first().is_some_and(|byte| *byte != 0);
        match kind {
            1 => found.vni = Vni::new(number(value)?)?,
            2 | 16 => found.group = address(value).filter(|group| !group.is_unspecified()),
            3 => found.parent = number(value).and_then(&find),
            4 | 17 => found.local = address(value).filter(|local| !local.is_unspecified()),
            7 => found.learning = flag,
            12 if flag => found.extra = Some(Extra::ShortCircuit),
            13 => found.l2miss = flag,
            15 => found.port = u16::from_be_bytes(*value.first_chunk()?),
            20 if flag => found.extra = Some(Extra::ZeroChecksums),
            22 if flag => found.extra = Some(Extra::RemoteChecksums),
            23 => found.gbp = true,
            25 if flag => found.extra = Some(Extra::Metadata),
            // Metadata matters more: with it, the device receives packets of both families.
            27 => found.extra = found.extra.or(Some(Extra::Gpe)),
            _ => {}
        }
    }
    Some(found)
}

/// An address message (`struct ifaddrmsg`): the link's index, the address, and the length of its prefix in bits.
pub(crate) fn any_address(body: &[u8]) -> Option<(u32, IpAddr, u8)> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let (mut found, mut local) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ADDRESS => found = address(value),
            LOCAL => local = address(value),
            _ => {}
        }
    }
    // On a point-to-point link, ADDRESS is the peer's address.
    Some((number(&body[4..8])?, local.or(found)?, body[1]))
}

/// Whether a route message (`struct rtmsg`) is of a default route in the main table.
pub(crate) fn is_default_route(body: &[u8]) -> bool {
    let (len, table, kind) = (body.get(1), body.get(4), body.get(7));
    (len, table, kind) == (Some(&0), Some(&254), Some(&UNICAST))
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
pub(crate) enum NeighbourEntry {
    Neighbour(NeighbourKey, MacAddr),
    Fdb(FdbKey, IpAddr),
    Flood(FloodEntry),
}

/// A neighbour message (`struct ndmsg`) of one of `devices`. Only permanent entries: the kernel adds and removes the others itself.
pub(crate) fn neighbour(body: &[u8], devices: &Names) -> Option<NeighbourEntry> {
    const DESTINATION: u16 = 1;
    const LLADDR: u16 = 2;
    const MASTER: u16 = 9;
    const NOARP: u16 = 0x40;
    const PERMANENT: u16 = 0x80;
    const PROXY: u8 = 0x08;
    let link = *devices.get(&number(body.get(4..8)?)?)?;
    let (family, state, flags) = (body[0], u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?), *body.get(10)?);
    let (mut destination, mut found_mac) = (None, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            DESTINATION => destination = address(value),
            LLADDR => found_mac = mac(value),
            // The entry is in the FDB of the bridge whose port the device is, not in the device's own.
            MASTER if family == BRIDGE => return None,
            _ => {}
        }
    }
    match family {
        BRIDGE if state & (PERMANENT | NOARP) != 0 => {
            // Without a destination, frames go to the device's group if it has one. The unspecified address stands for that.
            let to = destination.unwrap_or(IpAddr::from([0; 4]));
            let mac = found_mac?;
            Some(if mac.is_unicast() {
                NeighbourEntry::Fdb(FdbKey { link, mac }, to)
            } else {
                NeighbourEntry::Flood(FloodEntry { link, mac, to })
            })
        }
        INET | INET6 if state & PERMANENT != 0 && flags & PROXY == 0 => {
            Some(NeighbourEntry::Neighbour(NeighbourKey { link, address: destination? }, found_mac?))
        }
        _ => None,
    }
}

/// The key of a neighbour message, whatever its state.
pub(crate) fn neighbour_key(body: &[u8], devices: &Names) -> Option<NeighbourKey> {
    let link = *devices.get(&number(body.get(4..8)?)?)?;
    let (_, destination) = attributes(body.get(12..)?).find(|(kind, _)| *kind == 1)?;
    (body[0] != BRIDGE).then_some(NeighbourKey { link, address: address(destination)? })
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
struct RouteFields {
    destination: Option<IpAddr>,
    table: u32,
    metric: u32,
    device: Option<u32>,
    gateway: Option<IpAddr>,
    nexthop: Option<u32>,
    multipath: bool,
}

/// A route message (`struct rtmsg`) of the main table, with the ID of its nexthop object: a route of ours, or a foreign one to a prefix
/// in the overlay's networks, which may conflict with ours.
pub(crate) fn route(body: &[u8], context: &RouteContext<'_>) -> Option<(RouteKey, ObservedRoute, Option<u32>)> {
    const ONLINK: u32 = 4;
    const CLONED: u32 = 0x200;
    let header = body.first_chunk::<12>()?;
    let [family, len, _, _, table, protocol, _, kind, ..] = *header;
    let flags = number(&header[8..])?;
    let fields = route_fields(&body[12..], table);
    let family = match family {
        INET => Family::V4,
        INET6 => Family::V6,
        _ => return None,
    };
    if fields.table != RouteKey::MAIN || flags & CLONED != 0 {
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
        (UNICAST, Some(link), Some(gateway)) => {
            Via::NextHop(NextHop::Gateway { gateway, link, onlink: flags & ONLINK != 0 })
        }
        (UNICAST, Some(link), None) => Via::NextHop(NextHop::Link(link)),
        (BLACKHOLE, ..) => Via::NextHop(NextHop::Blackhole),
        _ => Via::Other(describe(kind, device, gateway)),
    };
    let route = ObservedRoute { via, protocol, owner: Owner::Foreign };
    let is_on_ours = device.is_some_and(|index| context.devices.contains_key(&index));
    let owner = owner(destination, &route, is_on_ours, context.scope)?;
    Some((
        RouteKey { table: fields.table, destination, metric: fields.metric },
        ObservedRoute { owner, ..route },
        fields.nexthop,
    ))
}

/// The index of the link of a route from a router advertisement (`RTPROT_RA` of linux/rtnetlink.h).
pub(crate) fn learnt_from_router(body: &[u8]) -> Option<u32> {
    const PROTOCOL_RA: u8 = 9;
    let told = body.get(5) == Some(&PROTOCOL_RA);
    told.then(|| route_fields(body.get(12..).unwrap_or_default(), 0).device).flatten()
}

/// `RTN_UNICAST` and `RTN_BLACKHOLE` of linux/rtnetlink.h.
const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;

fn route_fields(bytes: &[u8], table: u8) -> RouteFields {
    let mut fields = RouteFields { table: table.into(), ..RouteFields::default() };
    for (kind, value) in attributes(bytes) {
        match kind {
            1 => fields.destination = address(value),
            4 => fields.device = number(value),
            5 => fields.gateway = address(value),
            6 => fields.metric = number(value).unwrap_or_default(),
            9 => fields.multipath = true,
            15 => fields.table = number(value).unwrap_or_default(),
            // RTA_VIA, a gateway of the other family, after the family's number.
            18 => fields.gateway = value.get(2..).and_then(address),
            30 => fields.nexthop = number(value),
            _ => {}
        }
    }
    fields
}

/// Whether a route is ours; `None` if it does not concern the agent. A route of our protocol is ours on any link, since it may be on a
/// device of an earlier network config.
fn owner(destination: Prefix, route: &ObservedRoute, is_on_ours: bool, scope: &Scope) -> Option<Owner> {
    let inside = scope.networks.iter().any(|network| network.covers(destination));
    match route.via.link() {
        Some(_) if is_on_ours => (route.protocol != PROTOCOL_KERNEL).then_some(Owner::Ours),
        Some(_) | None => inside.then_some(if route.protocol == PROTOCOL { Owner::Ours } else { Owner::Foreign }),
    }
}

fn describe(kind: u8, device: Option<u32>, gateway: Option<IpAddr>) -> String {
    let kind = match kind {
        UNICAST => "",
        7 => "unreachable ",
        8 => "prohibit ",
        9 => "throw ",
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
