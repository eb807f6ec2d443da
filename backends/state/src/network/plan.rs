//! The changes from the observed to the desired state, in an order in which no peer is ever unreachable in between.
//!
//! Additions come first: links, settings, addresses, FDB, FDB of bridges, neighbours, forwarding, routes, so that no entry refers to one that does not
//! exist yet. Deletions follow in reverse order (docs/adr/0003-order-of-operations.md).

mod bridge_fdb;
mod foreign;
mod keys;
mod links;
mod settings;
mod since;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use wire_net::{Family, LinkName};

pub(super) use self::links::made_anew as links_made_anew;
pub use self::{foreign::ForeignRoutes, keys::Key};
use self::{
    keys::{All, Selection, Touched, touched},
    links::{LinkEffects, LinkOp, LinkPlan},
};
use super::{apart, difference::differences, merge, on_link::OnLink};
use crate::{
    Before, Clash, Conflict, DesiredNet, Detours, Difference, KernelOp, Namespace, NetworkPart, NextHop, ObservedNet,
    ObservedRoute, Op, Order, Owner, PerNamespace, Plan, Resource, RouteKey, Scope, Share, TunnelOp,
};

/// The resource of a host's network: links, settings, addresses, FDB, neighbours, forwarding, routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {}

/// Problems with foreign entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Foreign entries that prevent ours.
    pub conflicts: Vec<Conflict>,
    /// Foreign routes that take packets for peers. They do not prevent entries of ours.
    pub detours: Detours,
}

impl Resource for Network {
    type Observed = PerNamespace<ObservedNet>;
    type Desired = PerNamespace<DesiredNet>;
    type Scope = PerNamespace<Scope>;
    type Op = Op;
    type Findings = Findings;
    type Index = ForeignRoutes;
    type Part = NetworkPart;

    fn merge(shares: &[Share<'_, Self::Desired>]) -> (Self::Desired, Vec<Clash>) {
        merge::merge(shares)
    }

    fn merge_since(
        before: &[Share<'_, Self::Desired>],
        merged: &Self::Desired,
        now: &[Share<'_, Self::Desired>],
    ) -> Option<Self::Desired> {
        merge::merge_since(before, merged, now)
    }

    fn plan(observed: &Self::Observed, desired: &Self::Desired) -> Plan<Self> {
        plan(observed, desired)
    }

    fn index(observed: &Self::Observed) -> ForeignRoutes {
        ForeignRoutes::of(observed)
    }

    fn plan_since(observed: &Self::Observed, before: Before<'_, Self>, desired: &Self::Desired) -> Option<Plan<Self>> {
        let touched = touched(observed, desired, &since::changed_keys(before.reached, desired)?);
        let links = match before.has_conflicts {
            // Any link may be blocked.
            true => links::plan(observed, desired),
            false => links::plan_of(observed, desired, &keys::links_of(&touched)),
        };
        Some(plan_of_touched(observed, before.index, desired, links, &touched))
    }

    fn part_of_scope(observed: &Self::Observed, before: &Self::Scope, after: &Self::Scope) -> Option<NetworkPart> {
        NetworkPart::of_scope(observed, before, after)
    }

    fn part_of_changes(observed: &Self::Observed, ops: &[Op]) -> Option<NetworkPart> {
        NetworkPart::of_changes(observed, ops)
    }

    fn conflicts(findings: &Findings) -> Vec<String> {
        findings.conflicts.iter().map(ToString::to_string).collect()
    }

    fn differences(observed: &Self::Observed, desired: &Self::Desired) -> Vec<Difference> {
        differences(observed, desired)
    }

    fn apply(observed: &mut Self::Observed, op: &Op) {
        observed.apply(op);
    }

    /// Changes of links are made ahead of all others. Only a link that is removed and not made anew keeps its place, which is last.
    fn order(op: &Op, desired: &Self::Desired) -> Order {
        if !op.is_link() {
            return Order::Plain;
        }
        let goes = op
            .deletes_link()
            .is_some_and(|place| !desired.get(place.namespace).is_some_and(|net| net.links.contains_key(&place.name)));
        if goes { Order::ReadBack } else { Order::Ahead }
    }

    /// A container that cannot have its link stops no other, and a network that cannot have its bridge stops no other network.
    fn is_apart(failed: &Op) -> bool {
        apart::apart(failed).is_some()
    }

    fn waits_for(op: &Op, failed: &Op) -> bool {
        apart::apart(failed).is_none_or(|links| apart::concerns(op, &links))
    }
}

/// The operations that turn `have` into `want`. Foreign entries of `have` are never changed.
#[must_use]
pub fn plan(have: &PerNamespace<ObservedNet>, want: &PerNamespace<DesiredNet>) -> Plan<Network> {
    planned(have, &ForeignRoutes::of(have), want, links::plan(have, want), |_| &All)
}

/// The part of [`plan`] for `keys` and the entries that depend on them, with all its findings. All links are compared, but only these
/// other entries. `foreign` are the foreign routes of `have`.
#[must_use]
pub fn plan_of(
    have: &PerNamespace<ObservedNet>,
    foreign: &ForeignRoutes,
    want: &PerNamespace<DesiredNet>,
    keys: &BTreeSet<Key>,
) -> Plan<Network> {
    plan_of_touched(have, foreign, want, links::plan(have, want), &touched(have, want, keys))
}

fn plan_of_touched(
    have: &PerNamespace<ObservedNet>,
    foreign: &ForeignRoutes,
    want: &PerNamespace<DesiredNet>,
    links: LinkPlan,
    touched: &BTreeMap<Namespace, Touched>,
) -> Plan<Network> {
    let nothing = Touched::default();
    planned(have, foreign, want, links, |namespace| touched.get(&namespace).unwrap_or(&nothing))
}

fn planned<'s, S: Selection + 's>(
    have: &PerNamespace<ObservedNet>,
    foreign: &ForeignRoutes,
    want: &PerNamespace<DesiredNet>,
    LinkPlan { ops, removals, mut conflicts, effects }: LinkPlan,
    selection: impl Fn(Namespace) -> &'s S,
) -> Plan<Network> {
    let selected = |op: &LinkOp| selection(op.place.namespace).has_link(op.place.name);
    let mut all: Vec<Op> = ops.into_iter().filter(selected).map(|op| op.op).collect();
    let (nothing, no_effects) = (DesiredNet::default(), LinkEffects::default());
    let (mut deletions, mut detours) = (Vec::new(), Detours::default());
    for (namespace, have) in have.iter() {
        let want = want.get(namespace).unwrap_or(&nothing);
        let links = effects.get(&namespace).unwrap_or(&no_effects);
        conflicts.extend(settings::conflicts(namespace, have, want));
        let selection = selection(namespace);
        // One list for all: of a whole network it is the largest thing there is.
        all.reserve(want.entries_of_peers().saturating_sub(have.entries_of_peers()));
        let mut builder = Builder { namespace, have, want, links, puts: all, deletions: Vec::new() };
        builder.entries(selection);
        builder.routes(selection);
        conflicts.extend(builder.route_conflicts(foreign.of_namespace(namespace)));
        deletions.push(builder.deletions);
        all = builder.puts;
        if namespace == Namespace::Host {
            detours = foreign.detours(have, want);
        }
    }
    all.extend(deletions.into_iter().flatten());
    all.extend(removals.into_iter().filter(selected).map(|op| op.op));
    Plan { ops: all, findings: Findings { conflicts, detours } }
}

/// Collects the changes of one namespace's entries.
struct Builder<'a> {
    namespace: Namespace,
    have: &'a ObservedNet,
    want: &'a DesiredNet,
    links: &'a LinkEffects,
    puts: Vec<Op>,
    /// In the reverse order of the tables: the entries of the first table are deleted last.
    deletions: Vec<Op>,
}

impl Builder<'_> {
    fn entries(&mut self, selection: &impl Selection) {
        let (namespace, have, want, links) = (self.namespace, self.have, self.want, self.links);
        let kernel = |op: KernelOp| Op::Kernel(namespace, op);
        let settings = settings::changes(have, want, links, |setting| selection.has_setting(setting)).into_iter();
        self.puts.extend(settings.map(|(setting, value)| kernel(KernelOp::Set(setting, value))));
        self.compare(
            &links.absent,
            Table {
                have: selection.members(&have.addresses, |all| &all.addresses),
                want: selection.members(&want.addresses, |all| &all.addresses),
            },
            |key, ()| kernel(KernelOp::PutAddress(*key)),
            |key| kernel(KernelOp::DeleteAddress(*key)),
        );
        self.compare(
            &links.absent,
            Table { have: selection.rows(&have.fdb, |all| &all.fdb), want: selection.rows(&want.fdb, |all| &all.fdb) },
            |key, to| kernel(KernelOp::PutFdb(*key, *to)),
            |key| kernel(KernelOp::DeleteFdb(*key)),
        );
        self.compare(
            &links.absent,
            Table {
                have: selection.elements(&have.flooding, |all| &all.flooding),
                want: selection.elements(&want.flooding, |all| &all.flooding),
            },
            |entry, ()| kernel(KernelOp::PutFlood(*entry)),
            |entry| kernel(KernelOp::DeleteFlood(*entry)),
        );
        self.bridge_fdb(selection);
        self.compare(
            &links.flushed,
            Table {
                have: selection.rows(&have.neighbours, |all| &all.neighbours),
                want: selection.rows(&want.neighbours, |all| &all.neighbours),
            },
            |key, mac| kernel(KernelOp::PutNeighbour(*key, *mac)),
            |key| kernel(KernelOp::DeleteNeighbour(*key)),
        );
        self.compare(
            &links.flushed,
            Table {
                have: selection.rows(&have.forwarding, |all| &all.forwarding),
                want: selection.rows(&want.forwarding, |all| &all.forwarding),
            },
            |key, forward| Op::Tunnel(TunnelOp::PutForward(*key, *forward)),
            |key| Op::Tunnel(TunnelOp::DeleteForward(*key)),
        );
    }

    /// Compares one table. The entries on links in `gone` no longer exist.
    fn compare<'t, K: OnLink + Ord + 't, V: PartialEq + 't>(
        &mut self,
        gone: &BTreeSet<LinkName>,
        table: Table<impl Iterator<Item = (&'t K, &'t V)>, impl Iterator<Item = (&'t K, &'t V)>>,
        put: impl Fn(&K, &V) -> Op,
        delete: impl Fn(&K) -> Op,
    ) {
        let mut deletions = Vec::new();
        for (key, have, want) in merge(table.have, table.want) {
            let link = key.link();
            let have = have.filter(|_| !gone.contains(&link));
            if self.links.blocked.contains(&link) || have == want {
                continue;
            }
            match want {
                Some(want) => self.puts.push(put(key, want)),
                None if self.links.leaving.contains(&link) => {}
                None => deletions.push(delete(key)),
            }
        }
        self.deletions.splice(0..0, deletions);
    }

    fn routes(&mut self, selection: &impl Selection) {
        let (have, want, form) = (self.have, self.want, self.want.route_form);
        let (have, want) = (selection.routes(&have.routes), selection.routes(&want.routes));
        let mut deletions = Vec::new();
        for (key, have, want) in merge(have, want) {
            match (self.route_left(have), self.route_to_be(want)) {
                (Some(found), Some(want)) if found.is_flannels(want) => self.put(KernelOp::ReplaceRoute(*key, *want)),
                (Some(have), Some(want)) if have.serves_as(want, form) => {}
                // A conflict, which is reported apart.
                (Some(found), Some(_)) if found.owner == Owner::Foreign => {}
                (Some(have), Some(want)) if self.bars(key, have) => {
                    self.put(KernelOp::DeleteRoute(*key, Box::new(have.clone())));
                    self.put(KernelOp::AddRoute(*key, *want));
                }
                (Some(_), Some(want)) => self.put(KernelOp::ReplaceRoute(*key, *want)),
                (None, Some(want)) => self.put(KernelOp::AddRoute(*key, *want)),
                (Some(have), None) if have.owner == Owner::Ours && !self.goes_with_its_link(have) => {
                    let delete = KernelOp::DeleteRoute(*key, Box::new(have.clone()));
                    if self.bars(key, have) {
                        self.put(delete);
                    } else {
                        deletions.push(Op::Kernel(self.namespace, delete));
                    }
                }
                (Some(_) | None, None) => {}
            }
        }
        self.deletions.splice(0..0, deletions);
    }

    /// True if the kernel refuses a route while this one is there: it looks up the gateway of an IPv6 route, also of one with `onlink`, and
    /// another link must not lead there (`ip6_route_check_nh_onlink`). Such a route goes first; routes are in an order in which it comes
    /// before those that it covers.
    fn bars(&self, key: &RouteKey, have: &ObservedRoute) -> bool {
        let Some(link) = have.via.link().filter(|_| key.destination.family() == Family::V6) else { return false };
        let covered = self.want.routes.range(RouteKey { metric: 0, ..*key }..);
        let covered =
            covered.take_while(|(other, _)| other.table == key.table && key.destination.covers(other.destination));
        covered.map(|(_, hop)| hop).any(|hop| hop.is_onlink_beside(link, key.destination))
    }

    /// The observed route, unless the kernel removes it earlier together with its link.
    fn route_left<'r>(&self, route: Option<&'r ObservedRoute>) -> Option<&'r ObservedRoute> {
        route.filter(|route| !route.via.link().is_some_and(|link| self.links.absent.contains(&link)))
    }

    /// The desired route, unless its link is blocked.
    fn route_to_be<'r>(&self, hop: Option<&'r NextHop>) -> Option<&'r NextHop> {
        hop.filter(|hop| !hop.link().is_some_and(|link| self.links.blocked.contains(&link)))
    }

    /// Whether a route must not be deleted here: the kernel removes it together with its link, or a foreign link has the name of its link.
    fn goes_with_its_link(&self, route: &ObservedRoute) -> bool {
        let LinkEffects { leaving, blocked, .. } = self.links;
        route.via.link().is_some_and(|link| leaving.contains(&link) || blocked.contains(&link))
    }

    fn put(&mut self, op: KernelOp) {
        self.puts.push(Op::Kernel(self.namespace, op));
    }
}

/// The selected rows of one table, as observed and as desired.
struct Table<H, W> {
    have: H,
    want: W,
}

/// Goes through two tables together in the order of their keys.
fn merge<'a, K: Ord + 'a, A: 'a, B: 'a>(
    have: impl Iterator<Item = (&'a K, &'a A)>,
    want: impl Iterator<Item = (&'a K, &'a B)>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut have, mut want) = (have.peekable(), want.peekable());
    std::iter::from_fn(move || {
        let first = match (have.peek(), want.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let left = have.next_if(|_| first != Ordering::Greater);
        let right = want.next_if(|_| first != Ordering::Less);
        let key = left.map(|(key, _)| key).or(right.map(|(key, _)| key))?;
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
