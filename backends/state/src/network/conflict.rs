//! Foreign entries that prevent ours. They are reported and not changed.

use std::fmt;

use wire_net::{LinkName, Vni};

use crate::{LinkId, LinkPlace, Namespace, ObservedLink, ObservedRoute, ObservedVxlan, PROTOCOL, RouteKey, Setting};

/// A foreign entry that prevents one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// A foreign device has the name of a desired one.
    Name {
        /// The place of both.
        link: LinkPlace,
        /// The foreign device.
        found: ObservedLink,
        /// The underlay's link, if the foreign device is like flannel's except that it sends through another link.
        underlay: Option<LinkId>,
    },
    /// Another device has the VNI and UDP port of a desired one: the kernel allows each combination once.
    Vni {
        /// The desired device.
        link: LinkPlace,
        /// The VNI of both.
        vni: Vni,
        /// The UDP port of both.
        port: u16,
        /// The device that has them.
        holder: LinkName,
    },
    /// A foreign device has the UDP port of a desired one, and cannot share it.
    Port {
        /// The desired device.
        link: LinkPlace,
        /// The UDP port of both.
        port: u16,
        /// The device that has it.
        holder: LinkName,
        /// The settings of that device.
        found: ObservedVxlan,
    },
    /// A foreign route has the destination of a desired one, and the same metric or a better (lower) one.
    Route {
        /// The namespace.
        namespace: Namespace,
        /// The desired route.
        key: RouteKey,
        /// The metric of the foreign route.
        metric: u32,
        /// The foreign route.
        found: ObservedRoute,
    },
    /// A link with containers on it does not forward their packets.
    Forwarding {
        /// The link.
        link: LinkPlace,
        /// The setting that is off.
        setting: Setting,
    },
    /// A desired link cannot be made since something that it needs is missing.
    Needs {
        /// The desired link.
        link: LinkPlace,
        /// The thing that is missing.
        need: Need,
    },
}

/// A thing that a desired link needs and that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Another link, which neither exists nor is desired.
    Link(LinkPlace),
    /// An order: the links need each other in a circle.
    Order,
    /// Its namespace, which no longer exists.
    Namespace,
    /// The host's namespace, in which alone the agent moves packets itself.
    HostNamespace,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { link, found, underlay } => {
                write!(f, "{link} cannot be made, because another device has this name: {found}; ")?;
                match (found.bound_to(), underlay) {
                    (Some(LinkId { name, .. }), Some(underlay)) => write!(
                        f,
                        "it sends through {name}, and the underlay is {underlay}: start wire-agent with --iface={name}, as flanneld \
                         was, or remove it",
                        underlay = underlay.name
                    ),
                    (_, None) | (None, Some(_)) => f.write_str("rename or remove it"),
                }
            }
            Self::Vni { link, vni, port, holder } => {
                write!(
                    f,
                    "{link} cannot be made: {holder} already has VNI {vni} on UDP port {port}; remove it or change VNI or Port"
                )
            }
            Self::Port { link, port, holder, found } => {
                let has = match found.receive_flag {
                    Some(receive_flag) => receive_flag.to_string(),
                    None if found.gbp => "has group policies (gbp)".to_owned(),
                    None => format!("is a VXLAN device (vni {})", found.vni),
                };
                write!(
                    f,
                    "{link} cannot be made: {holder} {has} on UDP port {port}, and cannot share it with wire-agent's \
                     device; remove it or set another Backend.Port in the network config"
                )
            }
            Self::Route { namespace, key, metric, found } => {
                let (destination, via, protocol) = (key.destination, &found.via, protocol_name(found.protocol));
                write!(
                    f,
                    "{destination} is taken by a route of protocol {protocol} with metric {metric}{namespace}: {via}; remove it"
                )
            }
            Self::Forwarding { link, setting } => {
                write!(
                    f,
                    "{link} forwards no IPv4 packets: its containers cannot reach other hosts; sysctl -w {setting}=1"
                )
            }
            Self::Needs { link, need } => write!(f, "{link} cannot be made: {need}"),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => write!(f, "it needs the link {link}, which is not there"),
            Self::Order => f.write_str("it needs a link that itself needs this one"),
            Self::Namespace => f.write_str("its namespace is gone"),
            Self::HostNamespace => f.write_str("tunnels that the agent works itself run in the host's namespace only"),
        }
    }
}

/// The name of a routing protocol number in iproute2's rt_protos, or the number itself if it is not a common one.
pub(crate) fn protocol_name(number: u8) -> String {
    let name = match number {
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        186 => "bgp",
        188 => "ospf",
        PROTOCOL => "wire-agent",
        other => return other.to_string(),
    };
    name.to_owned()
}
