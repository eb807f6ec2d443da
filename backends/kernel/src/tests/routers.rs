//! Routes from router advertisements (RFC 4861) on a host that forwards for the overlay.

use std::{
    io::IoSlice,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendmsg, socket,
};
use wire_state::DesiredNet;

use super::lab::{self, Lab, run};
use crate::{Changes, Monitor, RouteForm, tests::lab::HostReconciler};

/// A router at the far end of the link `wb-lan`.
struct Router {
    socket: OwnedFd,
    /// The index of its own link.
    link: u32,
}

impl Router {
    fn new() -> Self {
        run("ip link add wb-lan type veth peer name wb-router; ip link set wb-router addrgenmode none");
        run("ip link set wb-router up; ip link set wb-lan up; ip addr add fe80::9/64 dev wb-router nodad");
        // The router is in the same network namespace, so its address is a local one.
        let local = "accept_ra_from_local=1";
        run(&format!("sysctl -qw net.ipv6.conf.wb-lan.{local} net.ipv6.conf.default.{local}"));
        let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6).unwrap();
        Self { socket, link: lab::index("wb-router").try_into().unwrap() }
    }

    /// A router advertisement to all nodes: a default router for half an hour (RFC 4861 §4.2).
    fn advertise(&self) {
        const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let [high, low] = 1800u16.to_be_bytes();
        let packet = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        let to = SockaddrIn6::from(SocketAddrV6::new(ALL_NODES, 0, 0, self.link));
        let hop_limit = [ControlMessage::Ipv6HopLimit(&255)];
        sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(&packet)], &hop_limit, MsgFlags::empty(), Some(&to)).unwrap();
    }

    /// Sends router advertisements until this host has a default route through `link`.
    fn advertise_until_learnt_on(&self, link: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !run(&format!("ip -6 route show default dev {link}")).contains("via fe80::9 proto ra") {
            assert!(Instant::now() < until, "{link} learns no route: {}", run("ip -6 route; ip link"));
            self.advertise();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A host that forwards for the overlay and receives the kernel's notifications.
struct ForwardingHost {
    reconciler: HostReconciler,
    want: DesiredNet,
    monitor: Monitor,
    runtime: tokio::runtime::Runtime,
}

impl ForwardingHost {
    fn new(lab: &Lab) -> Self {
        let (mut reconciler, want, runtime) = (lab.reconciler(RouteForm::default()), lab.want(), lab::runtime());
        assert!(reconciler.round(&want).converged);
        let inside = runtime.enter();
        let monitor = Monitor::open(reconciler.scope().clone()).unwrap();
        drop(inside);
        Self { reconciler, want, monitor, runtime }
    }

    fn settle(&mut self) {
        lab::settle(&mut self.monitor, &self.reconciler);
    }

    /// Waits for a notification or the next periodic check, and asserts that a round repairs only this link.
    fn repairs(&mut self, link: &str) {
        let cached = self.reconciler.cached().unwrap();
        let ours = async { while !self.monitor.changed(cached).await.unwrap().ours {} };
        let notified = async { tokio::time::timeout(Duration::from_secs(30), ours).await };
        self.runtime.block_on(notified).unwrap_or_else(|_| panic!("{link} wakes nobody"));
        self.reconciler.invalidate();
        let named = self.reconciler.round(&self.want).named();
        assert_eq!(named, format!("set sysctl net.ipv6.conf.{link}.accept_ra = 2"));
    }
}

#[test]
fn a_link_that_accepts_router_advertisements_goes_on_to_after_it_was_down_or_changed() {
    lab::in_namespace(|| {
        let (lab, router) = (Lab::new(1), Router::new());
        let mut host = ForwardingHost::new(&lab);
        router.advertise_until_learnt_on("wb-lan");
        // As Debian's ifdown and ifup do: the route is lost before the next read, and no router is solicited.
        host.settle();
        run("sysctl -qw net.ipv6.conf.wb-lan.accept_ra=1; ip link set wb-lan down");
        assert_eq!(run("ip -6 route show default dev wb-lan"), "");
        host.repairs("wb-lan");
        run("ip link set wb-lan up");
        router.advertise_until_learnt_on("wb-lan");
        // The kernel sends no notification of this change.
        host.settle();
        run("sysctl -qw net.ipv6.conf.wb-lan.accept_ra=1");
        host.repairs("wb-lan");
    });
}

#[test]
fn a_new_link_accepts_router_advertisements_and_one_of_a_container_does_not() {
    lab::in_namespace(|| {
        let (lab, router) = (Lab::new(1), Router::new());
        let mut host = ForwardingHost::new(&lab);
        host.settle();
        run("ip link add veth1 type veth peer name eth1; ip link set veth1 up; ip link add br-1 type bridge");
        let changes = host.monitor.drain(host.reconciler.cached().unwrap()).unwrap();
        assert_eq!(changes, Changes::default(), "containers come and go");
        run("ip link add link wb-lan name wb-new type macvlan mode bridge");
        host.repairs("wb-new");
        run("ip link set wb-new up");
        router.advertise_until_learnt_on("wb-new");
        // A later run recognizes these links by the value that this one has set.
        let mut later = lab.reconciler(RouteForm::default());
        assert_eq!(later.round(&host.want).written, 0);
        run("sysctl -qw net.ipv6.conf.wb-new.accept_ra=1; ip -6 route flush dev wb-new; ip link set wb-new down");
        later.invalidate();
        assert_eq!(later.round(&host.want).named(), "set sysctl net.ipv6.conf.wb-new.accept_ra = 2");
        assert_eq!(run("sysctl -n net.ipv6.conf.veth1.accept_ra net.ipv6.conf.br-1.accept_ra"), "1\n1\n");
    });
}
