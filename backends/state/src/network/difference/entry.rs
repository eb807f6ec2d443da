//! The entry that an operation changes, and its name in sentences. Pure.

use std::fmt;

use crate::{FloodEntry, FloodPath, KernelOp, LinkPlace, Namespace, Op, TunnelOp};

/// The entry that an operation changes.
pub(super) enum Subject {
    Link(LinkPlace),
    EntryOn(LinkPlace),
    /// An entry that is on no link: a setting of the host, or a route without a next hop.
    EntryOfHost,
}

impl Subject {
    pub(super) fn of(op: &Op) -> Self {
        let (namespace, name) = match op {
            Op::Kernel(
                namespace,
                KernelOp::CreateLink(name, _) | KernelOp::ChangeLink(name, _) | KernelOp::DeleteLink(name),
            ) => return Self::Link(LinkPlace { namespace: *namespace, name: *name }),
            Op::Tunnel(TunnelOp::Create(name, _) | TunnelOp::Change(name, _) | TunnelOp::Delete(name)) => {
                return Self::Link(LinkPlace::in_host(*name));
            }
            Op::Kernel(namespace, KernelOp::Set(setting, _)) => (*namespace, setting.link()),
            Op::Kernel(namespace, KernelOp::PutAddress(address) | KernelOp::DeleteAddress(address)) => {
                (*namespace, Some(address.link))
            }
            Op::Kernel(namespace, KernelOp::PutFdb(key, _) | KernelOp::DeleteFdb(key)) => (*namespace, Some(key.link)),
            Op::Kernel(namespace, KernelOp::PutFlood(entry) | KernelOp::DeleteFlood(entry)) => {
                (*namespace, Some(entry.link))
            }
            Op::Kernel(namespace, KernelOp::PutBridgeFdb(_, port) | KernelOp::DeleteBridgeFdb(_, port)) => {
                (*namespace, Some(*port))
            }
            Op::Kernel(namespace, KernelOp::PutNeighbour(key, _) | KernelOp::DeleteNeighbour(key)) => {
                (*namespace, Some(key.link))
            }
            Op::Kernel(namespace, KernelOp::AddRoute(_, hop) | KernelOp::ReplaceRoute(_, hop)) => {
                (*namespace, hop.link())
            }
            Op::Kernel(namespace, KernelOp::DeleteRoute(_, found)) => (*namespace, found.via.link()),
            Op::Tunnel(TunnelOp::PutForward(key, _) | TunnelOp::DeleteForward(key)) => {
                (Namespace::Host, Some(key.link))
            }
        };
        name.map_or(Self::EntryOfHost, |name| Self::EntryOn(LinkPlace { namespace, name }))
    }
}

/// The name of the entry that an operation changes. Each entry has a name of its own.
pub(super) struct Name<'a>(pub(super) &'a Op);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Op::Kernel(namespace, op) => {
                write_kernels(f, op)?;
                namespace.fmt(f)
            }
            Op::Tunnel(op) => write_tunnels(f, op),
        }
    }
}

fn write_kernels(f: &mut fmt::Formatter<'_>, op: &KernelOp) -> fmt::Result {
    match op {
        KernelOp::CreateLink(name, _) | KernelOp::ChangeLink(name, _) | KernelOp::DeleteLink(name) => {
            write!(f, "device {name}")
        }
        KernelOp::Set(setting, _) => write!(f, "sysctl {setting}"),
        KernelOp::PutAddress(address) | KernelOp::DeleteAddress(address) => {
            write!(f, "address {}/{} on {}", address.address, address.len, address.link)
        }
        KernelOp::PutFdb(key, _) | KernelOp::DeleteFdb(key) => write!(f, "FDB entry {} on {}", key.mac, key.link),
        KernelOp::PutFlood(entry) | KernelOp::DeleteFlood(entry) => write_flood(f, entry),
        KernelOp::PutBridgeFdb(key, _) | KernelOp::DeleteBridgeFdb(key, _) => {
            write!(f, "bridge FDB entry {} on {}", key.mac, key.bridge)
        }
        KernelOp::PutNeighbour(key, _) | KernelOp::DeleteNeighbour(key) => {
            write!(f, "neighbour {} on {}", key.address, key.link)
        }
        KernelOp::AddRoute(key, _) | KernelOp::ReplaceRoute(key, _) | KernelOp::DeleteRoute(key, _) => {
            write!(f, "route {key}")
        }
    }
}

fn write_tunnels(f: &mut fmt::Formatter<'_>, op: &TunnelOp) -> fmt::Result {
    match op {
        TunnelOp::Create(name, _) | TunnelOp::Change(name, _) | TunnelOp::Delete(name) => write!(f, "device {name}"),
        TunnelOp::PutForward(key, _) | TunnelOp::DeleteForward(key) => {
            write!(f, "forwarding entry {} on {}", key.destination, key.link)
        }
    }
}

fn write_flood(f: &mut fmt::Formatter<'_>, FloodEntry { link, mac, to, by }: &FloodEntry) -> fmt::Result {
    let FloodPath { port, vni, link: through } = by;
    write!(f, "flood entry {mac} to {to}")?;
    port.map_or(Ok(()), |port| write!(f, " port {port}"))?;
    vni.map_or(Ok(()), |vni| write!(f, " VNI {vni}"))?;
    through.map_or(Ok(()), |index| write!(f, " through link number {index}"))?;
    write!(f, " on {link}")
}
