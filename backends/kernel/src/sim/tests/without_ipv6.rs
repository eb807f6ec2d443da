//! A host whose kernel was started without IPv6.

use wire_backends::{NetFromSegment, Segment, SegmentHosts, SegmentOuter};
use wire_net::{DualStack, Family, Vni};

use super::*;

/// A network that this host has an address in.
fn segment(families: &[Family]) -> Segment {
    let pool = |family, text: &str| families.contains(&family).then(|| prefix(text));
    let parent = LinkId { namespace: Namespace::Host, index: 2, name: name("eth0") };
    Segment {
        vni: Vni::new(5000).unwrap(),
        pools: DualStack { v4: pool(Family::V4, "10.128.0.0/20"), v6: pool(Family::V6, "fd57:5000::/64") },
        broadcast: true,
        internal: false,
        mtu: None,
        own: DualStack { v4: Some([10, 128, 0, 32].into()), v6: None },
        mac: mac(5),
        outer: SegmentOuter { parent, local: [192, 0, 2, 1].into(), port: 8472, mtu: Mtu(1500), agent: None },
    }
}

fn wanted_of(segment: &Segment) -> PerNamespace<DesiredNet> {
    PerNamespace::host(NetFromSegment::new(segment, &SegmentHosts::default()).net().clone())
}

fn reconciler_of(host: &SimHost) -> Reconciler<SimKernel> {
    let devices = [name("wb.5000"), name("wv.5000")].into();
    Reconciler::new(host.driver(), PerNamespace::host(Scope { devices, ..scope() }))
}

#[test]
fn a_network_of_ipv4_alone_is_reached_and_a_restart_writes_nothing() {
    let host = host();
    host.take_ipv6_away();
    let want = wanted_of(&segment(&[Family::V4]));
    let report = reconciler_of(&host).round(&want);
    assert!(report.converged && report.written > 0, "{report:?}");
    let again = reconciler_of(&host).round(&want);
    assert!(again.converged && again.written + again.removed == 0, "{again:?}");
}

#[test]
fn a_network_with_ipv6_is_not_reached() {
    let host = host();
    host.take_ipv6_away();
    let report = reconciler_of(&host).round(&wanted_of(&segment(&[Family::V4, Family::V6])));
    let named = report.failures.iter().map(ToString::to_string).collect::<String>();
    assert!(!report.converged && named.contains("net.ipv6.conf.wb/5000.disable_ipv6"), "{report:?}");
}
