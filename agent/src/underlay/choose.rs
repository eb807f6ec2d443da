//! Chooses the link that leads to the other hosts, and the addresses of it that are published. Pure.
//!
//! The rules are flannel's (`LookupExtIface` of its pkg/ipmatch/match.go, and the order of flags in its main.go), with
//! two more, since flannel chooses only once: an earlier choice is kept for as long as possible, and a link that leads
//! to containers is never chosen.

use std::net::IpAddr;

use regex::Regex;
use wire_kernel::{AddressState, HostAddress, HostLink, HostNetwork};
use wire_net::{DualStack, Family, LinkName, Pool};

use super::Held;
use crate::settings::UnderlayWish;

/// The flags, and the earlier choice.
pub(crate) struct Wanted<'a> {
    /// The first wish that finds an interface is used. Without wishes, an address in `public` that the host has
    /// decides, else the default route.
    pub(crate) wishes: &'a [UnderlayWish],
    /// Public addresses from the flags.
    pub(crate) public: DualStack<IpAddr>,
    /// The network's pools: each family that is on needs an address.
    pub(crate) pools: &'a DualStack<Pool>,
    pub(crate) held: Option<Held>,
}

#[derive(Clone, Debug)]
pub(crate) struct Chosen<'a> {
    pub(crate) link: &'a HostLink,
    /// Of each family that is on.
    pub(crate) addresses: DualStack<IpAddr>,
    /// The name in the flags, if the link has another name now.
    pub(crate) formerly: Option<LinkName>,
}

/// A link, and the addresses that matched the flags.
#[derive(Clone)]
struct Candidate<'a> {
    link: &'a HostLink,
    by: Vec<IpAddr>,
    formerly: Option<LinkName>,
}

/// Chooses the link and its addresses.
///
/// # Errors
/// The reason for each wish that found none.
pub(crate) fn choose<'a>(host: &'a HostNetwork, wanted: &Wanted<'_>) -> Result<Chosen<'a>, String> {
    if wanted.wishes.is_empty() {
        return wanted.given(host).or_else(|| wanted.default_route(host)).map_or_else(
            || Err(format!("this host has no default route; it has {host}")),
            |candidate| wanted.on(&candidate),
        );
    }
    let mut refused = Vec::new();
    for wish in wanted.wishes {
        match wanted.meet(host, wish) {
            Ok(chosen) => return Ok(chosen),
            Err(reason) => refused.push(reason),
        }
    }
    Err(refused.join("; "))
}

impl Wanted<'_> {
    fn meet<'a>(&self, host: &'a HostNetwork, wish: &UnderlayWish) -> Result<Chosen<'a>, String> {
        match wish {
            UnderlayWish::Interface(text) => {
                let candidate = match text.parse::<IpAddr>() {
                    Ok(address) => self.with_address(host, address)?,
                    Err(_) => self.named(host, text)?,
                };
                self.allowed(candidate.link)?;
                self.on(&candidate)
            }
            UnderlayWish::Pattern(pattern) => {
                let candidates = self.matching(host, pattern);
                let met = candidates.iter().map(|candidate| self.on(candidate)).find(Result::is_ok);
                let missing = || format!("no name or address of an interface matches {pattern}; this host has {host}");
                met.unwrap_or_else(|| candidates.first().map_or_else(|| Err(missing()), |first| self.on(first)))
            }
            UnderlayWish::CanReach(target) => {
                let way = match host.resolved.get(target) {
                    Some(Ok(way)) => way,
                    Some(Err(error)) => return Err(format!("this host has no route to {target}: {error}")),
                    None => return Err(format!("this host has no route to {target}")),
                };
                let link = host.links.iter().find(|link| link.index == way.link);
                let link = link.ok_or_else(|| format!("the link of the route to {target} is gone"))?;
                self.allowed(link).map_err(|error| format!("the route to {target} leads to {error}"))?;
                // Of several source addresses the kernel uses the newest; an earlier choice stays.
                let by = if self.holds(host, link) { Vec::new() } else { way.source.into_iter().collect() };
                self.on(&Candidate { link, by, formerly: None })
            }
        }
    }

    fn families(&self) -> impl Iterator<Item = Family> {
        self.pools.iter().map(|(family, _)| family)
    }

    fn allowed(&self, link: &HostLink) -> Result<(), String> {
        let remedy = if link.is_loopback { "; to publish an address on it, give that with --public-ip" } else { "" };
        link.why_unusable(self.pools).map_or(Ok(()), |bar| Err(format!("{}, {bar}{remedy}", link.name)))
    }

    fn links<'a>(&self, host: &'a HostNetwork) -> impl Iterator<Item = &'a HostLink> {
        host.links.iter().filter(|link| link.why_unusable(self.pools).is_none())
    }

    fn with_address<'a>(&self, host: &'a HostNetwork, address: IpAddr) -> Result<Candidate<'a>, String> {
        let family = Family::of(address);
        if self.pools.get(family).is_none() {
            return Err(format!("{address} is an {family} address, and the network has no {family}"));
        }
        let link = host.links.iter().find(|link| link.has(address));
        let link = link.ok_or_else(|| format!("no link of this host has the address {address}; it has {host}"))?;
        Ok(Candidate { link, by: vec![address], formerly: None })
    }

    /// The link that has a given public address. If no link has it, it is behind 1:1 NAT.
    fn given<'a>(&self, host: &'a HostNetwork) -> Option<Candidate<'a>> {
        let given =
            || self.public.iter().filter(|(family, _)| self.pools.get(*family).is_some()).map(|(_, address)| *address);
        let with = |address: IpAddr| self.links(host).find(|link| link.has(address));
        let link = given().find_map(with)?;
        Some(Candidate { link, by: given().collect(), formerly: None })
    }

    /// The link of the preferred default route of the first family that has one; or the one that was chosen before, for as long
    /// as there is a default route through it.
    fn default_route<'a>(&self, host: &'a HostNetwork) -> Option<Candidate<'a>> {
        let of_family = |family| host.default_routes.get(family).into_iter().flatten();
        let allowed = |index: &u32| self.links(host).find(|link| link.index == *index);
        let links = || self.families().flat_map(of_family).filter_map(allowed);
        let link = links().find(|link| self.holds(host, link)).or_else(|| links().next())?;
        Some(Candidate { link, by: Vec::new(), formerly: None })
    }

    /// Addresses first, then names: links with a matching address of each family, of that name, with one of some family. The
    /// link that was chosen before goes first.
    fn matching<'a>(&self, host: &'a HostNetwork, pattern: &Regex) -> Vec<Candidate<'a>> {
        let matches = |address: &IpAddr| pattern.is_match(&address.to_string());
        let by = |link: &HostLink| -> Vec<IpAddr> { self.known_by(link).filter(matches).collect() };
        let (mut by_all, mut by_name, mut by_some) = (Vec::new(), Vec::new(), Vec::new());
        for candidate in self.links(host).map(|link| Candidate { link, by: by(link), formerly: None }) {
            let matched = |family| candidate.by.iter().any(|address| Family::of(*address) == family);
            if self.families().all(matched) {
                by_all.push(candidate);
            } else if pattern.is_match(candidate.link.name.as_str()) {
                by_name.push(candidate);
            } else if let Some(formerly) =
                self.name_then(host, candidate.link).filter(|name| pattern.is_match(name.as_str()))
            {
                by_name.push(Candidate { formerly: Some(formerly), ..candidate });
            } else if !candidate.by.is_empty() {
                by_some.push(candidate);
            }
        }
        let mut all: Vec<_> = by_all.into_iter().chain(by_name).chain(by_some).collect();
        all.sort_by_key(|candidate| !self.holds(host, candidate.link));
        all
    }

    /// True if that link was chosen before, and still has the chosen addresses.
    fn holds(&self, host: &HostNetwork, link: &HostLink) -> bool {
        let has = |(_, address): (Family, &IpAddr)| link.has(*address);
        self.held.is_some_and(|held| held.is(host, link) && held.addresses.iter().all(has))
    }

    /// The name that a link had when it was chosen.
    fn name_then(&self, host: &HostNetwork, link: &HostLink) -> Option<LinkName> {
        self.held.filter(|held| held.is(host, link)).map(|held| held.name_then())
    }

    /// The link of that name; if there is none, the link that was chosen when it had that name.
    fn named<'a>(&self, host: &'a HostNetwork, text: &str) -> Result<Candidate<'a>, String> {
        if let Some(link) = host.links.iter().find(|link| link.name.as_str() == text) {
            return Ok(Candidate { link, by: Vec::new(), formerly: None });
        }
        let was = |link: &&HostLink| self.name_then(host, link).is_some_and(|name| name.as_str() == text);
        let link = host.links.iter().find(was).ok_or_else(|| format!("this host has no link {text}; it has {host}"))?;
        Ok(Candidate { link, by: Vec::new(), formerly: self.name_then(host, link) })
    }

    /// The addresses of the link that can be published, of the families that are on.
    fn known_by(&self, link: &HostLink) -> impl Iterator<Item = IpAddr> {
        let addresses = link.addresses.iter().filter(|address| is_of_use(address)).map(|address| address.local.address);
        addresses.filter(|address| self.pools.get(Family::of(*address)).is_some())
    }

    /// The candidate with an address of each family.
    fn on<'a>(&self, candidate: &Candidate<'a>) -> Result<Chosen<'a>, String> {
        let link = candidate.link;
        let mut addresses = DualStack::default();
        for family in self.families() {
            let asked: Vec<IpAddr> =
                candidate.by.iter().copied().filter(|address| Family::of(*address) == family).collect();
            let address = self.address(link, family, &asked).ok_or_else(|| {
                format!("the network has {family}, but the interface {} has no {family} address", link.name)
            })?;
            addresses.set(family, Some(address));
        }
        Ok(Chosen { link, addresses, formerly: candidate.formerly })
    }

    /// The address of that family: preferably one that matched the flags, then the one chosen before, else the best.
    fn address(&self, link: &HostLink, family: Family, asked: &[IpAddr]) -> Option<IpAddr> {
        let of_family =
            link.addresses.iter().filter(|address| is_of_use(address) && Family::of(address.local.address) == family);
        let best = of_family.min_by_key(|HostAddress { local, state, .. }| {
            let is_asked = asked.contains(&local.address);
            let is_held = self.held.is_some_and(|held| held.addresses.get(family) == Some(&local.address));
            (!is_asked, is_link_local(local.address), *state == AddressState::Deprecated, !is_held, *state)
        });
        best.map(|address| address.local.address)
    }
}

/// True if other hosts can reach the address. A link-local IPv6 address is valid only on its own link.
fn is_of_use(address: &HostAddress) -> bool {
    let address_is = match address.local.address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    };
    address_is && address.state != AddressState::Duplicate
}

/// flannel uses a link-local IPv4 address if there is no other.
pub(super) const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_link_local())
}

#[cfg(test)]
mod tests;
