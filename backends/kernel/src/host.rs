//! The host's own network: its links, their addresses, and its routes.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::{DualStack, Family, LinkName, LocalAddress, MacAddr, Mtu, Prefix, chain};
use wire_netlink::{
    Batch, Netlink,
    attribute::{address, attributes, number},
};
use wire_state::DataplaneError;

use super::{
    decode::{self, Namespaces},
    encode,
    uapi::{ifa, iff, rta},
};

/// The links and routes of this host, in the network namespace of the thread that read them.
#[derive(Clone, Debug, Default)]
pub struct HostNetwork {
    /// All links, in the order of their indexes.
    pub links: Vec<HostLink>,
    /// The indexes of the links of the default routes of each family, in the order of their metrics.
    pub default_routes: DualStack<Vec<u32>>,
    /// The routers of the default routes, each with the index of its link.
    pub routers: Vec<(u32, IpAddr)>,
    /// The routes to the addresses that were asked for, or the kernel's errors.
    pub resolved: BTreeMap<IpAddr, Result<ResolvedRoute, String>>,
}

/// The route that the kernel chooses for packets to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedRoute {
    /// The index of the link that they leave by.
    pub link: u32,
    /// The source address that they get.
    pub source: Option<IpAddr>,
}

/// One link of the host.
#[derive(Clone, Debug)]
pub struct HostLink {
    /// Its name.
    pub name: LinkName,
    /// The kernel's interface index.
    pub index: u32,
    /// The kernel's name for its kind (`IFLA_INFO_KIND`); empty for hardware and loopback.
    pub kind: String,
    /// Whether it is the loopback device (`IFF_LOOPBACK`).
    pub is_loopback: bool,
    /// Its MTU in bytes.
    pub mtu: Mtu,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<HostAddress>,
}

/// One address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The address with its prefix and its broadcast address.
    pub local: LocalAddress,
    /// The state of the address, by which one is preferred over another.
    pub state: AddressState,
}

/// The state of an address. The order of the variants is the order of preference for the host's public address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressState {
    /// A stable address.
    Stable,
    /// A temporary address for privacy, usually for a day (`IFA_F_TEMPORARY`, RFC 8981).
    Temporary,
    /// Not for new connections (`IFA_F_DEPRECATED`, RFC 4862 §5.5.4): it will be removed soon, or is shared with other hosts.
    Deprecated,
    /// Another host has it (`IFA_F_DADFAILED`): packets to it do not arrive here.
    Duplicate,
}

impl HostNetwork {
    /// Reads links, addresses, default routes, and the routes to `targets`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn read(targets: impl IntoIterator<Item = IpAddr>) -> Result<Self, DataplaneError> {
        let mut netlink = Netlink::open()?;
        let mut host = Self::default();
        let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, None);
        host.links = netlink.dump("links", &request, link)?;
        host.links.sort_unstable_by_key(|link| link.index);
        for family in Family::ALL {
            let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, family, 0);
            for (index, address) in netlink.dump("addresses", &request, host_address)? {
                if let Some(link) = host.links.iter_mut().find(|link| link.index == index) {
                    link.addresses.push(address);
                }
            }
            let request = |batch: &mut Batch, flags| encode::list_routes(batch, flags, family);
            let mut defaults = netlink.dump("routes", &request, default_route)?;
            defaults.sort_by_key(|route| route.metric);
            host.routers.extend(defaults.iter().filter_map(|route| Some((route.link, route.router?))));
            host.default_routes.set(family, Some(defaults.into_iter().map(|route| route.link).collect()));
        }
        for target in targets {
            host.resolved.insert(target, route_to(&mut netlink, target).map_err(|error| chain(&error)));
        }
        Ok(host)
    }

    /// The link with that name.
    #[must_use]
    pub fn link(&self, name: LinkName) -> Option<&HostLink> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// The links with their addresses, for error messages.
impl std::fmt::Display for HostNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, link) in self.links.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, link.name)?;
            for (index, HostAddress { local, .. }) in link.addresses.iter().enumerate() {
                write!(f, "{}{}/{}", if index == 0 { " (" } else { " " }, local.address, local.prefix.len())?;
            }
            if !link.addresses.is_empty() {
                f.write_str(")")?;
            }
        }
        Ok(())
    }
}

fn link(body: &[u8]) -> Option<HostLink> {
    let (name, link) = decode::link(body, &Namespaces::HOST)?;
    let kind = link.kind.name().to_owned();
    Some(HostLink {
        name,
        index: link.index,
        kind,
        is_loopback: body.get(8..12).and_then(number).is_some_and(|flags| flags & iff::LOOPBACK != 0),
        mtu: link.mtu,
        mac: link.mac,
        addresses: Vec::new(),
    })
}

/// An address message (`struct ifaddrmsg`): the link's index and the address.
fn host_address(body: &[u8]) -> Option<(u32, HostAddress)> {
    let (index, own, len) = decode::any_address(body)?;
    // The flags that are used here are all in the header's byte.
    let (mut far, mut broadcast, mut flags) = (own, None, u32::from(body[2]));
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ifa::ADDRESS => far = address(value)?,
            ifa::BROADCAST => broadcast = address(value),
            ifa::FLAGS => flags = number(value)?,
            _ => {}
        }
    }
    let local = LocalAddress { address: own, prefix: Prefix::new(far, len).ok()?, broadcast };
    Some((index, HostAddress { local, state: AddressState::of(Family::of(own), flags) }))
}

impl AddressState {
    /// The state that the flags `IFA_F_*` mean.
    const fn of(family: Family, flags: u32) -> Self {
        // For IPv4 the same bit is IFA_F_SECONDARY: not the first address of its prefix.
        let temporary = matches!(family, Family::V6) && flags & ifa::F_TEMPORARY != 0;
        if flags & ifa::F_DADFAILED != 0 {
            Self::Duplicate
        } else if flags & ifa::F_DEPRECATED != 0 {
            Self::Deprecated
        } else if temporary {
            Self::Temporary
        } else {
            Self::Stable
        }
    }
}

struct DefaultRoute {
    metric: u32,
    link: u32,
    /// The gateway; `None` for a route without one or with several.
    router: Option<IpAddr>,
}

fn default_route(body: &[u8]) -> Option<DefaultRoute> {
    if !decode::is_default_route(body) {
        return None;
    }
    let (mut metric, mut device, mut router) = (0, None, None);
    for (number_of, value) in attributes(body.get(12..)?) {
        match number_of {
            rta::OIF => device = number(value),
            rta::GATEWAY => router = address(value),
            rta::PRIORITY => metric = number(value)?,
            // The link of its first next hop (`struct rtnexthop`).
            rta::MULTIPATH => device = value.get(4..).and_then(number),
            _ => {}
        }
    }
    Some(DefaultRoute { metric, link: device?, router })
}

/// Asks the kernel for the route to an address.
fn route_to(netlink: &mut Netlink, to: IpAddr) -> Result<ResolvedRoute, DataplaneError> {
    let mut batch = Batch::default();
    encode::get_route(&mut batch, to);
    let (mut device, mut source) = (None, None);
    let asked = netlink.ask(&mut batch, |body| {
        for (kind, value) in attributes(body.get(12..).unwrap_or_default()) {
            match kind {
                rta::OIF => device = number(value),
                rta::PREFSRC => source = address(value),
                _ => {}
            }
        }
    });
    let read = |source| DataplaneError::Read { what: "a route", source };
    asked.map_err(read)?;
    Ok(ResolvedRoute { link: device.ok_or_else(|| read(std::io::ErrorKind::NotFound.into()))?, source })
}
