mod links;

use proptest::prelude::*;
use wire_net::{LinkName, MacAddr};

use super::*;
use crate::{
    Address, FdbKey, FloodEntry, FloodPath, ForwardKey, NeighbourKey, Network, ObservedRoute, Owner, Resource as _,
    RouteKey,
    network::plan::tests::{any_state, any_want, site::any_site},
    samples::{change_each, held, mac, name, state, tunnelled},
    sim::reached,
};

/// The sentences about the host's namespace.
fn told(have: &ObservedNet, want: &DesiredNet) -> Vec<String> {
    let differences = Network::differences(&PerNamespace::host(have.clone()), &PerNamespace::host(want.clone()));
    differences.iter().map(ToString::to_string).collect()
}

/// The sentence about a host that was as desired until it was changed.
fn told_after(want: &DesiredNet, change: impl FnOnce(&mut ObservedNet)) -> String {
    let mut have = held(want);
    assert_eq!(told(&have, want), Vec::<String>::new());
    change(&mut have);
    let told = told(&have, want);
    assert_eq!(told.len(), 1, "{told:?}");
    told.concat()
}

/// A VXLAN device with one peer, and an entry of each other kind.
fn wanted() -> DesiredNet {
    let mut want = state(&[(60, 20, 3)]);
    let link = device();
    let to = [192, 0, 2, 3].into();
    want.flooding.insert(FloodEntry { link, mac: MacAddr::new([0; 6]), to, by: FloodPath::default() });
    for family in Family::ALL {
        want.settings.insert(Setting::Forwarding(family), 1);
        want.settings.insert(Setting::LinkForwarding(family, link), 1);
    }
    want.settings.insert(Setting::DisableIpv6(link), 0);
    want
}

fn device() -> LinkName {
    name("flannel.1")
}

fn peer_route() -> RouteKey {
    RouteKey::main("10.5.60.0/24".parse().unwrap())
}

#[test]
fn a_missing_entry_is_named_with_the_host_that_it_leads_to() {
    let want = wanted();
    let unreachable = ": host 192.0.2.3 cannot be reached";
    assert_eq!(told_after(&want, |have| have.routes.clear()), format!("route 10.5.60.0/24 is missing{unreachable}"));
    assert_eq!(
        told_after(&want, |have| have.neighbours.clear()),
        format!("neighbour 10.5.60.0 on flannel.1 is missing{unreachable}")
    );
    assert_eq!(
        told_after(&want, |have| have.fdb.clear()),
        format!("FDB entry 02:00:00:00:00:14 on flannel.1 is missing{unreachable}")
    );
    assert_eq!(
        told_after(&want, |have| have.flooding.clear()),
        "flood entry 00:00:00:00:00:00 to 192.0.2.3 on flannel.1 is missing: flooded frames do not reach host 192.0.2.3"
    );
    assert_eq!(told_after(&want, |have| have.addresses.clear()), "address 10.5.0.0/32 on flannel.1 is missing");
    assert_eq!(
        told_after(&tunnelled(want), |have| have.forwarding.clear()),
        format!("forwarding entry 10.5.60.0/24 on flannel.1 is missing{unreachable}")
    );
}

#[test]
fn an_altered_entry_is_named_with_both_values() {
    let want = wanted();
    let unreachable = ": host 192.0.2.3 cannot be reached";
    let other = [192, 0, 2, 9].into();
    let via = |via: Via| move |have: &mut ObservedNet| have.routes.get_mut(&peer_route()).unwrap().via = via;
    assert_eq!(
        told_after(&want, via(Via::NextHop(NextHop::Link(device())))),
        format!("route 10.5.60.0/24 leads to flannel.1, and should lead to 10.5.60.0 on flannel.1{unreachable}")
    );
    assert_eq!(
        told_after(&want, via(Via::NextHop(NextHop::Blackhole))),
        format!("route 10.5.60.0/24 drops packets, and should lead to 10.5.60.0 on flannel.1{unreachable}")
    );
    assert_eq!(
        told_after(&want, via(Via::Other("nexthop id 7".to_owned()))),
        format!(
            "route 10.5.60.0/24 leads elsewhere (nexthop id 7), and should lead to 10.5.60.0 on flannel.1{unreachable}"
        )
    );
    assert_eq!(
        told_after(&want, |have| change_each(&mut have.neighbours, |found| *found = mac(9))),
        format!(
            "neighbour 10.5.60.0 on flannel.1 has MAC 02:00:00:00:00:09, and should have 02:00:00:00:00:14{unreachable}"
        )
    );
    assert_eq!(
        told_after(&want, |have| change_each(&mut have.fdb, |target| target.to = other)),
        format!(
            "FDB entry 02:00:00:00:00:14 on flannel.1 leads to 192.0.2.9, and should lead to 192.0.2.3{unreachable}"
        )
    );
    assert_eq!(
        told_after(&tunnelled(want.clone()), |have| change_each(&mut have.forwarding, |forward| forward.to = other)),
        format!(
            "forwarding entry 10.5.60.0/24 on flannel.1 leads to 192.0.2.9, and should lead to 192.0.2.3{unreachable}"
        )
    );
    assert_eq!(
        told_after(&want, |have| change_each(&mut have.fdb, |target| target.port = Some(99))),
        format!(
            "FDB entry 02:00:00:00:00:14 on flannel.1 leads to 192.0.2.3 port 99, and should lead to \
             192.0.2.3{unreachable}"
        )
    );
    assert_eq!(
        told_after(&tunnelled(want.clone()), |have| change_each(&mut have.forwarding, |to| to.port = Some(99))),
        format!(
            "forwarding entry 10.5.60.0/24 on flannel.1 sends to port 99, and should send to its own \
             port{unreachable}"
        )
    );
    assert_eq!(
        told_after(&tunnelled(want), |have| change_each(&mut have.forwarding, |forward| forward.mac = None)),
        format!(
            "forwarding entry 10.5.60.0/24 on flannel.1 has no MAC, and should have MAC 02:00:00:00:00:14{unreachable}"
        )
    );
}

#[test]
fn an_unwanted_entry_is_named_alone() {
    let want = wanted();
    let (link, address) = (device(), [10, 5, 9, 0].into());
    let unwanted = |entry: &str| format!("{entry} should not be there");
    assert_eq!(
        told_after(&want, |have| {
            let key = RouteKey { metric: 7, ..RouteKey::main("10.5.9.0/24".parse().unwrap()) };
            have.routes.insert(key, ObservedRoute::ours(NextHop::Blackhole));
        }),
        unwanted("route 10.5.9.0/24 metric 7")
    );
    assert_eq!(
        told_after(&want, |have| {
            have.neighbours.insert(NeighbourKey { link, address }, mac(9));
        }),
        unwanted("neighbour 10.5.9.0 on flannel.1")
    );
    assert_eq!(
        told_after(&want, |have| {
            have.fdb.insert(FdbKey { link, mac: mac(9) }, address.into());
        }),
        unwanted("FDB entry 02:00:00:00:00:09 on flannel.1")
    );
    assert_eq!(
        told_after(&want, |have| {
            let by = FloodPath { port: Some(4789), vni: Some(7), link: Some(3) };
            have.flooding.insert(FloodEntry { link, mac: MacAddr::new([0; 6]), to: address, by });
        }),
        unwanted("flood entry 00:00:00:00:00:00 to 10.5.9.0 port 4789 VNI 7 through link number 3 on flannel.1")
    );
    assert_eq!(
        told_after(&want, |have| {
            have.addresses.insert(Address { link, address, len: 24 });
        }),
        unwanted("address 10.5.9.0/24 on flannel.1")
    );
    assert_eq!(
        told_after(&tunnelled(want), |have| {
            let key = ForwardKey { link, destination: "10.5.9.0/24".parse().unwrap() };
            have.forwarding.insert(key, Forward { to: address, port: None, mac: None });
        }),
        unwanted("forwarding entry 10.5.9.0/24 on flannel.1")
    );
}

#[test]
fn a_setting_is_named_as_sysctl_names_it_with_its_effect() {
    let set = |setting: Setting, value: u32| {
        move |have: &mut ObservedNet| {
            have.settings.insert(setting, value);
        }
    };
    let cases = [
        (
            Setting::Forwarding(Family::V4),
            0,
            "sysctl net.ipv4.ip_forward is 0, and should be 1: the host forwards no IPv4 packets",
        ),
        (
            Setting::Forwarding(Family::V6),
            0,
            "sysctl net.ipv6.conf.all.forwarding is 0, and should be 1: the host forwards no IPv6 packets",
        ),
        (
            Setting::LinkForwarding(Family::V4, device()),
            0,
            "sysctl net.ipv4.conf.flannel/1.forwarding is 0, and should be 1: IPv4 packets that arrive on flannel.1 are not \
             forwarded",
        ),
        (
            Setting::LinkForwarding(Family::V6, device()),
            0,
            "sysctl net.ipv6.conf.flannel/1.forwarding is 0, and should be 1",
        ),
        (
            Setting::DisableIpv6(device()),
            1,
            "sysctl net.ipv6.conf.flannel/1.disable_ipv6 is 1, and should be 0: flannel.1 has no IPv6 addresses",
        ),
        (
            Setting::RouterAdvertisements(name("eth0")),
            1,
            "sysctl net.ipv6.conf.eth0.accept_ra is 1, and should be 2: eth0 accepts no router advertisements while the host \
             forwards",
        ),
    ];
    for (setting, value, sentence) in cases {
        assert_eq!(told_after(&wanted(), set(setting, value)), sentence);
    }
    assert_eq!(
        told_after(&wanted(), |have| {
            have.settings.remove(&Setting::DisableIpv6(device()));
        }),
        "sysctl net.ipv6.conf.flannel/1.disable_ipv6 is missing: flannel.1 has no IPv6 addresses"
    );
}

#[test]
fn the_gateway_of_a_route_on_the_underlay_is_the_host() {
    let mut want = DesiredNet::default();
    let gateway = [192, 168, 64, 3].into();
    want.routes.insert(peer_route(), NextHop::Gateway { gateway, link: name("eth0"), onlink: false });
    assert_eq!(
        told_after(&want, |have| have.routes.clear()),
        "route 10.5.60.0/24 is missing: host 192.168.64.3 cannot be reached"
    );
}

#[test]
fn one_route_for_all_peers_of_a_tunnel_is_named_with_its_device() {
    let mut want = tunnelled(state(&[(2, 20, 102), (60, 21, 103)]));
    want.routes = [(RouteKey::main("10.5.0.0/16".parse().unwrap()), NextHop::Link(device()))].into_iter().collect();
    assert_eq!(
        told_after(&want, |have| have.routes.clear()),
        "route 10.5.0.0/16 is missing: no host can be reached through flannel.1"
    );
}

#[test]
fn a_foreign_route_is_no_difference() {
    let mut have = held(&wanted());
    let via = Via::NextHop(NextHop::Link(name("eth0")));
    have.routes.insert(peer_route(), ObservedRoute { via, protocol: 4, owner: Owner::Foreign, uses_nexthop: false });
    assert_eq!(told(&have, &wanted()), Vec::<String>::new());
}

/// Asserts that the plan and the differences name the same entries, each once.
fn assert_same_entries(have: &PerNamespace<ObservedNet>, want: &PerNamespace<DesiredNet>) {
    let ops = plan(have, want).ops;
    let differences = Network::differences(have, want);
    assert_eq!(ops.is_empty(), differences.is_empty());
    let named: BTreeSet<&String> = differences.iter().map(|difference| &difference.entry).collect();
    assert_eq!(named.len(), differences.len(), "{differences:?}");
    let changed: BTreeSet<String> = ops.iter().map(|op| Name(op).to_string()).collect();
    for name in named.iter().copied() {
        assert!(changed.contains(name), "{name}");
    }
    for op in &ops {
        let is_named = named.contains(&Name(op).to_string());
        let is_told_with_link = match Subject::of(op) {
            Subject::EntryOn(place) => named.contains(&format!("device {place}")),
            Subject::Link(_) | Subject::EntryOfHost => false,
        };
        assert!(is_named || is_told_with_link, "{op}");
    }
    for difference in &differences {
        assert!(!difference.to_string().contains("is not as it should be"), "{difference}");
    }
}

proptest! {
    #[test]
    fn the_entries_of_the_plan_are_named_once(have in any_state(), want in any_want()) {
        assert_same_entries(&PerNamespace::host(have), &PerNamespace::host(want));
    }

    #[test]
    fn the_entries_of_the_plan_are_named_once_over_several_namespaces(have in any_site(), want in any_site()) {
        assert_same_entries(&reached(&have), &want);
    }

    #[test]
    fn a_host_as_desired_has_no_differences(want in any_site()) {
        prop_assert_eq!(Network::differences(&reached(&want), &want), vec![]);
    }
}

#[test]
fn a_route_of_flannels_that_leads_as_ours_is_named_by_its_protocol() {
    let take = |have: &mut ObservedNet| {
        change_each(&mut have.routes, |route| (route.protocol, route.owner) = (3, Owner::Foreign));
    };
    let said = "route 10.5.60.0/24 is of protocol boot, and should be of protocol 91";
    assert_eq!(told_after(&wanted(), take), said);
}
