//! Links: which are made, changed, made anew or removed, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use wire_net::{Family, LinkName};

use crate::{
    Conflict, DesiredKind, DesiredLink, DesiredNet, KernelKind, LinkId, LinkPlace, LinkRef, Namespace, ObservedKind,
    ObservedLink, ObservedNet, ObservedVxlan, Op, Owner, PerNamespace,
    network::{
        conflict::Need,
        order::{self, Ordered},
    },
};

/// What becomes of the links of one namespace, as far as it matters to the entries on them.
#[derive(Debug, Default)]
pub(super) struct Fates {
    /// Not there, or made anew: entries that were read on them are gone.
    pub(super) absent: BTreeSet<LinkName>,
    /// The same, and those whose MAC or tunnel changes: their neighbours and their forwarding go.
    pub(super) flushed: BTreeSet<LinkName>,
    /// Blocked by a conflict: no entry on them is written.
    pub(super) blocked: BTreeSet<LinkName>,
    /// To be removed, with all that is on them.
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
    /// What is made, changed, or made anew.
    pub(super) ops: Vec<LinkOp>,
    /// What goes for good, after all that is on it.
    pub(super) removals: Vec<LinkOp>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) fates: BTreeMap<Namespace, Fates>,
}

/// Compares all links.
pub(super) fn plan(have: &PerNamespace<ObservedNet>, want: &PerNamespace<DesiredNet>) -> LinkPlan {
    let fates = have.iter().map(|(namespace, _)| (namespace, Fates::default())).collect();
    let mut planner = Planner { have, want, swept: BTreeSet::new(), plan: LinkPlan { fates, ..LinkPlan::default() } };
    let Ordered { links, circular } = order::by_need(want);
    for place in circular {
        planner.block(place, Some(Conflict::Needs { link: place, need: Need::Order }));
    }
    for place in links {
        planner.step(place);
    }
    planner.remove_unwanted();
    planner.plan
}

struct Planner<'a> {
    have: &'a PerNamespace<ObservedNet>,
    want: &'a PerNamespace<DesiredNet>,
    /// The links that the kernel takes away with one that is made anew.
    swept: BTreeSet<LinkPlace>,
    plan: LinkPlan,
}

impl<'a> Planner<'a> {
    fn step(&mut self, place: LinkPlace) {
        let Some(want) = self.desired(place) else { return };
        if let Some(obstacle) = self.obstacle(place, want) {
            return self.block(place, obstacle.conflict());
        }
        let is_made_anew = |need: LinkPlace| self.is_in(need, |fates| &fates.absent);
        let loses_parent = want.kind.needs(place).is_some_and(is_made_anew);
        let loses_master = want.master.is_some_and(|name| is_made_anew(LinkPlace { name, ..place }));
        let serves = |link: &&ObservedLink| {
            link.serves_as(&want.kind, |link, found| self.is(link, found)) && !self.lacks_peer(&want.kind, link)
        };
        match self.found(place).filter(serves).filter(|_| !loses_parent) {
            Some(link) => {
                if loses_master || !link.is_set_as(want) {
                    self.plan.ops.push(LinkOp { place, op: Op::change_link(place, want.clone()) });
                }
                if !link.has_mac_of(want) || !link.has_tunnel_of(&want.kind) {
                    self.fates(place).flushed.insert(place.name);
                }
            }
            None => self.make_anew(place, want, loses_parent && peer(&want.kind).is_some()),
        }
    }

    /// Makes a link in the place of what is there; the second end of a pair was made with the first.
    fn make_anew(&mut self, place: LinkPlace, want: &DesiredLink, is_made: bool) {
        // The kernel takes neither two links of one name nor two of one VNI and port: the old one goes first.
        let other_end = peer(&want.kind).filter(|peer| !is_made && self.desired(*peer).is_some());
        for place in [Some(place), other_end].into_iter().flatten() {
            if let Some(link) = self.found(place) {
                self.plan.ops.push(LinkOp { place, op: Op::delete_link(place, link) });
                self.swept.extend(self.have.bound_to(place));
                self.swept.insert(place);
            }
        }
        let make = if is_made { Op::change_link } else { Op::create_link };
        self.plan.ops.push(LinkOp { place, op: make(place, want.clone()) });
        let fates = self.fates(place);
        fates.absent.insert(place.name);
        fates.flushed.insert(place.name);
    }

    fn obstacle(&self, place: LinkPlace, want: &DesiredLink) -> Option<Obstacle> {
        let needs = |link, need| Some(Obstacle::of(Conflict::Needs { link, need }));
        if order::needs(place, want).any(|need| self.is_in(need, |fates| &fates.blocked)) {
            return Some(Obstacle::Behind);
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

    /// Something else where the link should be, or with what it should have.
    fn taken(&self, place: LinkPlace, want: &DesiredLink) -> Option<Conflict> {
        match self.found(place) {
            Some(found) if found.owner == Owner::Foreign => {
                let underlay = self.underlay_of_others(found, want);
                Some(Conflict::Name { link: place, found: found.clone(), underlay })
            }
            // What it has, no other takes away; what it had while it was up, another may have taken.
            Some(link) if link.serves_as(&want.kind, |link, found| self.is(link, found)) => {
                self.port_holder(place, want).filter(|_| !link.up)
            }
            Some(_) | None => self.vni_holder(place, want).or_else(|| self.port_holder(place, want)),
        }
    }

    /// The parent that is desired, if only that tells a link of others from one that flannel would make.
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

    /// Another device with the VNI and port we want.
    fn vni_holder(&self, place: LinkPlace, want: &DesiredLink) -> Option<Conflict> {
        let DesiredKind::Kernel(KernelKind::Vxlan(wanted)) = &want.kind else { return None };
        let (holder, _) = self.have.get(place.namespace)?.links.iter().find(|(other, link)| {
            **other != place.name && matches!(&link.kind, ObservedKind::Vxlan(vxlan) if vxlan.excludes(wanted))
        })?;
        Some(Conflict::Vni { link: place, vni: wanted.vni, port: wanted.port_in_use(), holder: *holder })
    }

    /// A device of others that has the port we want and does not share it.
    fn port_holder(&self, place: LinkPlace, want: &DesiredLink) -> Option<Conflict> {
        let (port, family, ours) = match &want.kind {
            DesiredKind::Kernel(KernelKind::Vxlan(wanted)) => (wanted.port_in_use(), wanted.underlay(), Some(wanted)),
            DesiredKind::Tunnel(tunnel) => (tunnel.local.port(), Family::of(tunnel.local.ip()), None),
            DesiredKind::Kernel(
                KernelKind::Bridge
                | KernelKind::Veth(_)
                | KernelKind::Vlan(_)
                | KernelKind::Macvlan(_)
                | KernelKind::Ipip(_),
            ) => return None,
        };
        let shares = |found: &ObservedVxlan| ours.is_some_and(|ours| found.shares_port_with(ours));
        let holds = |(name, link): (&LinkName, &ObservedLink)| match &link.kind {
            ObservedKind::Vxlan(found) if link.owner == Owner::Foreign && link.up && *name != place.name => {
                (found.port == port && found.hears(family) && !shares(found)).then(|| (*name, found.clone()))
            }
            ObservedKind::Vxlan(_)
            | ObservedKind::Tun(_)
            | ObservedKind::Bridge
            | ObservedKind::Veth(_)
            | ObservedKind::Vlan(_)
            | ObservedKind::Macvlan(_)
            | ObservedKind::Ipip(_)
            | ObservedKind::Other(_) => None,
        };
        let (holder, found) = self.have.get(place.namespace)?.links.iter().find_map(holds)?;
        Some(Conflict::Port { link: place, port, holder, found })
    }

    fn block(&mut self, place: LinkPlace, conflict: Option<Conflict>) {
        self.plan.conflicts.extend(conflict);
        self.fates(place).blocked.insert(place.name);
    }

    /// Removes links of ours that are not desired: first those that are bound to others.
    fn remove_unwanted(&mut self) {
        let mut unwanted: Vec<(usize, LinkPlace, &ObservedLink)> = Vec::new();
        for (namespace, net) in self.have.iter() {
            for (name, link) in net.links.iter().filter(|(_, link)| link.owner == Owner::Ours) {
                let place = LinkPlace { namespace, name: *name };
                if self.desired(place).is_none() && !self.swept.contains(&place) {
                    unwanted.push((self.have.bound_to(place).len(), place, link));
                }
            }
        }
        unwanted.sort_by_key(|(bound, place, _)| (*bound, *place));
        for (_, place, link) in unwanted {
            self.plan.removals.push(LinkOp { place, op: Op::delete_link(place, link) });
            self.fates(place).leaving.insert(place.name);
        }
    }

    fn desired(&self, place: LinkPlace) -> Option<&'a DesiredLink> {
        self.want.get(place.namespace)?.links.get(&place.name)
    }

    /// The link that is there now, unless an operation until here takes it away.
    fn found(&self, place: LinkPlace) -> Option<&'a ObservedLink> {
        self.have.get(place.namespace)?.links.get(&place.name).filter(|_| !self.swept.contains(&place))
    }

    fn fates(&mut self, place: LinkPlace) -> &mut Fates {
        self.plan.fates.entry(place.namespace).or_default()
    }

    fn is_in(&self, place: LinkPlace, set: impl Fn(&Fates) -> &BTreeSet<LinkName>) -> bool {
        self.plan.fates.get(&place.namespace).is_some_and(|fates| set(fates).contains(&place.name))
    }

    /// Whether a link that was found is the one that is meant.
    fn is(&self, link: LinkRef, found: LinkId) -> bool {
        match link {
            LinkRef::Found(id) => id == found,
            LinkRef::Desired(place) => self.have.id(place) == Some(found),
        }
    }

    /// Whether the other end of a pair is not where it is desired: both are made anew. Where no other end is desired, it may be
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
    /// A link that it needs is not made, which is said there.
    Behind,
}

impl Obstacle {
    fn of(conflict: Conflict) -> Self {
        Self::Conflict(Box::new(conflict))
    }

    fn conflict(self) -> Option<Conflict> {
        match self {
            Self::Conflict(conflict) => Some(*conflict),
            Self::Behind => None,
        }
    }
}

/// The other end, of one end of a pair.
const fn peer(kind: &DesiredKind) -> Option<LinkPlace> {
    match kind {
        DesiredKind::Kernel(KernelKind::Veth(veth)) => Some(veth.peer),
        DesiredKind::Kernel(
            KernelKind::Vxlan(_)
            | KernelKind::Bridge
            | KernelKind::Vlan(_)
            | KernelKind::Macvlan(_)
            | KernelKind::Ipip(_),
        )
        | DesiredKind::Tunnel(_) => None,
    }
}
