//! The resource `Network` in memory, with the kernel's rules.

use wire_net::{Family, LinkName};

use super::{Sim, Simulated};
use crate::{
    Address, DesiredLink, DesiredNet, ErrorKind, KernelKind, KernelOp, LinkPlace, LinkRef, Namespace, Network,
    ObservedKind, ObservedNet, Op, Owner, PerNamespace, Setting, TunnelOp, Veth, plan, retain,
};

impl Sim<Network> {
    /// A network whose host namespace holds `state`.
    #[must_use]
    pub fn of_host(state: ObservedNet) -> Self {
        Self::new(PerNamespace::host(state))
    }

    /// The state of the host's namespace.
    #[must_use]
    pub fn host(&self) -> ObservedNet {
        self.lock().state.get(Namespace::Host).cloned().unwrap_or_default()
    }

    /// Changes the state of the host's namespace as another program would.
    pub fn edit_host(&self, change: impl FnOnce(&mut ObservedNet)) {
        self.edit(|state| {
            if let Some(host) = state.get_mut(Namespace::Host) {
                change(host);
            }
        });
    }

    /// Sets a link of the host's namespace down, and removes the neighbours and routes that the kernel then removes.
    pub fn set_down(&self, name: LinkName) {
        self.edit_host(|host| {
            host.set_link_down(name);
        });
    }
}

/// The state of namespaces that were empty, after the plan for `want` was carried out.
#[must_use]
pub fn reached(want: &PerNamespace<DesiredNet>) -> PerNamespace<ObservedNet> {
    let mut state: PerNamespace<ObservedNet> =
        want.iter().map(|(namespace, _)| (namespace, ObservedNet::default())).collect();
    for op in plan(&state, want).ops {
        state.apply(&op);
    }
    state
}

/// The kernel's rules: an entry needs its link, a link that is removed takes its entries along, and a route is refused if one with the
/// same key exists.
impl Simulated for Network {
    fn refusal(observed: &PerNamespace<ObservedNet>, op: &Op) -> Option<ErrorKind> {
        match op {
            Op::Kernel(namespace, KernelOp::CreateLink(name, link)) => {
                cannot_be_made(observed, LinkPlace { namespace: *namespace, name: *name }, link)
            }
            Op::Kernel(namespace, op) => observed.get(*namespace).and_then(|net| refused(net, op)),
            Op::Tunnel(op) => observed.get(Namespace::Host).and_then(|net| refused_tunnel(net, op)),
        }
    }

    /// Gives a new link an index that no link had before. A setting of no link is not written.
    fn happens(observed: &mut PerNamespace<ObservedNet>, op: &Op, number: usize) {
        let made = match op {
            Op::Kernel(namespace, KernelOp::CreateLink(name, _)) => LinkPlace { namespace: *namespace, name: *name },
            Op::Tunnel(TunnelOp::Create(name, _)) => LinkPlace::in_host(*name),
            Op::Kernel(namespace, KernelOp::Set(setting, _)) => {
                if let Some(net) = observed.get_mut(*namespace)
                    && setting.link().is_some_and(|link| !net.links.contains_key(&link))
                {
                    net.settings.remove(setting);
                }
                return;
            }
            Op::Kernel(..) | Op::Tunnel(_) => return,
        };
        let Some(number) = u32::try_from(number).ok().map(|number| 2 * number + 1000) else { return };
        let peer = observed.renumber(made, number);
        if let Some(peer) = peer {
            observed.renumber(peer, number + 1);
        }
    }
}

fn cannot_be_made(
    observed: &PerNamespace<ObservedNet>,
    place: LinkPlace,
    link: &DesiredLink<KernelKind>,
) -> Option<ErrorKind> {
    let is_missing = |place: LinkPlace| observed.id(place).is_none();
    let (needs, makes) = match &link.kind {
        KernelKind::Vxlan(vxlan) => (vxlan.parent.and_then(LinkRef::desired), None),
        KernelKind::Vlan(vlan) => (vlan.parent.desired(), None),
        KernelKind::Macvlan(macvlan) => (macvlan.parent.desired(), None),
        KernelKind::Ipip(ipip) => (ipip.parent.and_then(LinkRef::desired), None),
        KernelKind::Veth(Veth { peer }) => (None, Some(*peer)),
        KernelKind::Bridge(_) => (None, None),
    };
    let master = link.master.map(|name| LinkPlace { name, ..place });
    let is_taken = [Some(place), makes].into_iter().flatten().any(|place| !is_missing(place));
    if is_taken || has_vni_of(observed.get(place.namespace)?, &link.kind) {
        return Some(ErrorKind::Exists);
    }
    needs.into_iter().chain(master).any(is_missing).then_some(ErrorKind::NoDevice)
}

/// Whether another device has the VNI and the port of a VXLAN device (`vxlan_vni_in_use` of drivers/net/vxlan).
fn has_vni_of(net: &ObservedNet, kind: &KernelKind) -> bool {
    let KernelKind::Vxlan(wanted) = kind else { return false };
    net.links.values().any(|link| matches!(&link.kind, ObservedKind::Vxlan(vxlan) if vxlan.excludes(wanted)))
}

fn refused(net: &ObservedNet, op: &KernelOp) -> Option<ErrorKind> {
    let missing = |link: &LinkName| !net.links.contains_key(link);
    let down = |link: &LinkName| net.links.get(link).is_some_and(|link| !link.up);
    let on = |link: &LinkName| missing(link).then_some(ErrorKind::NoDevice);
    match op {
        KernelOp::ChangeLink(name, link) => on(name).or_else(|| link.master.as_ref().and_then(on)),
        KernelOp::PutAddress(address) if is_without_ipv6(net, address) => Some(ErrorKind::Permission),
        KernelOp::PutAddress(address) => on(&address.link),
        KernelOp::PutFdb(key, _) => on(&key.link),
        KernelOp::PutFlood(entry) => on(&entry.link),
        KernelOp::PutBridgeFdb(_, port) => on(port).or_else(|| is_no_port(net, *port)),
        KernelOp::DeleteBridgeFdb(_, port) => is_no_port(net, *port),
        KernelOp::PutNeighbour(key, _) => on(&key.link),
        KernelOp::AddRoute(_, hop) | KernelOp::ReplaceRoute(_, hop)
            if hop.link().is_some_and(|link| missing(&link)) =>
        {
            Some(ErrorKind::NoDevice)
        }
        KernelOp::AddRoute(key, _) if net.routes.contains_key(key) => Some(ErrorKind::Exists),
        KernelOp::AddRoute(_, hop) | KernelOp::ReplaceRoute(_, hop) => {
            hop.link().filter(down).map(|_| ErrorKind::Other)
        }
        // A foreign link may have been removed meanwhile.
        KernelOp::Set(Setting::RouterAdvertisements(_), _) => None,
        // IPv6 is off where there is none.
        KernelOp::Set(Setting::DisableIpv6(_), 1) => None,
        KernelOp::Set(setting, _) => (!net.has_setting(*setting)).then_some(ErrorKind::Absent),
        KernelOp::CreateLink(..)
        | KernelOp::DeleteLink(_)
        | KernelOp::DeleteAddress(_)
        | KernelOp::DeleteFdb(_)
        | KernelOp::DeleteFlood(_)
        | KernelOp::DeleteNeighbour(_)
        | KernelOp::DeleteRoute(..) => None,
    }
}

/// The kernel refuses entries of a bridge for a link that is in none (`EOPNOTSUPP` of `rtnl_fdb_add` and `rtnl_fdb_del`, net/core/rtnetlink.c).
fn is_no_port(net: &ObservedNet, link: LinkName) -> Option<ErrorKind> {
    let is_none = net.links.get(&link).is_some_and(|link| link.port.is_none());
    is_none.then_some(ErrorKind::Unsupported)
}

fn refused_tunnel(net: &ObservedNet, op: &TunnelOp) -> Option<ErrorKind> {
    let is_missing = |link: &LinkName| !net.links.contains_key(link);
    match op {
        TunnelOp::Create(name, _) => (!is_missing(name)).then_some(ErrorKind::Exists),
        TunnelOp::Change(name, _) => is_missing(name).then_some(ErrorKind::NoDevice),
        TunnelOp::PutForward(key, _) => is_missing(&key.link).then_some(ErrorKind::NoDevice),
        TunnelOp::Delete(_) | TunnelOp::DeleteForward(_) => None,
    }
}

/// Whether the kernel refuses an IPv6 address since `disable_ipv6` is set on its link (`EACCES` of net/ipv6/addrconf.c).
fn is_without_ipv6(observed: &ObservedNet, address: &Address) -> bool {
    address.address.is_ipv6() && observed.settings.get(&Setting::DisableIpv6(address.link)) == Some(&1)
}

/// `IPV6_MIN_MTU` of net/ipv6.h.
const SMALLEST_IPV6_MTU: u32 = 1280;

impl ObservedNet {
    /// True if a link has IPv6. It has none with a smaller MTU (`addrconf_notify` of net/ipv6/addrconf.c), or where the kernel has none.
    #[must_use]
    pub fn has_ipv6(&self, link: LinkName) -> bool {
        self.has_family(Family::V6) && self.links.get(&link).is_some_and(|link| link.mtu.0 >= SMALLEST_IPV6_MTU)
    }

    /// True if the kernel has a family. One that was started with `ipv6.disable=1` has no setting of IPv6.
    fn has_family(&self, family: Family) -> bool {
        let of_host = |family| self.settings.contains_key(&Setting::Forwarding(family));
        of_host(family) || !Family::ALL.into_iter().any(of_host)
    }

    fn has_setting(&self, setting: Setting) -> bool {
        match setting {
            Setting::Forwarding(family) => self.has_family(family),
            Setting::LinkForwarding(Family::V4, link) => self.links.contains_key(&link),
            Setting::LinkForwarding(Family::V6, link)
            | Setting::DisableIpv6(link)
            | Setting::RouterAdvertisements(link) => self.has_ipv6(link),
        }
    }

    /// Sets a link down, and removes what the kernel then removes: neighbours, routes and IPv6 addresses (`addrconf_ifdown` of
    /// net/ipv6/addrconf.c). The FDB stays.
    pub fn set_link_down(&mut self, name: LinkName) {
        let Some(link) = self.links.get_mut(&name) else { return };
        link.up = false;
        self.forget_family(name, Family::V6);
        let kept: Vec<Address> = self.addresses.iter().filter(|address| address.link == name).copied().collect();
        self.forget_family(name, Family::V4);
        self.addresses.extend(kept);
    }

    /// The foreign entries alone, for comparison. All entries on our devices are ours.
    #[must_use]
    pub fn foreign(&self) -> Self {
        let mut state = self.clone();
        let ours: Vec<LinkName> =
            state.links.iter().filter(|(_, link)| link.owner == Owner::Ours).map(|(name, _)| *name).collect();
        for name in ours {
            state.forget_link(name);
        }
        retain(&mut state.routes, |_, route| route.owner == Owner::Foreign);
        // The settings of the host as a whole are ours, and we let foreign links accept router advertisements.
        let is_foreign =
            |setting: &Setting| setting.link().is_some() && !matches!(setting, Setting::RouterAdvertisements(_));
        state.settings.retain(|setting, _| is_foreign(setting));
        state
    }
}

impl PerNamespace<ObservedNet> {
    /// The foreign entries of each namespace, for comparison.
    #[must_use]
    pub fn foreign(&self) -> Self {
        self.iter().map(|(namespace, net)| (namespace, net.foreign())).collect()
    }

    /// Gives a link another index, wherever it is referred to. Returns the peer of a veth.
    fn renumber(&mut self, place: LinkPlace, number: u32) -> Option<LinkPlace> {
        let before = self.id(place)?;
        for (_, net) in self.iter_mut() {
            for link in net.links.values_mut() {
                for named in link.named_mut().filter(|named| **named == before) {
                    named.index = number;
                }
            }
        }
        let link = self.get_mut(place.namespace)?.links.get_mut(&place.name)?;
        link.index = number;
        let peer = match link.kind {
            ObservedKind::Veth(Veth { peer }) => peer?,
            ObservedKind::Vxlan(_)
            | ObservedKind::Tun(_)
            | ObservedKind::Bridge(_)
            | ObservedKind::Vlan(_)
            | ObservedKind::Macvlan(_)
            | ObservedKind::Ipip(_)
            | ObservedKind::Other(_) => return None,
        };
        Some(LinkPlace { namespace: peer.namespace, name: peer.name })
    }
}
