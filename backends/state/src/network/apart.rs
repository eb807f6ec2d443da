//! Changes of links that concern nothing but what is on these links: those of containers, bridges, and ports of bridges. Pure.

use wire_net::LinkName;

use super::{DesiredLink, KernelKind, Key, LinkPlace, Namespace, TunnelOp, Veth};
use crate::{KernelOp, Op};

/// The link that an operation makes or changes, and the one that goes with it, if it is a bridge or a port of one, or one of both is in a container.
pub(super) fn apart(op: &Op) -> Option<Vec<LinkPlace>> {
    let (namespace, name, link) = match op {
        Op::Kernel(namespace, KernelOp::CreateLink(name, link) | KernelOp::ChangeLink(name, link)) => {
            (*namespace, *name, link)
        }
        // A TAP device in the place of a VXLAN device. Other tunnels have no bridge.
        Op::Tunnel(TunnelOp::Create(name, link) | TunnelOp::Change(name, link)) => {
            return link.master.map(|_| vec![LinkPlace::in_host(*name)]);
        }
        Op::Kernel(..) | Op::Tunnel(_) => return None,
    };
    let places: Vec<LinkPlace> = [Some(LinkPlace { namespace, name }), peer(link)].into_iter().flatten().collect();
    let is_bridged = link.master.is_some() || matches!(link.kind, KernelKind::Bridge(_));
    (is_bridged || places.iter().any(|place| place.namespace != Namespace::Host)).then_some(places)
}

/// True if an operation concerns one of these links, or an entry on it.
pub(super) fn concerns(op: &Op, links: &[LinkPlace]) -> bool {
    let is_one = |namespace, name: LinkName| links.contains(&LinkPlace { namespace, name });
    match op.key() {
        Key::Link(place) => {
            links.contains(&place) || apart(op).is_some_and(|own| own.iter().any(|own| links.contains(own)))
        }
        Key::Setting(namespace, setting) => setting.link().is_some_and(|link| is_one(namespace, link)),
        Key::Address(namespace, key) => is_one(namespace, key.link),
        Key::Fdb(namespace, key) => is_one(namespace, key.link),
        Key::Flood(namespace, key) => is_one(namespace, key.link),
        Key::BridgeFdb(namespace, key) => {
            is_one(namespace, key.bridge) || port_of(op).is_some_and(|port| is_one(namespace, port))
        }
        Key::Neighbour(namespace, key) => is_one(namespace, key.link),
        Key::Forward(key) => is_one(Namespace::Host, key.link),
        Key::Route(namespace, _) => link_of_route(op).is_some_and(|link| is_one(namespace, link)),
    }
}

const fn peer(link: &DesiredLink<KernelKind>) -> Option<LinkPlace> {
    match &link.kind {
        KernelKind::Veth(Veth { peer }) => Some(*peer),
        KernelKind::Vxlan(_)
        | KernelKind::Bridge(_)
        | KernelKind::Vlan(_)
        | KernelKind::Macvlan(_)
        | KernelKind::Ipip(_) => None,
    }
}

const fn port_of(op: &Op) -> Option<LinkName> {
    match op {
        Op::Kernel(_, KernelOp::PutBridgeFdb(_, port) | KernelOp::DeleteBridgeFdb(_, port)) => Some(*port),
        Op::Kernel(..) | Op::Tunnel(_) => None,
    }
}

fn link_of_route(op: &Op) -> Option<LinkName> {
    match op {
        Op::Kernel(_, KernelOp::AddRoute(_, hop) | KernelOp::ReplaceRoute(_, hop)) => hop.link(),
        Op::Kernel(_, KernelOp::DeleteRoute(_, route)) => route.via.link(),
        Op::Kernel(..) | Op::Tunnel(_) => None,
    }
}
