//! The links by whose addresses a host is told from a copy of its disk.

use wire_net::{LinkName, MacAddr};
use wire_netlink::{
    Batch, Netlink,
    attribute::{attributes, mac, number, text},
};
use wire_state::DataplaneError;

use super::encode;

/// A link and its Ethernet addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: LinkName,
    /// The kernel's number of it.
    pub index: u32,
    /// The number of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Its address now.
    pub mac: MacAddr,
    /// Who has made the address.
    pub origin: MacOrigin,
}

/// Who has made an Ethernet address, and so whether a copy of the disk would have it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacOrigin {
    /// The network card, which says that this is its own one whatever it has now.
    Card(MacAddr),
    /// Whoever has made this network namespace: a container's end of a veth pair, a macvlan.
    Outside,
    /// This host itself, by its settings, its machine-id or at random: bridges, bonds, tunnels.
    Host,
}

impl Nic {
    /// All of this host, in the network namespace of the thread that asked.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn all() -> Result<Vec<Self>, DataplaneError> {
        let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, None);
        Netlink::open()?.dump("links", &request, nic)
    }
}

fn nic(body: &[u8]) -> Option<Nic> {
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const MASTER: u16 = 10;
    const LINKINFO: u16 = 18;
    const PERMANENT_ADDRESS: u16 = 54;
    let index = number(body.get(4..8)?)?;
    let (mut name, mut master, mut now, mut permanent, mut kind) = (None, None, None, None, "");
    for (number_of, value) in attributes(body.get(16..)?) {
        match number_of {
            ADDRESS => now = mac(value),
            NAME => name = text(value)?.parse().ok(),
            MASTER => master = number(value),
            LINKINFO => kind = link_kind(value),
            PERMANENT_ADDRESS => permanent = mac(value),
            _ => {}
        }
    }
    let mac = now.filter(|mac| mac.is_unicast())?;
    let origin = match (permanent, kind) {
        (Some(permanent), _) => MacOrigin::Card(permanent),
        // Before Linux 5.6 the kernel does not say it of any.
        (None, "") => MacOrigin::Card(mac),
        (None, "veth" | "macvlan" | "macvtap") => MacOrigin::Outside,
        (None, _) => MacOrigin::Host,
    };
    Some(Nic { name: name?, index, master, mac, origin })
}

fn link_kind(info: &[u8]) -> &str {
    const KIND: u16 = 1;
    attributes(info).find(|(number, _)| *number == KIND).and_then(|(_, value)| text(value)).unwrap_or_default()
}
