//! Routes that flannel has left on the underlay's link, to subnets that nobody has leased. Nothing tells them from an operator's, so they
//! are named, and removed only on request. Pure.

use std::{fmt, net::IpAddr};

use wire_net::{LinkName, Prefix};

use super::route::BOOT;
use crate::{KernelOp, Namespace, NextHop, ObservedNet, ObservedRoute, Op, Owner, RouteKey, Via};

/// A stale route: as flannel writes its routes, and to a subnet that nobody has leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleRoute {
    /// The route's key.
    pub key: RouteKey,
    /// The host that had the subnet.
    pub gateway: IpAddr,
    /// The underlay's link.
    pub link: LinkName,
}

impl StaleRoute {
    /// The stale routes on a link, in the order of their keys. `is_vacant` tells whether a prefix is a subnet that a host could lease and
    /// none has.
    #[must_use]
    pub fn among(host: &ObservedNet, link: LinkName, is_vacant: impl Fn(Prefix) -> bool) -> Vec<Self> {
        let vacant = host.routes.iter().filter(|(key, _)| is_vacant(key.destination));
        vacant.filter_map(|(key, found)| Self::of(*key, found)).filter(|stale| stale.link == link).collect()
    }

    fn of(key: RouteKey, found: &ObservedRoute) -> Option<Self> {
        let Via::NextHop(NextHop::Gateway { gateway, link, .. }) = found.via else { return None };
        let is_flannels = found.owner == Owner::Foreign && found.protocol == BOOT && !found.uses_nexthop;
        is_flannels.then_some(Self { key, gateway, link })
    }

    /// The operation that removes it. It fails on a route that leads elsewhere by then, or has become ours.
    #[must_use]
    pub fn removal(&self) -> Op {
        let Self { key, gateway, link } = *self;
        let via = Via::NextHop(NextHop::Gateway { gateway, link, onlink: false });
        let found = ObservedRoute { via, protocol: BOOT, uses_nexthop: false, owner: Owner::Foreign };
        Op::Kernel(Namespace::Host, KernelOp::DeleteRoute(key, Box::new(found)))
    }
}

impl fmt::Display for StaleRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, gateway, link } = self;
        write!(
            f,
            "route {key} via {gateway} dev {link} of protocol boot leads to a subnet that no host has leased: flannel may have left \
             it; remove it, or all such routes with wire-agent verify --remove-stale"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::name;

    fn route(via: &str, link: &str, protocol: u8, owner: Owner) -> ObservedRoute {
        let hop = NextHop::Gateway { gateway: via.parse().unwrap(), link: name(link), onlink: false };
        ObservedRoute { via: Via::NextHop(hop), protocol, uses_nexthop: false, owner }
    }

    #[test]
    fn only_a_route_of_protocol_boot_through_the_link_to_a_vacant_subnet_is_stale() {
        let mut host = ObservedNet::default();
        let found = [
            ("10.5.2.0/24", route("192.0.2.2", "eth0", BOOT, Owner::Foreign)),
            ("10.5.3.0/24", route("192.0.2.3", "eth1", BOOT, Owner::Foreign)),
            ("10.5.4.0/24", route("192.0.2.4", "eth0", 4, Owner::Foreign)),
            ("10.5.5.0/24", route("192.0.2.5", "eth0", BOOT, Owner::Ours)),
            ("10.5.6.0/24", route("192.0.2.6", "eth0", BOOT, Owner::Foreign)),
            ("10.5.7.0/24", ObservedRoute { uses_nexthop: true, ..route("192.0.2.7", "eth0", BOOT, Owner::Foreign) }),
            (
                "10.5.8.0/24",
                ObservedRoute {
                    via: Via::NextHop(NextHop::Link(name("eth0"))),
                    ..route("192.0.2.8", "eth0", BOOT, Owner::Foreign)
                },
            ),
        ];
        for (destination, route) in found {
            host.routes.insert(RouteKey::main(destination.parse().unwrap()), route);
        }
        let leased: Prefix = "10.5.6.0/24".parse().unwrap();
        let stale = StaleRoute::among(&host, name("eth0"), |prefix| prefix != leased);
        assert_eq!(stale.len(), 1, "{stale:?}");
        assert_eq!(stale[0].removal().to_string(), "delete route 10.5.2.0/24 via 192.0.2.2 dev eth0");
        let said =
            "route 10.5.2.0/24 via 192.0.2.2 dev eth0 of protocol boot leads to a subnet that no host has leased: ";
        assert!(stale[0].to_string().starts_with(said), "{}", stale[0]);
    }
}
