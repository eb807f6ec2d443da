use std::collections::BTreeSet;

use tokio::time::Instant;
use wire_net::LinkName;
use wire_state::Firewall;

use super::*;
use crate::{FirewallPolicy, HostFacts, Learned, OverlayDevice, SupportProbe, tests::wanted_over};

/// A round for this support, on the links that are there.
fn round(
    reconciler: &mut Reconciler<FirewallDataplane>,
    support: Support,
) -> (DesiredFirewall, wire_state::Report<Firewall>) {
    let devices = OverlayDevice::of(&crate::tests::devices(true));
    let mut links = wire_kernel::Links::open().unwrap();
    let bridge: LinkName = "docker0".parse().unwrap();
    let there = devices.iter().map(|(_, device)| device.link).filter(|link| links.has(*link));
    let hookable: BTreeSet<LinkName> = there.chain([bridge]).collect();
    let facts = HostFacts { bridges: [bridge].into(), support, hookable, ..HostFacts::default() };
    let policy = FirewallPolicy { flowtable: true, ..policy(true) };
    let want = wanted_over(&policy, &[2], &facts, None);
    let report = repair(reconciler, &want);
    (want, report)
}

/// Both kinds of kernel: one without flowtables refuses the table that has one, and gets one that has none.
#[test]
fn a_flowtable_is_put_where_the_kernel_has_them_and_all_else_everywhere() {
    in_namespace(|| {
        run("ip link add docker0 type bridge; ip link add flannel.1 type bridge; ip link add flannel-v6.1 type bridge");
        let (mut reconciler, mut probe, now) = (reconciler(), SupportProbe::default(), Instant::now());
        let asked = probe.support(now);
        let (whole, report) = round(&mut reconciler, asked);
        let refused = probe.learn(asked, &whole, &report, now) == Learned::Less;
        assert_eq!(report.converged, !refused, "{report:?}");
        assert_eq!(probe.flowtable_error().is_some(), refused);
        let support = probe.support(now);
        assert_eq!(support, Support { flowtables: !refused, ..Support::default() }, "nothing else is missed");
        let (rest, report) = round(&mut reconciler, support);
        assert!(report.converged && probe.learn(support, &rest, &report, now) == Learned::Nothing, "{report:?}");
        assert_eq!(run("nft list table inet wire-agent").contains("flowtable overlay"), !refused);
        // Not tried over and over.
        reconciler.invalidate();
        let (_, report) = round(&mut reconciler, probe.support(now));
        assert_eq!((report.written, report.converged), (0, true), "{report:?}");
        if refused {
            return;
        }
        // Made anew: the kernel has taken it out, and raises no generation.
        run("ip link delete flannel.1; ip link add flannel.1 type bridge");
        assert!(reconciler.driver().has_changed());
        let (_, report) = round(&mut reconciler, support);
        assert!(report.converged, "{report:?}");
        assert!(run("nft list flowtables").contains("flannel.1"));
        assert!(!reconciler.driver().has_changed());
    });
}
