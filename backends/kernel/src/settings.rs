//! Reads the settings in `/proc/sys/net` that concern the overlay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use wire_net::{DualStack, Family, LinkName};
use wire_netlink::{
    Batch, Netlink,
    attribute::{attributes, number},
};
use wire_state::{ContainerLink, DataplaneError, Scope, Setting};

use super::{
    decode, encode,
    listeners::{Listeners, RouterContext},
    read::ReadLink,
    sysctl::{self, Settings},
    uapi::{af, iff, ifla},
};

/// The settings of a link, from a link message.
#[derive(Clone, Debug)]
pub(crate) struct LinkSettings {
    pub(crate) name: LinkName,
    pub(crate) index: u32,
    /// Whether this is the kernel's first message about it in this network namespace.
    pub(super) is_new: bool,
    /// Whether packets that arrive on it do not reach the host's IP layer by it: it is a port of a bridge or bond, or the loopback device.
    pub(super) is_inner: bool,
    pub(super) is_bridge: bool,
    /// Whether it is of a kind that leads to other hosts rather than to containers.
    pub(super) leads_out: bool,
    pub(super) forwards: DualStack<bool>,
    /// `accept_ra`.
    pub(super) router_advertisements: u32,
    /// `None` if it has no IPv6.
    pub(super) disable_ipv6: Option<bool>,
}

/// IPv6 is off on a link that has none: the kernel was started with `ipv6.disable=1`, or the MTU is below 1280 bytes (`addrconf_notify` of
/// net/ipv6/addrconf.c).
const HAS_NONE: bool = true;

/// The kinds of links that lead to other hosts. Hardware, which has no kind, does too. A veth or a TAP leads to a container or a virtual
/// machine, whose router advertisements the host must not accept.
const OUTWARD: [&[u8]; 6] = [b"bond\0", b"ipoib\0", b"macvlan\0", b"team\0", b"vlan\0", b"wwan\0"];

/// The state that decides which settings of a link are read.
pub(super) struct SettingsContext<'a> {
    pub(super) scope: &'a Scope,
    /// Our own devices.
    pub(super) ours: &'a decode::Names,
    /// The indexes of the links with a route from a router advertisement.
    pub(super) learnt: &'a BTreeSet<u32>,
    /// The indexes of the bridges that containers may be on.
    pub(super) container_bridges: &'a BTreeSet<u32>,
    /// Where settings are read that are in no link message.
    pub(super) files: &'a Settings,
}

/// The settings of the host, and those of `links` that concern the overlay.
pub(super) fn read<'a>(
    links: impl Iterator<Item = &'a LinkSettings>,
    context: &SettingsContext<'_>,
    listeners: &mut Listeners,
) -> BTreeMap<Setting, u32> {
    let whole =
        |family| Some((Setting::Forwarding(family), u32::from(context.files.get(Setting::Forwarding(family))? != 0)));
    let mut found: BTreeMap<Setting, u32> = Family::ALL.into_iter().filter_map(whole).collect();
    let (ours, others): (Vec<_>, Vec<_>) = links.partition(|link| context.ours.contains_key(&link.index));
    ours.iter().chain(&others).for_each(|link| context.add(link, &mut found));
    let context = RouterContext {
        scope: context.scope,
        learnt: context.learnt,
        forwards: found.get(&Setting::Forwarding(Family::V6)) == Some(&1),
        by_default: context.files.new_links_listen(),
    };
    let listening = listeners.update(&others, &context).into_iter();
    found.extend(listening.map(|link| (Setting::RouterAdvertisements(link.name), link.router_advertisements)));
    found
}

/// Whether a setting differs from the cached one, of those of whose changes the kernel sends no notification.
pub(super) fn have_changed_silently(cached: &BTreeMap<Setting, u32>) -> bool {
    cached.iter().any(|(setting, there)| match setting {
        Setting::RouterAdvertisements(_) => sysctl::get(*setting).is_some_and(|value| value != *there),
        Setting::DisableIpv6(_) | Setting::Forwarding(_) | Setting::LinkForwarding(..) => false,
    })
}

impl SettingsContext<'_> {
    fn add(&self, link: &LinkSettings, found: &mut BTreeMap<Setting, u32>) {
        let is_way = self.scope.direct && self.scope.is_parent(link.index);
        if self.ours.contains_key(&link.index) {
            add_own(link, found);
        } else if is_way || self.container_bridges.contains(&link.index) {
            add_forwarding(link, found, |family| is_way || family == Family::V4);
        }
    }
}

/// The settings of a device of ours.
pub(super) fn add_own(link: &LinkSettings, found: &mut BTreeMap<Setting, u32>) {
    add_forwarding(link, found, |_| true);
    found.insert(Setting::DisableIpv6(link.name), u32::from(link.disable_ipv6.unwrap_or(HAS_NONE)));
}

fn add_forwarding(link: &LinkSettings, found: &mut BTreeMap<Setting, u32>, is_read: impl Fn(Family) -> bool) {
    let forwards = link.forwards.iter().filter(|(family, _)| is_read(*family));
    found.extend(forwards.map(|(family, on)| (Setting::LinkForwarding(family, link.name), u32::from(*on))));
}

/// The indexes of the bridges that containers may be on: those with an IPv4 address inside the overlay's networks.
pub(super) fn bridges(
    netlink: &mut Netlink,
    scope: &Scope,
    links: &[ReadLink],
) -> Result<BTreeSet<u32>, DataplaneError> {
    let is_bridge = |settings: &&LinkSettings| settings.is_bridge && !scope.is_parent(settings.index);
    let bridges: BTreeSet<u32> =
        links.iter().map(|other| &other.settings).filter(is_bridge).map(|settings| settings.index).collect();
    if bridges.is_empty() {
        return Ok(bridges);
    }
    let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, Family::V4, 0);
    let inside = |(index, address, len): (u32, IpAddr, u8)| {
        (bridges.contains(&index) && ContainerLink::is_inside(address, len, &scope.networks)).then_some(index)
    };
    let found = netlink.dump("addresses", &request, |body| decode::any_address(body).and_then(inside))?;
    Ok(found.into_iter().collect())
}

/// A link message's settings (`IFLA_AF_SPEC` of linux/if_link.h).
pub(crate) fn of_link(name: LinkName, body: &[u8]) -> Option<LinkSettings> {
    let (index, flags) = (number(body.get(4..8)?)?, number(body.get(8..12)?)?);
    // `ifi_change` of linux/rtnetlink.h: for a new link all flags count as changed (`register_netdevice` of net/core/dev.c).
    let is_new = number(body.get(12..16)?)? == u32::MAX;
    let mut link = LinkSettings { index, is_new, is_inner: flags & iff::LOOPBACK != 0, ..LinkSettings::empty(name) };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            ifla::MASTER => link.is_inner = true,
            ifla::LINKINFO => {
                let kinds = attributes(value).filter(|(kind, _)| *kind == ifla::INFO_KIND);
                kinds.for_each(|(_, kind)| link.read_kind(kind));
            }
            ifla::AF_SPEC => attributes(value).for_each(|(family, value)| link.read_family(family, value)),
            _ => {}
        }
    }
    Some(link)
}

impl LinkSettings {
    /// A hardware link without any setting.
    pub(super) fn empty(name: LinkName) -> Self {
        Self {
            name,
            index: 0,
            is_new: false,
            is_inner: false,
            is_bridge: false,
            leads_out: true,
            forwards: DualStack::default(),
            router_advertisements: 0,
            disable_ipv6: None,
        }
    }

    /// Whether it would accept router advertisements, as a new link on a host that does not forward.
    pub(super) fn may_listen_as_new(&self) -> bool {
        self.leads_out && !self.is_inner && self.router_advertisements == 1 && self.disable_ipv6 == Some(false)
    }

    fn read_kind(&mut self, kind: &[u8]) {
        self.is_bridge = kind == b"bridge\0";
        self.leads_out = OUTWARD.contains(&kind);
    }

    /// Reads the arrays `IFLA_INET_CONF`, which begins with `IPV4_DEVCONF_FORWARDING` of linux/ip.h, and `IFLA_INET6_CONF`, whose indexes
    /// are `DEVCONF_*` of linux/ipv6.h.
    fn read_family(&mut self, family: u16, value: &[u8]) {
        const INET_CONF: u16 = 1;
        const INET6_CONF: u16 = 2;
        const FORWARDING: usize = 0;
        const ACCEPT_RA: usize = 3;
        const DISABLE_IPV6: usize = 26;
        for (kind, value) in attributes(value) {
            let at = |place: usize| value.get(place * 4..).and_then(number);
            if family == u16::from(af::INET) && kind == INET_CONF {
                self.forwards.v4 = at(FORWARDING).map(|value| value != 0);
            } else if family == u16::from(af::INET6) && kind == INET6_CONF {
                self.forwards.v6 = at(FORWARDING).map(|value| value != 0);
                self.router_advertisements = at(ACCEPT_RA).unwrap_or_default();
                self.disable_ipv6 = at(DISABLE_IPV6).map(|value| value != 0);
            }
        }
    }
}
