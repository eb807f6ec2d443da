//! The difference between what there is and what should be, as changes in an order that never leaves a gap.
//!
//! Puts come first: links, settings, addresses, FDB, neighbours, forwarding, routes, so that nothing ever points to what is not there yet.
//! Deletions follow in reverse (docs/adr/0003-order-of-operations.md).

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use wire_net::{Family, LinkName};

use super::detour;
use crate::{
    Address, Conflict, Detours, Link, LinkKind, NetState, Op, Order, Owner, Parent, Plan, Resource, Route, RouteKey,
    Scope, Vxlan,
};

/// The network of a host, as far as it concerns us: links, settings, addresses, FDB, neighbours, forwarding, routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {}

/// What is not ours, and in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What stands where we want something else.
    pub conflicts: Vec<Conflict>,
    /// What takes packets for peers, and stands in the way of nothing we write.
    pub detours: Detours,
}

impl Resource for Network {
    type Observed = NetState;
    type Desired = NetState;
    type Scope = Scope;
    type Op = Op;
    type Findings = Findings;

    fn plan(observed: &NetState, desired: &NetState) -> Plan<Self> {
        plan(observed, desired)
    }

    fn apply(observed: &mut NetState, op: &Op) {
        observed.apply(op);
    }

    /// A link that goes for good comes last.
    fn order(op: &Op, desired: &NetState) -> Order {
        if !op.is_link() {
            return Order::Plain;
        }
        let goes = matches!(op, Op::DeleteLink(name) if !desired.links.contains_key(name));
        if goes { Order::ReadBack } else { Order::Ahead }
    }
}

/// What has to be done so that `have` becomes `want`. Foreign entries of `have` are never touched.
#[must_use]
pub fn plan(have: &NetState, want: &NetState) -> Plan<Network> {
    let mut builder = Builder { have, want, links: Links::default(), conflicts: Vec::new() };
    let mut ops = builder.links();
    let (settings, conflicts) = settings::changes(have, want, &builder.links);
    ops.extend(settings);
    builder.conflicts.extend(conflicts);
    let links = &builder.links;
    // An address of the set has no value beside its key.
    let unit = |set: &BTreeSet<Address>| -> BTreeMap<Address, ()> { set.iter().map(|key| (*key, ())).collect() };
    let (have_addresses, want_addresses) = (unit(&have.addresses), unit(&want.addresses));
    let addresses = Table { have: &have_addresses, want: &want_addresses, gone: &links.absent };
    let addresses =
        addresses.changes(links, |key| key.link, |key, ()| Op::PutAddress(*key), |key| Op::DeleteAddress(*key));
    let fdb = Table { have: &have.fdb, want: &want.fdb, gone: &links.absent };
    let fdb = fdb.changes(links, |key| key.link, |key, to| Op::PutFdb(*key, *to), |key| Op::DeleteFdb(*key));
    let neighbours = Table { have: &have.neighbours, want: &want.neighbours, gone: &links.flushed };
    let neighbours = neighbours.changes(
        links,
        |key| key.link,
        |key, mac| Op::PutNeighbour(*key, *mac),
        |key| Op::DeleteNeighbour(*key),
    );
    let forwarding = Table { have: &have.forwarding, want: &want.forwarding, gone: &links.flushed };
    let forwarding = forwarding.changes(
        links,
        |key| key.link,
        |key, forward| Op::PutForward(*key, *forward),
        |key| Op::DeleteForward(*key),
    );
    let (routes, detours) = builder.routes();
    let mut deletions = Vec::new();
    for (puts, deletes) in [addresses, fdb, neighbours, forwarding, routes] {
        ops.extend(puts);
        deletions.push(deletes);
    }
    ops.extend(deletions.into_iter().rev().flatten());
    ops.extend(builder.links.leaving.iter().map(|name| Op::DeleteLink(*name)));
    Plan { ops, findings: Findings { conflicts: builder.conflicts, detours } }
}

struct Builder<'a> {
    have: &'a NetState,
    want: &'a NetState,
    links: Links,
    conflicts: Vec<Conflict>,
}

/// What becomes of the links, as far as it matters to what is on them.
#[derive(Default)]
struct Links {
    /// Not there, or not for long: nothing that was read on them counts.
    absent: BTreeSet<LinkName>,
    /// The same, and those whose MAC or tunnel changes: their neighbours and their forwarding go.
    flushed: BTreeSet<LinkName>,
    /// Not to be had: nothing is put on them.
    blocked: BTreeSet<LinkName>,
    /// To be removed, with all that is on them.
    leaving: BTreeSet<LinkName>,
}

/// One kind of entry.
struct Table<'a, K, V> {
    have: &'a BTreeMap<K, V>,
    want: &'a BTreeMap<K, V>,
    /// The links whose entries do not count.
    gone: &'a BTreeSet<LinkName>,
}

/// Puts and deletions of one kind.
type Ops = (Vec<Op>, Vec<Op>);

impl<K: Ord, V: PartialEq> Table<'_, K, V> {
    fn changes(
        &self,
        links: &Links,
        link: impl Fn(&K) -> LinkName,
        put: impl Fn(&K, &V) -> Op,
        delete: impl Fn(&K) -> Op,
    ) -> Ops {
        let mut ops = Ops::default();
        for (key, have, want) in merge(self.have, self.want) {
            let link = link(key);
            let have = have.filter(|_| !self.gone.contains(&link));
            if links.blocked.contains(&link) || have == want {
                continue;
            }
            match want {
                Some(want) => ops.0.push(put(key, want)),
                None if links.leaving.contains(&link) => {}
                None => ops.1.push(delete(key)),
            }
        }
        ops
    }
}

impl Builder<'_> {
    fn links(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for (name, want) in &self.want.links {
            let there = self.have.links.get(name);
            if let Some(conflict) = self.obstacle(*name, want) {
                self.conflicts.push(conflict);
                self.links.blocked.insert(*name);
            } else if let Some(link) = there.filter(|link| link.serves_as(want)) {
                if !link.equals_in_place(want) {
                    ops.push(Op::ChangeLink(*name, want.clone()));
                }
                if link.mac != want.mac || !link.has_tunnel_of(want) {
                    self.links.flushed.insert(*name);
                }
            } else {
                self.links.absent.insert(*name);
                self.links.flushed.insert(*name);
                // The kernel takes neither two links of one name nor two of one VNI and port: the old one goes first.
                ops.extend(there.map(|_| Op::DeleteLink(*name)));
                ops.push(Op::CreateLink(*name, want.clone()));
            }
        }
        let unwanted =
            |(name, link): &(&LinkName, &Link)| link.owner == Owner::Ours && !self.want.links.contains_key(*name);
        self.links.leaving = self.have.links.iter().filter(unwanted).map(|(name, _)| *name).collect();
        ops
    }

    fn obstacle(&self, name: LinkName, want: &Link) -> Option<Conflict> {
        match self.have.links.get(&name) {
            Some(found) if found.owner == Owner::Foreign => {
                let underlay = want.parent().filter(|_| found.differs_by_parent_alone(want));
                Some(Conflict::Name { link: name, found: found.clone(), underlay })
            }
            // What it has, no other takes away; what it had while it was up, another may have taken.
            Some(link) if link.serves_as(want) => self.port_holder(name, want).filter(|_| !link.up),
            Some(_) | None => self.holder(name, want).or_else(|| self.port_holder(name, want)),
        }
    }

    /// Another device with the VNI and port we want.
    fn holder(&self, name: LinkName, want: &Link) -> Option<Conflict> {
        let LinkKind::Vxlan(wanted) = &want.kind else { return None };
        let (holder, _) = self.have.links.iter().find(|(other, link)| {
            **other != name && matches!(&link.kind, LinkKind::Vxlan(vxlan) if vxlan.excludes(wanted))
        })?;
        Some(Conflict::Vni { link: name, vni: wanted.vni, port: wanted.port_in_use(), holder: *holder })
    }

    /// A device of others that has the port we want and does not share it.
    fn port_holder(&self, name: LinkName, want: &Link) -> Option<Conflict> {
        let (port, family) = match &want.kind {
            LinkKind::Vxlan(wanted) => (wanted.port_in_use(), wanted.underlay()),
            LinkKind::Tun(Some(tunnel)) => (tunnel.local.port(), Family::of(tunnel.local.ip())),
            LinkKind::Tun(None) | LinkKind::Other(_) => return None,
        };
        let has = |(other, link): (&LinkName, &Link)| match &link.kind {
            LinkKind::Vxlan(found) if link.owner == Owner::Foreign && link.up && *other != name => {
                let there = found.port_in_use() == port && found.hears(family);
                (there && !found.shares_port_with(&want.kind)).then(|| (*other, found.clone()))
            }
            LinkKind::Vxlan(_) | LinkKind::Tun(_) | LinkKind::Other(_) => None,
        };
        let (holder, found) = self.have.links.iter().find_map(has)?;
        Some(Conflict::Port { link: name, port, holder, found })
    }

    fn routes(&mut self) -> (Ops, Detours) {
        let (mut ops, mut detours) = (Ops::default(), detour::Search::new(self.want));
        let on = |set: &BTreeSet<LinkName>, route: &Route| route.link().is_some_and(|link| set.contains(&link));
        for (key, have, want) in merge(&self.have.routes, &self.want.routes) {
            detours.step(key, want, have.filter(|have| have.owner == Owner::Foreign));
            let have = have.filter(|have| !on(&self.links.absent, have));
            let want = want.filter(|want| !on(&self.links.blocked, want));
            match (have, want) {
                (Some(have), Some(want)) if have.does_as(want) => {}
                (Some(found), Some(_)) if found.owner == Owner::Foreign => {
                    self.conflicts.push(Conflict::Route { key: *key, metric: key.metric, found: found.clone() });
                }
                (Some(_), Some(want)) => ops.0.push(Op::ReplaceRoute(*key, want.clone())),
                (None, Some(want)) => ops.0.push(Op::AddRoute(*key, want.clone())),
                (Some(have), None)
                    if have.owner == Owner::Ours
                        && !on(&self.links.leaving, have)
                        && !on(&self.links.blocked, have) =>
                {
                    ops.1.push(Op::DeleteRoute(*key, have.clone()));
                }
                (Some(_) | None, None) => {}
            }
            self.conflicts.extend(want.and_then(|want| self.shadow(key, want)));
        }
        (ops, detours.end())
    }

    /// A foreign route that wins over the one we want by a lower metric.
    fn shadow(&self, key: &RouteKey, want: &Route) -> Option<Conflict> {
        let (better, found) = self
            .have
            .routes
            .range(RouteKey { metric: 0, ..*key }..*key)
            .find(|(_, found)| found.owner == Owner::Foreign && !found.does_as(want))?;
        // A blackhole of ours is there to lose.
        let wanted = want.link().is_some();
        wanted.then(|| Conflict::Route { key: *key, metric: better.metric, found: found.clone() })
    }
}

impl Link {
    /// The link that it sends through.
    pub(crate) const fn parent(&self) -> Option<Parent> {
        match &self.kind {
            LinkKind::Vxlan(vxlan) => vxlan.parent,
            LinkKind::Tun(_) | LinkKind::Other(_) => None,
        }
    }

    /// Whether it would do on the parent that is wanted, as one of flannel's would.
    fn differs_by_parent_alone(&self, want: &Self) -> bool {
        let (LinkKind::Vxlan(have), LinkKind::Vxlan(wanted)) = (&self.kind, &want.kind) else { return false };
        let moved = Vxlan { parent: wanted.parent, local: wanted.local, ..have.clone() };
        let moved = Self { kind: LinkKind::Vxlan(moved), ..self.clone() };
        have.parent != wanted.parent && have.learning == wanted.learning && moved.serves_as(want)
    }

    /// Whether this device can be made into `want` without making it anew. flannel asks the same
    /// (`vxlanLinksIncompat` of its pkg/backend/vxlan/device.go), so that each takes over the other's.
    #[must_use]
    pub fn serves_as(&self, want: &Self) -> bool {
        match (&self.kind, &want.kind) {
            (LinkKind::Vxlan(have), LinkKind::Vxlan(want)) => {
                let differs = |ports: Option<(u16, u16)>| ports.is_some_and(|(have, want)| have != want);
                have.vni == want.vni
                    && have.parent == want.parent
                    && have.local == want.local
                    && have.group == want.group
                    && have.l2miss == want.l2miss
                    && have.gbp == want.gbp
                    && !differs(have.port.zip(want.port))
            }
            (LinkKind::Tun(_), LinkKind::Tun(_)) => true,
            (LinkKind::Other(have), LinkKind::Other(want)) => have == want,
            (LinkKind::Vxlan(_) | LinkKind::Tun(_) | LinkKind::Other(_), _) => false,
        }
    }

    fn equals_in_place(&self, want: &Self) -> bool {
        let learning = |link: &Self| matches!(&link.kind, LinkKind::Vxlan(vxlan) if vxlan.learning);
        self.mac == want.mac
            && self.mtu == want.mtu
            && self.up == want.up
            && learning(self) == learning(want)
            && self.has_tunnel_of(want)
    }

    /// Whether the tunnel behind it is the one wanted. Another one begins with an empty table.
    pub(crate) fn has_tunnel_of(&self, want: &Self) -> bool {
        match (&self.kind, &want.kind) {
            (LinkKind::Tun(have), LinkKind::Tun(want)) => have == want,
            (LinkKind::Vxlan(_) | LinkKind::Tun(_) | LinkKind::Other(_), _) => true,
        }
    }
}

impl Vxlan {
    /// Whether its socket can be that of a device of ours, too (`vxlan_find_sock` of drivers/net/vxlan). Ours take nothing extra.
    fn shares_port_with(&self, ours: &LinkKind) -> bool {
        match ours {
            LinkKind::Vxlan(ours) => self.extra == ours.extra && self.gbp == ours.gbp,
            LinkKind::Tun(_) | LinkKind::Other(_) => false,
        }
    }

    /// Whether the kernel refuses `other` while this device is there (`vxlan_vni_in_use` of drivers/net/vxlan).
    fn excludes(&self, other: &Self) -> bool {
        self.vni == other.vni
            && self.port_in_use() == other.port_in_use()
            && self.underlay() == other.underlay()
            && self.gbp == other.gbp
    }
}

/// Both maps in one pass, in order of key.
fn merge<'a, K: Ord, V>(
    have: &'a BTreeMap<K, V>,
    want: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let (mut have, mut want) = (have.iter().peekable(), want.iter().peekable());
    std::iter::from_fn(move || {
        let first = match (have.peek(), want.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let left = have.next_if(|_| first != Ordering::Greater);
        let right = want.next_if(|_| first != Ordering::Less);
        let (key, _) = left.or(right)?;
        Some((key, left.map(|(_, value)| value), right.map(|(_, value)| value)))
    })
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for conflict in &self.conflicts {
            writeln!(f, "CONFLICT {conflict}")?;
        }
        if !self.detours.is_empty() {
            writeln!(f, "WARNING {}", self.detours)?;
        }
        Ok(())
    }
}

mod settings;
#[cfg(test)]
pub(crate) mod tests;
