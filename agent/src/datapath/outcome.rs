//! The outcome of a round of the loop of `Network`, for those who wait for it.

use std::collections::BTreeSet;

use wire_backends::{Segment, SegmentEndpoint};
use wire_net::LinkName;
use wire_state::{
    Conflict, ErrorKind, Failure, KernelKind, KernelOp, Key, LinkPlace, Namespace, Network, Op, OpError, Report,
    TunnelOp,
};

/// The outcome of a round for the network as a whole. Later variants are worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// There was no round yet.
    #[default]
    Pending,
    /// Our devices are there; single entries may still be missing.
    Usable,
    /// A device of ours is missing, or the kernel cannot be read.
    Unusable,
    /// The kernel cannot make VXLAN devices.
    NoVxlan,
    /// The kernel cannot make TUN devices.
    NoTun,
    /// The kernel cannot make IPIP devices.
    NoIpip,
}

impl Outcome {
    /// The outcome of a round. The network is usable without its `spare` devices.
    pub(super) fn of(report: &Report<Network>, spare: &BTreeSet<LinkName>) -> Self {
        let is_spare = |link: LinkPlace| link.namespace == Namespace::Host && spare.contains(&link.name);
        let blocks_device = report.findings.conflicts.iter().any(|conflict| match conflict {
            Conflict::Name { link, .. }
            | Conflict::Vni { link, .. }
            | Conflict::Port { link, .. }
            | Conflict::Needs { link, .. } => !is_of_named(*link) && !is_spare(*link),
            Conflict::Route { .. } | Conflict::Forwarding { .. } => false,
        });
        // A network by name that cannot be made stops no other.
        let is_of_named = |op: &Op| changed(op).is_some_and(is_of_named);
        let is_spare = |op: &Op| changed(op).is_some_and(is_spare);
        let failed = report.failures.iter().map(|failure| match failure {
            Failure::Op { op, error, .. } if is_of_named(op) => Self::of_named(op, error),
            // What the kernel lacks is lacking for good: the network is joined anew without it.
            Failure::Op { op, error, .. } if error.kind == ErrorKind::Unsupported => Self::unsupported(op),
            Failure::Op { op, .. } if is_spare(op) => Self::Usable,
            Failure::Op { op, .. } if op.is_link() => Self::Unusable,
            Failure::Read(_) => Self::Unusable,
            Failure::Op { .. } => Self::Usable,
        });
        match failed.max() {
            Some(worst @ (Self::NoVxlan | Self::NoTun | Self::NoIpip | Self::Unusable)) => worst,
            Some(Self::Usable | Self::Pending) | None if blocks_device => Self::Unusable,
            Some(Self::Usable | Self::Pending) | None => Self::Usable,
        }
    }
}

/// The link that an operation makes, changes or removes.
const fn changed(op: &Op) -> Option<LinkPlace> {
    match op.key() {
        Key::Link(link) => Some(link),
        Key::Setting(..)
        | Key::Address(..)
        | Key::Fdb(..)
        | Key::Flood(..)
        | Key::BridgeFdb(..)
        | Key::Neighbour(..)
        | Key::Forward(_)
        | Key::Route(..) => None,
    }
}

/// True if a link belongs to a network by name or to a container on it.
fn is_of_named(LinkPlace { namespace, name }: LinkPlace) -> bool {
    namespace != Namespace::Host || Segment::has_device(name) || SegmentEndpoint::has_port(name)
}

impl Outcome {
    /// The outcome of an operation for a network by name, which stops no other. A kernel without VXLAN may not have been asked for it by the
    /// default network: the agent moves the packets from the next join on.
    fn of_named(op: &Op, error: &OpError) -> Self {
        let lacks = (error.kind == ErrorKind::Unsupported).then(|| Self::unsupported(op));
        if lacks == Some(Self::NoVxlan) { Self::NoVxlan } else { Self::Usable }
    }

    /// The outcome of an operation that this kernel does not support.
    const fn unsupported(op: &Op) -> Self {
        if let Op::Kernel(_, KernelOp::CreateLink(_, link) | KernelOp::ChangeLink(_, link)) = op {
            match link.kind {
                KernelKind::Vxlan(_) => return Self::NoVxlan,
                KernelKind::Ipip(_) => return Self::NoIpip,
                KernelKind::Bridge(_) | KernelKind::Veth(_) | KernelKind::Vlan(_) | KernelKind::Macvlan(_) => {}
            }
        }
        if matches!(op, Op::Tunnel(TunnelOp::Create(..) | TunnelOp::Change(..))) {
            return Self::NoTun;
        }
        if op.is_link() { Self::Unusable } else { Self::Usable }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use wire_net::{Mtu, Vni};
    use wire_state::{
        Bridge, Capabilities, DesiredLink, DesiredVxlan, Findings, Framing, LinkPlace, ObservedKind, ObservedLink,
        Owner, Tunnel,
    };

    use super::*;

    fn refused(op: Op, kind: ErrorKind) -> Outcome {
        let error = OpError { kind, detail: None, source: io::ErrorKind::Unsupported.into() };
        Outcome::of(&failed(op, error), &BTreeSet::new())
    }

    fn failed(op: Op, error: OpError) -> Report<Network> {
        Report { failures: vec![Failure::Op { op, error, more: 0 }], ..Report::default() }
    }

    fn kernel(op: KernelOp) -> Op {
        Op::Kernel(Namespace::Host, op)
    }

    #[test]
    fn only_a_device_that_cannot_be_created_or_is_foreign_makes_the_network_unusable() {
        let name = "flannel.1".parse().unwrap();
        let vxlan = KernelKind::Vxlan(DesiredVxlan::new(Vni::new(1).unwrap()));
        let create = || kernel(KernelOp::CreateLink(name, Box::new(DesiredLink::new(vxlan.clone(), Mtu(1450)))));
        let local = "192.0.2.1:8472".parse().unwrap();
        let (framing, capabilities) = (Framing::Raw, Capabilities::ALL);
        let tunnel = Tunnel { framing, local, own: None, source_check: true, queues: 1, capabilities };
        let tun = Op::Tunnel(TunnelOp::Create(name, Box::new(DesiredLink::new(tunnel, Mtu(1450)))));
        assert_eq!(refused(tun, ErrorKind::Unsupported), Outcome::NoTun);
        assert_eq!(refused(create(), ErrorKind::Unsupported), Outcome::NoVxlan);
        let ipip = KernelKind::Ipip(wire_state::Ipip { parent: None, local: None });
        let ipip = kernel(KernelOp::CreateLink(name, Box::new(DesiredLink::new(ipip, Mtu(1480)))));
        assert_eq!(refused(ipip, ErrorKind::Unsupported), Outcome::NoIpip);
        assert_eq!(refused(create(), ErrorKind::Permission), Outcome::Unusable);
        let fdb = wire_state::FdbKey { link: name, mac: "02:00:00:00:00:01".parse().unwrap() };
        assert_eq!(refused(kernel(KernelOp::DeleteFdb(fdb)), ErrorKind::Unsupported), Outcome::Usable);
        let found = ObservedLink {
            kind: ObservedKind::Bridge(Bridge::default()),
            mac: None,
            mtu: Mtu(1450),
            up: true,
            master: None,
            port: None,
            is_marked: false,
            owner: Owner::Foreign,
            index: 9,
        };
        let link = LinkPlace::in_host(name);
        let conflicts = vec![Conflict::Name { link, found, underlay: None }];
        let report = Report { findings: Findings { conflicts, ..Findings::default() }, ..Report::default() };
        assert_eq!(Outcome::of(&report, &BTreeSet::new()), Outcome::Unusable);
        assert_eq!(Outcome::of(&Report::default(), &BTreeSet::new()), Outcome::Usable);
        assert_eq!(Outcome::of(&report, &[name].into()), Outcome::Usable);
    }

    #[test]
    fn a_device_that_is_spare_is_not_waited_for_unless_the_kernel_lacks_its_kind() {
        let (spare, other): (LinkName, LinkName) = ("flannel.7".parse().unwrap(), "flannel.1".parse().unwrap());
        let outcome = |op: Op, kind| {
            let error = OpError { kind, detail: None, source: io::ErrorKind::Other.into() };
            Outcome::of(&failed(op, error), &[spare].into())
        };
        let vxlan = KernelKind::Vxlan(DesiredVxlan::new(Vni::new(7).unwrap()));
        let create = |name| kernel(KernelOp::CreateLink(name, Box::new(DesiredLink::new(vxlan.clone(), Mtu(1450)))));
        assert_eq!(outcome(create(spare), ErrorKind::Other), Outcome::Usable);
        assert_eq!(outcome(create(other), ErrorKind::Other), Outcome::Unusable);
        assert_eq!(outcome(kernel(KernelOp::DeleteLink(spare)), ErrorKind::Other), Outcome::Usable);
        assert_eq!(outcome(Op::Tunnel(TunnelOp::Delete(spare)), ErrorKind::Other), Outcome::Usable);
        assert_eq!(outcome(create(spare), ErrorKind::Unsupported), Outcome::NoVxlan);
    }

    #[test]
    fn a_device_of_a_network_by_name_matters_only_where_the_kernel_has_no_vxlan() {
        let name = "wv.5000".parse().unwrap();
        let vxlan = KernelKind::Vxlan(DesiredVxlan::new(Vni::new(5000).unwrap()));
        let create = || kernel(KernelOp::CreateLink(name, Box::new(DesiredLink::new(vxlan.clone(), Mtu(1450)))));
        assert_eq!(refused(create(), ErrorKind::Unsupported), Outcome::NoVxlan);
        assert_eq!(refused(create(), ErrorKind::Permission), Outcome::Usable);
        let bridge = KernelKind::Bridge(Bridge::default());
        let bridge = KernelOp::CreateLink(name, Box::new(DesiredLink::new(bridge, Mtu(1450))));
        assert_eq!(refused(kernel(bridge), ErrorKind::Unsupported), Outcome::Usable);
    }
}
