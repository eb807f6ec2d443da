//! The links that are made, changed, made anew or removed, and the order of these changes.

use std::collections::{BTreeMap, BTreeSet};

use wire_net::{Family, LinkName};

use crate::{
    Conflict, DesiredKind, DesiredLink, DesiredNet, KernelKind, LinkId, LinkPlace, LinkRef, Namespace, ObservedKind,
    ObservedLink, ObservedNet, ObservedVxlan, Op, Owner, PerNamespace, Veth,
    network::{
        conflict::Need,
        order::{self, Ordered},
    },
};

/// How the changes of one namespace's links affect the entries on them.
#[derive(Debug, Default)]
pub(super) struct LinkEffects {
    /// Links that are missing or made anew: the entries that were read on them no longer exist.
    pub(super) absent: BTreeSet<LinkName>,
    /// These, and links whose MAC or tunnel changes: their neighbours and forwarding entries no longer exist.
    pub(super) flushed: BTreeSet<LinkName>,
    /// Links blocked by a conflict: no entry on them is written.
    pub(super) blocked: BTreeSet<LinkName>,
    /// Links that are removed: the kernel removes all entries on them.
    pub(super) leaving: BTreeSet<LinkName>,
}

/// The change of one link.
#[derive(Debug)]
pub(super) struct LinkOp {
    pub(super) place: LinkPlace,
    pub(super) op: Op,
}

/// The changes of all links.
#[derive(Debug, Default)]
pub(super) struct LinkPlan {
    /// The operations for desired links, which come first.
    pub(super) ops: Vec<LinkOp>,
    /// The removals of links that are no longer desired, which come last.
    pub(super) removals: Vec<LinkOp>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) effects: BTreeMap<Namespace, LinkEffects>,
}

pub(super) fn plan(have: &PerNamespace<ObservedNet>, want: &PerNamespace<DesiredNet>) -> LinkPlan {
    of_ordered(have, want, order::by_need(want), |_| true)
}

/// The same where all other links are as desired, and blocked by nothing.
pub(super) fn plan_of(
    have: &PerNamespace<ObservedNet>,
    want: &PerNamespace<DesiredNet>,
    links: &BTreeSet<LinkPlace>,
) -> LinkPlan {
    of_ordered(have, want, order::by_need_of(want, links.iter().copied()), |place| links.contains(&place))
}

fn of_ordered(
    have: &PerNamespace<ObservedNet>,
    want: &PerNamespace<DesiredNet>,
    Ordered { links, circular }: Ordered,
    is_selected: impl Fn(LinkPlace) -> bool,
) -> LinkPlan {
    let effects = have.iter().map(|(namespace, _)| (namespace, LinkEffects::default())).collect();
    let mut planner =
        Planner { have, want, removed: BTreeSet::new(), plan: LinkPlan { effects, ..LinkPlan::default() } };
    for place in circular {
        planner.block(place, Some(Conflict::Needs { link: place, need: Need::Order }));
    }
    for place in links {
        planner.step(place);
    }
    planner.remove_unwanted(is_selected);
    planner.plan
}

/// The links that [`plan`] makes: those that are missing, and those that must be made anew.
pub(in crate::network) fn made_anew(
    have: &PerNamespace<ObservedNet>,
    want: &PerNamespace<DesiredNet>,
) -> BTreeSet<LinkPlace> {
    let effects = plan(have, want).effects.into_iter();
    let places = |(namespace, effects): (Namespace, LinkEffects)| {
        effects.absent.into_iter().map(move |name| LinkPlace { namespace, name })
    };
    effects.flat_map(places).collect()
}

struct Planner<'a> {
    have: &'a PerNamespace<ObservedNet>,
    want: &'a PerNamespace<DesiredNet>,
    /// The links that are removed so far: to be made anew, or by the kernel together with one of these.
    removed: BTreeSet<LinkPlace>,
    plan: LinkPlan,
}

impl<'a> Planner<'a> {
    fn step(&mut self, place: LinkPlace) {
        let Some(want) = self.desired(place) else { return };
        if let Some(obstacle) = self.obstacle(place, want) {
            return self.block(place, obstacle.conflict());
        }
        let is_made_anew = |need: LinkPlace| self.is_in(need, |effects| &effects.absent);
        let loses_parent = want.kind.needs(place).is_some_and(is_made_anew);
        let loses_master = want.master.is_some_and(|name| is_made_anew(LinkPlace { name, ..place }));
        match self.found(place).filter(|link| self.can_keep(link, want)).filter(|_| !loses_parent) {
            Some(link) => {
                if loses_master || !link.is_set_as(want) || link.owner == Owner::Foreign {
                    self.plan.ops.push(LinkOp { place, op: Op::change_link(place, want.clone()) });
                }
                if !link.has_mac_of(want) || !link.has_tunnel_of(&want.kind) {
                    self.effects(place).flushed.insert(place.name);
                }
            }
            None => self.make_anew(place, want, loses_parent && peer(&want.kind).is_some()),
        }
    }

    /// Whether a link that was found need not be made anew.
    fn can_keep(&self, found: &ObservedLink, want: &DesiredLink) -> bool {
        found.serves_as(&want.kind, |link, found| self.is(link, found)) && !self.lacks_peer(&want.kind, found)
    }

    /// Makes a link after removing the one in its place. `is_made` says that the kernel made it already, together with its veth peer.
    fn make_anew(&mut self, place: LinkPlace, want: &DesiredLink, is_made: bool) {
        // The kernel allows neither two links with one name nor two with one VNI and port: the old link is removed first.
        let other_end = peer(&want.kind).filter(|peer| !is_made && self.desired(*peer).is_some());
        for place in [Some(place), other_end].into_iter().flatten() {
            if let Some(link) = self.found(place) {
                self.plan.ops.push(LinkOp { place, op: Op::delete_link(place, link) });
                self.removed.extend(self.have.bound_to(place));
                self.removed.insert(place);
            }
        }
        let make = if is_made { Op::change_link } else { Op::create_link };
        self.plan.ops.push(LinkOp { place, op: make(place, want.clone()) });
        let effects = self.effects(place);
        effects.absent.insert(place.name);
        effects.flushed.insert(place.name);
    }

    fn obstacle(&self, place: LinkPlace, want: &DesiredLink) -> Option<Obstacle> {
        let needs = |link, need| Some(Obstacle::of(Conflict::Needs { link, need }));
        if order::needs(place, want).any(|need| self.is_in(need, |effects| &effects.blocked)) {
            return Some(Obstacle::Dependency);
        }
        if self.have.get(place.namespace).is_none() {
            return needs(place, Need::Namespace);
        }
        if matches!(want.kind, DesiredKind::Tunnel(_)) && place.namespace != Namespace::Host {
            return needs(place, Need::HostNamespace);
        }
        match peer(&want.kind) {
            Some(peer) if self.have.get(peer.namespace).is_none() => return needs(peer, Need::Namespace),
            Some(peer) => {
                if let Some(conflict) = self.desired(peer).and_then(|want| self.taken(peer, want)) {
                    return Some(Obstacle::of(conflict));
                }
            }
            None => {
                if let Some(need) = want.kind.needs(place).filter(|need| self.desired(*need).is_none()) {
                    return needs(place, Need::Link(need));
                }
            }
        }
        self.taken(place, want).map(Obstacle::of)
    }

    /// The conflict with a link that has the place, the VNI or the port of the desired one.
    fn taken(&self, place: LinkPlace, want: &DesiredLink) -> Option<Conflict> {
        match self.found(place) {
            Some(found) if found.owner == Owner::Foreign && !self.is_half_made(found, want) => {
                let underlay = self.underlay_of_others(found, want);
                Some(Conflict::Name { link: place, found: found.clone(), underlay })
            }
            // While it is up, no other device can take its port. While it was down, a foreign device may have taken it.
            // All links are looked at only then: there may be many, each with a look like this.
            Some(link) if link.serves_as(&want.kind, |link, found| self.is(link, found)) => {
                if link.up {
                    None
                } else {
                    self.port_holder(place, want)
                }
            }
            Some(_) | None => self.vni_holder(place, want).or_else(|| self.port_holder(place, want)),
        }
    }

    /// True for the other end of a veth pair of ours that has no mark yet: the agent was killed between the messages that make a pair and mark
    /// that end.
    fn is_half_made(&self, found: &ObservedLink, want: &DesiredLink) -> bool {
        let (Some(place), ObservedKind::Veth(Veth { peer: Some(id) })) = (peer(&want.kind), &found.kind) else {
            return false;
        };
        self.found(place).is_some_and(|link| link.owner == Owner::Ours) && self.have.id(place) == Some(*id)
    }

    /// The desired parent, if a foreign link differs only in its parent from the link that flannel would make.
    fn underlay_of_others(&self, found: &ObservedLink, want: &DesiredLink) -> Option<LinkId> {
        let (ObservedKind::Vxlan(have), DesiredKind::Kernel(KernelKind::Vxlan(wanted))) = (&found.kind, &want.kind)
        else {
            return None;
        };
        let Some(LinkRef::Found(parent)) = wanted.parent else { return None };
        let moved = ObservedVxlan { parent: Some(parent), local: wanted.local, ..have.clone() };
        let moved = ObservedLink { kind: ObservedKind::Vxlan(moved), ..found.clone() };
        let serves = moved.serves_as(&want.kind, |link, found| self.is(link, found));
        (have.parent != Some(parent) && have.learning == wanted.learning && serves).then_some(parent)
    }

    /// The conflict with another device that has the VNI and the port of the desired one.
    fn vni_holder(&self, place: LinkPlace, want: &DesiredLink) -> Option<Conflict> {
        let DesiredKind::Kernel(KernelKind::Vxlan(wanted)) = &want.kind else { return None };
        let (holder, _) = self.have.get(place.namespace)?.links.iter().find(|(other, link)| {
            **other != place.name && matches!(&link.kind, ObservedKind::Vxlan(vxlan) if vxlan.excludes(wanted))
        })?;
        Some(Conflict::Vni { link: place, vni: wanted.vni, port: wanted.port_in_use(), holder: *holder })
    }

    /// The conflict with a foreign device that has the port of the desired one and cannot share it.
    fn port_holder(&self, place: LinkPlace, want: &DesiredLink) -> Option<Conflict> {
        let (port, family, ours) = match &want.kind {
            DesiredKind::Kernel(KernelKind::Vxlan(wanted)) => (wanted.port_in_use(), wanted.underlay(), Some(wanted)),
            DesiredKind::Tunnel(tunnel) => (tunnel.local.port(), Family::of(tunnel.local.ip()), None),
            DesiredKind::Kernel(
                KernelKind::Bridge(_)
                | KernelKind::Veth(_)
                | KernelKind::Vlan(_)
                | KernelKind::Macvlan(_)
                | KernelKind::Ipip(_),
            ) => return None,
        };
        let shares = |found: &ObservedVxlan| ours.is_some_and(|ours| found.shares_port_with(ours));
        let blocks = |found: &ObservedVxlan| found.port == port && found.receives(family) && !shares(found);
        let others = self.have.get(place.namespace)?.links.iter().filter(|(name, _)| **name != place.name);
        let mut active = others.filter_map(|(name, link)| Some((*name, active_foreign_vxlan(link)?)));
        let (holder, found) = active.find(|(_, found)| blocks(found))?;
        Some(Conflict::Port { link: place, port, holder, found: found.clone() })
    }

    fn block(&mut self, place: LinkPlace, conflict: Option<Conflict>) {
        self.plan.conflicts.extend(conflict);
        self.effects(place).blocked.insert(place.name);
    }

    /// Removes links of ours that are not desired: those to which the fewest others are bound come first.
    fn remove_unwanted(&mut self, is_selected: impl Fn(LinkPlace) -> bool) {
        let mut unwanted: Vec<(usize, LinkPlace, &ObservedLink)> = Vec::new();
        for (namespace, net) in self.have.iter() {
            for (name, link) in net.links.iter().filter(|(_, link)| link.owner == Owner::Ours) {
                let place = LinkPlace { namespace, name: *name };
                if is_selected(place) && self.desired(place).is_none() && !self.removed.contains(&place) {
                    unwanted.push((self.have.bound_to(place).len(), place, link));
                }
            }
        }
        unwanted.sort_by_key(|(bound, place, _)| (*bound, *place));
        for (_, place, link) in unwanted {
            self.plan.removals.push(LinkOp { place, op: Op::delete_link(place, link) });
            self.effects(place).leaving.insert(place.name);
        }
    }

    fn desired(&self, place: LinkPlace) -> Option<&'a DesiredLink> {
        self.want.get(place.namespace)?.links.get(&place.name)
    }

    /// The link that exists at this point of the plan.
    fn found(&self, place: LinkPlace) -> Option<&'a ObservedLink> {
        self.have.get(place.namespace)?.links.get(&place.name).filter(|_| !self.removed.contains(&place))
    }

    fn effects(&mut self, place: LinkPlace) -> &mut LinkEffects {
        self.plan.effects.entry(place.namespace).or_default()
    }

    fn is_in(&self, place: LinkPlace, set: impl Fn(&LinkEffects) -> &BTreeSet<LinkName>) -> bool {
        self.plan.effects.get(&place.namespace).is_some_and(|effects| set(effects).contains(&place.name))
    }

    /// Whether a reference means the link that was found.
    fn is(&self, link: LinkRef, found: LinkId) -> bool {
        match link {
            LinkRef::Found(id) => id == found,
            LinkRef::Desired(place) => self.have.id(place) == Some(found),
        }
    }

    /// Whether the veth peer is not where it is desired, so that both ends are made anew. If the peer's end is not desired, it may be
    /// anywhere.
    fn lacks_peer(&self, kind: &DesiredKind, found: &ObservedLink) -> bool {
        let Some(place) = peer(kind).filter(|peer| self.desired(*peer).is_some()) else { return false };
        let ObservedKind::Veth(veth) = &found.kind else { return true };
        self.found(place).is_none() || veth.peer != self.have.id(place)
    }
}

/// Why a link is not made.
enum Obstacle {
    Conflict(Box<Conflict>),
    /// A link that it needs is blocked. The conflict is reported for that link alone.
    Dependency,
}

impl Obstacle {
    fn of(conflict: Conflict) -> Self {
        Self::Conflict(Box::new(conflict))
    }

    fn conflict(self) -> Option<Conflict> {
        match self {
            Self::Conflict(conflict) => Some(*conflict),
            Self::Dependency => None,
        }
    }
}

/// A foreign VXLAN device that is up and so uses its port.
const fn active_foreign_vxlan(link: &ObservedLink) -> Option<&ObservedVxlan> {
    match &link.kind {
        ObservedKind::Vxlan(found) if matches!(link.owner, Owner::Foreign) && link.up => Some(found),
        ObservedKind::Vxlan(_)
        | ObservedKind::Tun(_)
        | ObservedKind::Bridge(_)
        | ObservedKind::Veth(_)
        | ObservedKind::Vlan(_)
        | ObservedKind::Macvlan(_)
        | ObservedKind::Ipip(_)
        | ObservedKind::Other(_) => None,
    }
}

/// The place of the veth peer.
const fn peer(kind: &DesiredKind) -> Option<LinkPlace> {
    match kind {
        DesiredKind::Kernel(KernelKind::Veth(veth)) => Some(veth.peer),
        DesiredKind::Kernel(
            KernelKind::Vxlan(_)
            | KernelKind::Bridge(_)
            | KernelKind::Vlan(_)
            | KernelKind::Macvlan(_)
            | KernelKind::Ipip(_),
        )
        | DesiredKind::Tunnel(_) => None,
    }
}
