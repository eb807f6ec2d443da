//! The driver of a host's network: its kernel, and the tunnels that the agent runs.

use nix::errno::Errno;
use wire_backends::Segment;
use wire_forward::Forwarder;
use wire_kernel::{KernelDataplane, port};
use wire_net::LinkName;
use wire_state::{
    Attempt, DataplaneError, DesiredLink, Driver, Forward, ForwardKey, KernelKind, KernelOp, Namespace, Network,
    NetworkPart, ObservedNet, Op, OpError, PerNamespace, Reread, Scope, Tunnel, TunnelOp,
};

/// The kernel of this host, and our tunnels.
pub(crate) struct HostDataplane {
    /// The kernel.
    pub(crate) kernel: KernelDataplane,
    /// The tunnels.
    pub(crate) forwarder: Forwarder,
    /// For debugging: true if the kernel is taken to have no VXLAN.
    pub(crate) without_vxlan: bool,
}

/// Operations that are carried out together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Kernel(Namespace),
    Forwarding,
    /// Devices are started and stopped one by one.
    Device,
}

impl Turn {
    const fn of(op: &Op) -> Self {
        match op {
            Op::Kernel(namespace, _) => Self::Kernel(*namespace),
            Op::Tunnel(TunnelOp::PutForward(..) | TunnelOp::DeleteForward(_)) => Self::Forwarding,
            Op::Tunnel(TunnelOp::Create(..) | TunnelOp::Change(..) | TunnelOp::Delete(_)) => Self::Device,
        }
    }
}

impl HostDataplane {
    /// The kernel without tunnels, for commands that move no packets.
    pub(crate) fn without_tunnels(kernel: KernelDataplane) -> Self {
        Self { kernel, forwarder: Forwarder::default(), without_vxlan: false }
    }

    fn device(&mut self, op: &Op) -> Option<Attempt> {
        match op {
            Op::Tunnel(TunnelOp::Create(name, link) | TunnelOp::Change(name, link)) => Some(self.start(*name, link)),
            Op::Tunnel(TunnelOp::Delete(name)) => Some(self.stop(*name)),
            Op::Tunnel(TunnelOp::PutForward(..) | TunnelOp::DeleteForward(_)) | Op::Kernel(..) => None,
        }
    }

    fn start(&mut self, name: LinkName, link: &DesiredLink<Tunnel>) -> Attempt {
        let port = link.kind.local.port();
        self.forwarder.start(name, &link.kind, link.mtu).map_err(|error| with_holder(error, port))?;
        // Opening the device has created it; it only needs to be set up.
        self.kernel.host().set_up_tun(name, link)
    }

    fn stop(&mut self, name: LinkName) -> Attempt {
        self.forwarder.stop(name);
        self.apply_one(Namespace::Host, &KernelOp::DeleteLink(name))
    }

    /// Closes what was kept for devices that no network wants any more.
    fn follow(&mut self, scope: &PerNamespace<Scope>) {
        if let Some(host) = scope.get(Namespace::Host) {
            self.forwarder.follow(|link| host.devices.contains(&link));
        }
    }

    fn apply_one(&mut self, namespace: Namespace, op: &KernelOp) -> Attempt {
        self.kernel.apply(namespace, &[op]).pop().unwrap_or(Ok(()))
    }

    fn write_kernel(&mut self, namespace: Namespace, ops: &[&KernelOp]) -> Vec<Attempt> {
        if !ops.iter().any(|op| makes_vxlan(op)) {
            return self.kernel.apply(namespace, ops);
        }
        if !self.without_vxlan {
            self.forwarder.release(Segment::has_device);
            return self.kernel.apply(namespace, ops);
        }
        let refused = |op: &KernelOp| makes_vxlan(op).then(|| Err(OpError::unsupported("--forward-without has vxlan")));
        let each = ops.iter().map(|op| refused(op).unwrap_or_else(|| self.apply_one(namespace, op)));
        each.collect()
    }
}

impl Driver for HostDataplane {
    type Resource = Network;

    fn read(&mut self, scope: &PerNamespace<Scope>) -> Result<PerNamespace<ObservedNet>, DataplaneError> {
        let mut state = self.kernel.read(scope)?;
        self.follow(scope);
        if let Some(host) = state.get_mut(Namespace::Host) {
            self.forwarder.read(host);
        }
        Ok(state)
    }

    fn read_part(
        &mut self,
        scope: &PerNamespace<Scope>,
        observed: &mut PerNamespace<ObservedNet>,
        part: &NetworkPart,
    ) -> Result<Reread, DataplaneError> {
        self.follow(scope);
        self.kernel.read_part(scope, observed, part)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let mut attempts = Vec::with_capacity(ops.len());
        for segment in ops.chunk_by(|one, other| Turn::of(one) == Turn::of(other)) {
            match Turn::of(&segment[0]) {
                Turn::Kernel(namespace) => {
                    let ops: Vec<&KernelOp> = segment.iter().filter_map(kernel).collect();
                    attempts.extend(self.write_kernel(namespace, &ops));
                }
                Turn::Forwarding => attempts.extend(self.forwarder.forward(segment.iter().filter_map(forwarding))),
                Turn::Device => attempts.extend(segment.iter().filter_map(|op| self.device(op))),
            }
        }
        if ops.iter().any(Op::is_link) {
            // All devices that could take over a kept descriptor have done so, but for those of networks by name.
            self.forwarder.release(Segment::has_device);
        }
        attempts
    }
}

const fn kernel(op: &Op) -> Option<&KernelOp> {
    match op {
        Op::Kernel(_, op) => Some(op),
        Op::Tunnel(_) => None,
    }
}

const fn forwarding(op: &Op) -> Option<(ForwardKey, Option<Forward>)> {
    match op {
        Op::Tunnel(TunnelOp::PutForward(key, forward)) => Some((*key, Some(*forward))),
        Op::Tunnel(TunnelOp::DeleteForward(key)) => Some((*key, None)),
        Op::Tunnel(TunnelOp::Create(..) | TunnelOp::Change(..) | TunnelOp::Delete(_)) | Op::Kernel(..) => None,
    }
}

const fn makes_vxlan(op: &KernelOp) -> bool {
    matches!(op, KernelOp::CreateLink(_, link) if matches!(link.kind, KernelKind::Vxlan(_)))
}

/// Adds who has the port, if the error is that it is in use.
fn with_holder(error: OpError, port: u16) -> OpError {
    if error.source.raw_os_error() != Some(Errno::EADDRINUSE as i32) {
        return error;
    }
    let said = error.detail.map(|detail| detail + ": ").unwrap_or_default();
    OpError { detail: Some(said + &port::describe_holder(port)), ..error }
}
