//! The way of a frame to an address of a network by name: over the kernels of two hosts, as they are.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::LinkName;
use wire_state::{BridgeFdbKey, FdbKey, NeighbourKey, ObservedKind, ObservedNet};

/// The bridge and the VXLAN device of a network.
pub(super) fn devices(vni: u32) -> (LinkName, LinkName) {
    let name = |kind: &str| format!("{kind}.{vni}").parse().expect("a name of a link");
    (name("wb"), name("wv"))
}

/// Follows a packet from a host into its network. The result is the host that takes it in.
///
/// # Errors
/// Where the way ends, for people.
pub(super) fn walk(
    kernels: &BTreeMap<IpAddr, ObservedNet>,
    from: IpAddr,
    vni: u32,
    address: IpAddr,
) -> Result<IpAddr, String> {
    let net = kernels.get(&from).ok_or("no such host")?;
    let (bridge, overlay) = devices(vni);
    let mac = net.neighbours.get(&NeighbourKey { link: bridge, address }).ok_or("no neighbour on the bridge")?;
    let port = net.bridge_fdb.get(&BridgeFdbKey { bridge, mac: *mac }).ok_or("the bridge does not know the MAC")?;
    if *port != overlay {
        return Err(format!("the bridge sends it to {port}"));
    }
    let to = net.fdb.get(&FdbKey { link: overlay, mac: *mac }).ok_or("the device does not know the MAC")?.to;
    let vni = sent_vni(net, overlay).ok_or("the device has no VNI")?;
    let receiver = kernels.get(&to).ok_or_else(|| format!("{to} is no host"))?;
    // The device that takes packets of this VNI, and the bridge behind it.
    let taking = receiver.links.iter().find(|(name, _)| sent_vni(receiver, **name) == Some(vni));
    let (_, device) = taking.ok_or_else(|| format!("{to} has no device with the VNI {vni}"))?;
    let master = device.master.ok_or_else(|| format!("the device of {to} is on no bridge"))?.name;
    let is_own = |own: &wire_state::Address| own.address == address && own.link == master;
    if !receiver.addresses.iter().any(is_own) {
        return Err(format!("{to} does not have the address on {master}"));
    }
    let own = receiver.links.get(&master).and_then(|link| link.mac);
    if own == Some(*mac) { Ok(to) } else { Err(format!("{to} has the MAC {own:?} on {master}, not {mac}")) }
}

fn sent_vni(net: &ObservedNet, link: LinkName) -> Option<u32> {
    match &net.links.get(&link)?.kind {
        ObservedKind::Vxlan(vxlan) => Some(vxlan.vni.number()),
        ObservedKind::Tun(_)
        | ObservedKind::Bridge(_)
        | ObservedKind::Veth(_)
        | ObservedKind::Vlan(_)
        | ObservedKind::Macvlan(_)
        | ObservedKind::Ipip(_)
        | ObservedKind::Other(_) => None,
    }
}
