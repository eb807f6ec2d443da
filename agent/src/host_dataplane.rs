//! All of a host's network: its kernel, and the tunnels that we work ourselves.

use nix::errno::Errno;
use wire_forward::Forwarder;
use wire_kernel::{NetlinkDataplane, port};
use wire_net::LinkName;
use wire_state::{
    Attempt, DataplaneError, Driver, Forward, ForwardKey, Link, LinkKind, NetState, Network, Op, OpError, Scope,
};

/// The kernel of this thread's network namespace with our tunnels in it.
pub(crate) struct HostDataplane {
    /// The kernel.
    pub(crate) kernel: NetlinkDataplane,
    /// The tunnels.
    pub(crate) forwarder: Forwarder,
    /// For debugging: whether the kernel is taken to have no VXLAN.
    pub(crate) without_vxlan: bool,
}

/// Who carries out an operation.
#[derive(Clone, Copy)]
enum Part<'a> {
    Kernel,
    /// The device is the kernel's, what works it is ours.
    Start(LinkName, &'a Link),
    Stop(LinkName),
    Forward(ForwardKey, Option<Forward>),
}

impl<'a> Part<'a> {
    const fn of(op: &'a Op) -> Self {
        match op {
            Op::PutForward(key, forward) => Self::Forward(*key, Some(*forward)),
            Op::DeleteForward(key) => Self::Forward(*key, None),
            Op::CreateLink(name, link) | Op::ChangeLink(name, link) => match link.kind {
                LinkKind::Tun(_) => Self::Start(*name, link),
                LinkKind::Vxlan(_) | LinkKind::Other(_) => Self::Kernel,
            },
            Op::DeleteLink(name) => Self::Stop(*name),
            Op::Set(..)
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
    fn start(&mut self, name: LinkName, link: &Link) -> Attempt {
        let LinkKind::Tun(Some(tunnel)) = &link.kind else {
            return Err(OpError::unsupported("nothing is known of how to work that TUN device"));
        };
        let port = tunnel.local.port();
        self.forwarder.start(name, tunnel, link.mtu).map_err(|error| with_holder(error, port))?;
        // The device was made by opening it: what is left is to set it up.
        self.kernel.set_up(name, link)
    }

    fn stop(&mut self, name: LinkName) -> Attempt {
        self.forwarder.stop(name);
        self.kernel.apply(&[Op::DeleteLink(name)]).pop().unwrap_or(Ok(()))
    }

    fn write_kernel(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let makes_vxlan = ops.iter().any(makes_vxlan);
        if makes_vxlan && self.without_vxlan {
            return ops.iter().map(|_| Err(OpError::unsupported("--forward-without has vxlan"))).collect();
        }
        if makes_vxlan {
            self.forwarder.release();
        }
        self.kernel.apply(ops)
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
        for segment in ops.chunk_by(go_together) {
            match Part::of(&segment[0]) {
                Part::Kernel => attempts.extend(self.write_kernel(segment)),
                Part::Forward(..) => attempts.extend(self.forwarder.forward(segment.iter().filter_map(forwarding))),
                Part::Start(name, link) => attempts.push(self.start(name, link)),
                Part::Stop(name) => attempts.push(self.stop(name)),
            }
        }
        if ops.iter().any(Op::is_link) {
            // All devices have had their chance to take up what was kept.
            self.forwarder.release();
        }
        attempts
    }
}

/// Devices are started and stopped one by one; all else is written in batches.
const fn go_together(one: &Op, other: &Op) -> bool {
    matches!((Part::of(one), Part::of(other)), (Part::Kernel, Part::Kernel) | (Part::Forward(..), Part::Forward(..)))
}

const fn forwarding(op: &Op) -> Option<(ForwardKey, Option<Forward>)> {
    match Part::of(op) {
        Part::Forward(key, forward) => Some((key, forward)),
        Part::Kernel | Part::Start(..) | Part::Stop(_) => None,
    }
}

const fn makes_vxlan(op: &Op) -> bool {
    matches!(op, Op::CreateLink(_, Link { kind: LinkKind::Vxlan(_), .. }))
}

/// Where a port is in use, whose it is.
fn with_holder(error: OpError, port: u16) -> OpError {
    if error.source.raw_os_error() != Some(Errno::EADDRINUSE as i32) {
        return error;
    }
    let said = error.detail.map(|detail| detail + ": ").unwrap_or_default();
    OpError { detail: Some(said + &port::held(port)), ..error }
}
