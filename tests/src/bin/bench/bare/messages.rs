//! The netlink messages of the bare client, from linux/rtnetlink.h, linux/neighbour.h, linux/nexthop.h and
//! linux/netfilter/nf_tables.h.

use std::net::IpAddr;

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use wire_netlink::Batch;

use crate::leases::bytes;

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const NEW_NEXTHOP: u16 = 104;
const DELETE_NEXTHOP: u16 = 105;
/// Requests of dumps: of links, neighbours (and, as AF_BRIDGE, FDB entries), routes and nexthop objects.
pub(super) const GET_LINK: u16 = 18;
pub(super) const GET_NEIGHBOUR: u16 = 30;
pub(super) const GET_ROUTE: u16 = 26;
pub(super) const GET_NEXTHOP: u16 = 106;

pub(super) const AF_UNSPEC: u8 = 0;
pub(super) const AF_BRIDGE: u8 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// NUD_PERMANENT.
const PERMANENT: u16 = 0x80;
/// NTF_SELF.
const SELF: u8 = 2;
/// NTF_MASTER.
const MASTER: u8 = 4;
/// NUD_NOARP, which `bridge fdb add … static` sets.
const NO_ARP: u16 = 0x40;
/// RT_TABLE_MAIN.
const MAIN: u8 = 254;
/// RTPROT_STATIC.
const STATIC: u8 = 4;
/// RT_SCOPE_NOWHERE: matches any scope in a deletion.
const NOWHERE: u8 = 255;
/// RTNH_F_ONLINK.
const ONLINK: u32 = 4;

/// The body of a message: a header of its kind, and attributes.
pub(super) struct Body(Vec<u8>);

/// What a kernel holds for one peer.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) subnet: IpAddr,
    pub(super) len: u8,
    pub(super) public: IpAddr,
    pub(super) mac: [u8; 6],
    /// The ID of its nexthop object; `None`: its route is plain.
    pub(super) nexthop: Option<u32>,
    /// True if the host itself is the gateway, and has nothing but its route.
    pub(super) is_gateway: bool,
}

impl Body {
    pub(super) fn new(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.0, kind, value);
        self
    }
}

impl Emitable for Body {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

impl Entry {
    /// FDB entry, neighbour, nexthop object, route.
    pub(super) fn add(&self, batch: &mut Batch, device: u32) {
        let (set, create) = (NLM_F_CREATE | NLM_F_REPLACE, NLM_F_CREATE | NLM_F_EXCL);
        if self.is_gateway {
            return batch.push(NEW_ROUTE, create, &self.route(device, 0));
        }
        batch.push(NEW_NEIGHBOUR, set, &self.fdb(device).with(NDA_DST, &bytes(self.public)));
        batch.push(NEW_NEIGHBOUR, set, &self.neighbour(device).with(NDA_LLADDR, &self.mac));
        if let Some(id) = self.nexthop {
            batch.push(NEW_NEXTHOP, create, &self.nexthop_object(id, device));
        }
        batch.push(NEW_ROUTE, create, &self.route(device, 0));
    }

    /// Another host has the subnet: its FDB entry, the neighbour, and the old FDB entry goes.
    pub(super) fn change(&self, batch: &mut Batch, device: u32, old: &Self) {
        let set = NLM_F_CREATE | NLM_F_REPLACE;
        if self.is_gateway {
            return batch.push(NEW_ROUTE, set, &self.route(device, 0));
        }
        batch.push(NEW_NEIGHBOUR, set, &self.fdb(device).with(NDA_DST, &bytes(self.public)));
        batch.push(NEW_NEIGHBOUR, set, &self.neighbour(device).with(NDA_LLADDR, &self.mac));
        batch.push(DELETE_NEIGHBOUR, 0, &old.fdb(device));
    }

    pub(super) fn remove(&self, batch: &mut Batch, device: u32) {
        batch.push(DELETE_ROUTE, 0, &self.route(device, NOWHERE));
        if self.is_gateway {
            return;
        }
        batch.push(DELETE_NEIGHBOUR, 0, &self.neighbour(device));
        batch.push(DELETE_NEIGHBOUR, 0, &self.fdb(device));
        if let Some(id) = self.nexthop {
            batch.push(DELETE_NEXTHOP, 0, &Body::new(&[0; 8]).with(NHA_ID, &id.to_ne_bytes()));
        }
    }

    fn fdb(&self, device: u32) -> Body {
        neighbour_header(AF_BRIDGE, device, SELF).with(NDA_LLADDR, &self.mac)
    }

    fn neighbour(&self, device: u32) -> Body {
        neighbour_header(family(self.subnet), device, 0).with(NDA_DST, &bytes(self.subnet))
    }

    fn route(&self, device: u32, scope: u8) -> Body {
        // struct rtmsg; the type 1 is RTN_UNICAST.
        let flags = if self.nexthop.is_some() || self.is_gateway { 0 } else { ONLINK };
        let gateway = if self.is_gateway { self.public } else { self.subnet };
        let start = [family(self.subnet), self.len, 0, 0, MAIN, STATIC, scope, 1];
        let body = Body::new(&[start.as_slice(), &flags.to_ne_bytes()].concat()).with(RTA_DST, &bytes(self.subnet));
        match self.nexthop {
            Some(id) => body.with(RTA_NH_ID, &id.to_ne_bytes()),
            None => body.with(RTA_GATEWAY, &bytes(gateway)).with(RTA_OIF, &device.to_ne_bytes()),
        }
    }

    fn nexthop_object(&self, id: u32, device: u32) -> Body {
        // struct nhmsg.
        let header = [[family(self.subnet), 0, STATIC, 0].as_slice(), &ONLINK.to_ne_bytes()].concat();
        let body = Body::new(&header).with(NHA_ID, &id.to_ne_bytes()).with(NHA_OIF, &device.to_ne_bytes());
        body.with(NHA_GATEWAY, &bytes(self.subnet))
    }
}

/// An address of a network by name on another host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) mac: [u8; 6],
    pub(crate) public: IpAddr,
}

/// The devices that its entries are on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoints {
    pub(crate) bridge: u32,
    pub(crate) device: u32,
}

impl Endpoints {
    /// The FDB entry of the device, that of the bridge, and the neighbour.
    pub(crate) fn add(&self, batch: &mut Batch, endpoint: &Endpoint) {
        let set = NLM_F_CREATE | NLM_F_REPLACE;
        let Endpoint { address, mac, public } = endpoint;
        let fdb = neighbour_header(AF_BRIDGE, self.device, SELF).with(NDA_LLADDR, mac);
        batch.push(NEW_NEIGHBOUR, set, &fdb.with(NDA_DST, &bytes(*public)));
        let behind = header_of(AF_BRIDGE, self.device, NO_ARP, MASTER).with(NDA_LLADDR, mac);
        batch.push(NEW_NEIGHBOUR, set, &behind);
        let neighbour = neighbour_header(family(*address), self.bridge, 0).with(NDA_DST, &bytes(*address));
        batch.push(NEW_NEIGHBOUR, set, &neighbour.with(NDA_LLADDR, mac));
    }
}

/// The devices of a network by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewNetwork<'a> {
    /// The names of the bridge and the device, and the indices that they get.
    pub(crate) names: [&'a str; 2],
    pub(crate) links: Endpoints,
    /// The underlay's link, and this host's address there.
    pub(crate) parent: u32,
    pub(crate) local: IpAddr,
    pub(crate) vni: u32,
    /// The addresses of the bridge.
    pub(crate) own: &'a [IpAddr],
}

impl NewNetwork<'_> {
    /// The bridge, the device as its port, and the addresses.
    pub(crate) fn add(&self, batch: &mut Batch) {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let (Endpoints { bridge, device }, [bridge_name, device_name]) = (self.links, self.names);
        batch.push(NEW_LINK, create, &link(bridge_name, bridge).with(IFLA_LINKINFO | NESTED, &info("bridge", &[])));
        let mut data = Vec::new();
        attribute(&mut data, VXLAN_ID, &self.vni.to_ne_bytes());
        attribute(&mut data, VXLAN_LINK, &self.parent.to_ne_bytes());
        attribute(&mut data, VXLAN_LOCAL, &bytes(self.local));
        attribute(&mut data, VXLAN_LEARNING, &[0]);
        attribute(&mut data, VXLAN_PORT, &8472_u16.to_be_bytes());
        let vxlan = link(device_name, device).with(IFLA_MASTER, &bridge.to_ne_bytes());
        batch.push(NEW_LINK, create, &vxlan.with(IFLA_LINKINFO | NESTED, &info("vxlan", &data)));
        for own in self.own {
            // struct ifaddrmsg.
            let header = [[family(*own), 20, 0, 0].as_slice(), &bridge.to_ne_bytes()].concat();
            let body = Body::new(&header).with(IFA_LOCAL, &bytes(*own)).with(IFA_ADDRESS, &bytes(*own));
            batch.push(NEW_ADDRESS, create, &body);
        }
    }
}

/// A link that is up, of that name and index: struct ifinfomsg with IFF_UP.
fn link(name_of: &str, index: u32) -> Body {
    let header = [[0; 4], index.to_ne_bytes(), 1_u32.to_ne_bytes(), 1_u32.to_ne_bytes()].concat();
    Body::new(&header).with(IFLA_IFNAME, &name(name_of))
}

/// The kind of a link with its settings.
fn info(kind: &str, settings: &[u8]) -> Vec<u8> {
    let mut info = Vec::new();
    attribute(&mut info, INFO_KIND, &name(kind));
    attribute(&mut info, INFO_DATA | NESTED, settings);
    info
}

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VXLAN_ID: u16 = 1;
const VXLAN_LINK: u16 = 3;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_NH_ID: u16 = 30;
const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

/// struct ndmsg.
fn neighbour_header(family: u8, device: u32, flags: u8) -> Body {
    header_of(family, device, PERMANENT, flags)
}

fn header_of(family: u8, device: u32, state: u16, flags: u8) -> Body {
    let start = [family, 0, 0, 0];
    let header = [start.as_slice(), &device.to_ne_bytes(), &state.to_ne_bytes(), &[flags, 0]].concat();
    Body::new(&header)
}

/// Adds or deletes the elements of two sets as one transaction of nftables: the peers' addresses, and each address with the leading
/// bits of its subnet.
pub(super) fn elements(kind: Elements, table: &str, entries: &[&Entry]) -> Batch {
    let mut batch = Batch::default();
    // struct nfgenmsg with the subsystem's number in network byte order.
    let subsystem = || Body::new(&[0, 0, 0, NFTABLES]);
    batch.push(BATCH_BEGIN, 0, &subsystem());
    let (message, flags) = match kind {
        Elements::Add => (NEW_ELEMENTS, NLM_F_CREATE | NLM_F_ACK),
        Elements::Delete => (DELETE_ELEMENTS, NLM_F_ACK),
    };
    for (set, key) in [("peers", address_key as fn(&Entry) -> Vec<u8>), ("subnets", pair_key)] {
        for entries in entries.chunks(ELEMENTS_OF_A_MESSAGE) {
            let mut list = Vec::new();
            for entry in entries {
                let (mut value, mut content) = (Vec::new(), Vec::new());
                attribute(&mut value, DATA_VALUE, &key(entry));
                attribute(&mut content, ELEMENT_KEY | NESTED, &value);
                attribute(&mut list, LIST_ELEMENT | NESTED, &content);
            }
            let body = Body::new(&[NFPROTO_INET, 0, 0, 0]).with(ELEMENTS_TABLE, &name(table));
            let body = body.with(ELEMENTS_SET, &name(set)).with(ELEMENTS_LIST | NESTED, &list);
            batch.push(message, flags, &body);
        }
    }
    batch.push(BATCH_END, 0, &subsystem());
    batch
}

/// What happens to elements of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elements {
    Add,
    Delete,
}

/// NFNL_SUBSYS_NFTABLES.
const NFTABLES: u8 = 10;
const NEW_ELEMENTS: u16 = 10 << 8 | 12;
const DELETE_ELEMENTS: u16 = 10 << 8 | 14;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFPROTO_INET: u8 = 1;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;
/// NLA_F_NESTED.
const NESTED: u16 = 1 << 15;
/// A list must fit into an attribute of 64 KiB.
const ELEMENTS_OF_A_MESSAGE: usize = 500;

fn address_key(entry: &Entry) -> Vec<u8> {
    bytes(entry.public)
}

fn pair_key(entry: &Entry) -> Vec<u8> {
    let leading = usize::from(entry.len.div_ceil(8)).next_multiple_of(4);
    [bytes(entry.public).as_slice(), &bytes(entry.subnet)[..leading]].concat()
}

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Appends an attribute: length, type, value, padding.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("lists are cut to what an attribute holds");
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
