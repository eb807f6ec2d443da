//! A kernel in memory that fails on demand.
//!
//! It keeps the kernel's own rules: entries need their link, links take their entries along, and a route does not go where
//! another is. Handles are shared: clone one to look at, or to change, what a reconciler works on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::errno::Errno;
use wire_net::LinkName;

use crate::{Address, Attempt, Dataplane, DataplaneError, ErrorKind, NetState, Op, OpError, Owner, Scope, Setting};

/// A handle on a kernel in memory.
#[derive(Clone, Debug, Default)]
pub struct Sim {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    state: NetState,
    /// By the name of the operation: the errors it meets next.
    faults: BTreeMap<&'static str, Vec<ErrorKind>>,
    unreadable: usize,
    written: usize,
    read: usize,
    links_made: u32,
}

impl Sim {
    /// A kernel that holds `state`.
    #[must_use]
    pub fn new(state: NetState) -> Self {
        let sim = Self::default();
        sim.lock().state = state;
        sim
    }

    /// What the kernel holds.
    #[must_use]
    pub fn state(&self) -> NetState {
        self.lock().state.clone()
    }

    /// Changes what the kernel holds, as somebody else would.
    pub fn edit(&self, change: impl FnOnce(&mut NetState)) {
        change(&mut self.lock().state);
    }

    /// Takes a link down, and with it what the kernel drops then.
    pub fn set_down(&self, name: LinkName) {
        let state = &mut self.lock().state;
        if let Some(link) = state.links.get_mut(&name) {
            link.up = false;
        }
        state.neighbours.retain(|key, _| key.link != name);
        state.routes.retain(|_, route| route.link() != Some(name));
    }

    /// Makes the next operation of that name (see [`Op::name`]) fail. A [`ErrorKind::Lost`] one is carried out nonetheless.
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dataplane for Sim {
    fn read(&mut self, _: &Scope) -> Result<NetState, DataplaneError> {
        let mut inner = self.lock();
        inner.read += 1;
        if inner.unreadable > 0 {
            inner.unreadable -= 1;
            return Err(DataplaneError::Read { what: "the simulation", source: Errno::ENOBUFS.into() });
        }
        Ok(inner.state.clone())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let mut inner = self.lock();
        ops.iter().map(|op| inner.apply(op)).collect()
    }
}

impl Inner {
    fn apply(&mut self, op: &Op) -> Attempt {
        self.written += 1;
        let fault = self.faults.get_mut(op.name()).and_then(Vec::pop);
        if let Some(kind) = fault.filter(|kind| *kind != ErrorKind::Lost) {
            return Err(OpError::of(errno(kind)));
        }
        if let Some(kind) = self.refusal(op) {
            return Err(OpError::of(errno(kind)));
        }
        self.state.apply(op);
        if let Op::CreateLink(name, _) = op {
            self.links_made += 1;
            let index = Some(self.links_made + 1000);
            self.state.links.entry(*name).and_modify(|link| link.index = index);
        }
        fault.map_or(Ok(()), |kind| Err(OpError::of(errno(kind))))
    }

    fn refusal(&self, op: &Op) -> Option<ErrorKind> {
        let missing = |link: &LinkName| !self.state.links.contains_key(link);
        let down = |link: &LinkName| self.state.links.get(link).is_none_or(|link| !link.up);
        match op {
            Op::CreateLink(name, _) => (!missing(name)).then_some(ErrorKind::Exists),
            Op::ChangeLink(name, _) => missing(name).then_some(ErrorKind::NoDevice),
            Op::PutAddress(address) if self.is_without_ipv6(address) => Some(ErrorKind::Permission),
            Op::PutAddress(address) => missing(&address.link).then_some(ErrorKind::NoDevice),
            Op::PutFdb(key, _) => missing(&key.link).then_some(ErrorKind::NoDevice),
            Op::PutForward(key, _) => missing(&key.link).then_some(ErrorKind::NoDevice),
            Op::PutNeighbour(key, _) => missing(&key.link).then_some(ErrorKind::NoDevice),
            Op::AddRoute(key, _) if self.state.routes.contains_key(key) => Some(ErrorKind::Exists),
            Op::AddRoute(_, route) | Op::ReplaceRoute(_, route) => route.link().filter(down).map(|_| ErrorKind::Other),
            Op::Set(setting, _) => setting.link().filter(missing).map(|_| ErrorKind::Absent),
            Op::DeleteLink(_)
            | Op::DeleteAddress(_)
            | Op::DeleteFdb(_)
            | Op::DeleteNeighbour(_)
            | Op::DeleteForward(_)
            | Op::DeleteRoute(..)
            | Op::Firewall(_) => None,
        }
    }
}

impl Inner {
    /// An IPv6 address on a link that may have none is refused (`EACCES` of net/ipv6/addrconf.c).
    fn is_without_ipv6(&self, address: &Address) -> bool {
        address.address.is_ipv6() && self.state.settings.get(&Setting::DisableIpv6(address.link)) == Some(&1)
    }
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
        // What is read of the packet filter is ours, but for the chains that ours are called from.
        state.firewall = crate::Firewall { callers: state.firewall.callers, ..crate::Firewall::default() };
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
