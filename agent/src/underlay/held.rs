//! The earlier choice, and the rule for how long another one waits for it. Pure.

use std::net::IpAddr;

use wire_kernel::{AddressState, HostLink, HostNetwork};
use wire_net::{DualStack, LinkName, LocalAddress};
use wire_state::Underlay;

use super::choose::{Chosen, is_link_local};

/// An earlier choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The kernel's index of the link, if it was chosen since this agent started. It stays the same when the link is
    /// renamed.
    pub(crate) index: Option<u32>,
    /// Its name.
    pub(crate) link: LinkName,
    /// The name that it had when it was chosen, if it has another now.
    pub(crate) formerly: Option<LinkName>,
    pub(crate) addresses: DualStack<IpAddr>,
}

impl Held {
    /// The choice that a network is joined on, following the one `before`.
    pub(crate) fn of(underlay: &Underlay, before: Option<Self>) -> Self {
        let same = before.filter(|before| before.index == Some(underlay.index));
        let first = same.map(|before| before.name_then());
        Self {
            index: Some(underlay.index),
            link: underlay.link,
            formerly: first.filter(|first| *first != underlay.link),
            addresses: underlay.addresses,
        }
    }

    /// The link, whatever its name is; if it is gone, a new link of its name.
    pub(super) fn on<'a>(&self, host: &'a HostNetwork) -> Option<&'a HostLink> {
        let same = host.links.iter().find(|link| Some(link.index) == self.index);
        same.or_else(|| host.link(self.link))
    }

    pub(super) fn is(&self, host: &HostNetwork, link: &HostLink) -> bool {
        self.on(host).is_some_and(|on| on.index == link.index)
    }

    /// The name that it had when it was chosen.
    pub(super) fn name_then(&self) -> LinkName {
        self.formerly.unwrap_or(self.link)
    }

    /// An address that `chosen` should wait for: one that the link had and has lost. A new address on the link replaces
    /// it at once; one that was `known` beside it before does not.
    pub(super) fn awaited(&self, host: &HostNetwork, chosen: &Chosen<'_>, known: &[LocalAddress]) -> Option<IpAddr> {
        if chosen.addresses == self.addresses {
            return None;
        }
        let on = self.on(host);
        let is_away = |address: &IpAddr| !on.is_some_and(|link| link.has(*address));
        let stays = on.is_some_and(|link| link.index == chosen.link.index);
        let replaced = |family| stays && chosen.addresses.get(family).is_some_and(|new| chosen.has_come(*new, known));
        let away = self.addresses.iter().filter(|(_, address)| is_away(address));
        away.filter(|(family, _)| !replaced(*family)).map(|(_, address)| *address).next()
    }
}

impl Chosen<'_> {
    fn has_lasting(&self, address: IpAddr) -> bool {
        self.link.addresses.iter().any(|own| own.local.address == address && own.state == AddressState::Stable)
    }

    /// True if a new permanent address has appeared since.
    fn has_come(&self, address: IpAddr, known: &[LocalAddress]) -> bool {
        self.has_lasting(address) && !is_link_local(address) && !known.iter().any(|known| known.address == address)
    }
}
