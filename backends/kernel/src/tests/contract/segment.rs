//! A bridge with its VXLAN device: what is on it is made, read back, repaired, and taken away.

use wire_net::{MacAddr, Mtu};
use wire_state::{BridgeFdbKey, DesiredNet, KernelOp, Setting, samples::name};

use super::{
    Change, Host,
    changes::{OURS, Row, row},
    entries::{difference, entries, lines},
    stage::Stage,
};
use crate::Changes;

const ROWS: [Row; 19] = [
    row(Change::SetSnooping("wb.5000", true), OURS, "
        - link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:05:01 mtu 1450 up
        + link wb.5000 Ours: bridge mac 02:00:00:00:05:01 mtu 1450 up"),
    row(Change::SetSpanningTree("wb.5000", true), OURS, "
        - link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:05:01 mtu 1450 up
        + link wb.5000 Ours: bridge mcast_snooping off stp on mac 02:00:00:00:05:01 mtu 1450 up"),
    row(Change::SetPort("wv.5000", "learning", true), OURS, "
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 neigh_suppress on group_fwd_mask on"),
    row(Change::SetPort("wv.5000", "neigh_suppress", false), OURS, "
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off group_fwd_mask on"),
    row(Change::SetPort("wv.5000", "flood", false), OURS, "
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off flood off neigh_suppress on group_fwd_mask on"),
    row(Change::SetPort("wv.5000", "mcast_flood", false), OURS, "
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off mcast_flood off neigh_suppress on group_fwd_mask on"),
    row(Change::SetPort("wv.5000", "bcast_flood", false), OURS, "
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off bcast_flood off neigh_suppress on group_fwd_mask on"),
    row(Change::SetPort("wv.5000", "isolated", true), OURS, "
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on isolated on group_fwd_mask on"),
    row(Change::SetPort("wv.5000", "group_fwd_mask", false), OURS, "
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on"),
    row(Change::SetNoMaster("wv.5000"), OURS, "
        - bridge fdb 02:57:0a:80:00:05 dev wb.5000 port wv.5000
        - bridge fdb 02:57:0a:80:00:06 dev wb.5000 port wv.5000
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up"),
    row(Change::DeleteBridgeFdb("wv.5000", "02:57:0a:80:00:05"), OURS, "
        - bridge fdb 02:57:0a:80:00:05 dev wb.5000 port wv.5000"),
    row(Change::MoveBridgeFdb("02:57:0a:80:00:05", "wb.5000"), OURS, "
        - bridge fdb 02:57:0a:80:00:05 dev wb.5000 port wv.5000"),
    row(Change::AddBridgeFdb("wv.5000", "02:57:0a:80:00:09"), OURS, "
        + bridge fdb 02:57:0a:80:00:09 dev wb.5000 port wv.5000"),
    row(Change::DeleteFdb("wv.5000", "02:57:0a:80:00:05"), OURS, "
        - fdb 02:57:0a:80:00:05 dev wv.5000 dst 198.51.0.1"),
    row(Change::DeleteNeighbour("wb.5000", "10.128.0.5"), OURS, "
        - neighbour 10.128.0.5 dev wb.5000 lladdr 02:57:0a:80:00:05"),
    row(Change::SetMtu("wb.5000", 1300), OURS, "
        - link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:05:01 mtu 1450 up
        + link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:05:01 mtu 1300 up"),
    row(Change::SetMac("wb.5000", "02:00:00:00:77:77"), OURS, "
        - link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:05:01 mtu 1450 up
        - neighbour 10.128.0.5 dev wb.5000 lladdr 02:57:0a:80:00:05
        - neighbour 10.128.0.6 dev wb.5000 lladdr 02:57:0a:80:00:06
        + link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:77:77 mtu 1450 up"),
    row(Change::DeleteLink("wv.5000"), OURS, "
        - bridge fdb 02:57:0a:80:00:05 dev wb.5000 port wv.5000
        - bridge fdb 02:57:0a:80:00:06 dev wb.5000 port wv.5000
        - fdb 02:57:0a:80:00:05 dev wv.5000 dst 198.51.0.1
        - fdb 02:57:0a:80:00:06 dev wv.5000 dst 198.51.0.1
        - flood 00:00:00:00:00:00 dev wv.5000 dst 198.51.0.1
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        - setting net.ipv4.conf.wv/5000.forwarding = 1
        - setting net.ipv6.conf.wv/5000.disable_ipv6 = 0
        - setting net.ipv6.conf.wv/5000.forwarding = 1"),
    row(Change::DeleteLink("wb.5000"), OURS, "
        - address 10.128.0.1/20 dev wb.5000
        - bridge fdb 02:57:0a:80:00:05 dev wb.5000 port wv.5000
        - bridge fdb 02:57:0a:80:00:06 dev wb.5000 port wv.5000
        - link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:05:01 mtu 1450 up
        - link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
        - neighbour 10.128.0.5 dev wb.5000 lladdr 02:57:0a:80:00:05
        - neighbour 10.128.0.6 dev wb.5000 lladdr 02:57:0a:80:00:06
        - setting net.ipv4.conf.wb/5000.forwarding = 1
        - setting net.ipv6.conf.wb/5000.disable_ipv6 = 0
        - setting net.ipv6.conf.wb/5000.forwarding = 1
        + link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up"),
];

pub(super) fn a_segment_is_whole_after_one_round_and_a_second_plan_is_empty<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        let is_of_it = |line: &String| line.contains("5000") && !line.starts_with("setting");
        let found: Vec<String> = entries(&stage.read()).into_iter().filter(is_of_it).collect();
        let expected = "
            address 10.128.0.1/20 dev wb.5000
            bridge fdb 02:57:0a:80:00:05 dev wb.5000 port wv.5000
            bridge fdb 02:57:0a:80:00:06 dev wb.5000 port wv.5000
            fdb 02:57:0a:80:00:05 dev wv.5000 dst 198.51.0.1
            fdb 02:57:0a:80:00:06 dev wv.5000 dst 198.51.0.1
            flood 00:00:00:00:00:00 dev wv.5000 dst 198.51.0.1
            link wb.5000 Ours: bridge mcast_snooping off mac 02:00:00:00:05:01 mtu 1450 up
            link wv.5000 Ours: vxlan vni 5000 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:05:02 mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
            neighbour 10.128.0.5 dev wb.5000 lladdr 02:57:0a:80:00:05
            neighbour 10.128.0.6 dev wb.5000 lladdr 02:57:0a:80:00:06";
        assert_eq!(found.join("\n"), lines(expected));
        assert_eq!(difference(&stage.cached(), &stage.read()), "");
        let want = stage.lab.want();
        assert_eq!(stage.repair(&want), 0);
    });
}

pub(super) fn each_change_of_a_segment_by_others_is_reported_and_read_back<H: Host>() {
    for Row { change, heard, read } in ROWS {
        Stage::<H>::of_segment(move |mut stage| {
            let before = stage.cached();
            stage.change(change);
            assert_eq!(stage.heard(), heard, "{change:?}");
            assert_eq!(difference(&before, &stage.read()), lines(read), "{change:?}");
        });
    }
}

pub(super) fn a_round_repairs_each_change_of_a_segment_by_others<H: Host>() {
    for row in ROWS {
        Stage::<H>::of_segment(move |mut stage| {
            let (want, whole) = (stage.lab.want(), stage.read());
            stage.change(row.change);
            assert!(stage.repair(&want) > 0, "{:?}", row.change);
            assert_eq!(difference(&whole, &stage.read()), "", "{:?}", row.change);
            assert_eq!(stage.repair(&want), 0, "{:?}", row.change);
        });
    }
}

pub(super) fn entries_of_a_segment_that_we_change_are_not_reported<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        let mut want = stage.lab.want();
        let (bridge, old) = (name("wb.5000"), MacAddr::new([2, 0x57, 10, 128, 0, 5]));
        let new = MacAddr::new([2, 0x57, 10, 128, 0, 9]);
        let port = want.bridge_fdb.remove(&BridgeFdbKey { bridge, mac: old }).unwrap();
        want.bridge_fdb.insert(BridgeFdbKey { bridge, mac: new }, port);
        let report = stage.round(&want);
        assert!(report.converged);
        assert_eq!((report.written, report.removed), (1, 1));
        assert_eq!(stage.heard(), Changes::default());
        let before = stage.read();
        assert!(before.bridge_fdb.contains_key(&BridgeFdbKey { bridge, mac: new }));
    });
}

pub(super) fn a_bridge_keeps_its_mtu_when_its_ports_change<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        stage.change(Change::SetMtu("wv.5000", 1300));
        stage.change(Change::SetNoMaster("wv.5000"));
        assert_eq!(stage.read().links[&name("wb.5000")].mtu, Mtu(1450));
    });
}

pub(super) fn ipv6_that_is_not_wanted_is_off_on_links_that_have_none<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        let mut want = stage.lab.want();
        let devices = [name("wb.5000"), name("wv.5000")];
        for device in devices {
            // IPv6 needs 1280 bytes (RFC 8200 §5).
            want.links.get_mut(&device).unwrap().mtu = Mtu(1200);
            want.settings.insert(Setting::DisableIpv6(device), 1);
        }
        assert!(stage.repair(&want) > 0);
        assert_eq!(stage.repair(&want), 0, "with a smaller MTU");
        let is_off = |stage: &mut Stage<H>| {
            let settings = stage.read().settings;
            assert!(
                devices.iter().all(|device| settings.get(&Setting::DisableIpv6(*device)) == Some(&1)),
                "{settings:?}"
            );
        };
        is_off(&mut stage);
        stage.change(Change::DeleteLink("wv.5000"));
        assert!(stage.repair(&want) > 0);
        assert_eq!(stage.repair(&want), 0, "made without IPv6");
        is_off(&mut stage);
    });
}

pub(super) fn an_entry_of_a_bridge_is_removed_only_if_it_leads_to_the_port<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        let key = BridgeFdbKey { bridge: name("wb.5000"), mac: MacAddr::new([2, 0x57, 10, 128, 0, 5]) };
        let before = stage.read();
        assert_eq!(stage.apply(&KernelOp::PutBridgeFdb(key, name("wv.5000"))), Ok(()), "it is there");
        let other = BridgeFdbKey { mac: MacAddr::new([2, 0x57, 10, 128, 0, 7]), ..key };
        assert_eq!(stage.apply(&KernelOp::DeleteBridgeFdb(other, name("wv.5000"))), Ok(()), "it is not there");
        assert_eq!(stage.apply(&KernelOp::DeleteBridgeFdb(key, name("none"))), Ok(()), "no such port");
        assert_eq!(difference(&before, &stage.read()), "");
        assert_eq!(stage.apply(&KernelOp::DeleteBridgeFdb(key, name("wv.5000"))), Ok(()));
        assert_eq!(difference(&before, &stage.read()), "- bridge fdb 02:57:0a:80:00:05 dev wb.5000 port wv.5000");
    });
}

pub(super) fn a_drained_host_has_nothing_of_a_segment<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        assert!(stage.repair(&DesiredNet::default()) > 0);
        let left: Vec<String> = entries(&stage.read()).into_iter().filter(|line| line.contains("5000")).collect();
        assert_eq!(left, Vec::<String>::new());
    });
}
