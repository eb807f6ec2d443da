//! All of a host: its kernel, and the tunnels that we work ourselves.

use wire_state::{Attempt, DataplaneError, Driver, Link, LinkKind, NetState, Network, Op, OpError, Scope};

use crate::{Forwarder, NetlinkDataplane};

/// The kernel of this thread's network namespace with our tunnels in it.
pub struct HostDataplane {
    /// The kernel.
    pub kernel: NetlinkDataplane,
    /// The tunnels.
    pub forwarder: Forwarder,
    /// For debugging: whether the kernel is taken to have no VXLAN.
    pub without_vxlan: bool,
}

/// Who carries out an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Kernel,
    /// The device is the kernel's, what works it is ours.
    Tunnel,
    Forwarder,
}

impl Part {
    const fn of(op: &Op) -> Self {
        match op {
            Op::PutForward(..) | Op::DeleteForward(_) => Self::Forwarder,
            Op::CreateLink(_, Link { kind: LinkKind::Tun(_), .. })
            | Op::ChangeLink(_, Link { kind: LinkKind::Tun(_), .. })
            | Op::DeleteLink(_) => Self::Tunnel,
            Op::CreateLink(..)
            | Op::ChangeLink(..)
            | Op::Set(..)
            | Op::PutAddress(_)
            | Op::DeleteAddress(_)
            | Op::PutFdb(..)
            | Op::DeleteFdb(_)
            | Op::PutNeighbour(..)
            | Op::DeleteNeighbour(_)
            | Op::AddRoute(..)
            | Op::ReplaceRoute(..)
            | Op::DeleteRoute(..) => Self::Kernel,
        }
    }
}

impl HostDataplane {
    fn tunnel(&mut self, op: &Op) -> Attempt {
        match op {
            Op::CreateLink(name, link) | Op::ChangeLink(name, link) => {
                let LinkKind::Tun(Some(tunnel)) = &link.kind else {
                    return Err(OpError::unsupported("nothing is known of how to work that TUN device"));
                };
                self.forwarder.start(*name, tunnel, link.mtu)?;
                // The device was made by opening it: what is left is to set it up.
                self.kernel.set_up(*name, link)
            }
            Op::DeleteLink(name) => {
                self.forwarder.stop(*name);
                self.kernel.apply(std::slice::from_ref(op)).pop().unwrap_or(Ok(()))
            }
            _ => Ok(()),
        }
    }
}

impl Driver for HostDataplane {
    type Resource = Network;

    fn read(&mut self, scope: &Scope) -> Result<NetState, DataplaneError> {
        let mut state = self.kernel.read(scope)?;
        self.forwarder.read(&mut state);
        Ok(state)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let mut attempts = Vec::with_capacity(ops.len());
        for part in ops.chunk_by(|a, b| Part::of(a) == Part::of(b)) {
            match Part::of(&part[0]) {
                Part::Kernel if self.without_vxlan && part.iter().any(makes_vxlan) => {
                    attempts.extend(part.iter().map(|_| Err(OpError::unsupported("--forward-without has vxlan"))));
                }
                Part::Kernel => {
                    if part.iter().any(makes_vxlan) {
                        self.forwarder.let_go();
                    }
                    attempts.extend(self.kernel.apply(part));
                }
                Part::Forwarder => attempts.extend(self.forwarder.forward(part.iter())),
                Part::Tunnel => attempts.extend(part.iter().map(|op| self.tunnel(op))),
            }
        }
        if ops.iter().any(Op::is_link) {
            // All devices have had their chance to take up what was kept.
            self.forwarder.let_go();
        }
        attempts
    }
}

const fn makes_vxlan(op: &Op) -> bool {
    matches!(op, Op::CreateLink(_, Link { kind: LinkKind::Vxlan(_), .. }))
}
