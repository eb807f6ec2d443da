//! Resources in memory that fail on demand.
//!
//! Clones of a handle share one state: clone it to read, or to change, the state that a reconciler works on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;
use wire_net::LinkName;

use crate::{
    Address, Attempt, DataplaneError, DesiredLink, DesiredNet, Driver, ErrorKind, Firewall, FirewallOp, KernelKind,
    KernelOp, LinkPlace, LinkRef, Namespace, Network, ObservedFirewall, ObservedKind, ObservedNet, Op, OpError,
    Operation, Owner, PerNamespace, Resource, Setting, TunnelOp, Veth, plan,
};

/// A resource in memory, with the rules of the kernel that it stands for.
pub trait Simulated: Resource<Observed: Default, Scope: Default> {
    /// The error with which the kernel would refuse an operation in this state; `None` if it would accept it.
    fn refusal(observed: &Self::Observed, op: &Self::Op) -> Option<ErrorKind>;

    /// Makes the changes that come along with the operation of that number, beside those of [`Resource::apply`].
    fn happens(_observed: &mut Self::Observed, _op: &Self::Op, _number: usize) {}
}

/// A handle on a resource in memory.
#[derive(Clone, Debug)]
pub struct Sim<R: Simulated> {
    inner: Arc<Mutex<Inner<R>>>,
}

#[derive(Debug)]
struct Inner<R: Simulated> {
    state: R::Observed,
    /// The errors that the next operations of each name fail with.
    faults: BTreeMap<&'static str, Vec<ErrorKind>>,
    unreadable: usize,
    written: usize,
    read: usize,
}

impl<R: Simulated> Sim<R> {
    /// A resource that holds `state`.
    #[must_use]
    pub fn new(state: R::Observed) -> Self {
        let inner = Inner { state, faults: BTreeMap::new(), unreadable: 0, written: 0, read: 0 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> R::Observed {
        self.lock().state.clone()
    }

    /// Changes the state as another program would.
    pub fn edit(&self, change: impl FnOnce(&mut R::Observed)) {
        change(&mut self.lock().state);
    }

    /// Makes the next operation of that name (see [`Operation::name`]) fail. If the error is [`ErrorKind::Lost`], the operation is carried
    /// out nonetheless.
    pub fn fail_next(&self, op: &'static str, error: ErrorKind) {
        self.lock().faults.entry(op).or_default().push(error);
    }

    /// Makes the next reads fail, that many times.
    pub fn fail_reads(&self, times: usize) {
        self.lock().unreadable = times;
    }

    /// The number of operations that were tried.
    #[must_use]
    pub fn written(&self) -> usize {
        self.lock().written
    }

    /// The number of reads.
    #[must_use]
    pub fn read_times(&self) -> usize {
        self.lock().read
    }

    fn lock(&self) -> MutexGuard<'_, Inner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sim<Network> {
    /// A network whose host namespace holds `state`.
    #[must_use]
    pub fn of_host(state: ObservedNet) -> Self {
        Self::new(PerNamespace::host(state))
    }

    /// The state of the host's namespace.
    #[must_use]
    pub fn host(&self) -> ObservedNet {
        self.lock().state.get(Namespace::Host).cloned().unwrap_or_default()
    }

    /// Changes the state of the host's namespace as another program would.
    pub fn edit_host(&self, change: impl FnOnce(&mut ObservedNet)) {
        if let Some(host) = self.lock().state.get_mut(Namespace::Host) {
            change(host);
        }
    }

    /// Sets a link of the host's namespace down, and removes the neighbours and routes that the kernel then removes.
    pub fn set_down(&self, name: LinkName) {
        self.edit_host(|host| {
            if let Some(link) = host.links.get_mut(&name) {
                link.up = false;
            }
            host.neighbours.retain(|key, _| key.link != name);
            host.routes.retain(|_, route| route.via.link() != Some(name));
        });
    }
}

/// The state of namespaces that were empty, after the plan for `want` was carried out.
#[must_use]
pub fn reached(want: &PerNamespace<DesiredNet>) -> PerNamespace<ObservedNet> {
    let mut state: PerNamespace<ObservedNet> =
        want.iter().map(|(namespace, _)| (namespace, ObservedNet::default())).collect();
    for op in plan(&state, want).ops {
        state.apply(&op);
    }
    state
}

impl<R: Simulated> Driver for Sim<R> {
    type Resource = R;

    fn read(&mut self, _: &R::Scope) -> Result<R::Observed, DataplaneError> {
        let mut inner = self.lock();
        inner.read += 1;
        if inner.unreadable > 0 {
            inner.unreadable -= 1;
            return Err(DataplaneError::Read { what: "the simulation", source: Errno::ENOBUFS.into() });
        }
        Ok(inner.state.clone())
    }

    fn apply(&mut self, ops: &[R::Op]) -> Vec<Attempt> {
        let mut inner = self.lock();
        ops.iter().map(|op| inner.apply(op)).collect()
    }
}

impl<R: Simulated> Inner<R> {
    fn apply(&mut self, op: &R::Op) -> Attempt {
        self.written += 1;
        let fault = self.faults.get_mut(op.name()).and_then(Vec::pop);
        if let Some(kind) = fault.filter(|kind| *kind != ErrorKind::Lost) {
            return Err(OpError::of(errno(kind)));
        }
        if let Some(kind) = R::refusal(&self.state, op) {
            return Err(OpError::of(errno(kind)));
        }
        R::apply(&mut self.state, op);
        R::happens(&mut self.state, op, self.written);
        fault.map_or(Ok(()), |kind| Err(OpError::of(errno(kind))))
    }
}

/// The kernel's rules: an entry needs its link, a link that is removed takes its entries along, and a route is refused if one with the
/// same key exists.
impl Simulated for Network {
    fn refusal(observed: &PerNamespace<ObservedNet>, op: &Op) -> Option<ErrorKind> {
        match op {
            Op::Kernel(namespace, KernelOp::CreateLink(name, link)) => {
                cannot_be_made(observed, LinkPlace { namespace: *namespace, name: *name }, link)
            }
            Op::Kernel(namespace, op) => observed.get(*namespace).and_then(|net| refused(net, op)),
            Op::Tunnel(op) => observed.get(Namespace::Host).and_then(|net| refused_tunnel(net, op)),
        }
    }

    /// Gives a new link an index that no link had before.
    fn happens(observed: &mut PerNamespace<ObservedNet>, op: &Op, number: usize) {
        let made = match op {
            Op::Kernel(namespace, KernelOp::CreateLink(name, _)) => LinkPlace { namespace: *namespace, name: *name },
            Op::Tunnel(TunnelOp::Create(name, _)) => LinkPlace::in_host(*name),
            Op::Kernel(..) | Op::Tunnel(_) => return,
        };
        let Some(number) = u32::try_from(number).ok().map(|number| 2 * number + 1000) else { return };
        let peer = observed.renumber(made, number);
        if let Some(peer) = peer {
            observed.renumber(peer, number + 1);
        }
    }
}

fn cannot_be_made(
    observed: &PerNamespace<ObservedNet>,
    place: LinkPlace,
    link: &DesiredLink<KernelKind>,
) -> Option<ErrorKind> {
    let is_missing = |place: LinkPlace| observed.id(place).is_none();
    let (needs, makes) = match &link.kind {
        KernelKind::Vxlan(vxlan) => (vxlan.parent.and_then(LinkRef::desired), None),
        KernelKind::Vlan(vlan) => (vlan.parent.desired(), None),
        KernelKind::Macvlan(macvlan) => (macvlan.parent.desired(), None),
        KernelKind::Ipip(ipip) => (ipip.parent.and_then(LinkRef::desired), None),
        KernelKind::Veth(Veth { peer }) => (None, Some(*peer)),
        KernelKind::Bridge => (None, None),
    };
    let master = link.master.map(|name| LinkPlace { name, ..place });
    if [Some(place), makes].into_iter().flatten().any(|place| !is_missing(place)) {
        return Some(ErrorKind::Exists);
    }
    needs.into_iter().chain(master).any(is_missing).then_some(ErrorKind::NoDevice)
}

fn refused(net: &ObservedNet, op: &KernelOp) -> Option<ErrorKind> {
    let missing = |link: &LinkName| !net.links.contains_key(link);
    let down = |link: &LinkName| net.links.get(link).is_none_or(|link| !link.up);
    let on = |link: &LinkName| missing(link).then_some(ErrorKind::NoDevice);
    match op {
        KernelOp::ChangeLink(name, link) => on(name).or_else(|| link.master.as_ref().and_then(on)),
        KernelOp::PutAddress(address) if is_without_ipv6(net, address) => Some(ErrorKind::Permission),
        KernelOp::PutAddress(address) => on(&address.link),
        KernelOp::PutFdb(key, _) => on(&key.link),
        KernelOp::PutFlood(entry) => on(&entry.link),
        KernelOp::PutNeighbour(key, _) => on(&key.link),
        KernelOp::AddRoute(key, _) if net.routes.contains_key(key) => Some(ErrorKind::Exists),
        KernelOp::AddRoute(_, hop) | KernelOp::ReplaceRoute(_, hop) => {
            hop.link().filter(down).map(|_| ErrorKind::Other)
        }
        KernelOp::Set(setting, _) => setting.link().filter(missing).map(|_| ErrorKind::Absent),
        KernelOp::CreateLink(..)
        | KernelOp::DeleteLink(_)
        | KernelOp::DeleteAddress(_)
        | KernelOp::DeleteFdb(_)
        | KernelOp::DeleteFlood(_)
        | KernelOp::DeleteNeighbour(_)
        | KernelOp::DeleteRoute(..) => None,
    }
}

fn refused_tunnel(net: &ObservedNet, op: &TunnelOp) -> Option<ErrorKind> {
    let is_missing = |link: &LinkName| !net.links.contains_key(link);
    match op {
        TunnelOp::Create(name, _) => (!is_missing(name)).then_some(ErrorKind::Exists),
        TunnelOp::Change(name, _) => is_missing(name).then_some(ErrorKind::NoDevice),
        TunnelOp::PutForward(key, _) => is_missing(&key.link).then_some(ErrorKind::NoDevice),
        TunnelOp::Delete(_) | TunnelOp::DeleteForward(_) => None,
    }
}

impl Simulated for Firewall {
    fn refusal(_: &ObservedFirewall, _: &FirewallOp) -> Option<ErrorKind> {
        None
    }
}

/// Whether the kernel refuses an IPv6 address since `disable_ipv6` is set on its link (`EACCES` of net/ipv6/addrconf.c).
fn is_without_ipv6(observed: &ObservedNet, address: &Address) -> bool {
    address.address.is_ipv6() && observed.settings.get(&Setting::DisableIpv6(address.link)) == Some(&1)
}

impl ObservedNet {
    /// The foreign entries alone, for comparison. All entries on our devices are ours.
    #[must_use]
    pub fn foreign(&self) -> Self {
        let mut state = self.clone();
        let ours: Vec<LinkName> =
            state.links.iter().filter(|(_, link)| link.owner == Owner::Ours).map(|(name, _)| *name).collect();
        for name in ours {
            state.forget_link(name);
        }
        state.routes.retain(|_, route| route.owner == Owner::Foreign);
        // The settings of the host as a whole are ours.
        state.settings.retain(|setting, _| setting.link().is_some());
        state
    }
}

impl PerNamespace<ObservedNet> {
    /// The foreign entries of each namespace, for comparison.
    #[must_use]
    pub fn foreign(&self) -> Self {
        self.iter().map(|(namespace, net)| (namespace, net.foreign())).collect()
    }

    /// Gives a link another index, wherever it is referred to. Returns the peer of a veth.
    fn renumber(&mut self, place: LinkPlace, number: u32) -> Option<LinkPlace> {
        let before = self.id(place)?;
        for (_, net) in self.iter_mut() {
            for link in net.links.values_mut() {
                for named in link.named_mut().filter(|named| **named == before) {
                    named.index = number;
                }
            }
        }
        let link = self.get_mut(place.namespace)?.links.get_mut(&place.name)?;
        link.index = number;
        let peer = match link.kind {
            ObservedKind::Veth(Veth { peer }) => peer?,
            ObservedKind::Vxlan(_)
            | ObservedKind::Tun(_)
            | ObservedKind::Bridge
            | ObservedKind::Vlan(_)
            | ObservedKind::Macvlan(_)
            | ObservedKind::Ipip(_)
            | ObservedKind::Other(_) => return None,
        };
        Some(LinkPlace { namespace: peer.namespace, name: peer.name })
    }
}

const fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::Exists => Errno::EEXIST,
        ErrorKind::Absent => Errno::ENOENT,
        ErrorKind::NoDevice => Errno::ENODEV,
        ErrorKind::Permission => Errno::EPERM,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::Busy => Errno::EBUSY,
        ErrorKind::NoBuffers => Errno::ENOBUFS,
        ErrorKind::Lost => Errno::ETIMEDOUT,
        ErrorKind::NoProgram | ErrorKind::Program | ErrorKind::Other => Errno::EINVAL,
    }
}
