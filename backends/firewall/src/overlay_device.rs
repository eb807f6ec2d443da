//! The devices through which packets enter the overlay. Pure.

use std::net::IpAddr;

use wire_net::{DualStack, Family, LinkName, Vni};
use wire_state::{DesiredKind, DesiredNet, KernelKind, LinkRef, Tunnel, VXLAN_LEAD};

/// The device through which packets of one family enter the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayDevice {
    /// Its name.
    pub link: LinkName,
    /// The underlay link it is bound to, if any.
    pub parent: Option<LinkName>,
    /// The UDP port of encapsulated packets.
    pub port: u16,
    /// The VNI this device terminates, if it is VXLAN.
    pub vni: Option<Vni>,
    /// The source address of the encapsulated packets that this host sends.
    pub local: Option<IpAddr>,
    /// True if the kernel decapsulates, and counts what has come in; false if the agent does.
    pub in_kernel: bool,
    /// True if headers may carry a group policy (`"GBP"`).
    pub has_policy: bool,
    /// Offset of the inner IP header from the start of the outer UDP header, in bytes.
    pub inner: usize,
}

/// Length of a UDP header (RFC 768), in bytes.
const UDP: usize = 8;

impl OverlayDevice {
    /// The overlay devices that a backend wants.
    #[must_use]
    pub fn of(net: &DesiredNet) -> DualStack<Self> {
        let mut devices = DualStack::default();
        for (name, link) in &net.links {
            let (family, device) = match &link.kind {
                DesiredKind::Kernel(KernelKind::Vxlan(vxlan)) => {
                    let (port, vni, local) = (vxlan.port_in_use(), Some(vxlan.vni), vxlan.local);
                    let (parent, inner) = (vxlan.parent.map(LinkRef::name), UDP + VXLAN_LEAD);
                    let (in_kernel, has_policy) = (true, vxlan.gbp);
                    (vxlan.underlay(), Self { link: *name, parent, port, vni, local, in_kernel, has_policy, inner })
                }
                DesiredKind::Tunnel(Tunnel { framing, local, .. }) => {
                    let (port, vni, local) = (local.port(), framing.vni(), local.ip());
                    let inner = UDP + framing.lead();
                    let (family, parent, local) = (Family::of(local), None, Some(local));
                    let (in_kernel, has_policy) = (false, false);
                    (family, Self { link: *name, parent, port, vni, local, in_kernel, has_policy, inner })
                }
                DesiredKind::Kernel(
                    KernelKind::Bridge
                    | KernelKind::Veth(_)
                    | KernelKind::Vlan(_)
                    | KernelKind::Macvlan(_)
                    | KernelKind::Ipip(_),
                ) => continue,
            };
            devices.set(family, Some(device));
        }
        devices
    }
}
