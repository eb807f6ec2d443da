//! What of the kernel's network is looked at, and whose a device with one of our names is.

use std::collections::BTreeSet;

use wire_net::{LinkName, MacAddr, Prefix};

use crate::{Link, LinkKind, Owner, Parent, Vxlan};

/// What of the kernel's state is read: our devices with all that is on them, and routes into the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Our devices' names.
    pub devices: BTreeSet<LinkName>,
    /// By what a device of such a name is ours.
    pub marks: Marks,
    /// The underlay's link.
    pub parent: Option<Parent>,
    /// The overlay's networks: routes that overlap them are looked at.
    pub networks: Vec<Prefix>,
}

impl Scope {
    /// Whether that is the number of the underlay's link.
    #[must_use]
    pub fn is_parent(&self, index: u32) -> bool {
        self.parent.is_some_and(|parent| parent.index == index)
    }
}

/// By what a VXLAN device with one of our names is known as ours: one of these MACs, or flannel's form, which is ours too. So one
/// whose MAC was changed by hand is ours still, and so is one that a former config or underlay has made otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The MACs that our devices have, or had, as our lease and our state say.
    pub macs: BTreeSet<MacAddr>,
    /// The UDP port of flannel's form; `None` lets any do.
    pub port: Option<u16>,
    /// Whether flannel's form is to learn, as the network config may ask.
    pub learning: bool,
}

impl Scope {
    /// Whose a device is.
    #[must_use]
    pub fn owner(&self, name: LinkName, link: &Link) -> Owner {
        let ours = match &link.kind {
            LinkKind::Vxlan(vxlan) => {
                link.mac.is_some_and(|mac| self.marks.macs.contains(&mac)) || self.is_in_flannels_form(name, vxlan)
            }
            // Read as such where it is made as ours are.
            LinkKind::Tun(_) => true,
            LinkKind::Other(_) => false,
        };
        if ours && self.devices.contains(&name) { Owner::Ours } else { Owner::Foreign }
    }

    /// The VNI of its name, through the underlay, to hosts that it is told of.
    fn is_in_flannels_form(&self, name: LinkName, vxlan: &Vxlan) -> bool {
        let Marks { port, learning, .. } = &self.marks;
        let number = name.as_str().rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        number == Some(vxlan.vni.number())
            && self.parent.is_none_or(|parent| vxlan.parent == Some(parent))
            && port.is_none_or(|port| vxlan.port_in_use() == port)
            && vxlan.group.is_none()
            && (*learning || !vxlan.learning)
    }
}

#[cfg(test)]
mod tests {
    use wire_net::{Mtu, Vni};

    use super::*;

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    fn scope() -> Scope {
        let marks = Marks { macs: ["02:00:00:00:00:01".parse().unwrap()].into(), port: Some(8472), learning: false };
        let parent = Some(Parent { index: 2, name: "eth0".parse().unwrap() });
        let devices = ["flannel.1", "flannel-v6.1", "flannel0"].map(|name| name.parse().unwrap()).into();
        Scope { devices, parent, marks, ..Scope::default() }
    }

    fn flannels() -> Vxlan {
        let local = Some("192.0.2.1".parse().unwrap());
        Vxlan { parent: scope().parent, local, port: Some(8472), ..Vxlan::new(vni(1)) }
    }

    fn owner(name: &str, mac: &str, kind: LinkKind) -> Owner {
        let link = Link { mac: Some(mac.parse().unwrap()), ..Link::ours(kind, Mtu(1450)) };
        scope().owner(name.parse().unwrap(), &link)
    }

    const OTHER: &str = "02:00:00:00:00:99";
    const OURS: &str = "02:00:00:00:00:01";

    #[test]
    fn a_device_in_flannels_form_is_ours_whatever_its_mac() {
        for name in ["flannel.1", "flannel-v6.1"] {
            assert_eq!(owner(name, OTHER, LinkKind::Vxlan(flannels())), Owner::Ours);
        }
        assert_eq!(owner("flannel.2", OTHER, LinkKind::Vxlan(flannels())), Owner::Foreign);
        let other_local = Vxlan { local: Some("192.0.2.7".parse().unwrap()), ..flannels() };
        assert_eq!(owner("flannel.1", OTHER, LinkKind::Vxlan(other_local)), Owner::Ours);
    }

    #[test]
    fn a_device_of_another_form_is_ours_by_a_mac_of_ours_alone() {
        let others = [
            Vxlan { vni: vni(7), ..flannels() },
            Vxlan { port: Some(4789), ..flannels() },
            Vxlan { learning: true, ..flannels() },
            Vxlan { group: Some("192.0.2.9".parse().unwrap()), ..flannels() },
            Vxlan { parent: Some(Parent { index: 3, name: "eth0".parse().unwrap() }), ..flannels() },
            Vxlan { parent: None, ..flannels() },
        ];
        for other in others {
            let said = format!("{other:?}");
            assert_eq!(owner("flannel.1", OTHER, LinkKind::Vxlan(other.clone())), Owner::Foreign, "{said}");
            assert_eq!(owner("flannel.1", OURS, LinkKind::Vxlan(other)), Owner::Ours, "{said}");
        }
        let learns = Scope { marks: Marks { learning: true, ..scope().marks }, ..scope() };
        let learning = LinkKind::Vxlan(Vxlan { learning: true, ..flannels() });
        let link = Link { mac: Some(OTHER.parse().unwrap()), ..Link::ours(learning, Mtu(1450)) };
        assert_eq!(learns.owner("flannel.1".parse().unwrap(), &link), Owner::Ours);
    }

    #[test]
    fn bridges_and_others_tuns_are_never_ours_and_our_tuns_always() {
        for kind in ["bridge", "dummy", "tun", "veth"] {
            assert_eq!(owner("flannel.1", OURS, LinkKind::Other(kind.to_owned())), Owner::Foreign, "{kind}");
        }
        assert_eq!(owner("flannel0", OTHER, LinkKind::Tun(None)), Owner::Ours);
    }
}
