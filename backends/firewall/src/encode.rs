//! Encodes nftables messages (linux/netfilter/nf_tables.h): bodies, and the keys of set elements. Pure.

use std::net::IpAddr;

use netlink_packet_core::Emitable;
use nix::libc::IFNAMSIZ;
use wire_net::{LinkName, Vni};
use wire_state::Element;

use super::nfta::{
    NFTA_DATA_VALUE, NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_LIST_ELEMENTS,
};

/// `NLA_F_NESTED` of linux/netlink.h: the value is attributes.
const NESTED: u16 = 1 << 15;

/// A message's body: `struct nfgenmsg` and attributes.
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn new(family: u8) -> Self {
        Self(vec![family, 0, 0, 0])
    }

    /// The body of a message about a subsystem (`nfgenmsg.res_id`, in network byte order).
    pub(super) fn of_subsystem(number: u16) -> Self {
        Self([[0, 0], number.to_be_bytes()].concat())
    }

    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.0, kind, value);
        self
    }

    pub(super) fn named(self, kind: u16, name: &str) -> Self {
        self.with(kind, &[name.as_bytes(), &[0]].concat())
    }

    /// Adds elements of a set.
    pub(super) fn elements(self, elements: &[Element]) -> Self {
        let mut list = Vec::new();
        for element in elements {
            let (first, last) = key(element);
            let mut content = Vec::new();
            for (kind, key) in [(NFTA_SET_ELEM_KEY, Some(first)), (NFTA_SET_ELEM_KEY_END, last)] {
                let Some(key) = key else { continue };
                let mut value = Vec::new();
                put(&mut value, NFTA_DATA_VALUE, &key);
                put(&mut content, kind | NESTED, &value);
            }
            put(&mut list, NFTA_LIST_ELEM | NESTED, &content);
        }
        self.with(NFTA_SET_ELEM_LIST_ELEMENTS | NESTED, &list)
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

/// The first key of an element and, in sets of ranges, the last.
fn key(element: &Element) -> (Vec<u8>, Option<Vec<u8>>) {
    match element {
        Element::Address(address) => (octets(*address), None),
        Element::Source(subnet) => (octets(subnet.network()), None),
        Element::Link(link) => (name_of(*link), None),
        // A key of one field is not padded.
        Element::Vni(vni) => (vni_of(*vni)[..3].to_vec(), None),
        Element::Port(port) => (port.to_be_bytes().to_vec(), None),
        Element::Vtep(host, vni) => ([octets(*host), vni_of(*vni)].concat(), None),
        Element::Behind(host, vni, mac, block) => {
            ([&octets(*host)[..], &vni_of(*vni), &mac.octets(), &[0; 2], &octets(block.network())].concat(), None)
        }
        Element::Within(link) => ([name_of(*link), name_of(*link)].concat(), None),
        Element::Sender(port, mac, address) => {
            // The kernel pads each field of a key to 32 bits.
            ([&name_of(*port)[..], &mac.octets(), &[0; 2], &octets(*address)].concat(), None)
        }
        Element::Lease(public, subnet) => {
            let unused = 16 - usize::from(subnet.family().bits() / 8);
            let end = |bits: u128| [&octets(*public), &bits.to_be_bytes()[unused..]].concat();
            (end(subnet.first_bits()), Some(end(subnet.last_bits())))
        }
        Element::Subnet(public, subnet) => {
            let leading = octets(subnet.network());
            // The kernel pads each field of a key to 32 bits.
            let len = usize::from(subnet.len().div_ceil(8)).next_multiple_of(4);
            ([&octets(*public), &leading[..len]].concat(), None)
        }
    }
}

/// The three bytes of a VNI, as a packet has them, padded to 32 bits.
fn vni_of(vni: Vni) -> Vec<u8> {
    (vni.number() << 8).to_be_bytes().to_vec()
}

fn name_of(link: LinkName) -> Vec<u8> {
    let mut name = link.as_str().as_bytes().to_vec();
    name.resize(IFNAMSIZ, 0);
    name
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Appends an attribute: length, type, value.
fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("names and lists of a few hundred elements are short");
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use wire_net::{Family, Prefix};

    use super::*;
    use wire_netlink::attribute::attributes;

    use crate::decode::{
        address_element, behind_element, lease_element, link_element, port_element, sender_element, source_element,
        subnet_element, vni_element, vtep_element, within_element,
    };

    fn lease(public: &str, first: &str, len: u8) -> Element {
        Element::Lease(public.parse().unwrap(), Prefix::new(first.parse().unwrap(), len).unwrap())
    }

    fn subnet(public: &str, first: &str, len: u8) -> Element {
        Element::Subnet(public.parse().unwrap(), Prefix::new(first.parse().unwrap(), len).unwrap())
    }

    fn sender(port: &str, address: &str) -> Element {
        let mac = "02:57:0a:80:00:05".parse().unwrap();
        Element::Sender(port.parse().unwrap(), mac, address.parse().unwrap())
    }

    fn behind(host: &str, first: &str, len: u8) -> Element {
        let (vni, mac) = (Vni::new(16_777_214).unwrap(), "02:57:0a:80:00:40".parse().unwrap());
        Element::Behind(host.parse().unwrap(), vni, mac, Prefix::new(first.parse().unwrap(), len).unwrap())
    }

    /// Encodes the keys of an element and decodes them.
    fn read_back(element: &Element) -> Option<Element> {
        let (first, last) = key(element);
        let last = last.unwrap_or_else(|| first.clone());
        match element {
            Element::Address(_) => address_element(&first, &last),
            Element::Link(_) => link_element(&first, &last),
            Element::Lease(..) => lease_element(&first, &last),
            Element::Subnet(public, subnet) => subnet_element(&first, Family::of(*public), subnet.len()),
            Element::Source(subnet) => source_element(&first, subnet.len()),
            Element::Sender(..) => sender_element(&first, &last),
            Element::Vni(_) => vni_element(&first, &last),
            Element::Port(_) => port_element(&first, &last),
            Element::Vtep(..) => vtep_element(&first, &last),
            Element::Behind(host, _, _, block) => {
                behind_element(&first, [Family::of(*host), block.family()], block.len())
            }
            Element::Within(_) => within_element(&first, &last),
        }
    }

    #[test]
    fn a_key_is_read_back_as_what_it_was() {
        for element in [
            Element::Address("192.0.2.7".parse().unwrap()),
            Element::Address("2001:db8::7".parse().unwrap()),
            Element::Link("a".parse().unwrap()),
            Element::Link("br-0123456789ab".parse().unwrap()),
            lease("192.0.2.7", "10.5.52.0", 24),
            lease("192.0.2.7", "10.5.52.9", 32),
            lease("2001:db8::7", "fd00:5:0:52::", 64),
            subnet("192.0.2.7", "10.5.52.0", 24),
            subnet("192.0.2.7", "10.5.52.9", 32),
            subnet("2001:db8::7", "fd00:5:0:52::", 64),
            subnet("2001:db8::7", "fd00:5:0:52::", 72),
            Element::Source("10.5.52.0/22".parse().unwrap()),
            Element::Source("fd00:5:0:52::/64".parse().unwrap()),
            Element::Vni(Vni::new(16_777_215).unwrap()),
            Element::Port(8472),
            Element::Vtep("192.0.2.7".parse().unwrap(), Vni::new(5000).unwrap()),
            Element::Vtep("2001:db8::7".parse().unwrap(), Vni::new(1).unwrap()),
            behind("192.0.2.7", "10.128.0.64", 27),
            behind("192.0.2.7", "fe80::57ff:fe0a:8000", 123),
            behind("2001:db8::7", "10.128.0.64", 32),
            behind("2001:db8::7", "fd57::a80:40", 123),
            Element::Within("wb.16777215".parse().unwrap()),
            sender("wp0123abcd", "10.128.0.5"),
            sender("wv.16777215", "fe80::57ff:fe0a:8000"),
        ] {
            assert_eq!(read_back(&element), Some(element));
        }
    }

    #[test]
    fn a_key_that_no_rule_finds_is_not_read_as_the_block_that_it_is_close_to() {
        let right = behind("192.0.2.7", "10.128.0.64", 27);
        let (mut damaged, _) = key(&right);
        *damaged.last_mut().unwrap() |= 1;
        let read = behind_element(&damaged, [Family::V4; 2], 27).unwrap();
        assert!(read != right);
        assert_eq!(key(&read).0, damaged);
    }

    #[test]
    fn an_attribute_is_padded_and_its_length_is_not() {
        let mut bytes = Vec::new();
        put(&mut bytes, 2, b"abc");
        put(&mut bytes, 3 | NESTED, b"");
        assert_eq!((bytes.len(), attributes(&bytes).collect::<Vec<_>>()), (12, vec![(2, &b"abc"[..]), (3, b"")]));
    }
}
