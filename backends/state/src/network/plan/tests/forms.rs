//! The desired form of routes.

use super::*;
use crate::{Address, PROTOCOL};

/// A host whose routes refer to nexthop objects, except for one.
fn with_nexthops() -> ObservedNet {
    let mut have = held(&state(&[(2, 20, 102), (3, 30, 103), (4, 40, 104)]));
    let plain = RouteKey::main("10.5.3.0/24".parse().unwrap());
    change_each(&mut have.routes, |route| route.uses_nexthop = true);
    have.routes.get_mut(&plain).unwrap().uses_nexthop = false;
    have
}

fn plain(want: DesiredNet) -> DesiredNet {
    DesiredNet { route_form: DesiredForm::Plain, ..want }
}

#[test]
fn a_route_with_a_nexthop_object_is_as_good_as_any() {
    let want = state(&[(2, 20, 102), (3, 30, 103), (4, 40, 104)]);
    assert_eq!(plan_host(&with_nexthops(), &want), Plan::default());
}

#[test]
fn routes_become_plain_once() {
    let want = plain(state(&[(2, 20, 102), (3, 30, 103), (4, 40, 104)]));
    let planned = plan_host(&with_nexthops(), &want);
    insta::assert_snapshot!(planned, @"
    replace route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    replace route 10.5.4.0/24 via 10.5.4.0 dev flannel.1 onlink
    ");
    assert_eq!(plan_host(&applied(&with_nexthops(), &planned.ops), &want), Plan::default());
}

#[test]
fn a_foreign_route_keeps_its_form() {
    let mut have = with_nexthops();
    change_each(&mut have.routes, |route| (route.protocol, route.owner) = (PROTOCOL + 1, Owner::Foreign));
    let want = plain(state(&[(2, 20, 102), (3, 30, 103), (4, 40, 104)]));
    assert_eq!(plan_host(&have, &want).ops, []);
}

#[test]
fn a_host_without_its_tun_devices_keeps_all_else_of_ours() {
    let mut have = with_nexthops();
    let tun = name("flannel0");
    have.links.insert(tun, ObservedLink { kind: ObservedKind::Tun(None), ..found_device(9) });
    have.addresses.insert(Address { link: tun, address: [10, 5, 0, 0].into(), len: 16 });
    let key = RouteKey::main("10.5.0.0/16".parse().unwrap());
    have.routes.insert(key, ObservedRoute::ours(NextHop::Link(tun)));
    foreign_route(&mut have, 9);
    let want = PerNamespace::host(have.clone()).as_desired();
    insta::assert_snapshot!(plan(&PerNamespace::host(have), &want), @"delete link flannel0");
}

proptest! {
    #[test]
    fn a_host_as_desired_is_found_again(want in any_want()) {
        let found = PerNamespace::host(held(&want));
        prop_assert_eq!(crate::sim::reached(&found.as_desired()), found);
    }

    #[test]
    fn a_host_as_desired_loses_nothing(have in any_state()) {
        let have = PerNamespace::host(have);
        let ops = plan(&have, &have.as_desired()).ops;
        prop_assert!(!ops.iter().any(crate::Operation::is_delete), "{:?}", ops);
    }
}
