//! The messages of operations: which links they name by which numbers, and in which form a route is written.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;
use wire_net::LinkName;
use wire_netlink::Batch;
use wire_state::{DesiredLink, KernelKind, KernelOp, LinkPlace, LinkRef, Namespace, NextHop, OpError, RouteKey, Veth};

use super::{NetlinkDataplane, PLAIN_ROUTES, RouteForm};
use crate::{
    encode::{self, BoundLinks, LinkChange, Lower, RouteTarget, VethPeer},
    namespaces::OtherNamespaces,
    nexthop, read,
};

impl NetlinkDataplane {
    /// Adds the messages of an operation to a batch.
    pub(super) fn encode(
        &mut self,
        batch: &mut Batch,
        op: &KernelOp,
        others: &OtherNamespaces,
    ) -> Result<Encoded, OpError> {
        let before = batch.count();
        let mut route_hop = None;
        match op {
            KernelOp::CreateLink(name, link) => {
                let bound = self.bound(link, others)?;
                encode::create_link(batch, *name, link, &bound);
            }
            KernelOp::ChangeLink(name, link) => self.change_link(batch, *name, link)?,
            KernelOp::DeleteLink(name) => encode::delete_link(batch, self.index(*name)?),
            KernelOp::PutAddress(address) => encode::put_address(batch, self.index(address.link)?, address),
            KernelOp::DeleteAddress(address) => encode::delete_address(batch, self.index(address.link)?, address),
            KernelOp::PutFdb(key, destination) => encode::put_fdb(batch, self.index(key.link)?, key, *destination),
            KernelOp::DeleteFdb(key) => encode::delete_fdb(batch, self.index(key.link)?, key),
            KernelOp::PutFlood(entry) => encode::put_flood(batch, self.index(entry.link)?, entry),
            KernelOp::DeleteFlood(entry) => encode::delete_flood(batch, self.index(entry.link)?, entry),
            KernelOp::PutBridgeFdb(key, port) => encode::put_bridge_fdb(batch, self.index(*port)?, key.mac),
            KernelOp::DeleteBridgeFdb(key, port) => encode::delete_bridge_fdb(batch, self.index(*port)?, key.mac),
            KernelOp::PutNeighbour(key, mac) => encode::put_neighbour(batch, self.index(key.link)?, key, *mac),
            KernelOp::DeleteNeighbour(key) => encode::delete_neighbour(batch, self.index(key.link)?, key),
            KernelOp::AddRoute(key, hop) | KernelOp::ReplaceRoute(key, hop) => {
                let replace = matches!(op, KernelOp::ReplaceRoute(..));
                let through = self.through(batch, replace, key, hop)?;
                encode::put_route(batch, replace, key, hop, through);
                self.plain_routes += usize::from(!replace && through.nexthop().is_none());
                route_hop = Some((*key, through.nexthop()));
            }
            KernelOp::DeleteRoute(key, route) => {
                let nexthop = self.nexthops.as_ref().and_then(|nexthops| nexthops.of_route(key));
                let plain = || self.plain_target(route.via.link());
                let through = nexthop.map_or_else(plain, |id| Ok(RouteTarget::Nexthop(id)))?;
                encode::delete_route(batch, key, route, through);
                self.plain_routes = self.plain_routes.saturating_sub(usize::from(nexthop.is_none()));
                route_hop = Some((*key, None));
            }
            // There is no netlink message for settings: `apply` has written it.
            KernelOp::Set(..) => {}
        }
        Ok(Encoded { messages: batch.count() - before, route: route_hop })
    }

    fn change_link(
        &mut self,
        batch: &mut Batch,
        name: LinkName,
        link: &DesiredLink<KernelKind>,
    ) -> Result<(), OpError> {
        if !self.links.contains_key(&name) {
            // The kernel made this end of a veth pair together with the other.
            self.learn_link(name);
        }
        let known = *self.links.get(&name).ok_or_else(|| OpError::of(Errno::ENODEV))?;
        let master = link.master.map(|master| self.index_of_any(master)).transpose()?;
        let own = encode::mark(link);
        encode::change_link(batch, LinkChange { index: known.index, link, master, own });
        match &link.kind {
            // Kernels before 4.13 cannot change it, so it is only sent if it differs.
            KernelKind::Vxlan(vxlan) if vxlan.learning != known.learning => {
                encode::change_learning(batch, known.index, vxlan.learning);
            }
            KernelKind::Bridge(options) => encode::change_bridge(batch, known.index, *options),
            KernelKind::Vxlan(_)
            | KernelKind::Veth(_)
            | KernelKind::Vlan(_)
            | KernelKind::Macvlan(_)
            | KernelKind::Ipip(_) => {}
        }
        if let (Some(flags), Some(_)) = (link.port, master) {
            encode::set_port(batch, name, flags);
        }
        Ok(())
    }

    /// The links that a new link refers to, by their indexes.
    fn bound(&mut self, link: &DesiredLink<KernelKind>, others: &OtherNamespaces) -> Result<BoundLinks, OpError> {
        let parent = match &link.kind {
            KernelKind::Vxlan(vxlan) => vxlan.parent,
            KernelKind::Vlan(vlan) => Some(vlan.parent),
            KernelKind::Macvlan(macvlan) => Some(macvlan.parent),
            KernelKind::Ipip(ipip) => ipip.parent,
            KernelKind::Veth(_) | KernelKind::Bridge(_) => None,
        };
        let peer = match link.kind {
            KernelKind::Veth(Veth { peer: LinkPlace { namespace, name } }) => {
                let elsewhere = namespace != self.namespaces.own;
                Some(VethPeer { name, namespace: elsewhere.then(|| others.descriptor(namespace)).transpose()? })
            }
            KernelKind::Vxlan(_)
            | KernelKind::Bridge(_)
            | KernelKind::Vlan(_)
            | KernelKind::Macvlan(_)
            | KernelKind::Ipip(_) => None,
        };
        let lower = parent.map(|parent| self.lower(parent, others)).transpose()?;
        let master = link.master.map(|master| self.index_of_any(master)).transpose()?;
        Ok(BoundLinks { lower, peer, master })
    }

    fn lower(&self, parent: LinkRef, others: &OtherNamespaces) -> Result<Lower, OpError> {
        let (namespace, index) = match parent {
            LinkRef::Found(id) => (id.namespace, id.index),
            LinkRef::Desired(place) if place.namespace == self.namespaces.own => {
                (place.namespace, self.index(place.name)?)
            }
            LinkRef::Desired(place) => (place.namespace, others.index(place)?),
        };
        let namespace = (namespace != self.namespaces.own).then(|| self.namespace_id(namespace)).transpose()?;
        Ok(Lower { index, namespace })
    }

    fn namespace_id(&self, namespace: Namespace) -> Result<i32, OpError> {
        let found = self.namespaces.others.iter().find(|(_, other)| **other == namespace);
        found.map(|(id, _)| *id).ok_or_else(|| OpError::of(Errno::ENODEV))
    }

    /// The index of any link, which is read from the kernel if it is not known.
    pub(super) fn index_of_any(&mut self, name: LinkName) -> Result<u32, OpError> {
        if let Ok(index) = self.index(name) {
            return Ok(index);
        }
        let found = read::link_by(&mut self.netlink, Some(name), 0).ok().flatten();
        found.map(|(_, link)| link.index).ok_or_else(|| OpError::of(Errno::ENODEV))
    }

    /// The form of a route without a nexthop object; without a link it is a blackhole.
    fn plain_target(&self, link: Option<LinkName>) -> Result<RouteTarget, OpError> {
        link.map_or(Ok(RouteTarget::Blackhole), |link| self.index(link).map(RouteTarget::Link))
    }

    /// The form in which a route is written. Makes its nexthop object if it needs one that does not exist.
    fn through(
        &mut self,
        batch: &mut Batch,
        replace: bool,
        key: &RouteKey,
        hop: &NextHop,
    ) -> Result<RouteTarget, OpError> {
        let plain = self.plain_target(hop.link())?;
        // Adding an IPv6 route does not become slower with their number.
        let (NextHop::Gateway { gateway: gateway @ IpAddr::V4(_), onlink: true, .. }, RouteTarget::Link(device)) =
            (hop, plain)
        else {
            return Ok(plain);
        };
        let Some(nexthops) = &mut self.nexthops else { return Ok(plain) };
        let wanted = match self.form {
            RouteForm::Nexthop => true,
            RouteForm::Plain => false,
            // An existing route keeps its form.
            RouteForm::Auto if replace => nexthops.of_route(key).is_some(),
            RouteForm::Auto => self.plain_routes >= PLAIN_ROUTES,
        };
        if !wanted {
            return Ok(plain);
        }
        let (hop, new) = nexthops.offer(device, *gateway);
        if new {
            batch.push(nexthop::NEW, NLM_F_CREATE | NLM_F_EXCL, &hop);
        }
        Ok(RouteTarget::Nexthop(hop.id))
    }

    pub(super) fn index(&self, name: LinkName) -> Result<u32, OpError> {
        self.links.get(&name).map(|known| known.index).ok_or_else(|| OpError::of(Errno::ENODEV))
    }
}

/// The messages of one operation.
pub(super) struct Encoded {
    pub(super) messages: usize,
    /// The route that it adds or deletes, and the ID of the nexthop object that the route uses from then on.
    pub(super) route: Option<(RouteKey, Option<u32>)>,
}

impl RouteTarget {
    const fn nexthop(self) -> Option<u32> {
        match self {
            Self::Nexthop(id) => Some(id),
            Self::Link(_) | Self::Blackhole => None,
        }
    }
}
