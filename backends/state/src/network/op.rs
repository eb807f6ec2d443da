//! One change of the kernel's state.

use std::{fmt, net::IpAddr};

use wire_net::{Family, LinkName, MacAddr};

use crate::{
    Address, FdbKey, Forward, ForwardKey, Framing, Link, LinkKind, NeighbourKey, NetState, Operation, Parent, Route,
    RouteKey, Setting, Tunnel,
};

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a link and sets it up.
    CreateLink(LinkName, Link),
    /// Sets what can be set in place: MAC, MTU, learning, up.
    ChangeLink(LinkName, Link),
    /// Removes a link and with it all that is on it.
    DeleteLink(LinkName),
    /// Writes a setting of the kernel.
    Set(Setting, u32),
    /// Adds an address to a link.
    PutAddress(Address),
    /// Takes an address from a link.
    DeleteAddress(Address),
    /// Sets the destination of a MAC, in place of any other.
    PutFdb(FdbKey, IpAddr),
    /// Removes a MAC.
    DeleteFdb(FdbKey),
    /// Sets the MAC of a neighbour, in place of any other.
    PutNeighbour(NeighbourKey, MacAddr),
    /// Removes a neighbour.
    DeleteNeighbour(NeighbourKey),
    /// Sets where a tunnel sends packets for a prefix, in place of any other.
    PutForward(ForwardKey, Forward),
    /// Removes a prefix from a tunnel.
    DeleteForward(ForwardKey),
    /// Adds a route where there is none.
    AddRoute(RouteKey, Route),
    /// Puts a route in the place of one of ours, without a moment in between.
    ReplaceRoute(RouteKey, Route),
    /// Removes a route, given as it was read.
    DeleteRoute(RouteKey, Route),
}

impl Operation for Op {
    fn name(&self) -> &'static str {
        match self {
            Self::CreateLink(..) => "create link",
            Self::ChangeLink(..) => "change link",
            Self::DeleteLink(_) => "delete link",
            Self::Set(..) => "set sysctl",
            Self::PutAddress(_) => "add address",
            Self::DeleteAddress(_) => "delete address",
            Self::PutFdb(..) => "set FDB entry",
            Self::DeleteFdb(_) => "delete FDB entry",
            Self::PutNeighbour(..) => "set neighbour",
            Self::DeleteNeighbour(_) => "delete neighbour",
            Self::PutForward(..) => "set forwarding",
            Self::DeleteForward(_) => "delete forwarding",
            Self::AddRoute(..) => "add route",
            Self::ReplaceRoute(..) => "replace route",
            Self::DeleteRoute(..) => "delete route",
        }
    }

    fn is_delete(&self) -> bool {
        match self {
            Self::DeleteLink(_)
            | Self::DeleteAddress(_)
            | Self::DeleteFdb(_)
            | Self::DeleteNeighbour(_)
            | Self::DeleteForward(_)
            | Self::DeleteRoute(..) => true,
            Self::CreateLink(..)
            | Self::ChangeLink(..)
            | Self::Set(..)
            | Self::PutAddress(_)
            | Self::PutFdb(..)
            | Self::PutNeighbour(..)
            | Self::PutForward(..)
            | Self::AddRoute(..)
            | Self::ReplaceRoute(..) => false,
        }
    }
}

impl Op {
    /// Whether it concerns a link itself, so that the kernel may change other entries with it.
    #[must_use]
    pub const fn is_link(&self) -> bool {
        matches!(self, Self::CreateLink(..) | Self::ChangeLink(..) | Self::DeleteLink(_))
    }
}

impl NetState {
    /// What the state is once `op` is carried out, with what the kernel does by itself: entries go with their link, and
    /// neighbours with a changed MAC (`neigh_changeaddr` of net/core/neighbour.c).
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::CreateLink(name, link) => {
                self.links.insert(*name, link.clone());
            }
            Op::ChangeLink(name, link) => {
                let Some(there) = self.links.get_mut(name) else { return };
                if there.mac != link.mac {
                    self.neighbours.retain(|key, _| key.link != *name);
                }
                if !there.has_tunnel_of(link) {
                    self.forwarding.retain(|key, _| key.link != *name);
                }
                there.set_in_place(link);
            }
            Op::DeleteLink(name) => self.forget_link(*name),
            Op::Set(setting, value) => {
                if let Setting::Forwarding(family) = setting {
                    self.set_forwarding_of_links(*family, *value);
                }
                self.settings.insert(*setting, *value);
            }
            Op::PutAddress(address) => {
                self.addresses.insert(*address);
            }
            Op::DeleteAddress(address) => {
                self.addresses.remove(address);
            }
            Op::PutFdb(key, destination) => {
                self.fdb.insert(*key, *destination);
            }
            Op::DeleteFdb(key) => {
                self.fdb.remove(key);
            }
            Op::PutNeighbour(key, mac) => {
                self.neighbours.insert(*key, *mac);
            }
            Op::DeleteNeighbour(key) => {
                self.neighbours.remove(key);
            }
            Op::PutForward(key, forward) => {
                self.forwarding.insert(*key, *forward);
            }
            Op::DeleteForward(key) => {
                self.forwarding.remove(key);
            }
            Op::AddRoute(key, route) | Op::ReplaceRoute(key, route) => {
                self.routes.insert(*key, route.clone());
            }
            Op::DeleteRoute(key, _) => {
                self.routes.remove(key);
            }
        }
    }

    /// Forwarding as a whole takes that of all links along (`inet_forward_change` of net/ipv4/devinet.c, and its like).
    fn set_forwarding_of_links(&mut self, family: Family, value: u32) {
        for (setting, there) in &mut self.settings {
            match setting {
                Setting::LinkForwarding(of, _) if *of == family => *there = value,
                Setting::LinkForwarding(..)
                | Setting::Forwarding(_)
                | Setting::DisableIpv6(_)
                | Setting::RouterAdvertisements(_) => {}
            }
        }
    }
}

impl Link {
    fn set_in_place(&mut self, want: &Self) {
        (self.mac, self.mtu, self.up) = (want.mac, want.mtu, want.up);
        match (&mut self.kind, &want.kind) {
            (LinkKind::Vxlan(have), LinkKind::Vxlan(want)) => have.learning = want.learning,
            (LinkKind::Tun(have), LinkKind::Tun(want)) => have.clone_from(want),
            (LinkKind::Vxlan(_) | LinkKind::Tun(_) | LinkKind::Other(_), _) => {}
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::CreateLink(name, link) => write!(f, " {name}: {link}"),
            Self::ChangeLink(name, link) => write!(f, " {name}: {link}"),
            Self::DeleteLink(name) => write!(f, " {name}"),
            Self::Set(setting, value) => write!(f, " {setting} = {value}"),
            Self::PutAddress(address) | Self::DeleteAddress(address) => write!(f, " {address}"),
            Self::PutFdb(key, destination) => write!(f, " {key} dst {destination}"),
            Self::DeleteFdb(key) => write!(f, " {key}"),
            Self::PutNeighbour(key, mac) => write!(f, " {key} lladdr {mac}"),
            Self::DeleteNeighbour(key) => write!(f, " {key}"),
            Self::PutForward(key, forward) => write!(f, " {key} {forward}"),
            Self::DeleteForward(key) => write!(f, " {key}"),
            Self::AddRoute(key, route) | Self::ReplaceRoute(key, route) | Self::DeleteRoute(key, route) => {
                write!(f, " {key} {}", route.via)
            }
        }
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.framing {
            Framing::Raw => write!(f, "raw local {}", self.local)?,
            Framing::Vxlan { vni, mac } => write!(f, "vxlan vni {vni} local {} lladdr {mac}", self.local)?,
        }
        f.write_str(if self.source_check { "" } else { " unchecked" })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            LinkKind::Vxlan(vxlan) => {
                write!(f, "vxlan vni {}", vxlan.vni)?;
                if let Some(Parent { name, .. }) = vxlan.parent {
                    write!(f, " dev {name}")?;
                }
                if let Some(local) = vxlan.local {
                    write!(f, " local {local}")?;
                }
                write!(f, " port {}", vxlan.port_in_use())?;
                f.write_str(if vxlan.learning { " learning" } else { " nolearning" })?;
                if vxlan.gbp {
                    f.write_str(" gbp")?;
                }
            }
            LinkKind::Tun(None) => f.write_str("tun")?,
            LinkKind::Tun(Some(tunnel)) => write!(f, "tun {tunnel}")?,
            LinkKind::Other(kind) => f.write_str(if kind.is_empty() { "hardware" } else { kind })?,
        }
        if let Some(mac) = self.mac {
            write!(f, " mac {mac}")?;
        }
        write!(f, " mtu {} {}", self.mtu, if self.up { "up" } else { "down" })
    }
}
