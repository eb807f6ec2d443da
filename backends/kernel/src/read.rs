//! Reads the kernel's state: the entries of our own devices, which the kernel filters, and the routes of the main table.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
};

use nix::errno::Errno;
use wire_net::{Family, LinkName};
use wire_netlink::{Batch, Netlink};
use wire_state::{
    DataplaneError, LinkId, ObservedKind, ObservedLink, ObservedNet, ObservedRoute, Owner, RouteKey, Scope,
};

use super::{
    decode::{self, Names, Namespaces, NeighbourEntry, RouteContext},
    encode,
    listeners::Listeners,
    nexthop::{self, ById, Hop, Nexthops},
    settings::{self, LinkSettings},
    sysctl::Settings,
};

/// The result of a read.
pub(crate) struct ReadResult {
    pub(crate) state: ObservedNet,
    /// The names of the links in `state` and of the links of routes.
    pub(crate) names: Names,
    /// `None` if the kernel has no nexthop objects (before Linux 5.3).
    pub(crate) nexthops: Option<Nexthops>,
}

/// The namespace that is read.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) files: &'a Settings,
}

/// The most devices of which each is asked for alone. For each of them the kernel goes through the neighbours of all (`neigh_dump_table` of
/// net/core/neighbour.c).
const AT_ONCE: usize = 4;

/// The index that stands for all links in a request.
const EACH: u32 = 0;

/// Reads the state that `scope` names.
pub(crate) fn read(
    netlink: &mut Netlink,
    scope: &Scope,
    place: Place<'_>,
    listeners: &mut Listeners,
) -> Result<ReadResult, DataplaneError> {
    let Links { mut links, mut names, all: others } = read_links(netlink, scope, place.namespaces)?;
    let devices: Names =
        links.iter().filter(|(_, link)| link.owner == Owner::Ours).map(|(name, link)| (link.index, *name)).collect();
    let mut state = ObservedNet::default();
    let ours: Vec<&ObservedLink> = links.values().filter(|link| link.owner == Owner::Ours).collect();
    read_entries(netlink, &ours, &devices, &mut state)?;
    let hops = dump_nexthops(netlink)?;
    let supported = hops.is_some();
    let mut nexthops = Nexthops::new(hops.unwrap_or_default(), &devices.keys().copied().collect());
    let owned = OwnObjects { devices: &devices, nexthops: &nexthops };
    let Routes { found, learnt } = read_routes(netlink, scope, owned, &mut names)?;
    for (key, route, hop) in found {
        if let (Owner::Ours, Some(hop)) = (route.owner, hop) {
            nexthops.set_route(key, Some(hop));
        }
        // If several routes have the same key, the kernel uses the first.
        state.routes.entry(key).or_insert(route);
    }
    let container_bridges = settings::bridges(netlink, scope, &others)?;
    let (learnt, container_bridges, files) = (&learnt, &container_bridges, place.files);
    let context = settings::SettingsContext { scope, ours: &devices, learnt, container_bridges, files };
    state.settings = settings::read(others.iter().map(|other| &other.settings), &context, listeners);
    // The monitor needs the names of these links when it receives notifications about them.
    for ReadLink { link, settings } in
        others.into_iter().filter(|other| container_bridges.contains(&other.settings.index))
    {
        links.entry(settings.name).or_insert(link);
    }
    state.links = links;
    Ok(ReadResult { state, names, nexthops: supported.then_some(nexthops) })
}

/// Reads links that were made a moment ago into `state`, with the entries on them. Routes to them and neighbours on them are not read: there are none
/// yet, the monitor hears of those that come, and to list a link's neighbours the kernel goes through those of all. Returns those that are there.
pub(crate) fn read_made(
    netlink: &mut Netlink,
    scope: &Scope,
    place: Place<'_>,
    made: &BTreeSet<LinkName>,
    state: &mut ObservedNet,
) -> Result<Vec<LinkName>, DataplaneError> {
    let mut found = Vec::new();
    for name in made {
        state.links.remove(name);
        let read = read_link(netlink, Some(*name), 0, place.namespaces)?;
        found.extend(read.filter(|read| read.is_in(scope)));
    }
    state.links.extend(found.iter().map(|read| (read.settings.name, read.link.clone())));
    let mut names: Names = state.links.iter().map(|(name, link)| (link.index, *name)).collect();
    for read in &found {
        let Some(link) = state.links.get_mut(&read.settings.name) else { continue };
        for named in link.named_mut().filter(|named| named.namespace == place.namespaces.own) {
            named.name = match names.get(&named.index) {
                Some(name) => *name,
                None => name_of(netlink, named.index)?,
            };
            names.insert(named.index, named.name);
        }
        link.owner = scope.owner(read.settings.name, link);
    }
    let ours = state.links.iter().filter(|(_, link)| link.owner == Owner::Ours);
    let devices: Names = ours.map(|(name, link)| (link.index, *name)).collect();
    let ours: Vec<&ReadLink> = found.iter().filter(|read| devices.contains_key(&read.link.index)).collect();
    let links: Vec<&ObservedLink> = ours.iter().map(|read| &read.link).collect();
    for link in &links {
        read_addresses(netlink, link.index, &devices, state)?;
    }
    read_fdb(netlink, &links, &devices, state)?;
    ours.iter().for_each(|read| settings::add_own(&read.settings, &mut state.settings));
    Ok(found.into_iter().map(|read| read.settings.name).collect())
}

/// The name of a link; one made of its index if it is gone.
fn name_of(netlink: &mut Netlink, index: u32) -> Result<LinkName, DataplaneError> {
    let found = link_by(netlink, None, index)?;
    Ok(found.map_or_else(|| decode::fallback_name(index), |(name, _)| name))
}

/// The links of the namespace.
struct Links {
    /// All VXLAN devices, all links with one of our names, and the parent.
    links: BTreeMap<LinkName, ObservedLink>,
    names: Names,
    all: Vec<ReadLink>,
}

/// A link with its settings.
pub(super) struct ReadLink {
    pub(super) link: ObservedLink,
    pub(super) settings: LinkSettings,
}

fn read_links(netlink: &mut Netlink, scope: &Scope, namespaces: &Namespaces) -> Result<Links, DataplaneError> {
    let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, None);
    let all = netlink.dump("links", &request, |body| ReadLink::decode(body, namespaces))?;
    let selected = all.iter().filter(|link| link.is_in(scope));
    let mut links: BTreeMap<LinkName, ObservedLink> =
        selected.map(|other| (other.settings.name, other.link.clone())).collect();
    let by_index: Names = all.iter().map(|other| (other.settings.index, other.settings.name)).collect();
    for (name, link) in &mut links {
        link.named_mut().for_each(|named| give_name(named, namespaces, &by_index));
        link.owner = scope.owner(*name, link);
    }
    let names = links.iter().map(|(name, link)| (link.index, *name)).collect();
    Ok(Links { links, names, all })
}

impl ReadLink {
    fn decode(body: &[u8], namespaces: &Namespaces) -> Option<Self> {
        let (name, link) = decode::link(body, namespaces)?;
        Some(Self { link, settings: settings::of_link(name, body)? })
    }

    fn is_in(&self, scope: &Scope) -> bool {
        matches!(self.link.kind, ObservedKind::Vxlan(_))
            || scope.devices.contains(&self.settings.name)
            || scope.is_parent(self.settings.index)
    }
}

/// Sets the name of a link of this namespace. A link of another namespace keeps its index as a name.
fn give_name(named: &mut LinkId, namespaces: &Namespaces, all: &Names) {
    if let Some(name) = all.get(&named.index).filter(|_| named.namespace == namespaces.own) {
        named.name = *name;
    }
}

/// Reads one link, by its name or by its index. `None` if it does not exist.
pub(crate) fn link_by(
    netlink: &mut Netlink,
    name: Option<LinkName>,
    index: u32,
) -> Result<Option<(LinkName, ObservedLink)>, DataplaneError> {
    let found = read_link(netlink, name, index, &Namespaces::HOST)?;
    Ok(found.map(|read| (read.settings.name, read.link)))
}

/// Reads one link with its settings, by its name or by its index. `None` if it does not exist.
fn read_link(
    netlink: &mut Netlink,
    name: Option<LinkName>,
    index: u32,
    namespaces: &Namespaces,
) -> Result<Option<ReadLink>, DataplaneError> {
    let mut batch = Batch::default();
    encode::get_link(&mut batch, name, index);
    let mut found = None;
    match netlink.ask(&mut batch, |body| found = ReadLink::decode(body, namespaces)) {
        Ok(_) => Ok(found),
        Err(error) if is(&error, Errno::ENODEV) => Ok(None),
        Err(source) => Err(DataplaneError::Read { what: "a link", source }),
    }
}

/// Reads the entries on these devices of ours. `devices` are all of ours.
fn read_entries(
    netlink: &mut Netlink,
    links: &[&ObservedLink],
    devices: &Names,
    state: &mut ObservedNet,
) -> Result<(), DataplaneError> {
    let indexes = links.iter().map(|link| link.index);
    let indexes: Vec<u32> = if links.len() > AT_ONCE { vec![EACH] } else { indexes.collect() };
    for index in indexes {
        read_addresses(netlink, index, devices, state)?;
        for family in Family::ALL {
            read_neighbours(netlink, Some(family), index, devices)?.into_iter().for_each(|entry| insert(state, entry));
        }
    }
    read_fdb(netlink, links, devices, state)
}

/// Reads the addresses of one device, or of all.
fn read_addresses(
    netlink: &mut Netlink,
    index: u32,
    devices: &Names,
    state: &mut ObservedNet,
) -> Result<(), DataplaneError> {
    for family in Family::ALL {
        let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, family, index);
        let found = netlink.dump("addresses", &request, |body| decode::device_address(body, devices));
        state.addresses.extend(or_gone(found)?);
    }
    Ok(())
}

/// Reads the FDB of the VXLAN and TAP devices among these links. That of other kinds holds only the kernel's own entries, for multicast groups.
/// Entries of a bridge that lead to a device come along.
fn read_fdb(
    netlink: &mut Netlink,
    links: &[&ObservedLink],
    devices: &Names,
    state: &mut ObservedNet,
) -> Result<(), DataplaneError> {
    let ports: Vec<&&ObservedLink> = links.iter().filter(|link| link.kind.leads_to_hosts()).collect();
    let indexes: Vec<u32> = ports.iter().map(|link| link.index).collect();
    let indexes = if indexes.len() > AT_ONCE { vec![EACH] } else { indexes };
    // By name, whether the device has an FDB of its own. The entries of a TAP device itself (`self`) are the kernel's.
    let has_own =
        |link: &&&ObservedLink| Some((*devices.get(&link.index)?, matches!(link.kind, ObservedKind::Vxlan(_))));
    let has_own: BTreeMap<LinkName, bool> = ports.iter().filter_map(has_own).collect();
    let is_read = |entry: &NeighbourEntry| has_own.get(&entry.device()).is_some_and(|own| *own || is_of_bridge(entry));
    for index in indexes {
        let found = read_neighbours(netlink, None, index, devices)?.into_iter();
        found.filter(is_read).for_each(|entry| insert(state, entry));
    }
    Ok(())
}

const fn is_of_bridge(entry: &NeighbourEntry) -> bool {
    match entry {
        NeighbourEntry::BridgeFdb(..) => true,
        NeighbourEntry::Neighbour(..) | NeighbourEntry::Fdb(..) | NeighbourEntry::Flood(_) => false,
    }
}

/// Reads the neighbours of one device or of all, or without a family its FDB.
fn read_neighbours(
    netlink: &mut Netlink,
    family: Option<Family>,
    index: u32,
    devices: &Names,
) -> Result<Vec<NeighbourEntry>, DataplaneError> {
    let request = |batch: &mut Batch, flags| encode::list_neighbours(batch, flags, family, index);
    let what = if family.is_some() { "neighbours" } else { "FDB entries" };
    or_gone(netlink.dump(what, &request, |body| decode::neighbour(body, devices)))
}

fn insert(state: &mut ObservedNet, entry: NeighbourEntry) {
    match entry {
        NeighbourEntry::Neighbour(key, mac) => drop(state.neighbours.insert(key, mac)),
        NeighbourEntry::Fdb(key, destination) => drop(state.fdb.insert(key, destination)),
        NeighbourEntry::Flood(entry) => drop(state.flooding.insert(entry)),
        NeighbourEntry::BridgeFdb(key, port) => drop(state.bridge_fdb.insert(key, port)),
    }
}

/// A device that was removed meanwhile has no entries.
fn or_gone<T>(found: Result<Vec<T>, DataplaneError>) -> Result<Vec<T>, DataplaneError> {
    match found {
        Err(DataplaneError::Read { source, .. }) if is(&source, Errno::ENODEV) => Ok(Vec::new()),
        other => other,
    }
}

fn dump_nexthops(netlink: &mut Netlink) -> Result<Option<Vec<Hop>>, DataplaneError> {
    let request = |batch: &mut Batch, flags| batch.push(nexthop::GET, flags, &ById(None));
    match netlink.dump("nexthops", &request, Hop::decode) {
        Err(DataplaneError::Read { source, .. }) if is(&source, Errno::EOPNOTSUPP) => Ok(None),
        other => other.map(Some),
    }
}

/// The routes that were read.
#[derive(Default)]
struct Routes {
    /// Our routes and all routes into the overlay's networks, each with the ID of its nexthop object.
    found: Vec<(RouteKey, ObservedRoute, Option<u32>)>,
    /// The indexes of the links with a route from a router advertisement.
    learnt: BTreeSet<u32>,
}

/// Our devices, and all nexthop objects of the namespace.
#[derive(Clone, Copy)]
struct OwnObjects<'a> {
    devices: &'a Names,
    nexthops: &'a Nexthops,
}

/// Reads the routes. Adds the names of their links to `names`.
fn read_routes(
    netlink: &mut Netlink,
    scope: &Scope,
    OwnObjects { devices, nexthops }: OwnObjects<'_>,
    names: &mut Names,
) -> Result<Routes, DataplaneError> {
    let mut found = Vec::new();
    let learnt = RefCell::new(BTreeSet::new());
    // Links that only foreign routes refer to: the name of each is read once, then the routes are read again.
    let unknown = RefCell::new(BTreeSet::new());
    for family in Family::ALL {
        let request = |batch: &mut Batch, flags| encode::list_routes(batch, flags, family);
        for _ in 0..2 {
            let context = RouteContext { scope, names, devices, nexthops };
            let routes = netlink.dump("routes", &request, |body| {
                learnt.borrow_mut().extend(decode::learnt_from_router(body));
                let route = decode::route(body, &context)?;
                unknown.borrow_mut().extend(decode::unnamed_device(body, names));
                Some(route)
            })?;
            let missing = unknown.take();
            if missing.is_empty() {
                found.extend(routes);
                break;
            }
            for index in missing {
                names.insert(index, name_of(netlink, index)?);
            }
        }
    }
    Ok(Routes { found, learnt: learnt.into_inner() })
}

pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
