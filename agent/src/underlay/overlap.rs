//! Bridges of this host that overlap leases: of virtual machines, or of containers in another network. Pure.

use std::{collections::BTreeSet, sync::Arc};

use wire_lease::{Entry, LeaseTable};
use wire_net::{LinkName, Prefix, Subnet};

use crate::status::Message;

/// The number of other hosts' leases that are named.
const NAMED: usize = 3;

/// The warning about `attached`, prefixes of bridges that overlap leased subnets. `before` are those that existed
/// before this host leased `own`; a later one inside `own` is Docker's.
pub(crate) fn overlaps(
    attached: &[(LinkName, Prefix)],
    before: &[(String, Prefix)],
    own: Subnet,
    leases: Option<&LeaseTable>,
) -> Option<Message> {
    let mut said = BTreeSet::new();
    for (link, prefix) in attached {
        let ours = own.prefixes().find(|subnet| subnet.overlaps(*prefix));
        if let Some(subnet) = ours
            && (subnet.len() > prefix.len() || before.contains(&(link.to_string(), *prefix)))
        {
            let sentence = format!(
                "{link} has {prefix}, which overlaps {subnet}, the subnet that this host leases: Docker cannot use it for another \
                 bridge"
            );
            let remedy =
                format!("give {link} another prefix, or keep it out of the range with SubnetMin and SubnetMax");
            said.insert(Message::plain(sentence).remedy("; ", remedy));
        }
        let inside = ours.is_some_and(|subnet| subnet.covers(*prefix));
        said.extend(leases.filter(|_| !inside).and_then(|leases| of_others(*link, *prefix, leases)));
    }
    Message::joined(said)
}

fn of_others(link: LinkName, prefix: Prefix, leases: &LeaseTable) -> Option<Message> {
    let mut overlapping = leases.overlapping(prefix);
    let all: Vec<String> = overlapping.by_ref().filter_map(named).take(NAMED).collect();
    let more = overlapping.count();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!all.is_empty()).then(|| {
        let sentence = format!(
            "{link} has {prefix}, which overlaps leases of other hosts ({}{more}): this host cannot reach these \
             addresses on {link}",
            all.join(", ")
        );
        Message::plain(sentence).remedy("; ", format!("give {link} another prefix"))
    })
}

fn named((subnet, entry): (Prefix, &Arc<Entry>)) -> Option<String> {
    let public = entry.lease.public.get(subnet.family())?;
    Some(format!("{subnet} of {public}"))
}

#[cfg(test)]
mod tests {
    use wire_lease::{Lease, Origin};
    use wire_store::Revision;

    use super::*;

    fn at(link: &str, prefix: &str) -> (LinkName, Prefix) {
        (link.parse().unwrap(), prefix.parse().unwrap())
    }

    fn leases(count: u8) -> LeaseTable {
        let peer = |number: u8| {
            let subnet: Subnet = format!("172.18.{number}.0-24").parse().unwrap();
            let value = format!(r#"{{"PublicIP":"192.168.64.{number}"}}"#);
            let lease = Lease::from_value(subnet, value.as_bytes()).unwrap();
            let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
            (subnet, Arc::new(Entry { lease, origin }))
        };
        let mut table = LeaseTable::default();
        table.peers = (7..7 + count).map(peer).collect();
        table
    }

    #[test]
    fn a_bridge_that_our_own_lease_lies_on_is_named_and_dockers_own_in_it_is_not() {
        let own: Subnet = "192.168.122.0-24".parse().unwrap();
        let said = |attached: &[_], before: &[_]| overlaps(attached, before, own, None).map(|said| said.to_string());
        let before = [("virbr0".to_owned(), "192.168.122.0/24".parse().unwrap())];
        let named = said(&[at("virbr0", "192.168.122.0/24")], &before).unwrap();
        assert!(named.starts_with("virbr0 has 192.168.122.0/24, which overlaps 192.168.122.0/24"), "{named}");
        assert_eq!(said(&[at("docker0", "192.168.122.0/24")], &[]), None, "Docker's bridge, as it was told");
        assert_eq!(said(&[at("br-1", "192.168.122.128/25")], &[]), None);
        assert!(said(&[at("br-1", "192.168.120.0/22")], &[]).unwrap().contains("br-1"), "it is not in our subnet");
        assert_eq!(said(&[at("virbr1", "192.168.121.0/24")], &before), None, "virbr0 is gone");
    }

    #[test]
    fn a_bridge_that_leases_of_others_lie_on_is_named_with_them() {
        let own: Subnet = "172.18.100.0-24".parse().unwrap();
        let said = |prefix: &str, count| {
            overlaps(&[at("br-c", prefix)], &[], own, Some(&leases(count))).map(|said| said.to_string())
        };
        let named = said("172.18.0.0/18", 1).unwrap();
        assert!(
            named.starts_with("br-c has 172.18.0.0/18") && named.contains("172.18.7.0/24 of 192.168.64.7"),
            "{named}"
        );
        assert!(said("172.18.0.0/18", 9).unwrap().contains("172.18.9.0/24 of 192.168.64.9 and 6 more"));
        assert!(said("172.18.8.0/26", 2).unwrap().contains("172.18.8.0/24"), "a part of one");
        assert_eq!(said("172.18.64.0/20", 9), None);
        assert_eq!(said("172.18.100.0/24", 9), None, "our own");
    }
}
