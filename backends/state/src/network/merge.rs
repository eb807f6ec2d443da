//! The networks of several networks of a host, as one. Pure.

mod since;

use std::collections::{BTreeMap, BTreeSet};

use wire_net::{Family, NetworkName, Vni};

pub(super) use self::since::merge_since;
use super::{DesiredForm, DesiredKind, DesiredLink, DesiredNet, KernelKind, LinkPlace, Namespace, PerNamespace};
use crate::merge::{Clash, Clashes, Share, elements};

type Wanted<'a> = Share<'a, PerNamespace<DesiredNet>>;

/// The links that each network does not get. Its entries on them are left out too, since they would be put on another network's link.
type Refused<'a> = BTreeMap<&'a NetworkName, BTreeSet<LinkPlace>>;

/// The desired state of all `shares`, and the keys that several of them want with different values.
pub(super) fn merge(shares: &[Wanted<'_>]) -> (PerNamespace<DesiredNet>, Vec<Clash>) {
    let mut clashes = Clashes::default();
    let refused = refused_links(shares, &mut clashes);
    let namespaces: BTreeSet<Namespace> =
        shares.iter().flat_map(|share| share.desired.iter().map(|(namespace, _)| namespace)).collect();
    let mut merged = Vec::with_capacity(namespaces.len());
    for namespace in namespaces {
        let left = shares.iter().filter_map(|share| Some((share.network, left(share, namespace, &refused)?)));
        let left: Vec<(&NetworkName, DesiredNet)> = left.collect();
        let shares: Vec<Share<'_, DesiredNet>> =
            left.iter().map(|(network, desired)| Share { network, desired }).collect();
        merged.push((namespace, merge_tables(namespace, &shares, &mut clashes)));
    }
    (merged.into_iter().collect(), clashes.all())
}

/// A network's part of one namespace, without the links that it does not get.
fn left(share: &Wanted<'_>, namespace: Namespace, refused: &Refused<'_>) -> Option<DesiredNet> {
    let mut desired = share.desired.get(namespace)?.clone();
    let refused = refused.get(share.network).into_iter().flatten();
    refused.filter(|place| place.namespace == namespace).for_each(|place| desired.forget_link(place.name));
    Some(desired)
}

/// Finds the links that a network does not get: another has the name, or the VNI and UDP port, which the kernel allows once.
fn refused_links<'a>(shares: &[Wanted<'a>], clashes: &mut Clashes) -> Refused<'a> {
    let mut refused = Refused::new();
    let mut names: BTreeMap<LinkPlace, (&NetworkName, &DesiredLink)> = BTreeMap::new();
    let mut vnis: BTreeMap<_, (&NetworkName, LinkPlace)> = BTreeMap::new();
    for share in shares {
        for (place, link) in links_of(share) {
            let vni = vni_of(link).map(|(vni, port, family)| (place.namespace, vni, port, family));
            let same_name = names.get(&place).filter(|(_, held)| *held != link);
            let same_vni = vni.and_then(|vni| vnis.get(&vni)).filter(|(_, held)| *held != place);
            match (same_name, same_vni, vni) {
                (Some((holder, _)), _, _) => clashes.add(format!("the link {place}"), holder, share.network),
                (None, Some((holder, _)), Some((_, vni, port, _))) => {
                    clashes.add(format!("VNI {vni} on UDP port {port}"), holder, share.network);
                }
                (None, _, vni) => {
                    names.entry(place).or_insert((share.network, link));
                    if let Some(vni) = vni {
                        vnis.entry(vni).or_insert((share.network, place));
                    }
                    continue;
                }
            }
            refused.entry(share.network).or_default().insert(place);
        }
    }
    refused
}

fn links_of<'a>(share: &Wanted<'a>) -> impl Iterator<Item = (LinkPlace, &'a DesiredLink)> {
    let desired = share.desired;
    desired.iter().flat_map(|(namespace, net)| {
        net.links.iter().map(move |(name, link)| (LinkPlace { namespace, name: *name }, link))
    })
}

/// The VNI and UDP port of a VXLAN device, and the family of its outer packets: the sockets of two families are two (`vxlan_vni_in_use` of
/// drivers/net/vxlan).
fn vni_of(link: &DesiredLink) -> Option<(Vni, u16, Option<Family>)> {
    let DesiredKind::Kernel(KernelKind::Vxlan(vxlan)) = &link.kind else { return None };
    Some((vxlan.vni, vxlan.port_in_use(), vxlan.local.map(Family::of)))
}

/// The tables of one namespace.
fn merge_tables(namespace: Namespace, shares: &[Share<'_, DesiredNet>], clashes: &mut Clashes) -> DesiredNet {
    let shown = |what: &str, key: String| format!("{what} {key}{namespace}");
    DesiredNet {
        // Two links of one name that differ are refused before.
        links: clashes.rows(shares, |net| &net.links, |name| shown("the link", name.to_string())),
        addresses: elements(shares, |net| &net.addresses),
        fdb: clashes.rows(shares, |net| &net.fdb, |key| shown("the FDB entry", key.to_string())),
        flooding: elements(shares, |net| &net.flooding),
        bridge_fdb: clashes.rows(shares, |net| &net.bridge_fdb, |key| shown("the bridge FDB entry", key.to_string())),
        neighbours: clashes.rows(shares, |net| &net.neighbours, |key| shown("the neighbour", key.to_string())),
        forwarding: clashes.rows(shares, |net| &net.forwarding, |key| shown("forwarding to", key.to_string())),
        routes: clashes.rows(shares, |net| &net.routes, |key| shown("the route", key.to_string())),
        route_form: if shares.iter().any(|share| share.desired.route_form == DesiredForm::Plain) {
            DesiredForm::Plain
        } else {
            DesiredForm::Any
        },
        settings: clashes.rows(shares, |net| &net.settings, |setting| shown("the setting", setting.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire_net::Mtu;

    use super::*;
    use crate::{
        DesiredVxlan, LeadsToLink, NextHop, Resource, Setting,
        network::plan::{Network, tests::any_want},
        samples::{change_each, device, state},
    };

    fn names() -> [NetworkName; 2] {
        [NetworkName::default(), "blue".parse().unwrap()]
    }

    fn merged(one: &DesiredNet, other: &DesiredNet) -> (DesiredNet, Vec<String>) {
        let [first, second] = names();
        let wanted = [one, other].map(|net| PerNamespace::host(net.clone()));
        let shares = [Share { network: &first, desired: &wanted[0] }, Share { network: &second, desired: &wanted[1] }];
        let (merged, clashes) = Network::merge(&shares);
        (merged.get(Namespace::Host).cloned().unwrap_or_default(), clashes.iter().map(ToString::to_string).collect())
    }

    /// A network like `state`, on a device of its own.
    fn on_device(name: &str, vni: u32, mut net: DesiredNet) -> DesiredNet {
        let (from, to) = ("flannel.1".parse().unwrap(), name.parse().unwrap());
        net.links.remove(&from);
        let vxlan = DesiredVxlan { port: Some(8472), ..DesiredVxlan::new(Vni::new(vni).unwrap()) };
        net.links.insert(to, DesiredLink::new(DesiredKind::Kernel(KernelKind::Vxlan(vxlan)), Mtu(1450)));
        net.addresses.clear();
        net.fdb.clear();
        net.neighbours.clear();
        change_each(&mut net.routes, |hop| *hop = NextHop::Link(to));
        net
    }

    #[test]
    fn networks_that_want_different_keys_are_both_there() {
        let (one, other) = (state(&[(2, 20, 102)]), on_device("blue.7", 7, state(&[(3, 30, 103)])));
        let (merged, clashes) = merged(&one, &other);
        assert_eq!(clashes, Vec::<String>::new());
        assert_eq!(merged.routes.len(), one.routes.len() + other.routes.len());
        assert_eq!(merged.links.len(), 2);
    }

    #[test]
    fn a_route_that_both_want_is_of_the_first_and_all_else_of_both_stays() {
        let (one, other) = (state(&[(2, 20, 102)]), on_device("blue.7", 7, state(&[(2, 20, 102), (3, 30, 103)])));
        let (merged, clashes) = merged(&one, &other);
        let [clash] = &clashes[..] else { panic!("{clashes:?}") };
        assert!(clash.starts_with("the networks default and blue both want the route 10.5.2.0/24"), "{clash}");
        assert!(clash.ends_with(": default has it, and blue goes without it"), "{clash}");
        let mut expected = other.routes.clone();
        expected.extend(one.routes.clone());
        assert_eq!(merged.routes, expected);
    }

    #[test]
    fn what_is_on_a_link_that_a_network_does_not_get_is_not_put_on_another_networks_link() {
        let one = state(&[(2, 20, 102)]);
        let mut other = state(&[(3, 30, 103)]);
        other.links.insert("flannel.1".parse().unwrap(), device(7));
        other.settings.insert(Setting::Forwarding(Family::V6), 1);
        let (merged, clashes) = merged(&one, &other);
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert!(clashes[0].contains("both want the link flannel.1"), "{clashes:?}");
        assert_eq!(merged.links, one.links);
        assert_eq!(merged.routes, one.routes);
        assert_eq!(merged.settings.get(&Setting::Forwarding(Family::V6)), Some(&1));
    }

    #[test]
    fn the_same_vni_on_the_same_port_is_a_clash_though_the_names_differ() {
        let one = on_device("red.7", 7, state(&[(2, 20, 102)]));
        let other = on_device("blue.7", 7, state(&[(3, 30, 103)]));
        let (merged, clashes) = merged(&one, &other);
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert!(clashes[0].contains("both want VNI 7 on UDP port 8472"), "{clashes:?}");
        assert_eq!(merged, one);
    }

    /// flannel's two devices of a network with both families.
    #[test]
    fn the_same_vni_and_port_over_two_families_is_no_clash() {
        let with_local = |name: &str, local: &str| {
            let mut net = on_device(name, 7, state(&[]));
            for link in net.links.values_mut() {
                if let DesiredKind::Kernel(KernelKind::Vxlan(vxlan)) = &mut link.kind {
                    vxlan.local = Some(local.parse().unwrap());
                }
            }
            net
        };
        let (mut both, v6) = (with_local("flannel.7", "192.0.2.1"), with_local("flannel-v6.7", "2001:db8::1"));
        both.links.extend(v6.links);
        let (merged, clashes) = merged(&both, &on_device("wv.5000", 5000, state(&[])));
        assert_eq!((merged.links.len(), clashes), (3, Vec::new()));
    }

    fn shares<'a>(names: &'a [NetworkName; 3], of: &'a BTreeMap<usize, PerNamespace<DesiredNet>>) -> Vec<Wanted<'a>> {
        of.iter().map(|(number, desired)| Share { network: &names[*number], desired }).collect()
    }

    proptest! {
        /// Whatever each of three networks wants before and now, and whether it is there: unless two clash, what is brought forward is what is
        /// merged from all.
        #[test]
        fn what_is_brought_forward_is_what_is_merged(
            before in prop::collection::btree_map(0usize..3, (any_want(), 7u32..10), 0..4),
            now in prop::collection::btree_map(0usize..3, (any_want(), 7u32..10), 0..4),
        ) {
            let names: [NetworkName; 3] = [NetworkName::default(), "blue".parse().unwrap(), "red".parse().unwrap()];
            let own = |(number, (net, vni)): (&usize, &(DesiredNet, u32))| {
                (*number, PerNamespace::host(on_device(&format!("x.{number}"), *vni, net.clone())))
            };
            let (before, now): (BTreeMap<_, _>, BTreeMap<_, _>) = (before.iter().map(own).collect(), now.iter().map(own).collect());
            let (before, now) = (shares(&names, &before), shares(&names, &now));
            let (merged, clashes) = merge(&before);
            prop_assume!(clashes.is_empty());
            let (expected, clashes) = merge(&now);
            match merge_since(&before, &merged, &now) {
                Some(brought) => {
                    prop_assert!(clashes.is_empty(), "{:?}", clashes);
                    prop_assert_eq!(brought, expected);
                }
                None => prop_assert!(!clashes.is_empty()),
            }
        }

        #[test]
        fn a_network_alone_or_twice_is_itself(net in any_want()) {
            prop_assert_eq!(merged(&net, &DesiredNet::default()), (net.clone(), Vec::new()));
            prop_assert_eq!(merged(&net, &net), (net.clone(), Vec::new()));
        }

        /// Whatever two networks want: the first has all that it wants, and of the second only that is missing which clashes, or is on a
        /// link that does.
        #[test]
        fn nothing_is_lost_but_what_clashes(one in any_want(), other in any_want()) {
            let (merged, clashes) = merged(&one, &other);
            for (key, hop) in &one.routes {
                prop_assert_eq!(merged.routes.get(key), Some(hop));
            }
            for (key, hop) in &other.routes {
                let is_there = merged.routes.get(key) == Some(hop);
                let link_clashes = LeadsToLink::link(hop).is_some_and(|link| merged.links.get(&link) != other.links.get(&link));
                let route_clashes = one.routes.get(key).is_some_and(|held| held != hop);
                prop_assert!(is_there || link_clashes || route_clashes);
                prop_assert!(!route_clashes || link_clashes || clashes.iter().any(|clash| clash.contains(&key.to_string())));
            }
            for (name, link) in &other.links {
                prop_assert!(merged.links.get(name) == Some(link) || !clashes.is_empty());
            }
        }
    }
}
