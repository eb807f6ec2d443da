//! What other programs have in a kernel, so like ours that only its name tells whose it is: the agent leaves it alone.

use std::net::Ipv4Addr;

use wire_kernel::sim::SimHost;
use wire_net::{LinkName, MacAddr, Mtu, Prefix, Vni};
use wire_state::{FdbKey, FdbTarget, LinkId, Namespace, NeighbourKey, NextHop, ObservedKind, ObservedVxlan};

use crate::host::CARD;

/// The device of another overlay.
const OTHER: &str = "flannel.2";

/// Adds a route of the operator to a network inside the overlay's, where no lease can be.
pub(crate) fn add_static_route(kernel: &SimHost) {
    let card: LinkName = CARD.parse().expect("a name of a link");
    let inside = Prefix::new(Ipv4Addr::new(10, 250, 0, 0).into(), 24).expect("a prefix");
    let gateway = Ipv4Addr::new(192, 168, 255, 253).into();
    kernel.add_route(inside, NextHop::Gateway { gateway, link: card, onlink: false });
}

/// Adds another overlay in flannel's form: a device with a number of its own over the same card and port, and a peer on it.
pub(crate) fn add_other_overlay(kernel: &SimHost) {
    let vni = Vni::new(2).expect("a VNI");
    let card: LinkName = CARD.parse().expect("a name of a link");
    let parent = kernel.state().links.get(&card).map(|link| LinkId {
        namespace: Namespace::Host,
        index: link.index,
        name: card,
    });
    let vxlan = ObservedVxlan { parent, port: 8472, ..ObservedVxlan::new(vni) };
    kernel.add_link(OTHER, ObservedKind::Vxlan(vxlan), Some(MacAddr::new([2, 0xf2, 0, 0, 0, 1])), Mtu(1450));
    let link: LinkName = OTHER.parse().expect("a name of a link");
    let peer = MacAddr::new([2, 0xf2, 0, 0, 0, 2]);
    let gateway = Ipv4Addr::new(172, 31, 2, 0).into();
    kernel.edit(|net| {
        net.fdb
            .insert(FdbKey { link, mac: peer }, FdbTarget { to: Ipv4Addr::new(192, 168, 240, 2).into(), port: None });
        net.neighbours.insert(NeighbourKey { link, address: gateway }, peer);
    });
    let subnet = Prefix::new(gateway, 24).expect("a prefix");
    kernel.add_route(subnet, NextHop::Gateway { gateway, link, onlink: true });
}
