//! A container's namespace that this process cannot enter, by what another one has opened in it.

use std::{fs::File, os::fd::OwnedFd, panic::resume_unwind, thread};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};
use wire_netlink::lab::keep_only_net_admin;
use wire_state::{DesiredNet, Namespace, PerNamespace};

use super::{
    lab::{run, run_fails, run_inside},
    namespaces::{GUEST, HARMS, assert_attached, attached, do_harm, in_lab, reconciler_of},
};
use crate::{KernelDataplane, OpenedGuest, RouteForm};

/// As the helper does that may enter it.
fn opened(guest: &OwnedFd) -> OpenedGuest {
    let open = || {
        setns(guest, CloneFlags::CLONE_NEWNET).unwrap();
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        OpenedGuest {
            namespace: guest.try_clone().unwrap(),
            route: socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkRoute).unwrap(),
            ipv4: File::open("/proc/sys/net/ipv4").unwrap().into(),
            ipv6: File::open("/proc/sys/net/ipv6").ok().map(OwnedFd::from),
        }
    };
    thread::scope(|scope| scope.spawn(open).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Works on a thread that has CAP_NET_ADMIN alone, like the agent.
fn as_agent<T: Send>(guest: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    let as_agent = || {
        keep_only_net_admin();
        assert_eq!(setns(guest, CloneFlags::CLONE_NEWNET), Err(Errno::EPERM), "it could enter the namespace itself");
        work()
    };
    thread::scope(|scope| scope.spawn(as_agent).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

fn dataplane(opened: OpenedGuest) -> KernelDataplane {
    let mut kernel = KernelDataplane::open(RouteForm::Plain).unwrap();
    kernel.add_opened(GUEST, opened).unwrap();
    kernel
}

#[test]
fn with_net_admin_alone_a_container_is_attached_repaired_recognized_and_detached() {
    in_lab(|guest| {
        let want = attached();
        let passed = opened(&guest);
        let mut agent = as_agent(&guest, || reconciler_of(dataplane(passed)));
        let mut round = |want: &PerNamespace<DesiredNet>| {
            as_agent(&guest, || {
                agent.invalidate();
                agent.round(want)
            })
        };
        let report = round(&want);
        assert!(report.converged, "{:?}", report.failures);
        assert_attached(&guest);
        for (is_inside, harm) in HARMS {
            do_harm(&guest, is_inside, harm);
            let report = round(&want);
            assert!(report.converged && report.written > 0, "{harm}: {:?}", report.failures);
            assert_attached(&guest);
        }
        let passed = opened(&guest);
        let report = as_agent(&guest, || reconciler_of(dataplane(passed)).round(&want));
        assert_eq!((report.written, report.removed), (0, 0), "{}", report.named());
        let nothing = [(Namespace::Host, DesiredNet::default()), (GUEST, DesiredNet::default())].into_iter().collect();
        let report = round(&nothing);
        assert!(report.converged, "{:?}", report.failures);
        run_fails("ip link show wp1");
        assert_eq!(run_inside(&guest, "ip -o link").lines().count(), 1, "lo alone");
    });
}

#[test]
fn settings_of_the_container_are_read_and_written_there_and_not_on_the_host() {
    in_lab(|guest| {
        let forwards = "cat /proc/sys/net/ipv4/ip_forward";
        let before = run(forwards);
        let passed = opened(&guest);
        let report = as_agent(&guest, || reconciler_of(dataplane(passed)).round(&attached()));
        assert!(report.converged, "{:?}", report.failures);
        assert_eq!(run_inside(&guest, forwards).trim(), "1");
        assert_eq!(run(forwards), before);
        let listens = run_inside(&guest, "cat /proc/sys/net/ipv6/conf/eth2/accept_ra");
        assert_eq!(listens.trim(), "0", "a new link takes no router's word");
    });
}

#[test]
fn descriptors_in_the_wrong_order_are_refused() {
    in_lab(|guest| {
        let OpenedGuest { namespace, route, ipv4, ipv6 } = opened(&guest);
        let mut kernel = KernelDataplane::open(RouteForm::Plain).unwrap();
        let swapped = OpenedGuest { namespace: route, route: namespace, ipv4, ipv6 };
        assert!(kernel.add_opened(GUEST, swapped).is_err());
    });
}
