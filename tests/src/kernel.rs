//! What a host's kernel holds, read by `ip -j` and `bridge -j`: never by the agent's own reader.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{LabError, Namespace, Result};
use wire_net::Family;

/// The kernel of one host.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a>(&'a Namespace);

/// A device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Link {
    /// Its index.
    #[serde(rename = "ifindex")]
    pub index: u32,
    /// Its name.
    #[serde(rename = "ifname")]
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its Ethernet address, where it has one.
    #[serde(default)]
    pub address: String,
    /// `UP`, `LOWER_UP`, …
    #[serde(default)]
    pub flags: Vec<String>,
    /// Its kind and the kind's attributes.
    #[serde(default)]
    pub linkinfo: LinkInfo,
}

/// The kind of a device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LinkInfo {
    /// `vxlan`, `bridge`, …
    #[serde(rename = "info_kind", default)]
    pub kind: String,
    /// The kind's attributes, as `ip -d -j` names them: `id`, `port`, `local`, `link`, `learning`.
    #[serde(rename = "info_data", default)]
    pub data: Value,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Route {
    /// `10.5.1.0/24`, an address alone for a whole one, or `default`.
    #[serde(rename = "dst")]
    pub destination: String,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The device.
    #[serde(rename = "dev")]
    pub device: Option<String>,
    /// `kernel`, `boot`, `static`, or a number.
    #[serde(default)]
    pub protocol: String,
    /// `onlink`, `linkdown`, …
    #[serde(default)]
    pub flags: Vec<String>,
    /// `blackhole` and its like; absent for unicast.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// Its priority.
    pub metric: Option<u32>,
    /// The nexthop object it uses.
    #[serde(rename = "nhid")]
    pub nexthop: Option<u32>,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Neighbour {
    /// Its address.
    #[serde(rename = "dst")]
    pub address: IpAddr,
    /// Its Ethernet address, once it is known.
    #[serde(default)]
    pub lladdr: String,
    /// `PERMANENT`, `REACHABLE`, …
    #[serde(default)]
    pub state: Vec<String>,
}

/// An entry of a device's forwarding database.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FdbEntry {
    /// The Ethernet address.
    pub mac: String,
    /// The tunnel end point behind it.
    #[serde(rename = "dst")]
    pub destination: Option<IpAddr>,
    /// Its UDP port, where that is not the device's.
    pub port: Option<u16>,
    /// `self`, …
    #[serde(default)]
    pub flags: Vec<String>,
    /// `permanent`, or empty.
    #[serde(default)]
    pub state: String,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Address {
    /// The address.
    pub local: IpAddr,
    /// The length of its prefix.
    #[serde(rename = "prefixlen")]
    pub len: u8,
    /// `global`, `link`, …
    pub scope: String,
    /// While the kernel asks whether another host has it (RFC 4862, 5.4). Without a carrier it does not begin to ask.
    #[serde(default)]
    pub tentative: bool,
}

impl<'a> Kernel<'a> {
    pub(crate) const fn new(namespace: &'a Namespace) -> Self {
        Self(namespace)
    }

    /// A device by its name.
    ///
    /// # Errors
    /// Where `ip` fails otherwise than for want of the device.
    pub fn link(self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// All devices.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn links(self) -> Result<Vec<Link>> {
        rows("ip link", &self.0.ip("-d -j link show")?)
    }

    /// The main table of one family.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn routes(self, family: Family) -> Result<Vec<Route>> {
        rows("ip route", &self.0.ip(&format!("{} -j route show", flag(family)))?)
    }

    /// The routes of one family through one device, without those the kernel adds by itself.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn routes_through(self, device: &str, family: Family) -> Result<Vec<Route>> {
        let ours = |route: &Route| route.device.as_deref() == Some(device) && route.protocol != "kernel";
        Ok(self.routes(family)?.into_iter().filter(ours).collect())
    }

    /// The neighbours of one family on a device; none where there is no such device.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn neighbours(self, device: &str, family: Family) -> Result<Vec<Neighbour>> {
        if self.link(device)?.is_none() {
            return Ok(Vec::new());
        }
        rows("ip neighbour", &self.0.ip(&format!("{} -j neighbour show dev {device}", flag(family)))?)
    }

    /// The forwarding database of a device; empty where there is no such device.
    ///
    /// # Errors
    /// What `bridge` says.
    pub fn fdb(self, device: &str) -> Result<Vec<FdbEntry>> {
        if self.link(device)?.is_none() {
            return Ok(Vec::new());
        }
        rows("bridge fdb", &self.0.bridge(&format!("-j fdb show dev {device}"))?)
    }

    /// The counters of packets thrown away for a wrong checksum, or by TCP for any fault, without those that are 0. They count
    /// since the namespace was made.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn damaged(self) -> Result<BTreeMap<String, u64>> {
        Ok(damaged_in(&self.0.exec("cat /proc/net/snmp")?, &self.0.exec("cat /proc/net/snmp6")?))
    }

    /// How many fragments of packets of a family it has made since the namespace was made. How many it has put together is not
    /// counted where that is done for connections to be tracked.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn fragments(self, family: Family) -> Result<u64> {
        let (name, counters) = match family {
            Family::V4 => ("IpFragCreates", counters_in_pairs(&self.0.exec("cat /proc/net/snmp")?)),
            Family::V6 => ("Ip6FragCreates", counters_in_lines(&self.0.exec("cat /proc/net/snmp6")?)),
        };
        let count = counters.get(name).copied();
        count.ok_or_else(|| LabError::Answer { what: "the kernel".to_owned(), rule: format!("there is no {name}") })
    }

    /// The addresses of a device; none where there is no such device.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn addresses(self, device: &str) -> Result<Vec<Address>> {
        let rows: Vec<Value> = rows("ip address", &self.0.ip("-j address show")?)?;
        let row = rows.into_iter().find(|row| row["ifname"] == device);
        let Some(row) = row else { return Ok(Vec::new()) };
        serde_json::from_value(row["addr_info"].clone()).map_err(LabError::answer("ip address"))
    }
}

const fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// `ip -j` prints nothing at all, not `[]`, where some lists are empty; and `{}` for what it leaves out.
fn rows<T: DeserializeOwned>(what: &str, text: &str) -> Result<Vec<T>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<Value> = serde_json::from_str(text).map_err(LabError::answer(what))?;
    let full = rows.into_iter().filter(|row| row.as_object().is_none_or(|fields| !fields.is_empty()));
    full.map(|row| serde_json::from_value(row).map_err(LabError::answer(what))).collect()
}

/// What [`Kernel::damaged`] gives, of /proc/net/snmp and /proc/net/snmp6.
pub(crate) fn damaged_in(v4: &str, v6: &str) -> BTreeMap<String, u64> {
    let mut damaged = counters_in_pairs(v4);
    damaged.extend(counters_in_lines(v6));
    damaged.retain(|name, count| *count > 0 && (name.ends_with("InCsumErrors") || name == "TcpInErrs"));
    damaged
}

/// The form of /proc/net/snmp6: a name and a number on each line.
fn counters_in_lines(text: &str) -> BTreeMap<String, u64> {
    let counter = |line: &str| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    text.lines().filter_map(counter).collect()
}

/// The form of /proc/net/snmp: a line with names and a line with numbers, each behind the protocol.
fn counters_in_pairs(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks(2).filter_map(|pair| {
        let (protocol, names) = pair.first()?.split_once(": ")?;
        let (_, numbers) = pair.get(1)?.split_once(": ")?;
        let counters = names.split(' ').zip(numbers.split(' '));
        // Some are signed, and none of those counts packets.
        Some(counters.filter_map(move |(name, count)| Some((format!("{protocol}{name}"), count.parse().ok()?))))
    });
    pairs.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_counts_damage_counts() {
        let damaged = damaged_in("Tcp: InErrs InSegs\nTcp: 1 2\n", "Ip6InReceives \t 8\nUdp6InCsumErrors   \t3\n");
        assert_eq!(
            damaged.into_iter().collect::<Vec<_>>(),
            [("TcpInErrs".to_owned(), 1), ("Udp6InCsumErrors".to_owned(), 3)]
        );
    }

    #[test]
    fn each_counter_has_the_name_of_its_protocol() {
        let text = "Tcp: MaxConn InErrs InCsumErrors\nTcp: -1 2 3\nUdp: InErrors InCsumErrors\nUdp: 4 5\n";
        let counters = counters_in_pairs(text);
        let shown: Vec<_> = counters.iter().map(|(name, count)| format!("{name}={count}")).collect();
        assert_eq!(shown, ["TcpInCsumErrors=3", "TcpInErrs=2", "UdpInCsumErrors=5", "UdpInErrors=4"]);
    }
}
