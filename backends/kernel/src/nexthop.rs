//! Nexthop objects (ip-nexthop(8)). With them, the time to write an IPv4 route does not grow with the number of routes (docs/adr/0002).
//!
//! Only this crate chooses and makes them: a [`wire_state::NetState`] has gateways and links, and only says whether a route uses an object
//! ([`wire_state::ObservedRoute::uses_nexthop`]) and whether it may ([`wire_state::DesiredForm`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_core::Emitable;
use wire_net::Family;
use wire_netlink::attribute::{address, attributes, number};
use wire_state::{PROTOCOL, RouteKey};

use super::uapi::{af, rtm};

/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`, `RTM_GETNEXTHOP` of linux/rtnetlink.h.
pub(crate) const NEW: u16 = 104;
pub(crate) const DELETE: u16 = 105;
pub(crate) const GET: u16 = 106;

/// `NHA_ID`, `NHA_OIF`, `NHA_GATEWAY` of linux/nexthop.h.
const ID: u16 = 1;
const OIF: u16 = 5;
const GATEWAY: u16 = 6;
/// `struct nhmsg` of linux/nexthop.h.
const HEADER: usize = 8;

/// A nexthop object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) id: u32,
    /// The link's index.
    pub(crate) device: u32,
    pub(crate) gateway: IpAddr,
    pub(crate) protocol: u8,
}

/// All nexthop objects of the namespace, and the routes of ours that use them.
#[derive(Debug, Default)]
pub(crate) struct Nexthops {
    by_id: BTreeMap<u32, Hop>,
    ours: BTreeMap<(u32, IpAddr), u32>,
    routes: BTreeMap<RouteKey, u32>,
    users: BTreeMap<u32, usize>,
    idle: BTreeSet<u32>,
}

impl Nexthops {
    /// Takes all nexthop objects of a dump. `devices` are the indexes of our devices.
    pub(crate) fn new(hops: impl IntoIterator<Item = Hop>, devices: &BTreeSet<u32>) -> Self {
        let mut nexthops = Self::default();
        for hop in hops {
            nexthops.by_id.insert(hop.id, hop);
            if hop.protocol == PROTOCOL && devices.contains(&hop.device) {
                nexthops.ours.insert((hop.device, hop.gateway), hop.id);
                nexthops.idle.insert(hop.id);
            }
        }
        nexthops
    }

    pub(crate) fn by_id(&self, id: u32) -> Option<&Hop> {
        self.by_id.get(&id)
    }

    /// The ID of the object that a route uses.
    pub(crate) fn of_route(&self, key: &RouteKey) -> Option<u32> {
        self.routes.get(key).copied()
    }

    /// The object for a gateway on a device, and true if it must be made first.
    pub(crate) fn offer(&mut self, device: u32, gateway: IpAddr) -> (Hop, bool) {
        if let Some(hop) = self.ours.get(&(device, gateway)).and_then(|id| self.by_id.get(id)) {
            return (*hop, false);
        }
        let id = self.free_id(device);
        let hop = Hop { id, device, gateway, protocol: PROTOCOL };
        self.by_id.insert(id, hop);
        self.ours.insert((device, gateway), id);
        self.idle.insert(id);
        (hop, true)
    }

    /// Records the object that a route uses from now on; `None` if it uses none.
    pub(crate) fn set_route(&mut self, key: RouteKey, id: Option<u32>) {
        let before = match id {
            Some(id) => self.routes.insert(key, id),
            None => self.routes.remove(&key),
        };
        if before == id {
            return;
        }
        if let Some(id) = id {
            *self.users.entry(id).or_default() += 1;
            self.idle.remove(&id);
        }
        if let Some(before) = before
            && let Some(users) = self.users.get_mut(&before)
        {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&before);
                if self.by_id.get(&before).is_some_and(|hop| self.ours.get(&(hop.device, hop.gateway)) == Some(&before))
                {
                    self.idle.insert(before);
                }
            }
        }
    }

    /// Removes the objects of ours that no route uses and returns them for deletion. An object in use must not be deleted, since the
    /// kernel would delete its routes too.
    pub(crate) fn take_idle(&mut self) -> Vec<Hop> {
        let idle: Vec<Hop> = self.idle.iter().filter_map(|id| self.by_id.get(id)).copied().collect();
        for hop in &idle {
            self.by_id.remove(&hop.id);
            self.ours.remove(&(hop.device, hop.gateway));
        }
        self.idle.clear();
        idle
    }

    /// An ID that no object has. All programs on the host share the IDs; routing daemons count from 1. Ours are far above, in a range of a
    /// million for each device, so that two agents never choose the same.
    fn free_id(&self, device: u32) -> u32 {
        const PER_DEVICE: u32 = 1 << 20;
        let first = 0x4000_0000 | ((device & 0x3ff) << 20);
        let last = self.by_id.range(first..first + PER_DEVICE).next_back().map(|(id, _)| *id);
        match last {
            None => first,
            Some(last) if last + 1 < first + PER_DEVICE => last + 1,
            Some(_) => (first..first + PER_DEVICE).find(|id| !self.by_id.contains_key(id)).unwrap_or(first),
        }
    }
}

impl Emitable for Hop {
    fn buffer_len(&self) -> usize {
        HEADER + 8 + 8 + 4 + self.gateway_bytes().len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let family: u8 = match Family::of(self.gateway) {
            Family::V4 => af::INET,
            Family::V6 => af::INET6,
        };
        buffer[..4].copy_from_slice(&[family, 0, self.protocol, 0]);
        buffer[4..HEADER].copy_from_slice(&rtm::RTNH_F_ONLINK.to_ne_bytes());
        put(&mut buffer[8..16], ID, &self.id.to_ne_bytes());
        put(&mut buffer[16..24], OIF, &self.device.to_ne_bytes());
        put(&mut buffer[24..], GATEWAY, &self.gateway_bytes());
    }
}

impl Hop {
    fn gateway_bytes(&self) -> Vec<u8> {
        match self.gateway {
            IpAddr::V4(gateway) => gateway.octets().to_vec(),
            IpAddr::V6(gateway) => gateway.octets().to_vec(),
        }
    }

    /// Reads a nexthop message. `None` for groups and blackholes, which have no gateway.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let (mut id, mut device, mut gateway) = (None, None, None);
        for (kind, value) in attributes(body.get(HEADER..)?) {
            match kind {
                ID => id = number(value),
                OIF => device = number(value),
                GATEWAY => gateway = address(value),
                _ => {}
            }
        }
        Some(Self { id: id?, device: device?, gateway: gateway?, protocol: body[2] })
    }
}

/// A message with the ID of an object to delete, or without an ID a request for all objects.
pub(crate) struct ById(pub(crate) Option<u32>);

impl Emitable for ById {
    fn buffer_len(&self) -> usize {
        HEADER + if self.0.is_some() { 8 } else { 0 }
    }

    fn emit(&self, buffer: &mut [u8]) {
        if let Some(id) = self.0 {
            put(&mut buffer[HEADER..], ID, &id.to_ne_bytes());
        }
    }
}

fn put(buffer: &mut [u8], kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("an attribute has a few bytes");
    buffer[..2].copy_from_slice(&len.to_ne_bytes());
    buffer[2..4].copy_from_slice(&kind.to_ne_bytes());
    buffer[4..4 + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> RouteKey {
        RouteKey::main(text.parse().unwrap())
    }

    #[test]
    fn an_object_in_use_is_never_deleted() {
        let gateway: IpAddr = "10.5.60.0".parse().unwrap();
        let mut nexthops = Nexthops::default();
        let (hop, new) = nexthops.offer(7, gateway);
        assert!(new);
        assert_eq!(nexthops.offer(7, gateway), (hop, false));
        nexthops.set_route(key("10.5.60.0/24"), Some(hop.id));
        nexthops.set_route(key("10.5.61.0/24"), Some(hop.id));
        nexthops.set_route(key("10.5.60.0/24"), None);
        assert_eq!(nexthops.take_idle(), []);
        nexthops.set_route(key("10.5.61.0/24"), None);
        assert_eq!(nexthops.take_idle(), [hop]);
        assert!(nexthops.offer(7, gateway).1);
    }

    #[test]
    fn an_id_of_another_program_is_not_used() {
        let foreign = Hop { id: 0x4070_0000, device: 3, gateway: "192.0.2.1".parse().unwrap(), protocol: 11 };
        let mut nexthops = Nexthops::new([foreign], &BTreeSet::from([7]));
        assert_eq!(nexthops.offer(7, "10.5.60.0".parse().unwrap()).0.id, 0x4070_0001);
        assert_eq!(nexthops.take_idle().len(), 1);
    }

    #[test]
    fn a_message_reads_as_it_was_written() {
        for gateway in ["10.5.60.0", "fd00:60::"] {
            let hop = Hop { id: 9, device: 7, gateway: gateway.parse().unwrap(), protocol: PROTOCOL };
            let mut bytes = vec![0; hop.buffer_len()];
            hop.emit(&mut bytes);
            assert_eq!(Hop::decode(&bytes), Some(hop));
        }
    }
}
