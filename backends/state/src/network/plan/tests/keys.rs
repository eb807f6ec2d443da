//! The plan of some keys is the part of the whole plan for these keys and the entries that depend on them.

use super::{site::any_site, *};
use crate::{LinkPlace, network::order, sim::reached};

/// The links that the changed entry is on.
fn links_of(op: &Op, have: &PerNamespace<ObservedNet>) -> Vec<LinkPlace> {
    let on = |namespace, name: LinkName| vec![LinkPlace { namespace, name }];
    match op.key() {
        Key::Link(_) => vec![],
        Key::Setting(namespace, setting) => setting.link().map(|name| on(namespace, name)).unwrap_or_default(),
        Key::Address(namespace, key) => on(namespace, key.link),
        Key::Fdb(namespace, key) => on(namespace, key.link),
        Key::Flood(namespace, key) => on(namespace, key.link),
        Key::BridgeFdb(namespace, key) => {
            let ports = match op {
                Op::Kernel(_, KernelOp::PutBridgeFdb(_, port) | KernelOp::DeleteBridgeFdb(_, port)) => Some(*port),
                Op::Kernel(_, _) | Op::Tunnel(_) => None,
            };
            let before = have.get(namespace).and_then(|net| net.bridge_fdb.get(&key)).copied();
            let links = [Some(key.bridge), before, ports].into_iter().flatten();
            links.flat_map(|name| on(namespace, name)).collect()
        }
        Key::Neighbour(namespace, key) => on(namespace, key.link),
        Key::Forward(key) => on(Namespace::Host, key.link),
        Key::Route(namespace, key) => {
            let before = have.get(namespace).and_then(|net| net.routes.get(&key)).and_then(|route| route.via.link());
            let after = match op {
                Op::Kernel(_, KernelOp::AddRoute(_, hop) | KernelOp::ReplaceRoute(_, hop)) => hop.link(),
                Op::Kernel(_, _) | Op::Tunnel(_) => None,
            };
            before.into_iter().chain(after).flat_map(|name| on(namespace, name)).collect()
        }
    }
}

/// The links in `keys`, those that depend on them, those that depend on these, and so on.
fn links_touched(
    have: &PerNamespace<ObservedNet>,
    want: &PerNamespace<DesiredNet>,
    keys: &BTreeSet<Key>,
) -> BTreeSet<LinkPlace> {
    let mut links: BTreeSet<LinkPlace> =
        keys.iter().filter_map(|key| if let Key::Link(place) = key { Some(*place) } else { None }).collect();
    loop {
        let before = links.len();
        for (namespace, net) in have.iter() {
            for (name, link) in &net.links {
                let lower = link.bound_to().filter(|id| links.iter().any(|place| have.id(*place) == Some(*id)));
                links.extend(lower.map(|_| LinkPlace { namespace, name: *name }));
            }
        }
        for (namespace, net) in want.iter() {
            for (name, link) in &net.links {
                let place = LinkPlace { namespace, name: *name };
                if order::needs(place, link).any(|need| links.contains(&need)) {
                    links.insert(place);
                }
            }
        }
        if links.len() == before {
            return links;
        }
    }
}

fn assert_cut(have: &PerNamespace<ObservedNet>, want: &PerNamespace<DesiredNet>, chosen: &[prop::sample::Index]) {
    let whole = plan(have, want).ops;
    if whole.is_empty() {
        assert_eq!(plan_of(have, &ForeignRoutes::of(have), want, &BTreeSet::new()).ops, []);
        return;
    }
    let keys: BTreeSet<Key> = chosen.iter().map(|index| index.get(&whole).key()).collect();
    let links = links_touched(have, want, &keys);
    let is_touched = |op: &&Op| {
        let (key, on) = (op.key(), links_of(op, have));
        let of_link = matches!(key, Key::Link(place) if links.contains(&place));
        keys.contains(&key) || of_link || on.iter().any(|place| links.contains(place))
    };
    let cut: Vec<Op> = whole.iter().filter(is_touched).cloned().collect();
    assert_eq!(plan_of(have, &ForeignRoutes::of(have), want, &keys).ops, cut, "of {keys:?}");
}

proptest! {
    #[test]
    fn the_plan_of_some_keys_is_the_whole_plan_cut_to_them_and_what_they_touch(
        have in any_site(),
        want in any_site(),
        chosen in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        assert_cut(&reached(&have), &want, &chosen);
    }

    #[test]
    fn the_plan_of_some_keys_among_peers_is_the_whole_plan_cut_to_them(
        have in any_state(),
        want in any_want(),
        chosen in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        assert_cut(&PerNamespace::host(have), &PerNamespace::host(want), &chosen);
    }

    /// What is planned from what was desired before and what is desired now is the plan that compares everything, with all its findings.
    #[test]
    fn the_plan_since_a_state_was_reached_is_the_whole_plan(
        have in any_state(),
        before in any_want(),
        after in any_want(),
        is_merged in any::<bool>(),
    ) {
        let mut have = PerNamespace::host(have);
        let before = PerNamespace::host(before);
        for _ in 0..2 {
            // What the kernel takes along is only known once it is read: links come first.
            plan(&have, &before).ops.iter().for_each(|op| have.apply(op));
        }
        prop_assume!(plan(&have, &before).ops.is_empty());
        // Most often only peers differ, as when leases change.
        let after = PerNamespace::host(if is_merged { with_peers_of(&before, after) } else { after });
        let index = &ForeignRoutes::of(&have);
        let has_conflicts = !plan(&have, &before).findings.conflicts.is_empty();
        let since = Network::plan_since(&have, Before { reached: &before, index, has_conflicts }, &after);
        prop_assert!(since.is_some() || !is_merged);
        if let Some(since) = since {
            prop_assert_eq!(since, plan(&have, &after));
        }
    }
}

/// A site in which one link of another is there instead of the one of its name, or is away if it was the same.
fn with_one_link_of(
    before: &PerNamespace<DesiredNet>,
    other: &PerNamespace<DesiredNet>,
    chosen: &prop::sample::Index,
) -> PerNamespace<DesiredNet> {
    let mut after = before.clone();
    let all = other.iter().flat_map(|(namespace, net)| net.links.iter().map(move |link| (namespace, link)));
    let all: Vec<_> = all.filter(|(namespace, _)| before.get(*namespace).is_some()).collect();
    if all.is_empty() {
        return after;
    }
    let (namespace, (name, link)) = *chosen.get(&all);
    let links = &mut after.get_mut(namespace).unwrap().links;
    if links.insert(*name, link.clone()).as_ref() == Some(link) {
        links.remove(name);
    }
    after
}

proptest! {
    /// Where one link differs, the others, on which nothing is compared, may need it, stand on it or have its place.
    #[test]
    fn the_plan_since_a_site_was_reached_is_that_of_the_keys_that_differ_among_all_links(
        before in any_site(),
        other in any_site(),
        chosen in any::<prop::sample::Index>(),
        is_back in any::<bool>(),
    ) {
        let changed = with_one_link_of(&before, &other, &chosen);
        let (before, after) = if is_back { (changed, before) } else { (before, changed) };
        let have = reached(&before);
        let left = plan(&have, &before);
        prop_assume!(left.ops.is_empty());
        let (index, has_conflicts) = (&ForeignRoutes::of(&have), !left.findings.conflicts.is_empty());
        let since = Network::plan_since(&have, Before { reached: &before, index, has_conflicts }, &after);
        let keys = since::changed_keys(&before, &after);
        prop_assert_eq!(since, keys.map(|keys| plan_of(&have, index, &after, &keys)));
    }
}

/// A state with the tables of peers of another.
fn with_peers_of(before: &PerNamespace<DesiredNet>, peers: DesiredNet) -> DesiredNet {
    let DesiredNet { fdb, flooding, bridge_fdb, neighbours, forwarding, routes, .. } = peers;
    let host = before.get(Namespace::Host).unwrap().clone();
    DesiredNet { fdb, flooding, bridge_fdb, neighbours, forwarding, routes, ..host }
}
