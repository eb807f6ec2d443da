//! The kernel in several network namespaces, with a netlink socket in each.
//!
//! A container's namespace is read and written by what was opened in it: socket and settings, which another process may have opened and
//! passed to this one, since only `CAP_SYS_ADMIN` lets a process enter it. Or it is entered for each read and write (setns(2)), by a thread
//! of its own: settings are files in `/proc/sys`, and the kernel shows a thread the files of its own namespace.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::resume_unwind,
    thread,
};

use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};
use wire_net::{LinkName, chain};
use wire_netlink::{Batch, Netlink, attribute::attributes};
use wire_state::{
    Attempt, DataplaneError, ErrorKind, KernelOp, LinkPlace, Namespace, NetworkPart, ObservedNet, OpError,
    PerNamespace, Reread, Scope,
};

use super::{NetlinkDataplane, RouteForm, decode::Namespaces, sysctl::Settings};

/// `RTM_NEWNSID`, `RTM_GETNSID` of linux/rtnetlink.h.
const NEW_NUMBER: u16 = 88;
const GET_NUMBER: u16 = 90;

/// Reads and writes the kernel's state in the host's namespace and in those that were added.
pub struct KernelDataplane {
    host: NetlinkDataplane,
    /// The host's namespace, to which links of guests may refer; open if there is a guest.
    descriptor: Option<OwnedFd>,
    guests: BTreeMap<Namespace, Guest>,
    form: RouteForm,
}

/// A namespace of a container.
struct Guest {
    dataplane: NetlinkDataplane,
    descriptor: OwnedFd,
    way: Way,
}

/// The way to read and write a namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a thread that enters it.
    Entered,
    /// By what was opened in it.
    Opened,
}

/// A container's namespace, and what was opened in it by a process that may enter it. As long as these are open, the namespace exists.
#[derive(Debug)]
pub struct OpenedGuest {
    /// Its file (`/run/netns/*`, `/proc/*/ns/net`).
    pub namespace: OwnedFd,
    /// A socket of `NETLINK_ROUTE`, not bound yet. The kernel asks for `CAP_NET_ADMIN` from who opened it, too.
    pub route: OwnedFd,
    /// The folder `/proc/sys/net/ipv4`.
    pub ipv4: OwnedFd,
    /// The folder `/proc/sys/net/ipv6`; `None` in a kernel without IPv6.
    pub ipv6: Option<OwnedFd>,
}

impl OpenedGuest {
    /// The same once more.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        let Self { namespace, route, ipv4, ipv6 } = self;
        Ok(Self {
            namespace: namespace.try_clone()?,
            route: route.try_clone()?,
            ipv4: ipv4.try_clone()?,
            ipv6: ipv6.as_ref().map(OwnedFd::try_clone).transpose()?,
        })
    }
}

/// Descriptors and links of the namespaces, so that a link in one can refer to a link in another.
#[derive(Debug, Default)]
pub struct OtherNamespaces(BTreeMap<Namespace, OtherNamespace>);

#[derive(Debug)]
struct OtherNamespace {
    descriptor: RawFd,
    links: BTreeMap<LinkName, u32>,
}

impl KernelDataplane {
    /// Opens a socket in the network namespace of the calling thread, which must be the host's.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn open(form: RouteForm) -> Result<Self, DataplaneError> {
        Ok(Self { host: NetlinkDataplane::open(form)?, descriptor: None, guests: BTreeMap::new(), form })
    }

    /// The part for the host's namespace.
    pub const fn host(&mut self) -> &mut NetlinkDataplane {
        &mut self.host
    }

    /// Adds a namespace, given as a descriptor of its file (`/run/netns/*`, `/proc/*/ns/net`). A namespace exists as long as a process has
    /// it open.
    ///
    /// # Errors
    /// When it cannot be entered (`CAP_SYS_ADMIN` is needed), or the kernel refuses a netlink socket in it.
    pub fn add(&mut self, namespace: Namespace, descriptor: OwnedFd) -> Result<(), DataplaneError> {
        let form = self.form;
        let dataplane = inside(descriptor.as_fd(), || NetlinkDataplane::open(form))??;
        self.add_guest(namespace, Guest { dataplane, descriptor, way: Way::Entered })
    }

    /// Adds a namespace by what was opened in it. `CAP_NET_ADMIN` is enough for that.
    ///
    /// # Errors
    /// When a descriptor is not what it should be.
    pub fn add_opened(&mut self, namespace: Namespace, opened: OpenedGuest) -> Result<(), DataplaneError> {
        let OpenedGuest { namespace: descriptor, route, ipv4: v4, ipv6: v6 } = opened;
        let netlink = Netlink::of_passed(route)?;
        let dataplane = NetlinkDataplane::with(netlink, Settings::Opened { v4, v6 }, self.form);
        self.add_guest(namespace, Guest { dataplane, descriptor, way: Way::Opened })
    }

    fn add_guest(&mut self, namespace: Namespace, mut guest: Guest) -> Result<(), DataplaneError> {
        let cannot = |source| DataplaneError::Read { what: "the number of a namespace", source };
        let host = match self.descriptor.take() {
            Some(host) => host,
            None => File::open("/proc/thread-self/ns/net").map_err(cannot)?.into(),
        };
        let of_guest = number_of(self.host.netlink(), guest.descriptor.as_fd()).map_err(cannot)?;
        let of_host = number_of(guest.dataplane.netlink(), host.as_fd()).map_err(cannot)?;
        self.descriptor = Some(host);
        self.host.namespaces.others.insert(of_guest, namespace);
        guest.dataplane.namespaces = Namespaces { own: namespace, others: [(of_host, Namespace::Host)].into() };
        self.guests.insert(namespace, guest);
        Ok(())
    }

    /// Removes a namespace, which is no longer read or written.
    pub fn remove(&mut self, namespace: Namespace) {
        self.guests.remove(&namespace);
        self.host.namespaces.others.retain(|_, other| *other != namespace);
    }

    /// Reads the state that `scope` names. A namespace that was not added, or that cannot be read, has none.
    ///
    /// # Errors
    /// When the host's namespace cannot be read. Nothing is known about the state then.
    pub fn read(&mut self, scope: &PerNamespace<Scope>) -> Result<PerNamespace<ObservedNet>, DataplaneError> {
        let mut found = Vec::new();
        for (namespace, scope) in scope.iter() {
            if namespace == Namespace::Host {
                found.push((namespace, self.host.read(scope)?));
            } else {
                found.extend(self.read_guest(namespace, scope).map(|net| (namespace, net)));
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Reads `part` again into `observed`, which is the state that `scope` names as far as it is known.
    ///
    /// # Errors
    /// When the host's namespace cannot be read. Nothing is known about the state then.
    pub fn read_part(
        &mut self,
        scope: &PerNamespace<Scope>,
        observed: &mut PerNamespace<ObservedNet>,
        part: &NetworkPart,
    ) -> Result<Reread, DataplaneError> {
        let (Some(of_host), Some(host)) = (scope.get(Namespace::Host), observed.get_mut(Namespace::Host)) else {
            return Ok(Reread::None);
        };
        if !self.host.read_part(of_host, host, part)? {
            return Ok(Reread::None);
        }
        for namespace in &part.guests {
            let found = scope.get(*namespace).and_then(|scope| self.read_guest(*namespace, scope));
            observed.set(*namespace, found);
        }
        Ok(if part.guests.is_empty() { Reread::Made } else { Reread::Other })
    }

    /// Reads a container's namespace. One that cannot be read is treated like one that is gone: the others must not wait for it.
    fn read_guest(&mut self, namespace: Namespace, scope: &Scope) -> Option<ObservedNet> {
        match self.guests.get_mut(&namespace)?.read(scope) {
            Ok(net) => Some(net),
            Err(error) => {
                tracing::warn!(?namespace, error = chain(&error), "a network namespace is left alone");
                None
            }
        }
    }

    /// Carries out `ops` in one namespace in order, and returns one result for each, as [`NetlinkDataplane::apply`] does.
    pub fn apply(&mut self, namespace: Namespace, ops: &[&KernelOp]) -> Vec<Attempt> {
        let others = self.others();
        let attempts = match self.guests.get_mut(&namespace) {
            _ if namespace == Namespace::Host => Ok(self.host.apply(ops, &others)),
            Some(guest) => guest.work(|dataplane| dataplane.apply(ops, &others)),
            None => Ok(ops.iter().map(|_| Err(OpError::of(Errno::ENODEV))).collect()),
        };
        attempts.unwrap_or_else(|error| {
            let said = Some(chain(&error));
            ops.iter().map(|_| Err(OpError { detail: said.clone(), ..OpError::of(Errno::ENODEV) })).collect()
        })
    }

    fn others(&self) -> OtherNamespaces {
        // Without a guest, no link refers to another namespace.
        let Some(host) = &self.descriptor else { return OtherNamespaces::default() };
        let other = OtherNamespace::new;
        let guests = self.guests.iter().map(|(name, guest)| (*name, other(&guest.descriptor, &guest.dataplane)));
        OtherNamespaces(guests.chain([(Namespace::Host, other(host, &self.host))]).collect())
    }
}

impl Guest {
    fn read(&mut self, scope: &Scope) -> Result<ObservedNet, DataplaneError> {
        self.work(|dataplane| dataplane.read(scope))?
    }

    fn work<T: Send>(&mut self, work: impl FnOnce(&mut NetlinkDataplane) -> T + Send) -> Result<T, DataplaneError> {
        match self.way {
            Way::Entered => inside(self.descriptor.as_fd(), || work(&mut self.dataplane)),
            Way::Opened => Ok(work(&mut self.dataplane)),
        }
    }
}

impl OtherNamespaces {
    /// A descriptor of a namespace, for a netlink attribute.
    pub(crate) fn descriptor(&self, namespace: Namespace) -> Result<RawFd, OpError> {
        self.0.get(&namespace).map(|other| other.descriptor).ok_or_else(|| OpError::of(Errno::ENODEV))
    }

    /// The index of a link in another namespace.
    pub(crate) fn index(&self, place: LinkPlace) -> Result<u32, OpError> {
        let found = self.0.get(&place.namespace).and_then(|other| other.links.get(&place.name));
        found.copied().ok_or_else(|| OpError::of(Errno::ENODEV))
    }
}

impl OtherNamespace {
    fn new(descriptor: &OwnedFd, dataplane: &NetlinkDataplane) -> Self {
        Self { descriptor: descriptor.as_raw_fd(), links: dataplane.numbers() }
    }
}

/// Runs `work` on a thread that is in a namespace.
fn inside<T: Send>(descriptor: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, DataplaneError> {
    let enter_and_work = || enter(descriptor).map(|()| work());
    thread::scope(|scope| scope.spawn(enter_and_work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Moves the calling thread into a network namespace.
fn enter(descriptor: BorrowedFd<'_>) -> Result<(), DataplaneError> {
    setns(descriptor, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| DataplaneError::Read { what: "another namespace", source: errno.into() })
}

/// The ID that the namespace of a socket has for another (`NETNSA_NSID` of linux/net_namespace.h). It is assigned if there is none.
fn number_of(netlink: &mut Netlink, descriptor: BorrowedFd<'_>) -> io::Result<i32> {
    const NUMBER: u16 = 1;
    let descriptor = u32::try_from(descriptor.as_raw_fd()).map_err(io::Error::other)?;
    let mut batch = Batch::default();
    // With -1 the kernel chooses the ID (`alloc_netid` of net/core/net_namespace.c).
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Id(-1), NsidAttribute::Fd(descriptor)];
    batch.push(NEW_NUMBER, 0, &message);
    // `EEXIST`: it has an ID already.
    for attempt in netlink.send(&mut batch) {
        match attempt {
            Err(error) if error.kind != ErrorKind::Exists => return Err(error.source),
            Err(_) | Ok(()) => {}
        }
    }
    let mut batch = Batch::default();
    message.attributes = vec![NsidAttribute::Fd(descriptor)];
    batch.push(GET_NUMBER, 0, &message);
    let mut found = None;
    // `struct rtgenmsg` has one byte, and attributes are aligned to four bytes.
    netlink.ask(&mut batch, |body| {
        let number = attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == NUMBER);
        found = number.and_then(|(_, value)| value.try_into().ok()).map(i32::from_ne_bytes);
    })?;
    found.filter(|number| *number >= 0).ok_or_else(|| io::ErrorKind::NotFound.into())
}
