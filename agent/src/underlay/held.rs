//! What was chosen before, and how long another choice waits for it. Pure.

use std::net::IpAddr;

use wire_kernel::{AddressState, HostLink, HostNetwork};
use wire_net::{DualStack, LinkName, LocalAddress};
use wire_state::Underlay;

use super::choose::{Chosen, is_link_local};

/// What was chosen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The kernel's number of the link, where it was chosen since this agent started: it stays when the link is renamed.
    pub(crate) index: Option<u32>,
    /// Its name.
    pub(crate) link: LinkName,
    /// The name that it had when it was chosen, where it has another now.
    pub(crate) formerly: Option<LinkName>,
    pub(crate) addresses: DualStack<IpAddr>,
}

impl Held {
    /// What a network is joined on, after what was held `before`.
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

    /// The link, whatever it is called; where it is gone, one that was made anew under its name.
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

    /// An address that `chosen` is to wait for: one that the link had and has not any more. Another one that has come to
    /// the link in its place replaces it at once; one that was `known` beside it before does not.
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
    /// Whether an address has come since, to stay.
    fn has_come(&self, address: IpAddr, known: &[LocalAddress]) -> bool {
        let lasts = |own: &_| {
            self.link.addresses.iter().any(|there| there.local.address == *own && there.state == AddressState::Stable)
        };
        lasts(&address) && !is_link_local(address) && !known.iter().any(|known| known.address == address)
    }
}
