//! The part of a namespace's network state that is read, and the rules for which devices are ours.

use std::collections::BTreeSet;

use wire_net::{LinkName, MacAddr, Prefix};

use crate::{LinkId, Namespace, ObservedKind, ObservedLink, ObservedVxlan, Owner};

/// The alias of links that the agent makes (`IFLA_IFALIAS`). It identifies them after a restart. VXLAN devices have none, since flannel's
/// have none.
pub const ALIAS: &str = "wire-agent";

/// The part of a namespace's network state that is read: our devices with all entries on them, and routes into the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Our devices' names.
    pub devices: BTreeSet<LinkName>,
    /// The signs by which a VXLAN device of such a name is ours.
    pub marks: Marks,
    /// The underlay's link.
    pub parent: Option<LinkId>,
    /// The overlay's networks: routes to prefixes in them are read.
    pub networks: Vec<Prefix>,
    /// True if packets of the overlay leave by the underlay's link itself. Then its forwarding is read.
    pub direct: bool,
}

impl Scope {
    /// Reads what `other` names too, for another network of the same underlay.
    pub fn extend(&mut self, other: &Self) {
        self.devices.extend(&other.devices);
        self.networks.extend(&other.networks);
        self.parent = self.parent.or(other.parent);
        self.direct |= other.direct;
        let Marks { macs, port, learning } = &other.marks;
        self.marks.macs.extend(macs);
        self.marks.port = self.marks.port.filter(|own| Some(*own) == *port);
        self.marks.learning |= learning;
    }

    /// Whether the link with that index in the host's namespace is the underlay's.
    #[must_use]
    pub fn is_parent(&self, index: u32) -> bool {
        self.parent.is_some_and(|parent| (parent.namespace, parent.index) == (Namespace::Host, index))
    }
}

/// The signs by which a VXLAN device with one of our names is ours: one of these MACs, or settings as flannel makes them. With two signs,
/// a device stays ours if its MAC was changed by hand, and if it was made with other settings by an earlier config or underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The MACs that our devices have or had, from our lease and the state file.
    pub macs: BTreeSet<MacAddr>,
    /// The UDP port of a device as flannel makes it; `None` accepts any port.
    pub port: Option<u16>,
    /// Whether a device as flannel makes it may learn, which the network config can enable.
    pub learning: bool,
}

impl Scope {
    /// Whether a device is ours.
    #[must_use]
    pub fn owner(&self, name: LinkName, link: &ObservedLink) -> Owner {
        let ours = match &link.kind {
            ObservedKind::Vxlan(vxlan) => {
                let is_known = link.mac.is_some_and(|mac| self.marks.macs.contains(&mac));
                link.is_marked || is_known || self.is_in_flannels_form(name, vxlan)
            }
            // A TUN device is read as this kind only if its settings are those of ours.
            ObservedKind::Tun(_) => true,
            ObservedKind::Bridge(_) | ObservedKind::Veth(_) | ObservedKind::Vlan(_) | ObservedKind::Macvlan(_) => {
                link.is_marked
            }
            // flannel's is bound to no link, and sends from the host's address. If that has changed, flannel makes it anew too.
            ObservedKind::Ipip(ipip) => link.is_marked || ipip.parent.is_none() && ipip.local.is_some(),
            ObservedKind::Other(_) => false,
        };
        if ours && self.devices.contains(&name) { Owner::Ours } else { Owner::Foreign }
    }

    /// Whether a device is as flannel makes it: it has the VNI of its name, sends through the underlay, and has no default destination.
    fn is_in_flannels_form(&self, name: LinkName, vxlan: &ObservedVxlan) -> bool {
        let Marks { port, learning, .. } = &self.marks;
        let number = name.as_str().rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        number == Some(vxlan.vni.number())
            && self.parent.is_none_or(|parent| vxlan.parent == Some(parent))
            && port.is_none_or(|port| vxlan.port == port)
            && vxlan.group.is_none()
            && (*learning || !vxlan.learning)
    }
}

#[cfg(test)]
mod tests {
    use wire_net::{Mtu, Vni};

    use super::*;
    use crate::{Bridge, Ipip};

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    fn eth0(index: u32) -> LinkId {
        LinkId { namespace: Namespace::Host, index, name: "eth0".parse().unwrap() }
    }

    fn scope() -> Scope {
        let marks = Marks { macs: ["02:00:00:00:00:01".parse().unwrap()].into(), port: Some(8472), learning: false };
        let parent = Some(eth0(2));
        let devices = ["flannel.1", "flannel-v6.1", "flannel0"].map(|name| name.parse().unwrap()).into();
        Scope { devices, parent, marks, ..Scope::default() }
    }

    fn flannels() -> ObservedVxlan {
        let local = Some("192.0.2.1".parse().unwrap());
        ObservedVxlan { parent: scope().parent, local, port: 8472, ..ObservedVxlan::new(vni(1)) }
    }

    fn found(mac: &str, kind: ObservedKind) -> ObservedLink {
        let (mac, mtu, owner) = (Some(mac.parse().unwrap()), Mtu(1450), Owner::Foreign);
        ObservedLink { kind, mac, mtu, up: true, master: None, port: None, is_marked: false, owner, index: 9 }
    }

    fn owner(name: &str, mac: &str, kind: ObservedKind) -> Owner {
        scope().owner(name.parse().unwrap(), &found(mac, kind))
    }

    const OTHER: &str = "02:00:00:00:00:99";
    const OURS: &str = "02:00:00:00:00:01";

    #[test]
    fn a_device_in_flannels_form_is_ours_whatever_its_mac() {
        for name in ["flannel.1", "flannel-v6.1"] {
            assert_eq!(owner(name, OTHER, ObservedKind::Vxlan(flannels())), Owner::Ours);
        }
        assert_eq!(owner("flannel.2", OTHER, ObservedKind::Vxlan(flannels())), Owner::Foreign);
        let other_local = ObservedVxlan { local: Some("192.0.2.7".parse().unwrap()), ..flannels() };
        assert_eq!(owner("flannel.1", OTHER, ObservedKind::Vxlan(other_local)), Owner::Ours);
    }

    #[test]
    fn a_device_of_another_form_is_ours_only_by_a_mac_of_ours() {
        let others = [
            ObservedVxlan { vni: vni(7), ..flannels() },
            ObservedVxlan { port: 4789, ..flannels() },
            ObservedVxlan { learning: true, ..flannels() },
            ObservedVxlan { group: Some("192.0.2.9".parse().unwrap()), ..flannels() },
            ObservedVxlan { parent: Some(eth0(3)), ..flannels() },
            ObservedVxlan { parent: None, ..flannels() },
        ];
        for other in others {
            let said = format!("{other:?}");
            assert_eq!(owner("flannel.1", OTHER, ObservedKind::Vxlan(other.clone())), Owner::Foreign, "{said}");
            assert_eq!(owner("flannel.1", OURS, ObservedKind::Vxlan(other)), Owner::Ours, "{said}");
        }
        let learns = Scope { marks: Marks { learning: true, ..scope().marks }, ..scope() };
        let learning = ObservedKind::Vxlan(ObservedVxlan { learning: true, ..flannels() });
        assert_eq!(learns.owner("flannel.1".parse().unwrap(), &found(OTHER, learning)), Owner::Ours);
    }

    #[test]
    fn foreign_bridges_and_tuns_are_never_ours_and_our_tuns_always_are() {
        assert_eq!(owner("flannel.1", OURS, ObservedKind::Bridge(Bridge::default())), Owner::Foreign);
        for kind in ["dummy", "tun", "veth"] {
            assert_eq!(owner("flannel.1", OURS, ObservedKind::Other(kind.to_owned())), Owner::Foreign, "{kind}");
        }
        assert_eq!(owner("flannel0", OTHER, ObservedKind::Tun(None)), Owner::Ours);
    }

    #[test]
    fn an_ipip_device_with_a_source_and_no_link_is_flannels_and_so_ours_and_any_other_only_by_its_alias() {
        let scope = Scope { devices: ["flannel.ipip".parse().unwrap()].into(), ..scope() };
        let (local, parent) = (Some([192, 0, 2, 1].into()), Some(eth0(2)));
        let owner = |name: &str, ipip, is_marked| {
            let link = ObservedLink { mac: None, is_marked, ..found(OTHER, ObservedKind::Ipip(ipip)) };
            scope.owner(name.parse().unwrap(), &link)
        };
        assert_eq!(owner("flannel.ipip", Ipip { parent: None, local }, false), Owner::Ours);
        assert_eq!(owner("tunl0", Ipip { parent: None, local }, false), Owner::Foreign);
        for other in [Ipip { parent: None, local: None }, Ipip { parent, local }] {
            assert_eq!(owner("flannel.ipip", other, false), Owner::Foreign, "{other}");
            assert_eq!(owner("flannel.ipip", other, true), Owner::Ours, "{other}");
        }
    }

    #[test]
    fn a_bridge_is_ours_by_its_alias_and_its_name() {
        let marked = ObservedLink { is_marked: true, ..found(OTHER, ObservedKind::Bridge(Bridge::default())) };
        let named = |name: &str| scope().owner(name.parse().unwrap(), &marked);
        assert_eq!(named("flannel.1"), Owner::Ours);
        assert_eq!(named("br0"), Owner::Foreign);
    }
    #[test]
    fn a_vxlan_device_with_our_alias_is_ours_whatever_its_form() {
        let vxlan = ObservedVxlan { parent: Some(eth0(9)), learning: true, ..ObservedVxlan::new(vni(7)) };
        let found = found(OTHER, ObservedKind::Vxlan(vxlan));
        assert_eq!(scope().owner("flannel.1".parse().unwrap(), &found), Owner::Foreign);
        let marked = ObservedLink { is_marked: true, ..found };
        assert_eq!(scope().owner("flannel.1".parse().unwrap(), &marked), Owner::Ours);
        assert_eq!(scope().owner("vx0".parse().unwrap(), &marked), Owner::Foreign);
    }
}
