//! The host as it is without us: its links and addresses, and where its routes lead.

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
};

/// All links of this host, in the network namespace of the thread that asked.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// In order of their numbers.
    pub links: Vec<HostLink>,
    /// The numbers of the links that default routes lead through, for each family; the preferred one first.
    pub default_routes: DualStack<Vec<u32>>,
    /// The routers of default routes, with the numbers of the links they are on.
    pub routers: Vec<(u32, IpAddr)>,
    /// Where the routes to the addresses that were asked for lead, or what the kernel said.
    pub ways: BTreeMap<IpAddr, Result<Way, String>>,
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The number of the link they leave by.
    pub link: u32,
    /// The address they are sent from.
    pub source: Option<IpAddr>,
}

/// One link of the host.
#[derive(Clone, Debug)]
pub struct HostLink {
    /// Its name.
    pub name: LinkName,
    /// The kernel's number of it.
    pub index: u32,
    /// The kernel's name of its kind; empty for hardware and loopback.
    pub kind: String,
    /// Whether it leads to nobody else.
    pub is_loopback: bool,
    /// Its MTU.
    pub mtu: Mtu,
    /// Its Ethernet address, where it has one.
    pub mac: Option<MacAddr>,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<HostAddress>,
}

/// One address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The address, and what is reached with it.
    pub local: LocalAddress,
    /// How good it is to be known by.
    pub standing: Standing,
}

/// How good an address is to be known by. The best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is here to stay.
    Lasting,
    /// Made up for a day, for privacy (`IFA_F_TEMPORARY`).
    Temporary,
    /// No longer for new uses (`IFA_F_DEPRECATED`): it is about to go, or somebody's who shares it.
    Deprecated,
    /// Another host has it (`IFA_F_DADFAILED`): packets to it do not come here.
    Duplicate,
}

impl Host {
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
            host.ways.insert(target, route_to(&mut netlink, target).map_err(|error| chain(&error)));
        }
        Ok(host)
    }

    /// The link of that name.
    #[must_use]
    pub fn link(&self, name: LinkName) -> Option<&HostLink> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// For error messages: the links and their addresses.
impl std::fmt::Display for Host {
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
    /// `IFF_LOOPBACK` in `struct ifinfomsg`.
    const LOOPBACK: u32 = 8;
    let (name, link) = decode::link(body, &Namespaces::HOST)?;
    let kind = link.kind.name().to_owned();
    Some(HostLink {
        name,
        index: link.index,
        kind,
        is_loopback: body.get(8..12).and_then(number).is_some_and(|flags| flags & LOOPBACK != 0),
        mtu: link.mtu,
        mac: link.mac,
        addresses: Vec::new(),
    })
}

/// An address of a link, and the link's number (`struct ifaddrmsg`).
fn host_address(body: &[u8]) -> Option<(u32, HostAddress)> {
    const ADDRESS: u16 = 1;
    const BROADCAST: u16 = 4;
    const FLAGS: u16 = 8;
    let (index, own, len) = decode::any_address(body)?;
    // The flags that we look at are all in the first byte.
    let (mut far, mut broadcast, mut flags) = (own, None, u32::from(body[2]));
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ADDRESS => far = address(value)?,
            BROADCAST => broadcast = address(value),
            FLAGS => flags = number(value)?,
            _ => {}
        }
    }
    let local = LocalAddress { address: own, prefix: Prefix::new(far, len).ok()?, broadcast };
    Some((index, HostAddress { local, standing: Standing::of(Family::of(own), flags) }))
}

impl Standing {
    /// By the `IFA_F_*` of linux/if_addr.h.
    const fn of(family: Family, flags: u32) -> Self {
        const TEMPORARY: u32 = 0x01;
        const DUPLICATE: u32 = 0x08;
        const DEPRECATED: u32 = 0x20;
        // Of IPv4 the same bit says that it is not the first of its prefix.
        let temporary = matches!(family, Family::V6) && flags & TEMPORARY != 0;
        if flags & DUPLICATE != 0 {
            Self::Duplicate
        } else if flags & DEPRECATED != 0 {
            Self::Deprecated
        } else if temporary {
            Self::Temporary
        } else {
            Self::Lasting
        }
    }
}

struct DefaultRoute {
    metric: u32,
    link: u32,
    /// `None` where there is none, or several.
    router: Option<IpAddr>,
}

fn default_route(body: &[u8]) -> Option<DefaultRoute> {
    if !decode::is_default_route(body) {
        return None;
    }
    let (mut metric, mut device, mut router) = (0, None, None);
    for (number_of, value) in attributes(body.get(12..)?) {
        match number_of {
            4 => device = number(value),
            // RTA_GATEWAY.
            5 => router = address(value),
            6 => metric = number(value)?,
            // RTA_MULTIPATH: the first of its ways (struct rtnexthop).
            9 => device = value.get(4..).and_then(number),
            _ => {}
        }
    }
    Some(DefaultRoute { metric, link: device?, router })
}

/// The link that packets to an address leave by, and their source.
fn route_to(netlink: &mut Netlink, to: IpAddr) -> Result<Way, DataplaneError> {
    let mut batch = Batch::default();
    encode::get_route(&mut batch, to);
    let (mut device, mut source) = (None, None);
    let asked = netlink.ask(&mut batch, |body| {
        for (kind, value) in attributes(body.get(12..).unwrap_or_default()) {
            match kind {
                4 => device = number(value),
                7 => source = address(value),
                _ => {}
            }
        }
    });
    let read = |source| DataplaneError::Read { what: "a route", source };
    asked.map_err(read)?;
    Ok(Way { link: device.ok_or_else(|| read(std::io::ErrorKind::NotFound.into()))?, source })
}
