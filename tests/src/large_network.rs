//! A network by name with many members, as the records that these would have written to etcd.

use std::net::Ipv4Addr;

use crate::Etcd;

/// A network by name with this many members of which each has a block of /27, at most 2 000.
#[derive(Clone, Copy, Debug)]
pub struct LargeNetwork {
    /// The number of members.
    pub members: u16,
}

/// An address of a member.
#[derive(Clone, Copy, Debug)]
pub struct LargeNetworkAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// The MAC of whatever has it.
    pub mac: [u8; 6],
    /// The public address of its host.
    pub public: Ipv4Addr,
}

impl LargeNetwork {
    /// The network's name.
    pub const NAME: &str = "large";
    /// Its VXLAN network identifier.
    pub const VNI: u32 = 70_000;
    /// The number of addresses in a block.
    const BLOCK: u32 = 32;

    /// The records of the network and its members, as keys and values.
    #[must_use]
    pub fn records(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (name, vni) = (Self::NAME, Self::VNI);
        let record =
            |key: String, value: String| (format!("{}/wire/{key}", Etcd::PREFIX).into_bytes(), value.into_bytes());
        let network = format!(
            r#"{{"VNI":{vni},"IPv4":{{"Pool":"11.0.0.0/16","Block":27}},"Internal":false,"Broadcast":false,"MTU":0,"Labels":{{}},"Created":"2026-01-31T12:00:00Z"}}"#
        );
        let mut records = vec![
            record(format!("networks/{name}"), network),
            record(format!("vnis/{vni}"), format!(r#"{{"Network":"{name}"}}"#)),
        ];
        for member in 1..=self.members {
            let (host, first, public) = (format!("{member:032x}"), address(member, 0), public(member));
            let value =
                format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"Port":8472,"Own":{{"IPv4":"{first}"}}}}"#);
            records.push(record(format!("members/{name}/{host}"), value));
            records.push(record(format!("blocks/{name}/{first}-27"), format!(r#"{{"Host":"{host}"}}"#)));
        }
        records
    }

    /// All addresses of the members.
    pub fn addresses(self) -> impl Iterator<Item = LargeNetworkAddress> {
        let of_member = |member| (0..Self::BLOCK).map(move |number| (member, address(member, number)));
        (1..=self.members).flat_map(of_member).map(|(member, address)| {
            let [a, b, c, d] = address.octets();
            LargeNetworkAddress { address, mac: [0x02, 0x57, a, b, c, d], public: public(member) }
        })
    }
}

fn public(member: u16) -> Ipv4Addr {
    let [high, low] = member.to_be_bytes();
    Ipv4Addr::new(172, 20, high, low)
}

/// An address of a member's block. The first block has the gateway in it, and is nobody's.
fn address(member: u16, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((11 << 24) + u32::from(member) * LargeNetwork::BLOCK + number)
}
