//! What stands in our way and is not ours to move.

use std::fmt;

use wire_net::{LinkName, Vni};

use crate::{LinkId, LinkPlace, Namespace, ObservedLink, ObservedRoute, ObservedVxlan, PROTOCOL, RouteKey, Setting};

/// Something foreign where we want something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// A device with our name that is none of ours.
    Name {
        /// The name.
        link: LinkPlace,
        /// What has it.
        found: ObservedLink,
        /// The underlay, where only that tells what has it from flannel's.
        underlay: Option<LinkId>,
    },
    /// Our VNI and port in use by another device: the kernel allows one.
    Vni {
        /// The device we want.
        link: LinkPlace,
        /// The VNI both want.
        vni: Vni,
        /// The UDP port both want.
        port: u16,
        /// The device that has them.
        holder: LinkName,
    },
    /// Our UDP port in use by a device that shares it with none of ours.
    Port {
        /// The device we want.
        link: LinkPlace,
        /// The UDP port both want.
        port: u16,
        /// The device that has it.
        holder: LinkName,
        /// What that is.
        found: ObservedVxlan,
    },
    /// A route to where we want one, with the same metric or a better one.
    Route {
        /// The namespace.
        namespace: Namespace,
        /// The route we want.
        key: RouteKey,
        /// The metric of the one that is there.
        metric: u32,
        /// The one that is there.
        found: ObservedRoute,
    },
    /// A link that containers are on, which forwards nothing that comes from them.
    Forwarding {
        /// The link.
        link: LinkPlace,
        /// What is off.
        setting: Setting,
    },
    /// A link that cannot be made for what it needs.
    Needs {
        /// The link we want.
        link: LinkPlace,
        /// What is missing.
        need: Need,
    },
}

/// What a link needs and has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Another link, which is neither there nor desired.
    Link(LinkPlace),
    /// An end to a circle of links that need each other.
    Order,
    /// Its namespace, which is gone.
    Namespace,
    /// The host's namespace, for the tunnels that we run.
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
                let has = match found.extra {
                    Some(extra) => extra.to_string(),
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

/// The name iproute2 gives a protocol number (its rt_protos), where it is a common one.
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
