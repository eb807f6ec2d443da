//! Containers on a network: each has a pair of links, one end of which is a port of the network's bridge. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::{DualStack, Family, LinkName, MacAddr, Prefix};
use wire_state::{
    Address, DesiredKind, DesiredLink, DesiredNet, KernelKind, LinkPlace, Namespace, NextHop, PerNamespace, PortFlag,
    PortFlags, RouteKey, Setting, Veth,
};

use super::Segment;

/// A container on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEndpoint {
    /// The end of the pair that is a port of the bridge.
    pub port: LinkName,
    /// The end in the container.
    pub inside: LinkPlace,
    /// The container's addresses.
    pub addresses: DualStack<IpAddr>,
    /// The MAC of the end in the container.
    pub mac: MacAddr,
}

/// The metric of a container's default route over a network, but for the network's VNI: any other default route is before it, so it counts only
/// where the container has no other one.
const METRIC: u32 = 4096;

/// The flags of the port of a container: the packet filter sees all that it sends.
const PORT: PortFlags = PortFlags::NEW_PORT.with(PortFlag::GroupForwarding, true);

impl SegmentEndpoint {
    /// True if a link of that name is a port of a container.
    #[must_use]
    pub fn has_port(name: LinkName) -> bool {
        let rest = name.as_str().strip_prefix("wp");
        rest.is_some_and(|rest| rest.len() >= 8 && rest.bytes().take(8).all(|byte| byte.is_ascii_hexdigit()))
    }
}

impl Segment {
    /// The desired state with these containers, beside that of the host's namespace without them.
    #[must_use]
    pub fn with_endpoints<'a>(
        &self,
        host: DesiredNet,
        endpoints: impl IntoIterator<Item = &'a SegmentEndpoint>,
    ) -> PerNamespace<DesiredNet> {
        let mut nets: BTreeMap<Namespace, DesiredNet> = [(Namespace::Host, host)].into();
        for endpoint in endpoints {
            self.add_port(nets.entry(Namespace::Host).or_default(), endpoint);
            self.add_inside(nets.entry(endpoint.inside.namespace).or_default(), endpoint);
        }
        nets.into_iter().collect()
    }

    fn end(&self, peer: LinkPlace) -> DesiredLink {
        DesiredLink::new(DesiredKind::Kernel(KernelKind::Veth(Veth { peer })), self.mtu())
    }

    fn add_port(&self, host: &mut DesiredNet, endpoint: &SegmentEndpoint) {
        let (master, port) = (Some(Self::bridge(self.vni)), Some(PORT));
        host.links.insert(endpoint.port, DesiredLink { master, port, ..self.end(endpoint.inside) });
        // An address of its own on a port would only send packets of the kernel's into the network.
        host.settings.insert(Setting::DisableIpv6(endpoint.port), 1);
    }

    fn add_inside(&self, net: &mut DesiredNet, endpoint: &SegmentEndpoint) {
        let link = endpoint.inside.name;
        let end = self.end(LinkPlace::in_host(endpoint.port));
        net.links.insert(link, DesiredLink { mac: Some(endpoint.mac), ..end });
        for (family, address) in endpoint.addresses.iter() {
            let Some(pool) = self.pools.get(family) else { continue };
            net.addresses.insert(Address { link, address: *address, len: pool.len() });
            // Docker switches IPv6 off in containers that have it on none of its own networks.
            if family == Family::V6 {
                net.settings.insert(Setting::DisableIpv6(link), 0);
            }
            if !self.internal {
                let hop = NextHop::Gateway { gateway: pool.gateway(), link, onlink: false };
                // Of two links of a container in one network, the first has it.
                net.routes.entry(self.default_route(family)).or_insert(hop);
            }
        }
    }

    fn default_route(&self, family: Family) -> RouteKey {
        let destination = Prefix::from_bits(family, 0, 0).expect("no bits");
        RouteKey { metric: METRIC + self.vni.number(), ..RouteKey::main(destination) }
    }
}

#[cfg(test)]
mod tests {
    use wire_net::{Mtu, Vni};
    use wire_state::LinkId;

    use super::*;
    use crate::SegmentOuter;

    fn segment(internal: bool) -> Segment {
        let outer = SegmentOuter {
            parent: LinkId { namespace: Namespace::Host, index: 2, name: "eth0".parse().unwrap() },
            local: [192, 0, 2, 1].into(),
            port: 8472,
            mtu: Mtu(1500),
            agent: None,
        };
        let pools =
            DualStack { v4: Some("10.128.0.0/20".parse().unwrap()), v6: Some("fd57:0:0:1::/64".parse().unwrap()) };
        let (vni, mac) = (Vni::new(5000).unwrap(), MacAddr::new([2, 0, 0, 0, 0, 1]));
        let (own, broadcast, mtu) = (DualStack::default(), true, None);
        Segment { vni, pools, broadcast, internal, mtu, own, mac, outer }
    }

    fn endpoint(number: u8, namespace: u64, inside: &str) -> SegmentEndpoint {
        let v4 = IpAddr::from([10, 128, 1, number]);
        SegmentEndpoint {
            port: format!("wp0000000{number}").parse().unwrap(),
            inside: LinkPlace { namespace: Namespace::Guest(namespace), name: inside.parse().unwrap() },
            addresses: DualStack { v4: Some(v4), v6: format!("fd57:0:0:1::a80:10{number}").parse().ok() },
            mac: MacAddr::of_container(v4),
        }
    }

    #[test]
    fn a_container_has_both_ends_its_addresses_and_a_default_route_after_all_others() {
        let desired = segment(false).with_endpoints(DesiredNet::default(), &[endpoint(5, 7, "eth1")]);
        let host = desired.get(Namespace::Host).unwrap();
        let port = &host.links[&"wp00000005".parse().unwrap()];
        assert_eq!((port.master, port.port), (Some("wb.5000".parse().unwrap()), Some(PORT)));
        assert_eq!(port.mtu, Mtu(1450));
        let guest = desired.get(Namespace::Guest(7)).unwrap();
        let addresses: Vec<String> = guest.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.128.1.5/20 dev eth1", "fd57::1:0:0:a80:105/64 dev eth1"]);
        assert_eq!(guest.links[&"eth1".parse().unwrap()].mac, Some("02:57:0a:80:01:05".parse().unwrap()));
        assert!(guest.routes.len() == 2 && guest.routes.keys().all(|key| key.metric == METRIC + 5000));
    }

    #[test]
    fn an_internal_network_has_no_default_route_and_two_links_of_a_container_have_one() {
        let desired = segment(true).with_endpoints(DesiredNet::default(), &[endpoint(5, 7, "eth1")]);
        assert!(desired.get(Namespace::Guest(7)).unwrap().routes.is_empty());
        let both = [endpoint(5, 7, "eth1"), endpoint(6, 7, "eth2")];
        let desired = segment(false).with_endpoints(DesiredNet::default(), &both);
        let guest = desired.get(Namespace::Guest(7)).unwrap();
        assert_eq!((guest.links.len(), guest.routes.len()), (2, 2));
        assert!(guest.routes.values().all(|hop| hop.link() == Some("eth1".parse().unwrap())));
    }

    #[test]
    fn ports_of_containers_are_known_by_their_names() {
        for (name, is_one) in [("wp0000000a", true), ("wp0123abcd.17", true), ("wp1", false), ("wb.5000", false)] {
            assert_eq!(SegmentEndpoint::has_port(name.parse().unwrap()), is_one, "{name}");
        }
    }
}
