//! The host as it is without us: its links and addresses, and which of them leads to the other hosts.

use std::net::IpAddr;

use wire_lease::{DualStack, Family, MacAddr, Prefix};

use super::{
    DataplaneError,
    attribute::{address, attributes, number},
    decode::{self, Names},
    encode,
    socket::{Batch, Netlink},
};
use crate::{LinkKind, LinkName, Mtu};

/// All links of this host, in the network namespace of the thread that asked.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// In order of their numbers.
    pub links: Vec<HostLink>,
    /// The number of the link the default route leads through, for each family.
    pub default_route: DualStack<u32>,
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
    /// Its MTU.
    pub mtu: Mtu,
    /// Its Ethernet address, where it has one.
    pub mac: Option<MacAddr>,
    /// Its addresses with the lengths of their prefixes, in the kernel's order.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// How the underlay's link is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnderlayChoice {
    /// By its name.
    Name(LinkName),
    /// By one of its addresses, which is then the one used.
    Address(IpAddr),
    /// By the route to an address; the route's source is then the one used.
    Reach(IpAddr),
    /// By the default route, IPv4's first.
    DefaultRoute,
}

/// The link to the other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub link: LinkName,
    /// The kernel's number of it.
    pub index: u32,
    /// Its MTU.
    pub mtu: Mtu,
    /// Its Ethernet address, where it has one.
    pub mac: Option<MacAddr>,
    /// Its own address of each family: what encapsulated packets are sent from.
    pub addresses: DualStack<IpAddr>,
    /// All addresses of the host, on whatever link.
    pub host: Vec<IpAddr>,
    /// What the host reaches without the overlay: the prefixes of its links, except bridges and VXLAN devices inside the
    /// overlay's networks.
    pub connected: Vec<Prefix>,
}

/// Why no underlay was found.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// No link of that name.
    #[error("this host has no link {name}; it has {there}")]
    NoLink {
        /// The name asked for.
        name: LinkName,
        /// What there is.
        there: String,
    },
    /// No link with that address.
    #[error("no link of this host has the address {address}; it has {there}")]
    NoAddress {
        /// The address asked for.
        address: IpAddr,
        /// What there is.
        there: String,
    },
    /// No route to that address.
    #[error("this host has no route to {address}")]
    NoRoute {
        /// The address asked for.
        address: IpAddr,
        /// What the kernel said.
        #[source]
        source: DataplaneError,
    },
    /// No default route.
    #[error("this host has no default route: name the link to the other hosts with --iface; it has {there}")]
    NoDefault {
        /// What there is.
        there: String,
    },
}

impl Host {
    /// Reads links, addresses and default routes.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn read() -> Result<Self, DataplaneError> {
        let mut netlink = Netlink::open()?;
        let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, None);
        let mut host = Self::default();
        for (name, link) in netlink.dump("links", &request, |body| decode::link(body, &Names::new()))? {
            let kind = match link.kind {
                LinkKind::Vxlan(_) => "vxlan".to_owned(),
                LinkKind::Tun(_) => "tun".to_owned(),
                LinkKind::Other(kind) => kind,
            };
            let index = link.index.unwrap_or_default();
            host.links.push(HostLink { name, index, kind, mtu: link.mtu, mac: link.mac, addresses: Vec::new() });
        }
        for family in Family::ALL {
            let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, family, 0);
            let found =
                netlink.dump("addresses", &request, |body| Some((decode::any_address(body)?, is_passing(body))))?;
            let (passing, lasting): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, passing)| *passing);
            for ((index, address, len), _) in lasting.into_iter().chain(passing) {
                if let Some(link) = host.links.iter_mut().find(|link| link.index == index) {
                    link.addresses.push((address, len));
                }
            }
            let request = |batch: &mut Batch, flags| encode::list_routes(batch, flags, family);
            let defaults = netlink.dump("routes", &request, default_route)?;
            host.default_route.set(family, defaults.into_iter().min().map(|(_, index)| index));
        }
        Ok(host)
    }

    /// The underlay by that choice. `networks` are the overlay's.
    ///
    /// # Errors
    /// Names what was looked for and what there is.
    pub fn underlay(&self, choice: &UnderlayChoice, networks: &[Prefix]) -> Result<Underlay, UnderlayError> {
        match choice {
            UnderlayChoice::Name(name) => {
                let found = self.links.iter().find(|link| link.name == *name);
                let link = found.ok_or_else(|| UnderlayError::NoLink { name: *name, there: self.to_string() })?;
                Ok(self.on(link, None, networks))
            }
            UnderlayChoice::Address(address) => {
                let has = |link: &&HostLink| link.addresses.iter().any(|(own, _)| own == address);
                let missing = || UnderlayError::NoAddress { address: *address, there: self.to_string() };
                let link = self.links.iter().find(has).ok_or_else(missing)?;
                Ok(self.on(link, Some(*address), networks))
            }
            UnderlayChoice::Reach(address) => {
                let fail = |source| UnderlayError::NoRoute { address: *address, source };
                let (index, source) = route_to(*address).map_err(fail)?;
                let gone = || UnderlayError::NoDefault { there: self.to_string() };
                let link = self.links.iter().find(|link| link.index == index).ok_or_else(gone)?;
                Ok(self.on(link, source, networks))
            }
            UnderlayChoice::DefaultRoute => {
                let leads =
                    |link: &&HostLink| self.default_route.iter().next().is_some_and(|(_, to)| *to == link.index);
                let missing = || UnderlayError::NoDefault { there: self.to_string() };
                let link = self.links.iter().find(leads).ok_or_else(missing)?;
                Ok(self.on(link, None, networks))
            }
        }
    }

    fn on(&self, link: &HostLink, address: Option<IpAddr>, networks: &[Prefix]) -> Underlay {
        let mut addresses = DualStack::from_fn(|family| link.address(family));
        if let Some(address) = address {
            addresses.set(Family::of(address), Some(address));
        }
        let all = || self.links.iter().flat_map(|link| link.addresses.iter().map(move |address| (link, *address)));
        let connected = all().filter_map(|(link, (address, len))| {
            let prefix = Prefix::new(address, len).ok()?;
            let of_overlay = matches!(link.kind.as_str(), "bridge" | "vxlan")
                && networks.iter().any(|network| network.covers(prefix));
            (!of_overlay).then_some(prefix)
        });
        Underlay {
            link: link.name,
            index: link.index,
            mtu: link.mtu,
            mac: link.mac,
            addresses,
            host: all().map(|(_, (address, _))| address).collect(),
            connected: connected.collect(),
        }
    }
}

impl HostLink {
    /// The address to send from: the first that others can reach, else a link-local one of IPv4, as flannel has it.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let of_family = || self.addresses.iter().map(|(address, _)| *address).filter(|own| Family::of(*own) == family);
        let link_local = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        of_family().find(|address| !link_local(address)).or_else(|| of_family().find(IpAddr::is_ipv4))
    }
}

/// For error messages: the links and their addresses.
impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, link) in self.links.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, link.name)?;
            for (index, (address, len)) in link.addresses.iter().enumerate() {
                write!(f, "{}{address}/{len}", if index == 0 { " (" } else { " " })?;
            }
            if !link.addresses.is_empty() {
                f.write_str(")")?;
            }
        }
        Ok(())
    }
}

/// Whether an address is about to go: deprecated or temporary (`IFA_F_DEPRECATED`, `IFA_F_TEMPORARY`).
fn is_passing(body: &[u8]) -> bool {
    body.get(2).is_some_and(|flags| flags & 0x21 != 0)
}

/// The metric and the link of a default route.
fn default_route(body: &[u8]) -> Option<(u32, u32)> {
    let (len, table, kind) = (*body.get(1)?, *body.get(4)?, *body.get(7)?);
    let (mut metric, mut device) = (0, None);
    for (number_of, value) in attributes(body.get(12..)?) {
        match number_of {
            4 => device = number(value),
            6 => metric = number(value)?,
            // RTA_MULTIPATH: the first of its ways (struct rtnexthop).
            9 => device = value.get(4..).and_then(number),
            _ => {}
        }
    }
    (len == 0 && table == 254 && kind == 1).then_some((metric, device?))
}

/// The link that packets to an address leave by, and their source.
fn route_to(to: IpAddr) -> Result<(u32, Option<IpAddr>), DataplaneError> {
    let mut netlink = Netlink::open()?;
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
    Ok((device.ok_or_else(|| read(std::io::ErrorKind::NotFound.into()))?, source))
}
