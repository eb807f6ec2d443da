//! Peers: leases as flannel writes them, and what a kernel must hold for them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::Value;
use wire_net::Family;

use crate::{Encapsulation, Etcd, Host, LabError, Result, Stored, check};

/// A host that exists only as a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLease {
    /// Its subnet, always a /24.
    pub subnet: Ipv4Addr,
    /// Its IPv6 subnet, always a /64, in a dual-stack network.
    pub subnet_v6: Option<Ipv6Addr>,
    /// Its address on the underlay.
    pub public_ip: Ipv4Addr,
    /// Its IPv6 address on the underlay.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The address of its VXLAN device.
    pub mac: String,
    /// The address of its VXLAN device for IPv6.
    pub mac_v6: String,
    /// How it is reached; raw IP is flannel's backend `udp`, whose leases have neither type nor data.
    pub encapsulation: Encapsulation,
}

impl PeerLease {
    /// The nth of up to 62 000 that differ in everything, in 10.5.0.0/16 up to 255 and in 10.0.0.0/8 beyond.
    ///
    /// # Panics
    /// Where `number` is larger.
    #[must_use]
    pub fn numbered(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let second = high.checked_add(5).expect("a number below 62 000");
        let (page, place) = ((number / 250).to_be_bytes()[1], (number % 250).to_be_bytes()[1]);
        Self {
            subnet: Ipv4Addr::new(10, second, low, 0),
            subnet_v6: None,
            public_ip: Ipv4Addr::new(172, 20, page, place + 1),
            public_ipv6: None,
            mac: format!("02:aa:00:00:{high:02x}:{low:02x}"),
            mac_v6: format!("02:aa:06:00:{high:02x}:{low:02x}"),
            encapsulation: Encapsulation::Vxlan,
        }
    }

    /// The same with an IPv6 side, in fd00:5::/32.
    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        let [_, second, third, _] = self.subnet.octets();
        let number = u16::from_be_bytes([second, third]);
        self.subnet_v6 = Some(Ipv6Addr::new(0xfd00, 5, number, 0, 0, 0, 0, 0));
        self.public_ipv6 = Some(Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, number));
        self
    }

    /// Its key, spelled out here and not by the agent's codec.
    #[must_use]
    pub fn key(&self) -> String {
        self.key_in(Etcd::PREFIX)
    }

    /// The same in a network whose keys have this prefix.
    #[must_use]
    pub fn key_in(&self, prefix: &str) -> String {
        let v6 = self.subnet_v6.map(|v6| format!("&{v6}-64")).unwrap_or_default();
        format!("{prefix}/subnets/{}-24{v6}", self.subnet)
    }

    /// Its value, byte for byte as flannel writes it.
    #[must_use]
    pub fn value(&self) -> String {
        let (ip, mac, mac_v6) = (self.public_ip, &self.mac, &self.mac_v6);
        let ipv6 = self.public_ipv6.map_or("null".to_owned(), |ip| format!("\"{ip}\""));
        if self.encapsulation == Encapsulation::RawIp {
            return format!(r#"{{"PublicIP":"{ip}","PublicIPv6":{ipv6}}}"#);
        }
        let data = format!(r#""BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#);
        let data_v6 = self.subnet_v6.map(|_| format!(r#","BackendV6Data":{{"VNI":1,"VtepMAC":"{mac_v6}"}}"#));
        let data_v6 = data_v6.unwrap_or_default();
        format!(r#"{{"PublicIP":"{ip}","PublicIPv6":{ipv6},"BackendType":"vxlan",{data}{data_v6}}}"#)
    }

    /// Its key and value for [`Etcd::put_all`].
    #[must_use]
    pub fn entry(&self) -> (Vec<u8>, Vec<u8>) {
        self.entry_in(Etcd::PREFIX)
    }

    /// The same in a network whose keys have this prefix.
    #[must_use]
    pub fn entry_in(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        (self.key_in(prefix).into_bytes(), self.value().into_bytes())
    }

    /// What a kernel holds for it.
    #[must_use]
    pub fn expected(&self, family: Family) -> Option<ExpectedPeer> {
        let (subnet, public, mac) = match family {
            Family::V4 => (Some(IpAddr::from(self.subnet)), Some(IpAddr::from(self.public_ip)), &self.mac),
            Family::V6 => (self.subnet_v6.map(IpAddr::from), self.public_ipv6.map(IpAddr::from), &self.mac_v6),
        };
        let len = if family == Family::V4 { 24 } else { 64 };
        Some(ExpectedPeer { subnet: subnet?, len, public: public?, mac: mac.clone() })
    }
}

/// What a kernel must hold for one peer in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedPeer {
    /// The first address of its subnet: the address of its VXLAN device, and the gateway of the route.
    pub subnet: IpAddr,
    /// The length of its subnet.
    pub len: u8,
    /// Its address on the underlay.
    pub public: IpAddr,
    /// The address of its VXLAN device.
    pub mac: String,
}

impl ExpectedPeer {
    /// Reads a lease as etcd holds it, on its own and not by the agent's codec. `None`: it has no such family.
    ///
    /// # Errors
    /// Where it is no lease of a VXLAN host.
    pub fn from_stored(stored: &Stored, family: Family) -> Result<Option<Self>> {
        let Some(Sender { public, subnet, len }) = Sender::from_stored(stored, family)? else { return Ok(None) };
        let data = match family {
            Family::V4 => "BackendData",
            Family::V6 => "BackendV6Data",
        };
        let mac = value_of(stored)?[data]["VtepMAC"].as_str().map(str::to_owned);
        Ok(Some(Self { subnet, len, public, mac: mac.ok_or_else(|| wrong(stored, "no VtepMAC"))? }))
    }

    fn lines(&self) -> [String; 3] {
        let Self { subnet, len, public, mac } = self;
        [route_line(&format!("{subnet}/{len}"), *subnet), neighbour_line(*subnet, mac), fdb_line(mac, *public)]
    }
}

/// Where a host's packets come from on the underlay, and the subnet they may come from in the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) public: IpAddr,
    pub(crate) subnet: IpAddr,
    pub(crate) len: u8,
}

impl Sender {
    /// Those of all leases in etcd, in one family.
    pub(crate) fn in_etcd(etcd: &Etcd, family: Family) -> Result<Vec<Self>> {
        let senders =
            all_leases(etcd)?.iter().map(|lease| Self::from_stored(lease, family)).collect::<Result<Vec<_>>>()?;
        Ok(senders.into_iter().flatten().collect())
    }

    /// Reads a lease of any backend. `None`: it has no such family.
    fn from_stored(stored: &Stored, family: Family) -> Result<Option<Self>> {
        let (key, public) = (stored.key(), family_field(family));
        let name = key.rsplit('/').next().unwrap_or_default();
        let part = name.split('&').find(|part| part.contains(':') == (family == Family::V6));
        let Some((subnet, len)) = part.and_then(|part| part.rsplit_once('-')) else { return Ok(None) };
        let public = value_of(stored)?[public].as_str().and_then(|ip| ip.parse().ok());
        Ok(Some(Self {
            public: public.ok_or_else(|| wrong(stored, "no public address"))?,
            subnet: subnet.parse().map_err(|_| wrong(stored, "no subnet in the key"))?,
            len: len.parse().map_err(|_| wrong(stored, "no length in the key"))?,
        }))
    }
}

/// The field of a lease with the public address of a family.
const fn family_field(family: Family) -> &'static str {
    match family {
        Family::V4 => "PublicIP",
        Family::V6 => "PublicIPv6",
    }
}

fn value_of(stored: &Stored) -> Result<Value> {
    serde_json::from_slice(&stored.value).map_err(LabError::answer(stored.key()))
}

fn wrong(stored: &Stored, rule: &str) -> LabError {
    LabError::Answer { what: stored.key(), rule: rule.to_owned() }
}

/// Checks that a VXLAN device holds exactly these peers in one family: their routes, neighbours and FDB entries, no others.
///
/// # Errors
/// Names each line that is missing and each that is too much.
pub fn expect_peers(host: &Host, device: &str, family: Family, peers: &[ExpectedPeer]) -> Result {
    let want: BTreeSet<String> = peers.iter().flat_map(ExpectedPeer::lines).collect();
    let have = overlay_lines(host, device, family)?;
    let missing: Vec<_> = want.difference(&have).map(|line| format!("\n  missing:  {line}")).collect();
    let surplus: Vec<_> = have.difference(&want).map(|line| format!("\n  too much: {line}")).collect();
    if missing.is_empty() && surplus.is_empty() {
        return Ok(());
    }
    let differences = missing.into_iter().chain(surplus);
    let shown: String = differences.take(40).collect();
    Err(LabError::Wrong(format!("{} {device}, of {} peers:{shown}", host.name(), peers.len())))
}

/// Checks that a TUN device of the userspace path has exactly these routes in one family, and no neighbours.
///
/// # Errors
/// Names each route that is missing and each that is too much; or says that the device is no TUN.
pub fn expect_tunnel(host: &Host, device: &str, family: Family, routes: &[String]) -> Result {
    let kernel = host.kernel();
    let kind = kernel.link(device)?.map(|link| link.linkinfo.kind);
    check(kind.as_deref() == Some("tun"), || format!("{} {device} is {kind:?}, no TUN", host.name()))?;
    let want: BTreeSet<String> = routes.iter().cloned().collect();
    // To a peer's subnet as through a VXLAN device, to the whole network straight.
    let have = kernel.routes_through(device, family)?.into_iter().map(|route| match route.gateway {
        None => route.destination,
        Some(gateway) if route.destination.split('/').next() == Some(&gateway.to_string()) => route.destination,
        Some(_) => format!("{route:?}"),
    });
    let have: BTreeSet<String> = have.collect();
    check(want == have, || format!("{} {device} has the routes {have:?} instead of {want:?}", host.name()))?;
    let neighbours = kernel.neighbours(device, family)?;
    check(neighbours.is_empty(), || format!("{} {device} has the neighbours {neighbours:?}", host.name()))
}

/// Checks that a host's VXLAN device holds exactly the other hosts' leases in etcd.
///
/// # Errors
/// As [`expect_peers`].
pub fn expect_all_leases(host: &Host, etcd: &Etcd, family: Family) -> Result {
    let device = match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    };
    expect_peers(host, device, family, &peers_of(host, etcd, family)?)
}

/// The other hosts' leases in etcd, in one family.
///
/// # Errors
/// Where one is no lease of a VXLAN host.
pub fn peers_of(host: &Host, etcd: &Etcd, family: Family) -> Result<Vec<ExpectedPeer>> {
    let own = host.on_underlay(family);
    let leases = all_leases(etcd)?;
    let peers = leases.iter().map(|lease| ExpectedPeer::from_stored(lease, family)).collect::<Result<Vec<_>>>()?;
    Ok(peers.into_iter().flatten().filter(|peer| peer.public != own).collect())
}

/// The leases that flannel can read, and those that it cannot.
fn all_leases(etcd: &Etcd) -> Result<Vec<Stored>> {
    let more = etcd.list(&format!("{}/wire/subnets/", Etcd::PREFIX))?;
    Ok(etcd.leases()?.into_iter().chain(more).collect())
}

/// What a device holds, one line an entry. A route that is not onlink, or an entry that is not permanent, reads differently.
fn overlay_lines(host: &Host, device: &str, family: Family) -> Result<BTreeSet<String>> {
    let kernel = host.kernel();
    let mut lines = BTreeSet::new();
    for route in kernel.routes_through(device, family)? {
        let onlink = route.flags.iter().any(|flag| flag == "onlink");
        lines.insert(match route.gateway {
            Some(gateway) if onlink => route_line(&route.destination, gateway),
            Some(_) | None => format!("{route:?}"),
        });
    }
    for neighbour in kernel.neighbours(device, family)? {
        let permanent = neighbour.state.iter().any(|state| state == "PERMANENT");
        let line = neighbour_line(neighbour.address, &neighbour.lladdr);
        lines.insert(if permanent { line } else { format!("{line} {:?}", neighbour.state) });
    }
    for entry in kernel.fdb(device)? {
        lines.insert(match entry.destination {
            Some(destination) if entry.state == "permanent" => fdb_line(&entry.mac, destination),
            Some(_) | None => format!("{entry:?}"),
        });
    }
    Ok(lines)
}

fn route_line(destination: &str, gateway: IpAddr) -> String {
    format!("route {destination} via {gateway} onlink")
}

fn neighbour_line(address: IpAddr, mac: &str) -> String {
    format!("neighbour {address} lladdr {mac} permanent")
}

fn fdb_line(mac: &str, destination: IpAddr) -> String {
    format!("fdb {mac} dst {destination} permanent")
}
