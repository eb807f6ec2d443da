//! The senders that a host's packet filter lets in, read by `nft`: never by the agent's own reader.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Deserialize;
use serde_json::Value;
use wire_net::Family;

use crate::{Etcd, Host, LabError, Result, check, peer::Sender};

/// Checks that a host's packet filter lets in exactly the senders of the other hosts' leases in etcd: their public addresses and, if
/// inner sources are compared, each with its subnet. A host without our table of nftables, or without the sets, passes.
///
/// # Errors
/// Names the addresses and pairs that differ.
pub fn expect_senders(host: &Host, etcd: &Etcd, family: Family) -> Result {
    let own = host.on_underlay(family);
    let senders = Sender::in_etcd(etcd, family)?.into_iter().filter(|sender| sender.public != own);
    let senders: Vec<Sender> = senders.collect();
    for set in sets_of(host)? {
        if let Some(want) = elements_for(&set.name, &senders, family) {
            let have: BTreeSet<String> = set.elem.iter().map(element).collect();
            let differ = || want.symmetric_difference(&have).collect::<Vec<_>>();
            check(want == have, || format!("{}: the set {} differs in {:?}", host.name(), set.name, differ()))?;
        }
    }
    Ok(())
}

/// The elements that a set of our table must have, as [`element`] has them; `None` if it has no senders of this family.
fn elements_for(set: &str, senders: &[Sender], family: Family) -> Option<BTreeSet<String>> {
    let version = match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    if set == format!("peers-{version}") {
        return Some(senders.iter().map(|sender| sender.public.to_string()).collect());
    }
    let len: u8 = set.strip_prefix(&format!("subnets-{version}-"))?.parse().ok()?;
    // Leases of other lengths are in another set.
    let of_len = senders.iter().filter(|sender| sender.len == len);
    Some(of_len.map(|sender| format!("{} {}", sender.public, leading_bits(sender.subnet, len))).collect())
}

/// The first bits of an address as a number, which is how `nft` shows them.
fn leading_bits(address: IpAddr, len: u8) -> u128 {
    let whole = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    whole.checked_shr(128 - u32::from(len)).unwrap_or(0)
}

/// An element of a set: an address, or an address and a number. Of 64 bits `nft` makes a signed number.
fn element(value: &Value) -> String {
    let unsigned = |value: &Value| value.as_i64().map(|number| number.cast_unsigned().to_string());
    let other = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let word = |value: &Value| unsigned(value).unwrap_or_else(|| other(value));
    match value["concat"].as_array() {
        Some(parts) => parts.iter().map(word).collect::<Vec<_>>().join(" "),
        None => word(value),
    }
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

/// The sets of our table; none if there is no such table.
fn sets_of(host: &Host) -> Result<Vec<Set>> {
    let text = match host.exec("nft -j list table inet wire-agent") {
        Ok(text) => text,
        Err(error) if error.to_string().contains("No such file or directory") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let listed: Value = serde_json::from_str(&text).map_err(LabError::answer("nft"))?;
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let sets = objects.filter_map(|object| object.get("set").cloned());
    sets.map(|set| serde_json::from_value(set).map_err(LabError::answer("nft"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(public: &str, subnet: &str, len: u8) -> Sender {
        Sender { public: public.parse().unwrap(), subnet: subnet.parse().unwrap(), len }
    }

    #[test]
    fn a_pair_reads_as_nft_shows_it() {
        let senders = [sender("172.20.1.7", "10.6.0.0", 24), sender("172.20.1.8", "10.7.0.0", 16)];
        let shown = serde_json::json!({"concat": ["172.20.1.7", 656_896]});
        let want = elements_for("subnets-v4-24", &senders, Family::V4);
        assert_eq!(want, Some(BTreeSet::from([element(&shown)])));
    }

    #[test]
    fn a_pair_of_ipv6_reads_as_nft_shows_it() {
        let senders = [sender("fd64::4", "fd00:5:0:5::", 64)];
        let shown = serde_json::json!({"concat": ["fd64::4", -216_172_760_638_947_323_i64]});
        let want = elements_for("subnets-v6-64", &senders, Family::V6);
        assert_eq!(want, Some(BTreeSet::from([element(&shown)])));
    }

    #[test]
    fn a_public_address_reads_as_nft_shows_it() {
        let senders = [sender("fd20::1", "fd00:5::", 64)];
        let want = elements_for("peers-v6", &senders, Family::V6);
        assert_eq!(want, Some(BTreeSet::from([element(&Value::from("fd20::1"))])));
    }

    #[test]
    fn a_set_of_another_family_or_purpose_is_not_looked_at() {
        for name in ["peers-v6", "subnets-v6-64", "strangers-v4", "claims-v4", "leases-v4", "bridges"] {
            assert_eq!(elements_for(name, &[], Family::V4), None, "{name}");
        }
    }
}
