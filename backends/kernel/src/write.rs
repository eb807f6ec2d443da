//! Writing: operations to messages, messages to the kernel, answers back to operations.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;
use wire_net::LinkName;
use wire_netlink::{Batch, Netlink};
use wire_state::{
    Attempt, DataplaneError, Driver, ErrorKind, Link, LinkKind, NetState, Network, Op, OpError, Owner, Route, RouteKey,
    Scope, Setting, Via,
};

use super::{
    encode::{self, Through},
    listeners::Listeners,
    nexthop::{self, ById, Nexthops},
    port,
    read::{self, Reading},
    sysctl,
};

/// The kernel of this thread's network namespace, through one netlink socket.
pub struct NetlinkDataplane {
    netlink: Netlink,
    form: RouteForm,
    links: BTreeMap<LinkName, Known>,
    nexthops: Option<Nexthops>,
    listeners: Listeners,
    /// The number of our IPv4 routes that are written plainly.
    plain: usize,
}

/// A link as it was last seen.
#[derive(Clone, Copy)]
struct Known {
    index: u32,
    learning: bool,
}

/// How IPv4 routes are written. They do the same either way (docs/adr/0002).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteForm {
    /// Plain while they are few, with nexthop objects beyond that.
    #[default]
    Auto,
    /// With nexthop objects where the kernel has them: the time for one route does not grow with their number.
    Nexthop,
    /// With the gateway in the route, as flannel has it.
    Plain,
}

/// So many plain routes cost little; of more, each new one makes all others slower to add.
const FEW: usize = 512;

impl NetlinkDataplane {
    /// Opens the socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn open(form: RouteForm) -> Result<Self, DataplaneError> {
        let (links, nexthops, listeners) = (BTreeMap::new(), None, Listeners::default());
        Ok(Self { netlink: Netlink::open()?, form, links, nexthops, listeners, plain: 0 })
    }

    /// Puts each route of `state` that is ours in its plain form, in place: flanneld's deletions, which name gateway and
    /// device, match no other. For those who go back to it.
    pub fn hand_back(&mut self, state: &NetState) -> Vec<Attempt> {
        let form = std::mem::replace(&mut self.form, RouteForm::Plain);
        let ours = state.routes.iter().filter(|(_, route)| route.owner == Owner::Ours);
        let ops: Vec<Op> = ours.map(|(key, route)| Op::ReplaceRoute(*key, route.clone())).collect();
        let attempts = self.apply(&ops);
        self.form = form;
        attempts
    }

    /// Sets up a device that was made another way.
    pub fn set_up(&mut self, name: LinkName, link: &Link) -> Attempt {
        if !self.links.contains_key(&name) {
            self.learn_link(name);
        }
        self.apply(&[Op::ChangeLink(name, link.clone())]).pop().unwrap_or(Ok(()))
    }

    /// Operations of one kind of target: links themselves, or what is on them.
    fn apply_segment(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let mut batch = Batch::default();
        let encoded: Vec<Result<Encoded, OpError>> = ops.iter().map(|op| self.encode(&mut batch, op)).collect();
        let mut answers = self.netlink.send(&mut batch).into_iter();
        let mut attempts = Vec::with_capacity(ops.len());
        for (op, encoded) in ops.iter().zip(encoded) {
            let attempt = encoded.and_then(|encoded| {
                // All of an operation's messages are answered for; the first failure is its own.
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

    fn encode(&mut self, batch: &mut Batch, op: &Op) -> Result<Encoded, OpError> {
        let before = batch.count();
        let mut route_hop = None;
        match op {
            Op::CreateLink(name, link) => {
                encode::create_link(batch, *name, link).ok_or_else(|| OpError::of(Errno::EOPNOTSUPP))?;
            }
            Op::ChangeLink(name, link) => self.change_link(batch, *name, link)?,
            Op::DeleteLink(name) => encode::delete_link(batch, self.index(*name)?),
            Op::PutAddress(address) => encode::put_address(batch, self.index(address.link)?, address),
            Op::DeleteAddress(address) => encode::delete_address(batch, self.index(address.link)?, address),
            Op::PutFdb(key, destination) => encode::put_fdb(batch, self.index(key.link)?, key, *destination),
            Op::DeleteFdb(key) => encode::delete_fdb(batch, self.index(key.link)?, key),
            Op::PutNeighbour(key, mac) => encode::put_neighbour(batch, self.index(key.link)?, key, *mac),
            Op::DeleteNeighbour(key) => encode::delete_neighbour(batch, self.index(key.link)?, key),
            Op::PutForward(..) | Op::DeleteForward(_) => {
                return Err(OpError::unsupported("the kernel has no such table"));
            }
            Op::AddRoute(key, route) | Op::ReplaceRoute(key, route) => {
                let replace = matches!(op, Op::ReplaceRoute(..));
                let through = self.through(batch, replace, key, route)?;
                encode::put_route(batch, replace, key, route, through);
                self.plain += usize::from(!replace && through.nexthop().is_none());
                route_hop = Some((*key, through.nexthop()));
            }
            Op::DeleteRoute(key, route) => {
                let nexthop = self.nexthops.as_ref().and_then(|nexthops| nexthops.of_route(key));
                let through = nexthop.map_or_else(|| self.plain(route), |id| Ok(Through::Nexthop(id)))?;
                encode::delete_route(batch, key, route, through);
                self.plain = self.plain.saturating_sub(usize::from(nexthop.is_none()));
                route_hop = Some((*key, None));
            }
            // That is FirewallDataplane's to do, or no netlink message.
            Op::Set(..) => return Err(OpError::of(Errno::EOPNOTSUPP)),
        }
        Ok(Encoded { messages: batch.count() - before, route: route_hop })
    }

    fn change_link(&self, batch: &mut Batch, name: LinkName, link: &Link) -> Result<(), OpError> {
        let known = self.links.get(&name).ok_or_else(|| OpError::of(Errno::ENODEV))?;
        encode::change_link(batch, known.index, link);
        match &link.kind {
            // Kernels before 4.13 cannot change it, so ask only where it differs.
            LinkKind::Vxlan(vxlan) if vxlan.learning != known.learning => {
                encode::change_learning(batch, known.index, vxlan.learning);
            }
            LinkKind::Vxlan(_) | LinkKind::Tun(_) | LinkKind::Other(_) => {}
        }
        Ok(())
    }

    /// How a route is to name its gateway; makes the nexthop object where one is to be used and missing.
    fn through(&mut self, batch: &mut Batch, replace: bool, key: &RouteKey, route: &Route) -> Result<Through, OpError> {
        let plain = self.plain(route)?;
        // IPv6 routes share nothing that grows with their number.
        let (Via::Gateway { gateway: gateway @ IpAddr::V4(_), onlink: true, .. }, Through::Link(device)) =
            (&route.via, plain)
        else {
            return Ok(plain);
        };
        let Some(nexthops) = &mut self.nexthops else { return Ok(plain) };
        let wanted = match self.form {
            RouteForm::Nexthop => true,
            RouteForm::Plain => false,
            // One that is there keeps its form.
            RouteForm::Auto if replace => nexthops.of_route(key).is_some(),
            RouteForm::Auto => self.plain >= FEW,
        };
        if !wanted {
            return Ok(plain);
        }
        let (hop, new) = nexthops.offer(device, *gateway);
        if new {
            batch.push(nexthop::NEW, NLM_F_CREATE | NLM_F_EXCL, &hop);
        }
        Ok(Through::Nexthop(hop.id))
    }

    fn plain(&self, route: &Route) -> Result<Through, OpError> {
        route.link().map_or(Ok(Through::Nowhere), |link| self.index(link).map(Through::Link))
    }

    fn index(&self, name: LinkName) -> Result<u32, OpError> {
        self.links.get(&name).map(|known| known.index).ok_or_else(|| OpError::of(Errno::ENODEV))
    }

    /// What links are called now that some were made or removed.
    fn learn_links(&mut self, ops: &[Op]) {
        for op in ops {
            if let Op::CreateLink(name, _) = op {
                self.learn_link(*name);
            } else if let Op::DeleteLink(name) = op {
                self.links.remove(name);
            }
        }
    }

    fn learn_link(&mut self, name: LinkName) {
        let found = read::link_by(&mut self.netlink, Some(name), 0);
        self.links.extend(found.ok().flatten().and_then(|(name, link)| Some((name, Known::of(&link)?))));
        sysctl::accept_no_router_advertisements(name);
    }

    /// Deletes nexthop objects that no route uses any more. Not an operation of its own: it changes nothing a packet sees.
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

impl Known {
    fn of(link: &Link) -> Option<Self> {
        let learning = matches!(&link.kind, LinkKind::Vxlan(vxlan) if vxlan.learning);
        Some(Self { index: link.index?, learning })
    }
}

/// What an operation became.
struct Encoded {
    messages: usize,
    /// The route it puts or deletes, and the nexthop object that uses from then on.
    route: Option<(RouteKey, Option<u32>)>,
}

impl Through {
    const fn nexthop(self) -> Option<u32> {
        match self {
            Self::Nexthop(id) => Some(id),
            Self::Link(_) | Self::Nowhere => None,
        }
    }
}

impl Driver for NetlinkDataplane {
    type Resource = Network;

    fn read(&mut self, scope: &Scope) -> Result<NetState, DataplaneError> {
        let Reading { state, names, nexthops } = read::read(&mut self.netlink, scope, &mut self.listeners)?;
        self.links = names.into_iter().map(|(index, name)| (name, Known { index, learning: false })).collect();
        self.links.extend(state.links.iter().filter_map(|(name, link)| Some((*name, Known::of(link)?))));
        let is_plain = |key: &RouteKey| nexthops.as_ref().is_none_or(|nexthops| nexthops.of_route(key).is_none());
        let plain = |(key, route): &(&RouteKey, &Route)| {
            route.owner == Owner::Ours
                && matches!(route.via, Via::Gateway { gateway: IpAddr::V4(_), .. })
                && is_plain(key)
        };
        self.plain = state.routes.iter().filter(plain).count();
        self.nexthops = nexthops;
        Ok(state)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let mut attempts = Vec::with_capacity(ops.len());
        // What is on a link can only be written once the link's number is known. Links of one name take turns.
        for segment in ops.chunk_by(|a, b| !a.is_link() && !b.is_link() && is_set(a) == is_set(b)) {
            if segment.iter().all(is_set) {
                attempts.extend(segment.iter().filter_map(set));
            } else {
                attempts.extend(self.apply_segment(segment));
            }
            self.learn_links(segment);
        }
        // After a failure the nexthop objects are not known for sure, and one of ours may be somebody else's.
        if attempts.iter().all(Result::is_ok) {
            self.sweep();
        }
        attempts
    }
}

/// Where the kernel says only that an address is in use, whose.
fn explained(op: &Op, error: OpError) -> OpError {
    if let Op::CreateLink(_, link) | Op::ChangeLink(_, link) = op
        && let LinkKind::Vxlan(vxlan) = &link.kind
        && error.source.raw_os_error() == Some(Errno::EADDRINUSE as i32)
    {
        return OpError::new(error.source, Some(port::held(vxlan.port_in_use())));
    }
    error
}

const fn is_set(op: &Op) -> bool {
    matches!(op, Op::Set(..))
}

/// Writes a setting; `None` for any other operation.
fn set(op: &Op) -> Option<Attempt> {
    let Op::Set(setting, value) = op else { return None };
    Some(sysctl::set(*setting, *value).or_else(|error| forgive(op, error)))
}

/// What is there already, or gone already, is as good as done. Not a route: what is there may be somebody else's.
fn forgive(op: &Op, error: OpError) -> Attempt {
    let done = match op {
        Op::AddRoute(..)
        | Op::ReplaceRoute(..)
        | Op::ChangeLink(..)
        | Op::CreateLink(..)
        | Op::PutForward(..)
        | Op::DeleteForward(_) => false,
        // The links of others come and go.
        Op::Set(setting, _) => matches!(setting, Setting::RouterAdvertisements(_)) && error.kind == ErrorKind::Absent,
        Op::PutAddress(_) | Op::PutFdb(..) | Op::PutNeighbour(..) => error.kind == ErrorKind::Exists,
        Op::DeleteLink(_) | Op::DeleteAddress(_) | Op::DeleteFdb(_) | Op::DeleteNeighbour(_) | Op::DeleteRoute(..) => {
            matches!(error.kind, ErrorKind::Absent | ErrorKind::NoDevice)
        }
    };
    if done { Ok(()) } else { Err(error) }
}
