//! Resources in memory that fail on demand.
//!
//! Handles are shared: clone one to look at, or to change, what a reconciler works on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;
use wire_net::LinkName;

use crate::{
    Address, Attempt, DataplaneError, Driver, ErrorKind, Firewall, FirewallOp, NetState, Network, ObservedFirewall, Op,
    OpError, Operation, Owner, Resource, Setting,
};

/// A resource in memory: the rules of whoever holds it for real.
pub trait Simulated: Resource<Observed: Default, Scope: Default> {
    /// Why an operation is refused as things stand.
    fn refusal(observed: &Self::Observed, op: &Self::Op) -> Option<ErrorKind>;

    /// What happens by itself with the operation of that number, beside what [`Resource::apply`] does.
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
    /// By the name of the operation: the errors it meets next.
    faults: BTreeMap<&'static str, Vec<ErrorKind>>,
    unreadable: usize,
    written: usize,
    read: usize,
}

impl<R: Simulated> Sim<R> {
    /// One that holds `state`.
    #[must_use]
    pub fn new(state: R::Observed) -> Self {
        let inner = Inner { state, faults: BTreeMap::new(), unreadable: 0, written: 0, read: 0 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// What it holds.
    #[must_use]
    pub fn state(&self) -> R::Observed {
        self.lock().state.clone()
    }

    /// Changes what it holds, as somebody else would.
    pub fn edit(&self, change: impl FnOnce(&mut R::Observed)) {
        change(&mut self.lock().state);
    }

    /// Makes the next operation of that name (see [`Operation::name`]) fail. A [`ErrorKind::Lost`] one is carried out nonetheless.
    pub fn fail_next(&self, op: &'static str, error: ErrorKind) {
        self.lock().faults.entry(op).or_default().push(error);
    }

    /// Makes the next reads fail.
    pub fn fail_reads(&self, times: usize) {
        self.lock().unreadable = times;
    }

    /// How many operations were tried until now.
    #[must_use]
    pub fn written(&self) -> usize {
        self.lock().written
    }

    /// How often it was read until now.
    #[must_use]
    pub fn read_times(&self) -> usize {
        self.lock().read
    }

    fn lock(&self) -> MutexGuard<'_, Inner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sim<Network> {
    /// Takes a link down, and with it what the kernel drops then.
    pub fn set_down(&self, name: LinkName) {
        let state = &mut self.lock().state;
        if let Some(link) = state.links.get_mut(&name) {
            link.up = false;
        }
        state.neighbours.retain(|key, _| key.link != name);
        state.routes.retain(|_, route| route.link() != Some(name));
    }
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

/// The kernel's own rules: entries need their link, links take their entries along, and a route does not go where another is.
impl Simulated for Network {
    fn refusal(observed: &NetState, op: &Op) -> Option<ErrorKind> {
        let missing = |link: &LinkName| !observed.links.contains_key(link);
        let down = |link: &LinkName| observed.links.get(link).is_none_or(|link| !link.up);
        match op {
            Op::CreateLink(name, _) => (!missing(name)).then_some(ErrorKind::Exists),
            Op::ChangeLink(name, _) => missing(name).then_some(ErrorKind::NoDevice),
            Op::PutAddress(address) if is_without_ipv6(observed, address) => Some(ErrorKind::Permission),
            Op::PutAddress(address) => missing(&address.link).then_some(ErrorKind::NoDevice),
            Op::PutFdb(key, _) => missing(&key.link).then_some(ErrorKind::NoDevice),
            Op::PutForward(key, _) => missing(&key.link).then_some(ErrorKind::NoDevice),
            Op::PutNeighbour(key, _) => missing(&key.link).then_some(ErrorKind::NoDevice),
            Op::AddRoute(key, _) if observed.routes.contains_key(key) => Some(ErrorKind::Exists),
            Op::AddRoute(_, route) | Op::ReplaceRoute(_, route) => route.link().filter(down).map(|_| ErrorKind::Other),
            Op::Set(setting, _) => setting.link().filter(missing).map(|_| ErrorKind::Absent),
            Op::DeleteLink(_)
            | Op::DeleteAddress(_)
            | Op::DeleteFdb(_)
            | Op::DeleteNeighbour(_)
            | Op::DeleteForward(_)
            | Op::DeleteRoute(..) => None,
        }
    }

    /// A link that is made has a number that none had before.
    fn happens(observed: &mut NetState, op: &Op, number: usize) {
        if let Op::CreateLink(name, _) = op {
            let index = u32::try_from(number).ok().map(|number| number + 1000);
            observed.links.entry(*name).and_modify(|link| link.index = index);
        }
    }
}

impl Simulated for Firewall {
    fn refusal(_: &ObservedFirewall, _: &FirewallOp) -> Option<ErrorKind> {
        None
    }
}

/// An IPv6 address on a link that may have none is refused (`EACCES` of net/ipv6/addrconf.c).
fn is_without_ipv6(observed: &NetState, address: &Address) -> bool {
    address.address.is_ipv6() && observed.settings.get(&Setting::DisableIpv6(address.link)) == Some(&1)
}

impl NetState {
    /// Only what is not ours, for comparison. Entries on our devices are ours.
    #[must_use]
    pub fn foreign(&self) -> Self {
        let mut state = self.clone();
        let ours: Vec<LinkName> =
            state.links.iter().filter(|(_, link)| link.owner == Owner::Ours).map(|(name, _)| *name).collect();
        for name in ours {
            state.forget_link(name);
        }
        state.routes.retain(|_, route| route.owner == Owner::Foreign);
        // Those of the host are ours to keep.
        state.settings.retain(|setting, _| setting.link().is_some());
        state
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
