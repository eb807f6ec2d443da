//! The order in which links are made: each after those it needs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{DesiredLink, DesiredNet, LinkPlace, PerNamespace};

/// The order in which desired links are made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) links: Vec<LinkPlace>,
    /// The links that cannot be made, since they need each other in a circle or need a link of such a circle.
    pub(crate) circular: BTreeSet<LinkPlace>,
}

/// The desired links that must be made before this one.
pub(crate) fn needs(place: LinkPlace, link: &DesiredLink) -> impl Iterator<Item = LinkPlace> {
    let master = link.master.map(|name| LinkPlace { namespace: place.namespace, name });
    link.kind.needs(place).into_iter().chain(master)
}

/// The order of all links.
pub(crate) fn by_need(want: &PerNamespace<DesiredNet>) -> Ordered {
    let links = want.iter().flat_map(|(namespace, net)| {
        net.links.iter().map(move |(name, link)| (LinkPlace { namespace, name: *name }, link))
    });
    ordered(&links.collect::<Vec<_>>())
}

/// The order of these links and all that they need, which is the one that they have among all links.
pub(crate) fn by_need_of(want: &PerNamespace<DesiredNet>, links: impl Iterator<Item = LinkPlace>) -> Ordered {
    let mut found: BTreeMap<LinkPlace, &DesiredLink> = BTreeMap::new();
    let mut next: Vec<LinkPlace> = links.collect();
    while let Some(place) = next.pop() {
        let Some(link) = want.get(place.namespace).and_then(|net| net.links.get(&place.name)) else { continue };
        if found.insert(place, link).is_none() {
            next.extend(needs(place, link));
        }
    }
    ordered(&found.into_iter().collect::<Vec<_>>())
}

/// Orders links with Kahn's algorithm. Links that could come next in any order are taken by namespace and name, as `all` has them: the place of a
/// link there says which comes first.
fn ordered(all: &[(LinkPlace, &DesiredLink)]) -> Ordered {
    // A needed link that is not desired is not waited for: it exists already or never will.
    let number_of = |place: LinkPlace| all.binary_search_by_key(&place, |(other, _)| *other).ok();
    let mut waits_for = vec![0_usize; all.len()];
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
    for (number, (place, link)) in all.iter().enumerate() {
        for need in needs(*place, link).filter_map(number_of) {
            needed_by[need].push(number);
            waits_for[number] += 1;
        }
    }
    let mut ready: BTreeSet<usize> = (0..all.len()).filter(|number| waits_for[*number] == 0).collect();
    let mut links = Vec::with_capacity(all.len());
    while let Some(number) = ready.pop_first() {
        links.push(all[number].0);
        for next in &needed_by[number] {
            waits_for[*next] -= 1;
            if waits_for[*next] == 0 {
                ready.insert(*next);
            }
        }
    }
    let circular = all.iter().zip(&waits_for).filter(|(_, waits)| **waits > 0).map(|((place, _), _)| *place);
    Ordered { links, circular: circular.collect() }
}

#[cfg(test)]
mod tests {
    use wire_net::Mtu;

    use super::*;
    use crate::{
        Bridge, DesiredKind, KernelKind, LinkRef, Namespace, Veth, Vlan,
        samples::{device, name},
    };

    fn kernel(kind: KernelKind) -> DesiredLink {
        DesiredLink::new(DesiredKind::Kernel(kind), Mtu(1450))
    }

    fn vlan(parent: LinkPlace) -> DesiredLink {
        kernel(KernelKind::Vlan(Vlan { parent: LinkRef::Desired(parent), id: 7 }))
    }

    fn places(ordered: &[LinkPlace]) -> Vec<String> {
        ordered.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_comes_after_its_parent_its_bridge_and_the_end_that_makes_its_pair() {
        let guest = Namespace::Guest(7);
        let mut host = DesiredNet::default();
        host.links.insert(name("a.7"), vlan(LinkPlace::in_host(name("z-bridge"))));
        host.links.insert(name("b-port"), DesiredLink { master: Some(name("z-bridge")), ..device(1) });
        host.links.insert(name("z-bridge"), kernel(KernelKind::Bridge(Bridge::default())));
        let (here, there) = (LinkPlace::in_host(name("wp1")), LinkPlace { namespace: guest, name: name("eth1") });
        host.links.insert(here.name, kernel(KernelKind::Veth(Veth { peer: there })));
        let mut inside = DesiredNet::default();
        inside.links.insert(name("eth1.7"), vlan(there));
        inside.links.insert(there.name, kernel(KernelKind::Veth(Veth { peer: here })));
        let ordered = by_need(&[(Namespace::Host, host), (guest, inside)].into_iter().collect());
        assert_eq!(
            places(&ordered.links),
            ["wp1", "z-bridge", "a.7", "b-port", "eth1 in namespace 7", "eth1.7 in namespace 7"]
        );
        assert_eq!(ordered.circular, BTreeSet::new());
    }

    #[test]
    fn links_that_need_each_other_in_a_circle_are_listed_apart() {
        let mut host = DesiredNet::default();
        for (link, parent) in [("a", "b"), ("b", "a"), ("c", "a"), ("d", "d"), ("e", "f"), ("f", "unknown")] {
            host.links.insert(name(link), vlan(LinkPlace::in_host(name(parent))));
        }
        let ordered = by_need(&PerNamespace::host(host));
        assert_eq!(places(&ordered.links), ["f", "e"]);
        let circular: Vec<LinkPlace> = ordered.circular.into_iter().collect();
        assert_eq!(places(&circular), ["a", "b", "c", "d"]);
    }
}
