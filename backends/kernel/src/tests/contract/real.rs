//! A host in a network namespace of its own.

use std::time::Duration;

use wire_net::Family;
use wire_state::{ObservedNet, Scope};

use super::{Change, Host};
use crate::{
    Changes, HostNetwork, KernelDataplane, Monitor, RouteForm,
    tests::lab::{self, KernelAlone, Lab, run},
};

/// Waits until the kernel's own work on the address of the link is done: it tells of the address once more then.
const SETTLED: &str =
    "until [ -z \"$(ip -6 addr show dev wb-up scope global tentative)\" ]; do sleep 0.01; done; sleep 0.02";

pub(super) struct Real(tokio::runtime::Runtime);

impl Host for Real {
    type Kernel = KernelAlone;
    type Monitor = Monitor;

    fn on_new(check: impl FnOnce(Self) + Send + 'static) {
        lab::in_namespace(|| {
            let _ = Lab::new(0);
            run("ip link set wb-up address 02:00:00:00:00:99; ip route add default via 192.0.2.254");
            run(SETTLED);
            check(Self(lab::runtime()));
        });
    }

    fn facts(&self) -> HostNetwork {
        HostNetwork::read([]).unwrap()
    }

    fn kernel(&self) -> KernelAlone {
        KernelAlone(KernelDataplane::open(RouteForm::default()).unwrap())
    }

    fn monitor(&self, scope: Scope) -> Monitor {
        let _inside = self.0.enter();
        Monitor::open(scope).unwrap()
    }

    fn set_scope(monitor: &mut Monitor, scope: Scope) {
        monitor.set_scope(scope);
    }

    fn change(&self, change: Change) {
        run(&command(change));
    }

    fn heard(monitor: &mut Monitor, cached: &ObservedNet) -> Changes {
        // The kernel makes link-local addresses and their routes a moment after a device comes up.
        std::thread::sleep(Duration::from_millis(30));
        monitor.drain(cached).unwrap()
    }
}

fn command(change: Change) -> String {
    match change {
        Change::AddAddress(link, address, len) => format!("ip addr add {address}/{len} dev {link}"),
        Change::AddBridge(name) => format!("ip link add {name} type bridge; ip link set {name} up"),
        Change::AddBridgeFdb(port, mac) => format!("bridge fdb add {mac} dev {port} master static"),
        Change::AddFdb(link, mac, to) => format!("bridge fdb add {mac} dev {link} dst {to}"),
        Change::AddNeighbour(link, address, mac) => {
            format!("ip neigh replace {address} lladdr {mac} dev {link} nud permanent")
        }
        Change::AddRoute(to, link) => format!("ip route add {to} dev {link} proto dhcp"),
        Change::DeleteAddress(link, address, len) => format!("ip addr del {address}/{len} dev {link}"),
        Change::DeleteBridgeFdb(port, mac) => format!("bridge fdb del {mac} dev {port} master"),
        Change::SetFdbPort(link, mac, to, port) => {
            format!("bridge fdb replace {mac} dev {link} dst {to} port {port}")
        }
        Change::DeleteFdb(link, mac) => format!("bridge fdb del {mac} dev {link}"),
        Change::DeleteLink(name) => format!("ip link del {name}"),
        Change::DeleteNeighbour(link, address) => format!("ip neigh del {address} dev {link}"),
        Change::DeleteRoute(to) => format!("ip route del {to}"),
        Change::DisableIpv6(link) => format!("sysctl -qw net.ipv6.conf.{}.disable_ipv6=1", link.replace('.', "/")),
        Change::FlushFdb(link) => {
            format!("for mac in $(bridge fdb show dev {link} | cut -d' ' -f1); do bridge fdb del $mac dev {link}; done")
        }
        Change::FlushNeighbours(link) => format!("ip neigh flush dev {link} nud permanent"),
        Change::FlushRoutes(link) => format!("ip -4 route flush dev {link}; ip -6 route flush dev {link}"),
        Change::MoveBridgeFdb(mac, bridge) => format!(
            "ip link add lp0 type veth peer lp1; ip link set lp0 up master {bridge}; \
             bridge fdb replace {mac} dev lp0 master static"
        ),
        Change::SetDown(name) => format!("ip link set {name} down"),
        Change::SetForwarding(Family::V4, value) => format!("sysctl -qw net.ipv4.ip_forward={value}"),
        Change::SetForwarding(Family::V6, value) => format!("sysctl -qw net.ipv6.conf.all.forwarding={value}"),
        Change::SetMac(name, mac) => format!("ip link set {name} address {mac}"),
        Change::SetMtu(name, mtu) => format!("ip link set {name} mtu {mtu}"),
        Change::SetNoMaster(name) => format!("ip link set {name} nomaster"),
        // A mask of some groups is as none.
        Change::SetPort(name, "group_fwd_mask", on) => {
            format!("ip link set {name} type bridge_slave group_fwd_mask {}", if on { "0xfffd" } else { "0x4000" })
        }
        Change::SetPort(name, flag, on) => {
            format!("bridge link set dev {name} {flag} {}", if on { "on" } else { "off" })
        }
        Change::SetSnooping(name, on) => format!("ip link set {name} type bridge mcast_snooping {}", u8::from(on)),
        Change::SetSpanningTree(name, on) => format!("ip link set {name} type bridge stp_state {}", u8::from(on)),
        Change::SetUp(name) => format!("ip link set {name} up"),
    }
}
