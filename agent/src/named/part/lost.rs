//! Addresses of containers that are not this host's any more: another one may have got them while this one was away for longer than its lease.

use std::collections::BTreeSet;

use tokio::time::Instant;
use wire_lease::named::Kept;
use wire_net::LinkName;

use super::Part;
use crate::{attach::Endpoint, named::Leased};

impl Part {
    /// Takes the addresses of containers away that are in none of this host's rooms, or are its own now. True if there were any.
    pub(super) fn drop_all_but_those_of(&mut self, kept: &Kept) -> bool {
        let is_own = |endpoint: &Endpoint| {
            kept.member.own.iter().any(|(family, own)| endpoint.addresses.get(family) == Some(own))
        };
        self.drop_endpoints(|endpoint| !has_address_of(kept, endpoint) || is_own(endpoint))
    }

    /// The ports of containers whose addresses were taken away, and that have no others yet.
    pub(in crate::named) fn dropped_ports(&self) -> BTreeSet<LinkName> {
        let mut dropped = self.entry.dropped.clone();
        for (id, endpoints) in &self.entry.endpoints {
            for endpoint in endpoints {
                dropped.remove(&id.port(endpoint.slot));
            }
        }
        dropped
    }

    /// Takes the addresses of containers away that another host has claimed before this one had the block around them, unless that host may be about
    /// to give them back. True if there were any.
    pub(in crate::named) fn drop_lost(&mut self, leased: Leased, now: Instant) -> bool {
        let Some(network) = self.admitted.clone() else { return false };
        let own = self.own;
        let is_lost = |endpoint: &Endpoint| endpoint.addresses.iter().any(|(_, it)| network.is_lost_to_older(own, *it));
        let are_lost = self.entry.endpoints.values().flatten().any(is_lost);
        !self.bears_with_addresses(are_lost, leased, now) && self.drop_endpoints(is_lost)
    }

    fn drop_endpoints(&mut self, is_lost: impl Fn(&Endpoint) -> bool) -> bool {
        let mut has_dropped = false;
        self.entry.dropped = self.dropped_ports();
        for (id, endpoints) in &mut self.entry.endpoints {
            let lost = endpoints.extract_if(.., |endpoint| is_lost(endpoint)).map(|endpoint| id.port(endpoint.slot));
            for port in lost {
                self.entry.dropped.insert(port);
                has_dropped = true;
            }
        }
        has_dropped
    }
}

/// True if an address of a container is one of this host's.
fn has_address_of(kept: &Kept, endpoint: &Endpoint) -> bool {
    let address = endpoint.addresses.get(kept.record.pools.claimed().prefix.family());
    address.is_some_and(|address| kept.rooms.iter().any(|room| room.prefix().contains(*address)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wire_lease::{
        Origin,
        named::{AddressRecord, Stored},
    };
    use wire_net::{AddressKey, DualStack, MacAddr};
    use wire_store::Revision;

    use super::*;
    use crate::{
        attach::AttachmentId,
        named::{
            document::Entry,
            samples::{admitted, app, host, kept, records},
        },
    };

    const ID: AttachmentId = AttachmentId::new(0xaa << 32);

    /// This host with containers at these addresses of its block, 10.128.1.32/27.
    fn with(last: &[u8]) -> Part {
        let endpoint = |(slot, last): (u16, &u8)| {
            let v4 = [10, 128, 1, *last].into();
            let addresses = DualStack { v4: Some(v4), v6: None };
            Endpoint { slot, holder: None, addresses, mac: MacAddr::of_container(v4), attached: None }
        };
        let endpoints = [(ID, (0..).zip(last).map(endpoint).collect())].into();
        Part::new(host(1), Entry { is_exposed: true, held: Some(kept(1)), endpoints, ..Entry::default() })
    }

    fn left(part: &Part) -> Vec<u16> {
        part.entry.endpoints[&ID].iter().map(|endpoint| endpoint.slot).collect()
    }

    #[test]
    fn a_container_loses_an_address_that_is_in_no_room_or_the_hosts_own_and_its_port_goes_unless_it_gets_another() {
        let mut part = with(&[32, 40, 200]);
        assert!(part.drop_all_but_those_of(&kept(1)));
        assert_eq!(left(&part), [1]);
        assert_eq!(part.dropped_ports(), [ID.port(0), ID.port(2)].into());
        let again = part.entry.endpoints[&ID][0].clone();
        part.entry.endpoints.entry(ID).or_default().push(Endpoint { slot: 2, ..again });
        assert_eq!(part.dropped_ports(), [ID.port(0)].into());
        assert!(!part.drop_all_but_those_of(&kept(1)));
    }

    #[test]
    fn an_address_that_another_host_has_claimed_is_lost_only_if_its_claim_is_older_than_the_block() {
        for (revision, slots) in [(0, &[1][..]), (2, &[0, 1])] {
            let mut part = with(&[40, 41]);
            let mut records = records(&[1, 2]);
            let address = [10, 128, 1, 40].into();
            let record = AddressRecord { host: host(2), mac: MacAddr::of_container(address) };
            let origin = Origin { create_revision: Revision(revision), mod_revision: Revision(revision), lease: None };
            let stored = Stored { record: Arc::new(record), origin };
            records.addresses.insert(AddressKey { network: app(), address }, stored);
            let now = Instant::now();
            part.admit(&admitted(&records), now);
            assert_eq!(part.drop_lost(Leased::Not, now), slots.len() == 1);
            assert_eq!(left(&part), slots, "{revision}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_a_backup_has_brought_back_takes_no_address_unless_it_stays() {
        let (mut part, mut records) = (with(&[40]), records(&[1, 2]));
        let address = [10, 128, 1, 40].into();
        let record = AddressRecord { host: host(2), mac: MacAddr::of_container(address) };
        let origin = Origin { create_revision: Revision(0), mod_revision: Revision(0), lease: None };
        records.addresses.insert(AddressKey { network: app(), address }, Stored { record: Arc::new(record), origin });
        let leased = Leased::With(None);
        part.note_lease(leased, Instant::now());
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        part.admit(&admitted(&records), Instant::now());
        let begun = Instant::now();
        assert!(!part.drop_lost(leased, begun));
        tokio::time::sleep_until(part.next_time(begun).unwrap()).await;
        assert!(part.drop_lost(leased, Instant::now()));
    }
}
