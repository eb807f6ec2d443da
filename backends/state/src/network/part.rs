//! The part of a host's network that is read again after links were made or removed, and after the scope has changed: work in proportion to that,
//! and not to all that the host holds. In doubt, all is read. Pure.

use std::collections::BTreeSet;

use wire_net::LinkName;

use super::{
    KernelKind, KernelOp, LinkPlace, Namespace, ObservedKind, ObservedLink, ObservedNet, Op, PerNamespace, Scope, Veth,
};

/// The part that is read again. All else stays as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPart {
    /// Links of the host's namespace that were just made. They are read with the entries on them; no route leads to them yet, and they have no
    /// neighbours.
    pub made: BTreeSet<LinkName>,
    /// Names that no link of the host's namespace has. If one has, all is read.
    pub absent: BTreeSet<LinkName>,
    /// Namespaces of containers, which are small: each is read whole, or given up if the scope no longer has it.
    pub guests: BTreeSet<Namespace>,
}

impl NetworkPart {
    /// The part to read after the scope has changed; `None` if all must be read.
    pub(crate) fn of_scope(
        observed: &PerNamespace<ObservedNet>,
        before: &PerNamespace<Scope>,
        after: &PerNamespace<Scope>,
    ) -> Option<Self> {
        let host = observed.get(Namespace::Host)?;
        let (was, is) = (before.get(Namespace::Host)?, after.get(Namespace::Host)?);
        let is_same_but_devices = Scope { devices: is.devices.clone(), ..was.clone() } == *is;
        let changed: Vec<LinkName> = was.devices.symmetric_difference(&is.devices).copied().collect();
        if !is_same_but_devices || changed.iter().any(|name| host.links.contains_key(name)) {
            return None;
        }
        let absent = changed.into_iter().filter(|name| is.devices.contains(name)).collect();
        let all = before.iter().chain(after.iter()).map(|(namespace, _)| namespace);
        let is_other = |namespace: &Namespace| before.get(*namespace) != after.get(*namespace);
        let guests: BTreeSet<Namespace> =
            all.filter(|namespace| *namespace != Namespace::Host).filter(is_other).collect();
        // An end in a namespace that is not read has no peer.
        let is_unsure = |link: &ObservedLink| match link.kind {
            ObservedKind::Veth(Veth { peer: Some(peer) }) => guests.contains(&peer.namespace),
            ObservedKind::Veth(Veth { peer: None }) => !guests.is_empty(),
            ObservedKind::Vxlan(_)
            | ObservedKind::Tun(_)
            | ObservedKind::Bridge(_)
            | ObservedKind::Vlan(_)
            | ObservedKind::Macvlan(_)
            | ObservedKind::Ipip(_)
            | ObservedKind::Other(_) => false,
        };
        let is_sure = !host.links.values().any(is_unsure);
        is_sure.then_some(Self { absent, guests, ..Self::default() })
    }

    /// The part to read after changes of links, of which some change other entries too; `None` if all must be read. `observed` is the state before them.
    pub(crate) fn of_changes(observed: &PerNamespace<ObservedNet>, ops: &[Op]) -> Option<Self> {
        let mut part = Self::default();
        let mut removed: BTreeSet<LinkPlace> = BTreeSet::new();
        for op in ops.iter().filter(|op| op.is_link()) {
            let Op::Kernel(namespace, op) = op else { return None };
            if let KernelOp::CreateLink(name, link) = op {
                part.add_made(LinkPlace { namespace: *namespace, name: *name });
                if let KernelKind::Veth(Veth { peer }) = link.kind {
                    part.add_made(peer);
                }
            } else if let KernelOp::DeleteLink(name) = op {
                let place = LinkPlace { namespace: *namespace, name: *name };
                removed.extend(observed.bound_to(place));
                removed.insert(place);
            } else if *namespace == Namespace::Host {
                // A link of the host that changes may lose entries of which the kernel does not tell.
                return None;
            } else {
                part.guests.insert(*namespace);
            }
        }
        let host = observed.get(Namespace::Host)?;
        for place in removed {
            let name = place.name;
            match place.namespace {
                // A route that was hidden by one of this link's may show.
                Namespace::Host if host.routes.values().any(|route| route.via.link() == Some(name)) => return None,
                Namespace::Host => drop(part.absent.insert(name)),
                Namespace::Guest(_) => drop(part.guests.insert(place.namespace)),
            }
        }
        // It is made anew, or was taken for another's.
        let is_known = |name: &LinkName| host.links.contains_key(name) || part.absent.contains(name);
        let is_sure = !part.made.iter().any(is_known) && !loses_its_bridge(host, &part.absent);
        is_sure.then_some(part)
    }

    fn add_made(&mut self, LinkPlace { namespace, name }: LinkPlace) {
        match namespace {
            Namespace::Host => drop(self.made.insert(name)),
            Namespace::Guest(_) => drop(self.guests.insert(namespace)),
        }
    }
}

/// True if a link stays whose bridge goes.
fn loses_its_bridge(host: &ObservedNet, absent: &BTreeSet<LinkName>) -> bool {
    let going: BTreeSet<u32> = absent.iter().filter_map(|name| host.links.get(name)).map(|link| link.index).collect();
    let stays = host.links.iter().filter(|(name, _)| !absent.contains(name));
    stays.filter_map(|(_, link)| link.master).any(|master| going.contains(&master.index))
}
