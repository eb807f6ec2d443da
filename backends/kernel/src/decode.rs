//! From the kernel's messages to entries of a [`wire_state::NetState`]. What is not an entry of ours, or none at all, is `None`.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::{Family, LinkName, MacAddr, Mtu, Prefix, Vni};
use wire_netlink::attribute::{address, attributes, mac, number, text};
use wire_state::{
    Address, Extra, FdbKey, Link, LinkKind, NeighbourKey, Owner, PROTOCOL, Parent, Route, RouteKey, Scope, Via, Vxlan,
};

use super::nexthop::Nexthops;

/// The numbers and names of links.
pub(crate) type Names = BTreeMap<u32, LinkName>;

/// For a link whose name is not known, or not any more.
pub(crate) fn fallback_name(index: u32) -> LinkName {
    format!("if{index}").parse().expect("twelve letters and digits at most")
}

/// `AF_INET`, `AF_INET6`, `AF_BRIDGE` of linux/socket.h.
pub(crate) const INET: u8 = 2;
pub(crate) const INET6: u8 = 10;
pub(crate) const BRIDGE: u8 = 7;

/// `RTPROT_KERNEL` of linux/rtnetlink.h: what the kernel makes itself, and takes away itself.
const PROTOCOL_KERNEL: u8 = 2;

/// A link message (`struct ifinfomsg`): its name and what it is. Its owner and the name of its parent are for the caller to say.
pub(crate) fn link(body: &[u8]) -> Option<(LinkName, Link)> {
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const LINKINFO: u16 = 18;
    const UP: u32 = 1;
    let (index, flags) = (number(body.get(4..8)?)?, number(body.get(8..12)?)?);
    let (mut name, mut found_mac, mut mtu, mut kind) = (None, None, 0, LinkKind::Other(String::new()));
    for (number_of, value) in attributes(body.get(16..)?) {
        match number_of {
            ADDRESS => found_mac = mac(value),
            NAME => name = text(value)?.parse().ok(),
            MTU => mtu = number(value)?,
            LINKINFO => kind = link_kind(value)?,
            _ => {}
        }
    }
    let up = flags & UP != 0;
    Some((name?, Link { kind, mac: found_mac, mtu: Mtu(mtu), up, owner: Owner::Foreign, index: Some(index) }))
}

fn link_kind(bytes: &[u8]) -> Option<LinkKind> {
    const KIND: u16 = 1;
    const DATA: u16 = 2;
    let (mut kind, mut data) = ("", [].as_slice());
    for (number, value) in attributes(bytes) {
        match number {
            KIND => kind = text(value)?,
            DATA => data = value,
            _ => {}
        }
    }
    let known = match kind {
        "vxlan" => vxlan(data).map(LinkKind::Vxlan),
        "tun" => is_made_as_ours(data).then_some(LinkKind::Tun(None)),
        _ => None,
    };
    Some(known.unwrap_or_else(|| LinkKind::Other(kind.to_owned())))
}

/// Whether a TUN device is made as ours are: it stays, and takes packets with a vnet header and nothing else before them, on
/// several queues (`IFLA_TUN_*` of linux/if_link.h). Those of flannel and of VPNs are not.
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
fn vxlan(bytes: &[u8]) -> Option<Vxlan> {
    let mut found = Vxlan::new(Vni::new(0)?);
    for (kind, value) in attributes(bytes) {
        let flag = value.first().is_some_and(|byte| *byte != 0);
        match kind {
            1 => found.vni = Vni::new(number(value)?)?,
            2 | 16 => found.group = address(value).filter(|group| !group.is_unspecified()),
            3 => found.parent = number(value).map(|index| Parent { index, name: fallback_name(index) }),
            4 | 17 => found.local = address(value).filter(|local| !local.is_unspecified()),
            7 => found.learning = flag,
            12 if flag => found.extra = Some(Extra::ShortCircuit),
            13 => found.l2miss = flag,
            15 => found.port = value.first_chunk().copied().map(u16::from_be_bytes),
            20 if flag => found.extra = Some(Extra::ZeroChecksums),
            22 if flag => found.extra = Some(Extra::RemoteChecksums),
            23 => found.gbp = true,
            25 if flag => found.extra = Some(Extra::Metadata),
            // With metadata it hears both families, which matters more.
            27 => found.extra = found.extra.or(Some(Extra::Gpe)),
            _ => {}
        }
    }
    Some(found)
}

/// An address message (`struct ifaddrmsg`): the link's number, and the address.
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
    // With a peer's address (point to point), ADDRESS is the peer's.
    Some((number(&body[4..8])?, local.or(found)?, body[1]))
}

/// Whether a route message (`struct rtmsg`) is about a default route of the main table.
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
pub(crate) enum Neighbour {
    Neighbour(NeighbourKey, MacAddr),
    Fdb(FdbKey, IpAddr),
}

/// A neighbour message (`struct ndmsg`) of one of `devices`. Only what was put there to stay: what the kernel learnt comes
/// and goes by itself.
pub(crate) fn neighbour(body: &[u8], devices: &Names) -> Option<Neighbour> {
    const DESTINATION: u16 = 1;
    const LLADDR: u16 = 2;
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
            _ => {}
        }
    }
    match family {
        BRIDGE if state & (PERMANENT | NOARP) != 0 => {
            // Of a MAC without a destination the group or nobody is meant: as good as the zero address.
            let nowhere = IpAddr::from([0; 4]);
            Some(Neighbour::Fdb(FdbKey { link, mac: found_mac? }, destination.unwrap_or(nowhere)))
        }
        INET | INET6 if state & PERMANENT != 0 && flags & PROXY == 0 => {
            Some(Neighbour::Neighbour(NeighbourKey { link, address: destination? }, found_mac?))
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

/// What routes are read against.
pub(crate) struct RouteContext<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) names: &'a Names,
    /// Our own devices.
    pub(crate) devices: &'a Names,
    pub(crate) nexthops: &'a Nexthops,
}

/// What a route message says, whatever it is.
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

/// A route message (`struct rtmsg`) of the main table, with the nexthop object it uses: one of ours, or one in the overlay's
/// networks that may stand in our way.
pub(crate) fn route(body: &[u8], context: &RouteContext<'_>) -> Option<(RouteKey, Route, Option<u32>)> {
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
        (UNICAST, Some(link), Some(gateway)) => Via::Gateway { gateway, link, onlink: flags & ONLINK != 0 },
        (UNICAST, Some(link), None) => Via::Link(link),
        (BLACKHOLE, ..) => Via::Blackhole,
        _ => Via::Other(describe(kind, device, gateway)),
    };
    let route = Route { via, protocol, owner: Owner::Foreign };
    let is_on_ours = device.is_some_and(|index| context.devices.contains_key(&index));
    let owner = owner(destination, &route, is_on_ours, context.scope)?;
    Some((
        RouteKey { table: fields.table, destination, metric: fields.metric },
        Route { owner, ..route },
        fields.nexthop,
    ))
}

/// The link of a route that a router has told of (`RTPROT_RA` of linux/rtnetlink.h).
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

/// Whose a route is; `None` where it is no concern of ours. One of our protocol is ours on whatever link: on a device that
/// a former network config had, too.
fn owner(destination: Prefix, route: &Route, is_on_ours: bool, scope: &Scope) -> Option<Owner> {
    let inside = scope.networks.iter().any(|network| network.covers(destination));
    match route.link() {
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

/// The device of a route message, where `names` does not know it.
pub(crate) fn unnamed_device(body: &[u8], names: &Names) -> Option<u32> {
    route_fields(body.get(12..)?, 0).device.filter(|index| !names.contains_key(index))
}
