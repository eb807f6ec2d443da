//! What a round of the loop of `Network` could not do for containers. Pure.

use wire_backends::SegmentEndpoint;
use wire_net::{LinkName, chain};
use wire_state::{ErrorKind, Failure, KernelOp, LinkPlace, Namespace, Network, Op, OpError, Operation as _, Report};

/// The failures of a round in which the kernel could be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undone<'a>(&'a Report<Network>);

impl<'a> Undone<'a> {
    /// `None` if the kernel could not be read: then nothing is known.
    pub(super) fn of(report: &'a Report<Network>) -> Option<Self> {
        let is_unread = report.failures.iter().any(|failure| matches!(failure, Failure::Read(_)));
        (!is_unread).then_some(Self(report))
    }

    /// The reason why a container does not have all that it should have, for people; `None` if it has.
    pub(super) fn at(self, endpoint: &SegmentEndpoint) -> Option<String> {
        let ends = [LinkPlace::in_host(endpoint.port), endpoint.inside];
        let failed = self.0.failed_ops.iter().find(|op| op.concerns(&ends))?;
        Some(match self.error(failed) {
            Some(error) if error.kind == ErrorKind::Exists && makes_link(failed) => format!(
                "{0} is there already, perhaps as another name of a link (ip link show {0}): detach this, and attach it with another --name",
                endpoint.inside.name
            ),
            Some(error) => format!("{failed}: {}", chain(error)),
            None => format!("{failed} has failed"),
        })
    }

    /// True if a port could not be removed.
    pub(super) fn keeps(self, is_port: impl Fn(LinkName) -> bool) -> bool {
        self.0.failed_ops.iter().any(|op| match op {
            Op::Kernel(Namespace::Host, KernelOp::DeleteLink(name)) => is_port(*name),
            Op::Kernel(..) | Op::Tunnel(_) => false,
        })
    }

    /// The error of an operation, or of the first of its kind.
    fn error(self, failed: &Op) -> Option<&'a OpError> {
        let errors = self.0.failures.iter().filter_map(|failure| match failure {
            Failure::Op { op, error, .. } => Some((op, error)),
            Failure::Read(_) => None,
        });
        let of_kind = errors.clone().find(|(op, _)| op.name() == failed.name());
        errors.clone().find(|(op, _)| *op == failed).or(of_kind).map(|(_, error)| error)
    }
}

const fn makes_link(op: &Op) -> bool {
    matches!(op, Op::Kernel(_, KernelOp::CreateLink(..)))
}

#[cfg(test)]
pub(super) mod tests {
    use nix::errno::Errno;
    use wire_net::{DualStack, MacAddr, Mtu};
    use wire_state::{DesiredLink, KernelKind, Veth};

    use super::*;

    pub(in crate::named) fn endpoint(port: &str, namespace: u64) -> SegmentEndpoint {
        SegmentEndpoint {
            port: port.parse().unwrap(),
            inside: LinkPlace { namespace: Namespace::Guest(namespace), name: "eth1".parse().unwrap() },
            addresses: DualStack { v4: Some([10, 128, 1, 33].into()), v6: None },
            mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        }
    }

    fn create(endpoint: &SegmentEndpoint) -> Op {
        let link = DesiredLink::new(KernelKind::Veth(Veth { peer: endpoint.inside }), Mtu(1450));
        Op::Kernel(Namespace::Host, KernelOp::CreateLink(endpoint.port, Box::new(link)))
    }

    /// The report of a round in which these operations have failed, all with one error.
    pub(in crate::named) fn failed(ops: Vec<Op>, errno: Errno) -> Report<Network> {
        let failures =
            ops.first().map(|op| Failure::Op { op: op.clone(), error: OpError::of(errno), more: ops.len() - 1 });
        Report { failures: failures.into_iter().collect(), failed_ops: ops, ..Report::default() }
    }

    /// The report of a round in which the links of these containers could not be made.
    pub(in crate::named) fn unmade(endpoints: &[&SegmentEndpoint]) -> Report<Network> {
        failed(endpoints.iter().map(|endpoint| create(endpoint)).collect(), Errno::EEXIST)
    }

    #[test]
    fn each_container_that_lacks_something_has_its_reason_and_no_other() {
        let [one, other, fine] = [endpoint("wp00000001", 7), endpoint("wp00000002", 8), endpoint("wp00000003", 9)];
        let report = unmade(&[&one, &other]);
        let undone = Undone::of(&report).unwrap();
        for without in [&one, &other] {
            let said = undone.at(without).unwrap();
            assert!(said.starts_with("eth1 is there already, perhaps as another name"), "{said}");
        }
        assert_eq!(undone.at(&fine), None);
        let address = wire_state::Address { link: "eth1".parse().unwrap(), address: [10, 128, 1, 33].into(), len: 20 };
        let report = failed(vec![Op::Kernel(Namespace::Guest(7), KernelOp::PutAddress(address))], Errno::EPERM);
        let undone = Undone::of(&report).unwrap();
        assert!(undone.at(&one).is_some_and(|said| said.contains("10.128.1.33/20 dev eth1")));
        assert_eq!(undone.at(&other), None);
    }

    #[test]
    fn a_port_that_could_not_be_removed_is_kept_and_nothing_is_known_of_a_kernel_that_was_not_read() {
        let port: LinkName = "wp00000001".parse().unwrap();
        let report = failed(vec![Op::Kernel(Namespace::Host, KernelOp::DeleteLink(port))], Errno::EBUSY);
        let undone = Undone::of(&report).unwrap();
        assert!(undone.keeps(|name| name == port) && !undone.keeps(|name| name != port));
        let error = wire_state::DataplaneError::Open(std::io::ErrorKind::Other.into());
        let unread = Report::<Network> { failures: vec![Failure::Read(error)], ..Report::default() };
        assert!(Undone::of(&unread).is_none());
    }
}
