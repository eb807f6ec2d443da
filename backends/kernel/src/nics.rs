//! The links whose Ethernet addresses distinguish a host from a copy of its disk.

use wire_net::{LinkName, MacAddr};
use wire_netlink::{
    Batch, Netlink,
    attribute::{attributes, mac, number, text},
};
use wire_state::DataplaneError;

use super::{encode, uapi::ifla};

/// A link and its Ethernet addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: LinkName,
    /// The kernel's interface index.
    pub index: u32,
    /// The index of the bridge or bond whose port it is.
    pub master: Option<u32>,
    /// Its current address.
    pub mac: MacAddr,
    /// The origin of the address.
    pub origin: MacOrigin,
}

/// The origin of an Ethernet address. It decides whether a copy of the disk would have the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacOrigin {
    /// The network card. This is its permanent address, which may differ from the current one.
    Card(MacAddr),
    /// The program that made this network namespace: a container's end of a veth pair, a macvlan.
    Outside,
    /// This host, from its settings, its machine-id or at random: bridges, bonds, tunnels.
    Host,
}

impl Nic {
    /// All links with an Ethernet address, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn all() -> Result<Vec<Self>, DataplaneError> {
        let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, None);
        Netlink::open()?.dump("links", &request, nic)
    }
}

fn nic(body: &[u8]) -> Option<Nic> {
    let index = number(body.get(4..8)?)?;
    let (mut name, mut master, mut now, mut permanent, mut kind) = (None, None, None, None, "");
    for (number_of, value) in attributes(body.get(16..)?) {
        match number_of {
            ifla::ADDRESS => now = mac(value),
            ifla::IFNAME => name = text(value)?.parse().ok(),
            ifla::MASTER => master = number(value),
            ifla::LINKINFO => kind = link_kind(value),
            ifla::PERM_ADDRESS => permanent = mac(value),
            _ => {}
        }
    }
    let mac = now.filter(|mac| mac.is_unicast())?;
    let origin = match (permanent, kind) {
        (Some(permanent), _) => MacOrigin::Card(permanent),
        // Before Linux 5.6 the kernel sends no permanent addresses.
        (None, "") => MacOrigin::Card(mac),
        (None, "veth" | "macvlan" | "macvtap") => MacOrigin::Outside,
        (None, _) => MacOrigin::Host,
    };
    Some(Nic { name: name?, index, master, mac, origin })
}

fn link_kind(info: &[u8]) -> &str {
    attributes(info)
        .find(|(number, _)| *number == ifla::INFO_KIND)
        .and_then(|(_, value)| text(value))
        .unwrap_or_default()
}
