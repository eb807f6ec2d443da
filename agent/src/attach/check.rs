//! The rules for a document, by itself and among the others. Pure.

use std::net::IpAddr;

use wire_net::{Family, LinkName, LinkNameError, MacAddr, MacError, Prefix};

use super::document::{Attachment, Wish, WishError};

/// The most attachments of a host.
pub(crate) const MOST: usize = 1024;
/// The most addresses, and the most routes, of one.
const MOST_OF_ONE: usize = 64;
/// The smallest MTU with which the kernel does IPv4 (`IPV4_MIN_MTU`), and IPv6 (RFC 8200 §5).
const SMALLEST_MTU: [u16; 2] = [68, 1280];

/// A document breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Address(#[from] WishError),
    #[error("{address} cannot be an address of a container: it is {what}")]
    Unfit { address: IpAddr, what: &'static str },
    #[error("{address} is given twice")]
    AddressTwice { address: IpAddr },
    #[error(
        "{guest} can be several containers, which cannot all have {address}: leave the address to the network, or name one container"
    )]
    AddressOfSeveral { guest: String, address: IpAddr },
    #[error(
        "{guest} can be several containers, which cannot all have the MAC {mac}: leave it out, or name one container"
    )]
    MacOfSeveral { guest: String, mac: MacAddr },
    #[error("attachment {other} has {address} already, for {guest}")]
    AddressTaken { address: IpAddr, other: String, guest: String },
    #[error(
        "attachment {other} makes {interface} in {guest} already: give this one another --name, or detach that one"
    )]
    InterfaceTaken { interface: LinkName, other: String, guest: String },
    #[error("{gateway} is IPv{}, and the container gets no address of that family here", family(*gateway))]
    GatewayFamily { gateway: IpAddr },
    #[error("{gateway} cannot be a gateway: it is {what}")]
    Gateway { gateway: IpAddr, what: &'static str },
    #[error("the route to {to} leads over {via}, which is of the other family")]
    RouteFamily { to: Prefix, via: IpAddr },
    #[error("the route to {to} is there twice")]
    RouteTwice { to: Prefix },
    #[error("{given:?} cannot be the name of an interface: at most 15 letters without blanks, '/' and ':'")]
    Interface { given: String },
    #[error("lo is the container's own: choose another name, like eth1")]
    Loopback,
    #[error(transparent)]
    MacText(#[from] MacError),
    #[error("{mac} cannot be the MAC of an interface: it is {what}")]
    Mac { mac: MacAddr, what: &'static str },
    #[error("an MTU of {mtu} is too small: IPv{family} needs {least}")]
    Mtu { mtu: u16, family: u8, least: u16 },
    #[error("more than {MOST_OF_ONE} {what} are given")]
    Many { what: &'static str },
    #[error("this host has {MOST} attachments already: detach some first")]
    Full,
}

/// The name of an interface, as it was given.
///
/// # Errors
/// When no interface of ours can have it.
pub(crate) fn interface(given: &str) -> Result<LinkName, Refused> {
    let long = |_: LinkNameError| Refused::Interface { given: given.chars().take(64).collect() };
    let name = given.parse().map_err(long)?;
    if given == "lo" { Err(Refused::Loopback) } else { Ok(name) }
}

/// An Ethernet address, as it was given.
///
/// # Errors
/// When no interface can have it.
pub(crate) fn mac(given: &str) -> Result<MacAddr, Refused> {
    let mac = given.parse()?;
    usable(mac).map(|()| mac)
}

impl Attachment {
    /// # Errors
    /// The first rule that it breaks by itself.
    pub(crate) fn check(&self) -> Result<(), Refused> {
        for (count, what) in [(self.addresses.len(), "addresses"), (self.routes.len(), "routes")] {
            if count > MOST_OF_ONE {
                return Err(Refused::Many { what });
            }
        }
        interface(self.interface.as_str())?;
        self.check_mac()?;
        self.check_addresses()?;
        self.check_gateway()?;
        self.check_routes()?;
        self.check_mtu()
    }

    /// # Errors
    /// The first rule that it breaks beside the others of this host. The one that it replaces is not among `others`.
    pub(crate) fn check_among<'a>(&self, others: impl Iterator<Item = &'a Self> + Clone) -> Result<(), Refused> {
        let others = others.filter(|other| other.id != self.id);
        if others.clone().count() >= MOST {
            return Err(Refused::Full);
        }
        let said = |other: &Self| (other.id.to_string(), other.guest.to_string());
        for other in others {
            if other.guest == self.guest && other.interface == self.interface {
                let ((other, guest), interface) = (said(other), self.interface);
                return Err(Refused::InterfaceTaken { interface, other, guest });
            }
            let taken = self.fixed().find(|(address, _)| other.fixed().any(|(there, _)| there == *address));
            if let Some((address, _)) = taken {
                let (other, guest) = said(other);
                return Err(Refused::AddressTaken { address, other, guest });
            }
        }
        Ok(())
    }

    /// Remarks for the operator: nothing is refused for them.
    #[cfg_attr(not(test), expect(dead_code, reason = "gateways come with links to other networks"))]
    pub(crate) fn notes(&self) -> Vec<String> {
        let gateway = self.gateway.filter(|gateway| self.fixed().any(|(address, _)| of_one_family(*gateway, address)));
        let beside = gateway.filter(|gateway| !self.fixed().any(|(address, len)| is_inside(*gateway, address, len)));
        beside.map(beside_all).into_iter().collect()
    }

    /// The addresses that are given, with their prefix lengths.
    fn fixed(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.addresses.iter().filter_map(|wish| match wish {
            Wish::Static { address, len } => Some((*address, *len)),
            Wish::Network => None,
        })
    }

    fn check_mac(&self) -> Result<(), Refused> {
        let Some(mac) = self.mac else { return Ok(()) };
        usable(mac)?;
        if self.guest.can_be_several() {
            return Err(Refused::MacOfSeveral { guest: self.guest.to_string(), mac });
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), Refused> {
        for (number, (address, len)) in self.fixed().enumerate() {
            if let Some(what) = unfit(address).or_else(|| edge(address, len)) {
                return Err(Refused::Unfit { address, what });
            }
            if self.fixed().take(number).any(|(before, _)| before == address) {
                return Err(Refused::AddressTwice { address });
            }
            if self.guest.can_be_several() {
                return Err(Refused::AddressOfSeveral { guest: self.guest.to_string(), address });
            }
        }
        Ok(())
    }

    fn check_gateway(&self) -> Result<(), Refused> {
        let Some(gateway) = self.gateway else { return Ok(()) };
        // A router of IPv6 is often known by its link-local address.
        if let Some(what) = unfit(gateway).filter(|what| *what != LINK_LOCAL) {
            return Err(Refused::Gateway { gateway, what });
        }
        if self.fixed().any(|(address, _)| address == gateway) {
            return Err(Refused::Gateway { gateway, what: "the container's own address" });
        }
        let by_network = self.addresses.contains(&Wish::Network);
        let has_family = by_network || self.fixed().any(|(address, _)| of_one_family(address, gateway));
        if has_family { Ok(()) } else { Err(Refused::GatewayFamily { gateway }) }
    }

    fn check_routes(&self) -> Result<(), Refused> {
        for (number, route) in self.routes.iter().enumerate() {
            if route.to.family() != Family::of(route.via) {
                return Err(Refused::RouteFamily { to: route.to, via: route.via });
            }
            if let Some(what) = unfit(route.via).filter(|what| *what != LINK_LOCAL) {
                return Err(Refused::Gateway { gateway: route.via, what });
            }
            if self.routes[..number].iter().any(|before| before.to == route.to) {
                return Err(Refused::RouteTwice { to: route.to });
            }
        }
        Ok(())
    }

    fn check_mtu(&self) -> Result<(), Refused> {
        let Some(mtu) = self.mtu else { return Ok(()) };
        let has_ipv6 = self.fixed().any(|(address, _)| address.is_ipv6());
        let (family, least) = if has_ipv6 { (6, SMALLEST_MTU[1]) } else { (4, SMALLEST_MTU[0]) };
        if mtu < least { Err(Refused::Mtu { mtu, family, least }) } else { Ok(()) }
    }
}

const LINK_LOCAL: &str = "link-local, and the kernel gives those itself";

/// The reason why no container can have an address, whatever its prefix.
fn unfit(address: IpAddr) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let is_mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    [
        (address.is_unspecified(), "the address of nobody"),
        (address.is_multicast(), "for multicast"),
        (address.is_loopback(), "for each host itself (loopback)"),
        (is_broadcast, "for broadcast"),
        (is_link_local, LINK_LOCAL),
        (is_mapped, "an IPv4 address in IPv6's form: write it as IPv4"),
    ]
    .into_iter()
    .find_map(|(is_so, what)| is_so.then_some(what))
}

/// The reason why it cannot be the first or last address of its prefix. A link of two hosts (RFC 3021, RFC 6164) has no such addresses.
fn edge(address: IpAddr, len: u8) -> Option<&'static str> {
    let prefix = Prefix::new(address, len).ok()?;
    if prefix.len() + 2 > prefix.family().bits() {
        return None;
    }
    match prefix.family() {
        Family::V4 if address == prefix.network() => Some("the network address of its prefix"),
        Family::V4 if address == prefix.last() => Some("the broadcast address of its prefix"),
        Family::V6 if address == prefix.network() => Some("the address of each router on its prefix (RFC 4291)"),
        Family::V4 | Family::V6 => None,
    }
}

fn usable(mac: MacAddr) -> Result<(), Refused> {
    let what = if mac == MacAddr::new([0; 6]) { "all zero" } else { "for groups (multicast)" };
    if mac.is_unicast() { Ok(()) } else { Err(Refused::Mac { mac, what }) }
}

fn is_inside(gateway: IpAddr, address: IpAddr, len: u8) -> bool {
    Prefix::new(address, len).is_ok_and(|prefix| prefix.contains(gateway))
}

fn beside_all(gateway: IpAddr) -> String {
    format!("the gateway {gateway} is outside of all given prefixes: it gets a route of its own over the interface")
}

fn of_one_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

const fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

#[cfg(test)]
pub(super) mod tests;
