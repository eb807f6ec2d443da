//! A peer that is known before and after a batch of operations is known after each of them: no packet may be lost in between.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use wire_kernel::sim::SimKernel;
use wire_net::Prefix;
use wire_state::{Attempt, Driver as _, KernelOp, Op};

use crate::host::peers;

/// Larger batches are those of a start, in which no peer is known before.
const LONGEST: usize = 64;

/// The peers that could not be reached for a moment, each in a sentence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps(Arc<Mutex<Vec<String>>>);

impl Gaps {
    /// The first that was found.
    pub(crate) fn first(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// Carries out operations, and notes each peer that is unknown for a moment. A new device begins without entries.
    pub(crate) fn apply(&self, kernel: &mut SimKernel, ops: &[Op]) -> Vec<Attempt> {
        if ops.len() > LONGEST || ops.iter().any(makes_device) || !ops.iter().any(takes_away) {
            return kernel.apply(ops);
        }
        let before = known(kernel);
        let mut attempts = Vec::with_capacity(ops.len());
        let mut missed: Vec<(Prefix, &Op)> = Vec::new();
        for op in ops {
            attempts.extend(kernel.apply(std::slice::from_ref(op)));
            let now = known(kernel);
            missed.extend(before.iter().filter(|peer| !now.contains(peer)).map(|peer| (*peer, op)));
        }
        let after = known(kernel);
        // Where an operation fails, the next round puts it right.
        if let Some((peer, op)) = missed.into_iter().find(|(peer, _)| after.contains(peer))
            && attempts.iter().all(Result::is_ok)
        {
            let sentence = format!("{peer} is known before and after a batch, and not after {op}");
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
        }
        attempts
    }
}

const fn makes_device(op: &Op) -> bool {
    matches!(op, Op::Kernel(_, KernelOp::CreateLink(..) | KernelOp::DeleteLink(_) | KernelOp::ChangeLink(..)))
}

/// Whether a peer may be unknown after the operation. Each replaces what another has put, or deletes.
const fn takes_away(op: &Op) -> bool {
    matches!(op, Op::Kernel(_, KernelOp::DeleteRoute(..) | KernelOp::DeleteFdb(_) | KernelOp::DeleteNeighbour(_)))
}

fn known(kernel: &SimKernel) -> BTreeSet<Prefix> {
    peers(kernel.host()).into_keys().collect()
}
