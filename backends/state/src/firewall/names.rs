//! The names of each network's own rules in the packet filter. Pure.
//!
//! The network `default` has the names that there were before a host could have several: `inet wire-agent`, `WIRE-NAT`.

use std::fmt;

use wire_net::{Family, NetworkName};

/// The prefix of the names of all our chains of iptables. Nobody else's have it.
const CHAINS: &str = "WIRE-";
/// The name of the default network's tables of nftables, and the beginning of all others.
const TABLE: &str = "wire-agent";
/// The length of the digits that stand for a network in the names of its chains: iptables allows 28 characters in all.
const DIGITS: usize = 12;

/// The name of a table of nftables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableName {
    /// Ours: `inet wire-agent`.
    Ours(OurTable),
    /// flanneld's with `EnableNFTables`: `ip flannel-ipv4`, `ip6 flannel-ipv6`.
    Flannel(Family),
}

/// The name of a table of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OurTable {
    /// Its family.
    pub family: TableFamily,
    /// The network that it belongs to.
    pub network: NetworkName,
}

/// A family of nftables in which we have tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// `inet`: packets of both families.
    #[default]
    Inet,
    /// `bridge`: frames that bridges receive.
    Bridge,
}

impl TableFamily {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Inet, Self::Bridge];
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        })
    }
}

impl fmt::Display for OurTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, table_of(&self.network))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(table) => table.fmt(f),
            Self::Flannel(Family::V4) => f.write_str("ip flannel-ipv4"),
            Self::Flannel(Family::V6) => f.write_str("ip6 flannel-ipv6"),
        }
    }
}

/// The name of a network's tables of nftables, within their families.
#[must_use]
pub fn table_of(network: &NetworkName) -> String {
    if network.is_default() { TABLE.to_owned() } else { format!("{TABLE}-{network}") }
}

/// True if some network's table has this name.
#[must_use]
pub fn is_a_table(name: &str) -> bool {
    name.strip_prefix(TABLE).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|network| network.parse::<NetworkName>().is_ok())
    })
}

/// The name of a network's chain of iptables; `purpose` is a word in capitals, of at most ten letters.
#[must_use]
pub fn chain_of(network: &NetworkName, purpose: &str) -> String {
    if network.is_default() { format!("{CHAINS}{purpose}") } else { format!("{CHAINS}{}-{purpose}", digits(network)) }
}

/// True if some network's chain has this name.
#[must_use]
pub fn is_a_chain(name: &str) -> bool {
    name.starts_with(CHAINS)
}

/// True if a chain is one of this network's.
#[must_use]
pub fn is_chain_of(network: &NetworkName, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(CHAINS) else { return false };
    let further = rest.split_once('-').map(|(first, _)| first).filter(|first| is_digits(first));
    match further {
        Some(found) => !network.is_default() && found == digits(network),
        None => network.is_default(),
    }
}

/// The number by which packets that this network has let in are told from those of others (`meta priority`), the first of two.
#[must_use]
pub fn let_in_number(network: &NetworkName) -> u16 {
    if network.is_default() {
        return 0;
    }
    // Even, and none of the default network's.
    let [low, high, ..] = hash(network).to_le_bytes();
    u16::from_le_bytes([low, high]).max(2) & !1
}

fn is_digits(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn digits(network: &NetworkName) -> String {
    let mut digits = format!("{:016x}", hash(network));
    digits.truncate(DIGITS);
    digits
}

/// The same in each version of this program: the names outlive it.
fn hash(network: &NetworkName) -> u64 {
    super::nftables::checksum(network.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_network_has_the_names_that_there_always_were() {
        let network = NetworkName::default();
        let tables = TableFamily::ALL.map(|family| OurTable { family, network: network.clone() }.to_string());
        assert_eq!(tables, ["inet wire-agent", "bridge wire-agent"]);
        assert_eq!(chain_of(&network, "FORWARD"), "WIRE-FORWARD");
        assert_eq!(let_in_number(&network), 0);
        for name in ["WIRE-FORWARD", "WIRE-NAT", "WIRE-", "WIRE-OLD-ONE", "WIRE-0123456789AB-NAT"] {
            assert!(is_chain_of(&network, name), "{name}");
        }
        assert!(!is_chain_of(&network, "DOCKER-USER") && !is_chain_of(&network, "WIRE-0123456789ab-NAT"));
    }

    #[test]
    fn the_names_of_a_further_network_stay_as_they_are() {
        let blue: NetworkName = "blue".parse().unwrap();
        assert_eq!(table_of(&blue), "wire-agent-blue");
        assert_eq!(chain_of(&blue, "FORWARD"), "WIRE-c5ccd29bc2dd-FORWARD");
    }

    #[test]
    fn tables_of_others_are_not_taken_for_ours() {
        for (name, ours) in
            [("wire-agent", true), ("wire-agent-a.b", true), ("wire-agents", false), ("wire-agent-", false)]
        {
            assert_eq!(is_a_table(name), ours, "{name}");
        }
    }

    #[test]
    fn many_networks_share_no_name() {
        let networks: Vec<NetworkName> = (0..20_000).map(|number| format!("n{number}").parse().unwrap()).collect();
        let chains: BTreeSet<String> = networks.iter().map(|network| chain_of(network, "NAT")).collect();
        let tables: BTreeSet<String> = networks.iter().map(table_of).collect();
        assert_eq!((chains.len(), tables.len()), (20_000, 20_000));
    }

    proptest! {
        #[test]
        fn each_chain_is_of_one_network_and_fits(one in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", two in "[a-z]{1,9}") {
            let (one, two): (NetworkName, NetworkName) = (one.parse().unwrap(), two.parse().unwrap());
            for purpose in ["RAW", "FORWARD", "POLICY", "NAT"] {
                let chain = chain_of(&one, purpose);
                prop_assert!(chain.len() <= 28, "{}", chain);
                prop_assert!(is_a_chain(&chain) && is_chain_of(&one, &chain));
                prop_assert_eq!(is_chain_of(&two, &chain), one == two);
                prop_assert_eq!(is_chain_of(&NetworkName::default(), &chain), one.is_default());
            }
            prop_assert!(is_a_table(&table_of(&one)));
            let number = let_in_number(&one);
            prop_assert!(number.is_multiple_of(2) && (one.is_default() || number >= 2));
        }
    }
}
