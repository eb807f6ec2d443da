//! Writes to the kernel: sends the messages of operations in batches, and assigns the kernel's answers to the operations.

mod messages;

use std::{collections::BTreeMap, net::IpAddr};

use nix::errno::Errno;
use wire_net::LinkName;
use wire_netlink::{Batch, Netlink};
use wire_state::{
    Attempt, DataplaneError, DesiredLink, ErrorKind, KernelKind, KernelOp, NetworkPart, NextHop, ObservedKind,
    ObservedLink, ObservedNet, OpError, Owner, RouteKey, Scope, Setting, Tunnel,
};

use self::messages::Encoded;
use super::{
    decode::Namespaces,
    encode::{self, LinkChange},
    listeners::Listeners,
    namespaces::OtherNamespaces,
    nexthop::{self, ById, Nexthops},
    port,
    read::{self, Place, ReadResult},
    sysctl::Settings,
};

/// Reads and writes the kernel's state in one network namespace, through one netlink socket. All calls must come from a thread in that
/// namespace, unless socket and settings were opened there for it.
pub struct NetlinkDataplane {
    netlink: Netlink,
    pub(super) namespaces: Namespaces,
    settings: Settings,
    form: RouteForm,
    links: BTreeMap<LinkName, CachedLink>,
    nexthops: Option<Nexthops>,
    listeners: Listeners,
    /// The number of our IPv4 routes that use no nexthop object.
    plain_routes: usize,
}

/// The properties of a link that writing needs, as read last.
#[derive(Clone, Copy)]
struct CachedLink {
    index: u32,
    learning: bool,
}

/// The form in which IPv4 routes are written. Packets take the same path with each (docs/adr/0002).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteForm {
    /// The first routes plain, all further ones with nexthop objects.
    #[default]
    Auto,
    /// With nexthop objects, if the kernel has them: the time to add a route does not grow with the number of routes.
    Nexthop,
    /// With the gateway in the route, as flannel writes it.
    Plain,
}

/// The most operations that are encoded at a time: the messages of a large network would take tens of megabytes.
const PART: usize = 4096;

/// The most plain routes of [`RouteForm::Auto`]. Beyond that, each plain route makes it slower to add the next.
const PLAIN_ROUTES: usize = 512;

/// Reads the kernel's state once, beside a [`NetlinkDataplane`].
#[derive(Debug)]
pub struct StateReader {
    listeners: Listeners,
}

impl StateReader {
    /// Reads the state that `scope` names, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses.
    pub fn read(self, scope: &Scope) -> Result<ObservedNet, DataplaneError> {
        let dataplane = NetlinkDataplane::open(RouteForm::default())?;
        NetlinkDataplane { listeners: self.listeners, ..dataplane }.read(scope)
    }
}

impl NetlinkDataplane {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn open(form: RouteForm) -> Result<Self, DataplaneError> {
        Ok(Self::with(Netlink::open()?, Settings::Own, form))
    }

    /// For a namespace in which socket and settings were opened.
    pub(super) fn with(netlink: Netlink, settings: Settings, form: RouteForm) -> Self {
        let (namespaces, links, nexthops, listeners) = (Namespaces::HOST, BTreeMap::new(), None, Listeners::default());
        Self { netlink, namespaces, settings, form, links, nexthops, listeners, plain_routes: 0 }
    }

    /// True if the kernel cannot make VXLAN devices. Makes none.
    pub fn lacks_vxlan(&mut self) -> bool {
        let mut batch = Batch::default();
        encode::impossible_vxlan(&mut batch);
        self.netlink
            .send(&mut batch)
            .into_iter()
            .any(|attempt| attempt.is_err_and(|error| error.kind == ErrorKind::Unsupported))
    }

    /// A reader for another thread, which knows what this one has learned from its reads.
    #[must_use]
    pub fn reader(&self) -> StateReader {
        StateReader { listeners: self.listeners.clone() }
    }

    /// Reads the state that `scope` names.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses. Nothing is known about the state then.
    pub fn read(&mut self, scope: &Scope) -> Result<ObservedNet, DataplaneError> {
        let place = Place { namespaces: &self.namespaces, files: &self.settings };
        let ReadResult { state, names, nexthops } = read::read(&mut self.netlink, scope, place, &mut self.listeners)?;
        self.links = names.into_iter().map(|(index, name)| (name, CachedLink { index, learning: false })).collect();
        self.links.extend(state.links.iter().map(|(name, link)| (*name, CachedLink::of(link))));
        let is_plain = |key: &RouteKey| nexthops.as_ref().is_none_or(|nexthops| nexthops.of_route(key).is_none());
        let ours = state.routes.iter().filter(|(_, route)| route.owner == Owner::Ours);
        let by_gateway = ours
            .filter(|(_, route)| matches!(route.via.next_hop(), Some(NextHop::Gateway { gateway: IpAddr::V4(_), .. })));
        self.plain_routes = by_gateway.filter(|(key, _)| is_plain(key)).count();
        self.nexthops = nexthops;
        Ok(state)
    }

    /// Reads the host's part of `part` again into `observed`. False if a link has a name that none should have: then all must be read.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses.
    pub(super) fn read_part(
        &mut self,
        scope: &Scope,
        observed: &mut ObservedNet,
        part: &NetworkPart,
    ) -> Result<bool, DataplaneError> {
        for name in &part.absent {
            if read::link_by(&mut self.netlink, Some(*name), 0)?.is_some() {
                return Ok(false);
            }
            self.links.remove(name);
        }
        let place = Place { namespaces: &self.namespaces, files: &self.settings };
        let found = read::read_made(&mut self.netlink, scope, place, &part.made, observed)?;
        let known = found.iter().filter_map(|name| Some((*name, CachedLink::of(observed.links.get(name)?))));
        self.links.extend(known);
        Ok(true)
    }

    /// Carries out `ops` in order and returns one result for each. A failure does not stop the others. An entry that exists already, or is
    /// deleted already, counts as a success, except a route: the existing one may be foreign. `others` are the namespaces to which links
    /// may refer.
    pub fn apply(&mut self, ops: &[&KernelOp], others: &OtherNamespaces) -> Vec<Attempt> {
        let mut attempts = Vec::with_capacity(ops.len());
        // Entries on a link can only be encoded once the link's index is known, so each change of a link is a segment of its own.
        for segment in ops.chunk_by(|a, b| !a.is_link() && !b.is_link() && is_set(a) == is_set(b)) {
            if segment.iter().all(|op| is_set(op)) {
                attempts.extend(segment.iter().filter_map(|op| set(&self.settings, op)));
            } else {
                for part in segment.chunks(PART) {
                    attempts.extend(self.apply_segment(part, others));
                }
            }
            self.learn_links(segment);
        }
        // After a failure the nexthop objects are not known for certain: an ID may belong to another program's object.
        if attempts.iter().all(Result::is_ok) {
            self.sweep();
        }
        attempts
    }

    /// Sets up a TUN or TAP device, which was made by opening it.
    pub fn set_up_tun(&mut self, name: LinkName, link: &DesiredLink<Tunnel>) -> Attempt {
        if !self.links.contains_key(&name) {
            self.learn_link(name);
        }
        let mut batch = Batch::default();
        let (index, own) = (self.index(name)?, Some(encode::tun_queue()));
        let master = link.master.map(|master| self.index_of_any(master)).transpose()?;
        encode::change_link(&mut batch, LinkChange { index, link, master, own });
        if let (Some(flags), Some(_)) = (link.port, master) {
            encode::set_port(&mut batch, name, flags);
        }
        self.netlink.send(&mut batch).into_iter().collect()
    }

    /// The indexes of the known links.
    pub(super) fn numbers(&self) -> BTreeMap<LinkName, u32> {
        self.links.iter().map(|(name, known)| (*name, known.index)).collect()
    }

    pub(super) const fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// Carries out operations that are all changes of links, or all changes of other entries.
    fn apply_segment(&mut self, ops: &[&KernelOp], others: &OtherNamespaces) -> Vec<Attempt> {
        let mut batch = Batch::default();
        let encoded: Vec<Result<Encoded, OpError>> = ops.iter().map(|op| self.encode(&mut batch, op, others)).collect();
        let mut answers = self.netlink.send(&mut batch).into_iter();
        let mut attempts = Vec::with_capacity(ops.len());
        for (op, encoded) in ops.iter().zip(encoded) {
            let attempt = encoded.and_then(|encoded| {
                // An operation can have several messages, each with an answer. The first failure is the operation's.
                let answers: Vec<Attempt> = answers.by_ref().take(encoded.messages).collect();
                answers.into_iter().collect::<Result<(), _>>()?;
                if let (Some(nexthops), Some((key, hop))) = (&mut self.nexthops, encoded.route) {
                    nexthops.set_route(key, hop);
                }
                Ok(())
            });
            attempts.push(attempt.or_else(|error| forgive(op, explained(op, error))));
        }
        attempts
    }

    /// Updates the known links after some were made or removed.
    fn learn_links(&mut self, ops: &[&KernelOp]) {
        for op in ops {
            if let KernelOp::CreateLink(name, _) = op {
                self.learn_link(*name);
            } else if let KernelOp::DeleteLink(name) = op {
                self.links.remove(name);
            }
        }
    }

    fn learn_link(&mut self, name: LinkName) {
        let found = read::link_by(&mut self.netlink, Some(name), 0);
        self.links.extend(found.ok().flatten().map(|(name, link)| (name, CachedLink::of(&link))));
        self.settings.accept_no_router_advertisements(name);
    }

    /// Deletes the nexthop objects that no route uses any more. This is not an operation of a plan, since it does not affect packets.
    fn sweep(&mut self) {
        let Some(nexthops) = &mut self.nexthops else { return };
        let idle = nexthops.take_idle();
        if idle.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        for hop in &idle {
            batch.push(nexthop::DELETE, 0, &ById(Some(hop.id)));
        }
        let failed = self.netlink.send(&mut batch).into_iter().filter_map(Result::err);
        if let Some(error) = failed.filter(|error| error.kind != ErrorKind::Absent).last() {
            tracing::debug!(%error, "a nexthop object stays");
        }
    }
}

impl CachedLink {
    fn of(link: &ObservedLink) -> Self {
        let learning = matches!(&link.kind, ObservedKind::Vxlan(vxlan) if vxlan.learning);
        Self { index: link.index, learning }
    }
}

/// Adds the process that uses the port, if the kernel only says that an address is in use.
fn explained(op: &KernelOp, error: OpError) -> OpError {
    if let KernelOp::CreateLink(_, link) | KernelOp::ChangeLink(_, link) = op
        && let KernelKind::Vxlan(vxlan) = &link.kind
        && error.source.raw_os_error() == Some(Errno::EADDRINUSE as i32)
    {
        return OpError::new(error.source, Some(port::describe_holder(vxlan.port_in_use())));
    }
    error
}

const fn is_set(op: &KernelOp) -> bool {
    matches!(op, KernelOp::Set(..))
}

/// Writes a setting; `None` for any other operation.
fn set(settings: &Settings, op: &KernelOp) -> Option<Attempt> {
    let KernelOp::Set(setting, value) = op else { return None };
    Some(settings.set(*setting, *value).or_else(|error| forgive(op, error)))
}

/// Turns the error into a success if the entry existed already, or was deleted already. Not for a route: the existing one may be foreign.
fn forgive(op: &KernelOp, error: OpError) -> Attempt {
    let done = match op {
        KernelOp::AddRoute(..) | KernelOp::ReplaceRoute(..) | KernelOp::ChangeLink(..) | KernelOp::CreateLink(..) => {
            false
        }
        // A foreign link may have been removed meanwhile, and IPv6 is off where a link has none.
        KernelOp::Set(Setting::RouterAdvertisements(_), _) | KernelOp::Set(Setting::DisableIpv6(_), 1) => {
            error.kind == ErrorKind::Absent
        }
        KernelOp::Set(..) => false,
        KernelOp::PutAddress(_)
        | KernelOp::PutFdb(..)
        | KernelOp::PutFlood(_)
        | KernelOp::PutBridgeFdb(..)
        | KernelOp::PutNeighbour(..) => error.kind == ErrorKind::Exists,
        KernelOp::DeleteLink(_)
        | KernelOp::DeleteAddress(_)
        | KernelOp::DeleteFdb(_)
        | KernelOp::DeleteFlood(_)
        | KernelOp::DeleteBridgeFdb(..)
        | KernelOp::DeleteNeighbour(_)
        | KernelOp::DeleteRoute(..) => {
            matches!(error.kind, ErrorKind::Absent | ErrorKind::NoDevice)
        }
    };
    if done { Ok(()) } else { Err(error) }
}
