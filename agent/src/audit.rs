//! The periodic comparison of all that the kernel holds, beside the loop of `Network`: to read a large network takes a while, and a change
//! of one lease must not wait for that.

use std::{collections::BTreeSet, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use wire_state::{
    DataplaneError, DesiredKind, DesiredNet, Findings, Key, Namespace, Network, Op, PerNamespace, Plan, Scope, plan,
};

use crate::ports::{NetworkPort, Ports};

/// Comparisons of everything take at most one part in so many of the time. Among 64 000 peers, one takes half a second.
const PARTS: u32 = 250;

/// The pause after a comparison of everything that took this time: `period`, or longer.
pub(crate) fn pause_after(took: Duration, period: Duration) -> Duration {
    period.max(took * PARTS)
}

/// A comparison that is under way.
pub(crate) struct Audit {
    task: JoinHandle<Result<Plan<Network>, DataplaneError>>,
    began: Instant,
}

impl Audit {
    /// Starts to compare the host's namespace. `None` if that is not all of the state: what our own tunnels hold is in the driver, and containers'
    /// namespaces are read by the loop.
    pub(crate) fn start<P: Ports>(
        ports: &P,
        driver: &mut P::Network,
        scope: Scope,
        desired: &PerNamespace<DesiredNet>,
    ) -> Option<Self> {
        let host = desired.get(Namespace::Host)?;
        if desired.iter().count() > 1 || host.links.values().any(|link| matches!(link.kind, DesiredKind::Tunnel(_))) {
            return None;
        }
        let (read, desired) = (driver.reader(), desired.clone());
        let compare = move || read(&scope).map(|observed| plan(&PerNamespace::host(observed), &desired));
        Some(Self { task: ports.blocking(compare), began: Instant::now() })
    }

    /// The time since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits for the changes that would be made. `None` if the kernel could not be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn finished(&mut self) -> Option<Plan<Network>> {
        (&mut self.task).await.ok()?.ok()
    }
}

/// True if the kernel differs from the desired state. Entries that the loop changed `meanwhile` are left out: they may have been read before
/// or after the change. `findings` are those of the last round.
pub(crate) fn has_found(audited: &Plan<Network>, findings: &Findings, meanwhile: &[Op]) -> bool {
    let changed: BTreeSet<Key> = meanwhile.iter().map(Op::key).collect();
    let others = meanwhile.is_empty() && audited.findings != *findings;
    others || audited.ops.iter().any(|op| !changed.contains(&op.key()))
}

#[cfg(test)]
mod tests {
    use wire_state::{FdbKey, KernelOp, NeighbourKey};

    use super::*;

    #[test]
    fn a_comparison_that_takes_long_is_made_less_often() {
        let minute = Duration::from_secs(60);
        assert_eq!(pause_after(Duration::from_millis(30), minute), minute);
        assert_eq!(pause_after(Duration::from_millis(500), minute), Duration::from_secs(125));
    }

    #[test]
    fn only_what_was_not_changed_meanwhile_counts_as_found() {
        let (link, mac) = ("flannel.1".parse().unwrap(), "02:00:00:00:00:01".parse().unwrap());
        let put = Op::Kernel(
            Namespace::Host,
            KernelOp::PutFdb(FdbKey { link, mac }, wire_state::FdbTarget { to: [192, 0, 2, 2].into(), port: None }),
        );
        let deleted = Op::Kernel(Namespace::Host, KernelOp::DeleteFdb(FdbKey { link, mac }));
        let neighbour = NeighbourKey { link, address: [10, 5, 2, 0].into() };
        let other = Op::Kernel(Namespace::Host, KernelOp::PutNeighbour(neighbour, mac));
        let of =
            |ops: &[&Op]| Plan { ops: ops.iter().map(|op| (*op).clone()).collect(), findings: Findings::default() };
        let same = Findings::default();
        assert!(!has_found(&of(&[]), &same, &[]));
        assert!(has_found(&of(&[&put]), &same, &[]));
        let meanwhile = [deleted];
        assert!(!has_found(&of(&[&put]), &same, &meanwhile), "it was read before that");
        assert!(has_found(&of(&[&put, &other]), &same, &meanwhile));
    }
}
