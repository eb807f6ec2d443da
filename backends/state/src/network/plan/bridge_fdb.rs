//! The FDB of bridges. An entry is on two links: the bridge, and the port that it leads to.

use wire_net::LinkName;

use super::{Builder, keys::Selection, merge};
use crate::{BridgeFdbKey, KernelOp, Op};

impl Builder<'_> {
    pub(super) fn bridge_fdb(&mut self, selection: &impl Selection) {
        let have = selection.rows(&self.have.bridge_fdb, |all| &all.bridge_fdb);
        let want = selection.rows(&self.want.bridge_fdb, |all| &all.bridge_fdb);
        let mut deletions = Vec::new();
        for (key, have, want) in merge(have, want) {
            let have = have.filter(|port| !self.is_lost(key, **port));
            let is_blocked = |port: &LinkName| [key.bridge, *port].iter().any(|link| self.links.blocked.contains(link));
            let is_leaving = |port: &LinkName| [key.bridge, *port].iter().any(|link| self.links.leaving.contains(link));
            match (have, want) {
                (have, Some(want)) if have == Some(want) || is_blocked(want) => {}
                (_, Some(want)) => self.put(KernelOp::PutBridgeFdb(*key, *want)),
                (Some(have), None) if !is_blocked(have) && !is_leaving(have) => {
                    deletions.push(Op::Kernel(self.namespace, KernelOp::DeleteBridgeFdb(*key, *have)));
                }
                (Some(_) | None, None) => {}
            }
        }
        self.deletions.splice(0..0, deletions);
    }

    /// True if the kernel removes the entry when links change: its bridge or its port is made anew, or the port leaves for another bridge.
    fn is_lost(&self, key: &BridgeFdbKey, port: LinkName) -> bool {
        let is_absent = [key.bridge, port].iter().any(|link| self.links.absent.contains(link));
        is_absent || self.want.links.get(&port).and_then(|link| link.master).is_some_and(|bridge| bridge != key.bridge)
    }
}
