//! The devices through which packets enter the overlay. Pure.

use std::{fmt, net::IpAddr};

use wire_net::{DualStack, Family, LinkName, Vni};
use wire_state::{DesiredKind, DesiredNet, KernelKind, LinkRef, Tunnel, VXLAN_LEAD};

/// The device through which packets of one family enter the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayDevice {
    /// Its name.
    pub link: LinkName,
    /// The underlay link it is bound to, if any.
    pub parent: Option<LinkName>,
    /// The form of encapsulated packets.
    pub carrier: Carrier,
    /// The VNI this device terminates, if it is VXLAN.
    pub vni: Option<Vni>,
    /// The source address of the encapsulated packets that this host sends.
    pub local: Option<IpAddr>,
    /// True if the kernel decapsulates, and counts what has come in; false if the agent does.
    pub in_kernel: bool,
    /// True if headers may carry a group policy (`"GBP"`).
    pub has_policy: bool,
    /// Offset of the inner IP header from the end of the outer one, in bytes.
    pub inner: usize,
}

/// The form of encapsulated packets, behind the outer IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// UDP to a port.
    Udp {
        /// The port.
        port: u16,
    },
    /// The inner IPv4 packet itself, as the IP protocol 4 (RFC 2003).
    Ipip,
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp { port } => write!(f, "UDP port {port}"),
            Self::Ipip => f.write_str("IP protocol 4 (IPIP)"),
        }
    }
}

/// Length of a UDP header (RFC 768), in bytes.
const UDP: usize = 8;

impl OverlayDevice {
    /// The overlay devices that a backend wants.
    #[must_use]
    pub fn of(net: &DesiredNet) -> DualStack<Self> {
        let [devices, _] = Self::all(net);
        devices
    }

    /// The second device of each family: there is one while a former backend is spoken beside the new one. Which of both is the former
    /// one's makes no difference.
    #[must_use]
    pub fn beside(net: &DesiredNet) -> DualStack<Self> {
        let [_, beside] = Self::all(net);
        beside
    }

    fn all(net: &DesiredNet) -> [DualStack<Self>; 2] {
        let mut devices = [DualStack::default(); 2];
        for (name, link) in &net.links {
            let (family, device) = match &link.kind {
                DesiredKind::Kernel(KernelKind::Vxlan(vxlan)) => {
                    let (vni, local) = (Some(vxlan.vni), vxlan.local);
                    let carrier = Carrier::Udp { port: vxlan.port_in_use() };
                    let (parent, inner) = (vxlan.parent.map(LinkRef::name), UDP + VXLAN_LEAD);
                    let (in_kernel, has_policy) = (true, vxlan.gbp);
                    (vxlan.underlay(), Self { link: *name, parent, carrier, vni, local, in_kernel, has_policy, inner })
                }
                DesiredKind::Kernel(KernelKind::Ipip(ipip)) => {
                    let (parent, local) = (ipip.parent.map(LinkRef::name), ipip.local.map(IpAddr::from));
                    let (carrier, vni, in_kernel) = (Carrier::Ipip, None, true);
                    let (has_policy, inner) = (false, 0);
                    (Family::V4, Self { link: *name, parent, carrier, vni, local, in_kernel, has_policy, inner })
                }
                DesiredKind::Tunnel(Tunnel { framing, local, .. }) => {
                    let carrier = Carrier::Udp { port: local.port() };
                    let (vni, local) = (framing.vni(), local.ip());
                    let inner = UDP + framing.lead();
                    let (family, parent, local) = (Family::of(local), None, Some(local));
                    let (in_kernel, has_policy) = (false, false);
                    (family, Self { link: *name, parent, carrier, vni, local, in_kernel, has_policy, inner })
                }
                DesiredKind::Kernel(
                    KernelKind::Bridge(_) | KernelKind::Veth(_) | KernelKind::Vlan(_) | KernelKind::Macvlan(_),
                ) => continue,
            };
            let [first, second] = &mut devices;
            let place = if first.get(family).is_none() { first } else { second };
            place.set(family, Some(device));
        }
        devices
    }

    /// True if a packet that comes in is known as encapsulated before connection tracking: by its VXLAN header, or by its protocol, which
    /// an answer to a masqueraded packet hardly ever has. Of a UDP port alone that cannot be said.
    pub(crate) const fn is_known_early(&self) -> bool {
        match self.carrier {
            Carrier::Udp { .. } => self.vni.is_some(),
            Carrier::Ipip => true,
        }
    }
}
