//! The condition of refused leases. Pure.

use wire_lease::{LeaseTable, RefusalKind};

use super::{EtcdCondition, condition::RefusedLeases};

/// Old leases of this host itself are not counted.
pub(super) fn refusals(table: &LeaseTable) -> Option<EtcdCondition> {
    let own = table.refused.counts().get(&RefusalKind::Own).copied().unwrap_or_default();
    let count = table.refused.total() - own;
    let (key, refusal) = table.refused.iter().find(|(_, refusal)| refusal.kind != RefusalKind::Own)?;
    let (peers, reason) = (table.peers.len(), refusal.reason.clone());
    let refused = RefusedLeases { peers, count, key: key.clone(), reason };
    Some(if peers == 0 { EtcdCondition::AllRefused(refused) } else { EtcdCondition::SomeRefused(refused) })
}

#[cfg(test)]
mod tests {
    use wire_lease::{Admission, Entries, NetworkConfig};
    use wire_net::KeyPrefix;
    use wire_store::{KeyValue, Listing, Revision};

    use super::{super::condition::Condition, *};

    /// The name and the line if other hosts have leases with these public addresses, and this host has 192.0.2.1.
    fn said(publics: &[&str]) -> Option<(&'static str, String)> {
        let entry = |(number, public): (usize, &&str)| KeyValue {
            key: format!("/coreos.com/network/subnets/10.5.{number}.0-24").into_bytes(),
            value: format!(r#"{{"PublicIP":"{public}"}}"#).into_bytes(),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            lease: None,
        };
        let entries = publics.iter().enumerate().map(|(number, public)| entry((number + 1, public))).collect();
        let mut decoded = Entries::new(KeyPrefix::new("/coreos.com/network").leases(true));
        decoded.replace(&Listing { entries, revision: Revision(1) });
        let config = NetworkConfig::from_json(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
        let mut admission = Admission { pools: config.pools, ..Admission::default() };
        admission.public.v4 = Some("192.0.2.1".parse().unwrap());
        let condition = refusals(&decoded.admit(&admission)).map(Condition::from);
        condition.map(|condition| (condition.name(), condition.line()))
    }

    #[test]
    fn a_network_whose_peers_are_all_refused_is_a_fault_that_names_how_many_and_the_first() {
        let found = said(&["127.0.0.1", "224.0.0.1", "10.5.77.7"]);
        let text = "leases: 0 peers, 3 refused: /coreos.com/network/subnets/10.5.1.0-24: 127.0.0.1 is a loopback address, which no host \
                    has on the underlay (and 2 more); see wire-agent peers";
        assert_eq!(found, Some(("all-leases-refused", text.to_owned())));
    }

    #[test]
    fn one_that_is_refused_among_others_is_a_warning() {
        let (name, line) = said(&["192.0.2.2", "224.0.0.1", "192.0.2.4"]).unwrap();
        assert_eq!(name, "some-leases-refused");
        assert!(line.starts_with("2 peers, 1 refused: /coreos.com/network/subnets/10.5.2.0-24: 224.0.0.1"), "{line}");
    }

    #[test]
    fn an_old_lease_of_this_host_and_a_network_without_others_are_neither() {
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["192.0.2.1"]), None);
        assert_eq!(said(&["192.0.2.1", "192.0.2.2"]), None);
        assert!(said(&["192.0.2.1", "127.0.0.1"]).unwrap().1.starts_with("leases: 0 peers, 1 refused"));
    }
}
