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
pub(super) mod tests;
