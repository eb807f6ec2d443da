//! What others do to a host: how it is read back, and what the monitor reports.

use wire_net::Family;

use super::{
    Host,
    entries::{difference, lines},
    stage::Stage,
};
use crate::Changes;

/// A change by another program. Each link is given by its name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    AddAddress(&'static str, &'static str, u8),
    AddBridge(&'static str),
    AddBridgeFdb(&'static str, &'static str),
    AddFdb(&'static str, &'static str, &'static str),
    SetFdbPort(&'static str, &'static str, &'static str, u16),
    AddNeighbour(&'static str, &'static str, &'static str),
    AddRoute(&'static str, &'static str),
    DeleteAddress(&'static str, &'static str, u8),
    DeleteBridgeFdb(&'static str, &'static str),
    DeleteFdb(&'static str, &'static str),
    DeleteLink(&'static str),
    DeleteNeighbour(&'static str, &'static str),
    DeleteRoute(&'static str),
    DisableIpv6(&'static str),
    FlushFdb(&'static str),
    FlushNeighbours(&'static str),
    FlushRoutes(&'static str),
    MoveBridgeFdb(&'static str, &'static str),
    SetDown(&'static str),
    SetForwarding(Family, u32),
    SetMac(&'static str, &'static str),
    SetMtu(&'static str, u32),
    SetNoMaster(&'static str),
    /// A flag by iproute2's name.
    SetPort(&'static str, &'static str, bool),
    SetSnooping(&'static str, bool),
    SetSpanningTree(&'static str, bool),
    SetUp(&'static str),
}

/// A change, with the reports and the differences that follow.
pub(super) struct Row {
    pub(super) change: Change,
    pub(super) heard: Changes,
    pub(super) read: &'static str,
}

const NOTHING: Changes = Changes { ours: false, underlay: false, overrun: false };
pub(super) const OURS: Changes = Changes { ours: true, ..NOTHING };
const UNDERLAY: Changes = Changes { underlay: true, ..NOTHING };
const BOTH: Changes = Changes { ours: true, underlay: true, ..NOTHING };

pub(super) const fn row(change: Change, heard: Changes, read: &'static str) -> Row {
    Row { change, heard, read }
}

pub(super) const ROWS: [Row; 34] = [
    row(Change::DeleteLink("flannel.1"), OURS, "
        - address 10.5.0.0/32 dev flannel.1
        - fdb 0a:00:00:00:00:01 dev flannel.1 dst 198.51.0.1
        - fdb 0a:00:00:00:00:02 dev flannel.1 dst 198.51.0.2
        - link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
        - neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
        - route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink protocol 91 Ours
        - route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours
        - setting net.ipv4.conf.flannel/1.forwarding = 1
        - setting net.ipv6.conf.flannel/1.disable_ipv6 = 0
        - setting net.ipv6.conf.flannel/1.forwarding = 1"),
    row(Change::DeleteLink("wb-up"), BOTH, "
        - address 10.5.0.0/32 dev flannel.1
        - address fd00:5::/128 dev flannel-v6.1
        - fdb 0a:00:00:00:00:01 dev flannel-v6.1 dst 2001:db8::1:1
        - fdb 0a:00:00:00:00:01 dev flannel.1 dst 198.51.0.1
        - fdb 0a:00:00:00:00:02 dev flannel-v6.1 dst 2001:db8::1:2
        - fdb 0a:00:00:00:00:02 dev flannel.1 dst 198.51.0.2
        - link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
        - link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
        - link wb-up Foreign: mac 02:00:00:00:00:99 mtu 1500 up
        - neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
        - neighbour fd00:5:1:: dev flannel-v6.1 lladdr 0a:00:00:00:00:01
        - neighbour fd00:5:2:: dev flannel-v6.1 lladdr 0a:00:00:00:00:02
        - route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink protocol 91 Ours
        - route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours
        - route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 onlink protocol 91 Ours
        - route fd00:5:2::/64 via fd00:5:2:: dev flannel-v6.1 onlink protocol 91 Ours
        - setting net.ipv4.conf.flannel-v6/1.forwarding = 1
        - setting net.ipv4.conf.flannel/1.forwarding = 1
        - setting net.ipv6.conf.flannel-v6/1.disable_ipv6 = 0
        - setting net.ipv6.conf.flannel-v6/1.forwarding = 1
        - setting net.ipv6.conf.flannel/1.disable_ipv6 = 0
        - setting net.ipv6.conf.flannel/1.forwarding = 1
        - setting net.ipv6.conf.wb-up.accept_ra = 2"),
    row(Change::SetDown("flannel.1"), OURS, "
        - link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
        - neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
        - route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink protocol 91 Ours
        - route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours
        + link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 down"),
    row(Change::SetDown("flannel-v6.1"), OURS, "
        - address fd00:5::/128 dev flannel-v6.1
        - link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
        - neighbour fd00:5:1:: dev flannel-v6.1 lladdr 0a:00:00:00:00:01
        - neighbour fd00:5:2:: dev flannel-v6.1 lladdr 0a:00:00:00:00:02
        - route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 onlink protocol 91 Ours
        - route fd00:5:2::/64 via fd00:5:2:: dev flannel-v6.1 onlink protocol 91 Ours
        + link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 down"),
    row(Change::SetDown("wb-up"), UNDERLAY, "
        - link wb-up Foreign: mac 02:00:00:00:00:99 mtu 1500 up
        + link wb-up Foreign: mac 02:00:00:00:00:99 mtu 1500 down"),
    row(Change::SetMac("flannel.1", "02:00:00:00:77:77"), OURS, "
        - link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
        - neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
        + link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:77:77 mtu 1450 up"),
    row(Change::SetMac("flannel-v6.1", "02:00:00:00:77:77"), OURS, "
        - link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
        - neighbour fd00:5:1:: dev flannel-v6.1 lladdr 0a:00:00:00:00:01
        - neighbour fd00:5:2:: dev flannel-v6.1 lladdr 0a:00:00:00:00:02
        + link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:77:77 mtu 1430 up"),
    row(Change::SetMtu("flannel.1", 1300), OURS, "
        - link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
        + link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1300 up"),
    row(Change::SetMtu("flannel-v6.1", 1200), OURS, "
        - address fd00:5::/128 dev flannel-v6.1
        - link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
        - neighbour fd00:5:1:: dev flannel-v6.1 lladdr 0a:00:00:00:00:01
        - neighbour fd00:5:2:: dev flannel-v6.1 lladdr 0a:00:00:00:00:02
        - route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 onlink protocol 91 Ours
        - route fd00:5:2::/64 via fd00:5:2:: dev flannel-v6.1 onlink protocol 91 Ours
        - setting net.ipv6.conf.flannel-v6/1.disable_ipv6 = 0
        - setting net.ipv6.conf.flannel-v6/1.forwarding = 1
        + link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1200 up
        + setting net.ipv6.conf.flannel-v6/1.disable_ipv6 = 1"),
    row(Change::SetMtu("wb-up", 1400), UNDERLAY, "
        - link wb-up Foreign: mac 02:00:00:00:00:99 mtu 1500 up
        + link wb-up Foreign: mac 02:00:00:00:00:99 mtu 1400 up"),
    row(Change::DeleteAddress("flannel.1", "10.5.0.0", 32), OURS, "
        - address 10.5.0.0/32 dev flannel.1
        - neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
        - route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink protocol 91 Ours
        - route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours"),
    row(Change::DeleteAddress("flannel-v6.1", "fd00:5::", 128), OURS, "
        - address fd00:5::/128 dev flannel-v6.1"),
    row(Change::AddAddress("flannel.1", "10.5.0.9", 32), OURS, "
        + address 10.5.0.9/32 dev flannel.1"),
    row(Change::AddAddress("wb-up", "192.0.2.9", 24), UNDERLAY, ""),
    row(Change::DeleteAddress("wb-up", "2001:db8::1", 64), UNDERLAY, ""),
    row(Change::DeleteAddress("wb-up", "192.0.2.1", 24), UNDERLAY, ""),
    row(Change::DeleteLink("flannel-v6.1"), OURS, "
        - address fd00:5::/128 dev flannel-v6.1
        - fdb 0a:00:00:00:00:01 dev flannel-v6.1 dst 2001:db8::1:1
        - fdb 0a:00:00:00:00:02 dev flannel-v6.1 dst 2001:db8::1:2
        - link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
        - neighbour fd00:5:1:: dev flannel-v6.1 lladdr 0a:00:00:00:00:01
        - neighbour fd00:5:2:: dev flannel-v6.1 lladdr 0a:00:00:00:00:02
        - route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 onlink protocol 91 Ours
        - route fd00:5:2::/64 via fd00:5:2:: dev flannel-v6.1 onlink protocol 91 Ours
        - setting net.ipv4.conf.flannel-v6/1.forwarding = 1
        - setting net.ipv6.conf.flannel-v6/1.disable_ipv6 = 0
        - setting net.ipv6.conf.flannel-v6/1.forwarding = 1"),
    row(Change::DeleteRoute("10.5.2.0/24"), OURS, "
        - route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours"),
    row(Change::DeleteRoute("default"), UNDERLAY, ""),
    row(Change::AddRoute("10.5.9.0/24", "wb-up"), OURS, "
        + route 10.5.9.0/24 dev wb-up protocol 16 Foreign"),
    row(Change::AddRoute("10.5.9.0/24", "flannel.1"), OURS, "
        + route 10.5.9.0/24 dev flannel.1 protocol 16 Ours"),
    row(Change::AddRoute("203.0.113.0/24", "wb-up"), NOTHING, ""),
    row(Change::FlushRoutes("flannel.1"), OURS, "
        - route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink protocol 91 Ours
        - route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours"),
    row(Change::FlushFdb("flannel.1"), OURS, "
        - fdb 0a:00:00:00:00:01 dev flannel.1 dst 198.51.0.1
        - fdb 0a:00:00:00:00:02 dev flannel.1 dst 198.51.0.2"),
    row(Change::DeleteFdb("flannel.1", "0a:00:00:00:00:02"), OURS, "
        - fdb 0a:00:00:00:00:02 dev flannel.1 dst 198.51.0.2"),
    row(Change::AddFdb("flannel.1", "0a:00:00:00:00:88", "198.51.100.1"), OURS, "
        + fdb 0a:00:00:00:00:88 dev flannel.1 dst 198.51.100.1"),
    row(Change::SetFdbPort("flannel.1", "0a:00:00:00:00:02", "198.51.0.2", 9999), OURS, "
        - fdb 0a:00:00:00:00:02 dev flannel.1 dst 198.51.0.2
        + fdb 0a:00:00:00:00:02 dev flannel.1 dst 198.51.0.2 port 9999"),
    row(Change::SetFdbPort("flannel.1", "0a:00:00:00:00:02", "198.51.0.2", 8472), NOTHING, ""),
    row(Change::FlushNeighbours("flannel.1"), OURS, "
        - neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02"),
    row(Change::DeleteNeighbour("flannel.1", "10.5.2.0"), OURS, "
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02"),
    row(Change::AddNeighbour("flannel.1", "10.5.2.0", "0a:00:00:00:00:99"), OURS, "
        - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
        + neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:99"),
    row(Change::SetForwarding(Family::V4, 0), OURS, "
        - setting net.ipv4.conf.flannel-v6/1.forwarding = 1
        - setting net.ipv4.conf.flannel/1.forwarding = 1
        - setting net.ipv4.ip_forward = 1
        + setting net.ipv4.conf.flannel-v6/1.forwarding = 0
        + setting net.ipv4.conf.flannel/1.forwarding = 0
        + setting net.ipv4.ip_forward = 0"),
    row(Change::DisableIpv6("flannel-v6.1"), OURS, "
        - address fd00:5::/128 dev flannel-v6.1
        - neighbour fd00:5:1:: dev flannel-v6.1 lladdr 0a:00:00:00:00:01
        - neighbour fd00:5:2:: dev flannel-v6.1 lladdr 0a:00:00:00:00:02
        - route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 onlink protocol 91 Ours
        - route fd00:5:2::/64 via fd00:5:2:: dev flannel-v6.1 onlink protocol 91 Ours
        - setting net.ipv6.conf.flannel-v6/1.disable_ipv6 = 0
        + setting net.ipv6.conf.flannel-v6/1.disable_ipv6 = 1"),
    row(Change::AddBridge("br7"), NOTHING, ""),
];

pub(super) fn each_change_by_others_is_reported_and_read_back<H: Host>() {
    for Row { change, heard, read } in ROWS {
        Stage::<H>::quiet(move |mut stage| {
            let before = stage.cached();
            stage.change(change);
            assert_eq!(stage.heard(), heard, "{change:?}");
            assert_eq!(difference(&before, &stage.read()), lines(read), "{change:?}");
        });
    }
}
