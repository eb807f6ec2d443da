//! What a round of the loop of `Network` could not do for networks by name and their containers. Pure.

use nix::errno::Errno;
use wire_backends::SegmentEndpoint;
use wire_net::{LinkName, chain};
use wire_state::{
    ErrorKind, Failure, KernelOp, LinkPlace, Namespace, Network, Op, OpError, Operation as _, Report, TunnelOp,
};

use crate::status::Status;

/// The failures of a round in which the kernel could be read, and each change was tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undone<'a>(&'a Report<Network>);

impl<'a> Undone<'a> {
    /// `None` if nothing is known: the kernel could not be read, or not all was tried.
    pub(super) fn of(report: &'a Report<Network>) -> Option<Self> {
        report.is_whole().then_some(Self(report))
    }

    /// The reason why something on one of these links of the host is not as it should be, for people.
    pub(super) fn on(self, links: &[LinkName]) -> Option<String> {
        let places: Vec<LinkPlace> = links.iter().map(|link| LinkPlace::in_host(*link)).collect();
        let failed = self.0.failed_ops.iter().find(|op| op.concerns(&places))?;
        Some(self.said(failed))
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
            Some(_) | None => self.said(failed),
        })
    }

    fn said(self, failed: &Op) -> String {
        match self.error(failed) {
            Some(error) => format!("{failed}: {}", chain(error)),
            None => format!("{failed} has failed"),
        }
    }

    /// True if a tunnel could not be started on one of these links since somebody else has its UDP port.
    fn lacks_port(self, links: &[LinkName]) -> bool {
        let is_in_use = |error: &OpError| error.source.raw_os_error() == Some(Errno::EADDRINUSE as i32);
        let starts = |op: &&Op| match op {
            Op::Tunnel(TunnelOp::Create(name, _) | TunnelOp::Change(name, _)) => links.contains(name),
            Op::Kernel(..) | Op::Tunnel(_) => false,
        };
        self.0.failed_ops.iter().filter(starts).any(|op| self.error(op).is_some_and(is_in_use))
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

/// The reason why something on one of these links is not as it should be after the last round, for people; also if that is not known.
pub(crate) fn not_done(seen: &Status, links: &[LinkName]) -> Option<String> {
    let last = seen.dataplane.last.as_ref()?;
    match Undone::of(last) {
        Some(undone) => undone.on(links).or_else(|| seen.in_the_way(links)),
        None => Some(last.failures.first().map_or_else(|| "not all was tried".to_owned(), ToString::to_string)),
    }
}

/// True if the last round could not start a tunnel on one of these links since somebody else has its UDP port.
pub(super) fn lacks_port(seen: &Status, links: &[LinkName]) -> bool {
    seen.dataplane.last.as_ref().and_then(|last| Undone::of(last)).is_some_and(|undone| undone.lacks_port(links))
}

const fn makes_link(op: &Op) -> bool {
    matches!(op, Op::Kernel(_, KernelOp::CreateLink(..)))
}

#[cfg(test)]
pub(super) mod tests;
