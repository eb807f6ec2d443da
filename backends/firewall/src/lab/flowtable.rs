use std::collections::BTreeSet;

use super::*;
use crate::{FirewallPolicy, HostFacts, OverlayDevice, tests::wanted_over};

/// Both kinds of kernel: one without flowtables refuses the table that has one, and gets one that has none.
#[test]
fn a_flowtable_is_put_where_the_kernel_has_them_and_all_else_everywhere() {
    in_namespace(|| {
        run("ip link add docker0 type bridge; ip link add flannel.1 type bridge; ip link add flannel-v6.1 type bridge");
        let mut reconciler = reconciler();
        let facts = HostFacts { bridges: ["docker0".parse().unwrap()].into(), ..HostFacts::default() };
        let want = |reconciler: &mut Reconciler<FirewallDataplane>| {
            let devices = OverlayDevice::of(&crate::tests::devices(true));
            let mut links = wire_kernel::Links::open().unwrap();
            let there = devices.iter().map(|(_, device)| device.link).filter(|link| links.has(*link));
            let there = there.chain(facts.bridges.iter().copied());
            let hookable = if reconciler.driver().tries_flowtables() { there.collect() } else { BTreeSet::new() };
            let facts = HostFacts { hookable, ..facts.clone() };
            let policy = FirewallPolicy { flowtable: true, ..policy(true) };
            let firewall = wanted_over(&policy, &[2], &facts, None);
            (firewall, facts)
        };
        let (whole, around_it) = want(&mut reconciler);
        assert_eq!(around_it.hookable.len(), 3);
        let report = reconciler.round(&whole);
        let refused = reconciler.driver().holds_less(&around_it);
        assert_eq!(report.converged, !refused, "{report:?}");
        assert_eq!(reconciler.driver().flowtable_error().is_some(), refused);
        assert_eq!(reconciler.driver().nftables(), Nftables::Whole, "nothing else is missed");
        let (rest, around_it) = want(&mut reconciler);
        assert!(reconciler.round(&rest).converged);
        assert!(!reconciler.driver().holds_less(&around_it));
        assert_eq!(run("nft list table inet wire-agent").contains("flowtable overlay"), !refused);
        // Not tried over and over.
        reconciler.invalidate();
        let (rest, _) = want(&mut reconciler);
        let report = reconciler.round(&rest);
        assert_eq!((report.written, report.converged), (0, true), "{report:?}");
        if refused {
            return;
        }
        // Made anew: the kernel has taken it out, and raises no generation.
        run("ip link delete flannel.1; ip link add flannel.1 type bridge");
        assert!(reconciler.driver().has_changed());
        let (whole, _) = want(&mut reconciler);
        assert!(repair(&mut reconciler, &whole).converged);
        assert!(run("nft list flowtables").contains("flannel.1"));
        assert!(!reconciler.driver().has_changed());
    });
}
