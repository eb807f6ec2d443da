use std::net::IpAddr;

use proptest::prelude::*;
use wire_net::DualStack;
use wire_store::Revision;

use super::*;
use crate::{BackendData, Origin};

const OWN: Option<u16> = Some(8472);

fn of_port(port: u16) -> BackendRecord {
    BackendRecord { port: Some(port), former: None }
}

fn subnet(number: u8) -> Subnet {
    format!("10.5.{number}.0-24").parse().unwrap()
}

fn entry(number: u8, lease: Option<i64>) -> Arc<Entry> {
    let public = DualStack { v4: Some(IpAddr::from([192, 0, 2, number])), v6: None };
    let lease_of_host = Lease::new(subnet(number), public, BackendData::Untyped);
    let revision = Revision(1);
    let origin = Origin { create_revision: revision, mod_revision: revision, lease: lease.map(LeaseId) };
    Arc::new(Entry { lease: lease_of_host, origin })
}

fn table(peers: &[(u8, Option<i64>)]) -> LeaseTable {
    let peers = peers.iter().map(|(number, lease)| (subnet(*number), entry(*number, *lease))).collect();
    LeaseTable { peers, ..LeaseTable::default() }
}

fn records(records: &[(u8, u16, Option<i64>)]) -> Folder<StoredRecord> {
    let stored = |port, lease: Option<i64>| StoredRecord { record: of_port(port), lease: lease.map(LeaseId) };
    Folder::of(records.iter().map(|(number, port, lease)| (subnet(*number), stored(*port, *lease))))
}

fn ports(table: &LeaseTable) -> Vec<Option<u16>> {
    table.peers.values().map(|entry| entry.lease.port).collect()
}

#[test]
fn lease_and_record_may_come_in_any_order() {
    let (leases, stored) = (table(&[(1, Some(7))]), records(&[(1, 9999, Some(7))]));
    let mut lease_first = WithRecords::default();
    assert_eq!(ports(&lease_first.update(&leases, None, OWN)), [None]);
    assert_eq!(ports(&lease_first.update(&leases, Some(&stored), OWN)), [Some(9999)]);
    let mut record_first = WithRecords::default();
    assert_eq!(ports(&record_first.update(&table(&[]), Some(&stored), OWN)), []);
    assert_eq!(ports(&record_first.update(&leases, Some(&stored), OWN)), [Some(9999)]);
}

#[test]
fn a_record_that_was_left_behind_tells_nothing() {
    let mut joined = WithRecords::default();
    let stored = records(&[(1, 9999, Some(7)), (2, 9999, None)]);
    assert_eq!(ports(&joined.update(&table(&[(1, Some(8)), (2, Some(9))]), Some(&stored), OWN)), [None, None]);
    // It was written again by a host of flannel: with another of the store's leases.
    let mut joined = WithRecords::default();
    assert_eq!(ports(&joined.update(&table(&[(1, Some(7))]), Some(&stored), OWN)), [Some(9999)]);
    assert_eq!(ports(&joined.update(&table(&[(1, Some(8))]), Some(&stored), OWN)), [None]);
}

#[test]
fn our_own_port_is_no_other_and_its_entry_is_shared() {
    let leases = table(&[(1, Some(7))]);
    let joined = WithRecords::default().update(&leases, Some(&records(&[(1, 8472, Some(7))])), OWN);
    assert!(Arc::ptr_eq(&joined.peers[&subnet(1)], &leases.peers[&subnet(1)]));
}

#[test]
fn a_lease_that_is_held_after_it_has_vanished_keeps_its_port_and_a_reservation_without_record_does_not() {
    let leases = table(&[(1, Some(7)), (2, None)]);
    let mut joined = WithRecords::default();
    let stored = records(&[(1, 9999, Some(7)), (2, 9999, None)]);
    assert_eq!(ports(&joined.update(&leases, Some(&stored), OWN)), [Some(9999), Some(9999)]);
    assert_eq!(ports(&joined.update(&leases, Some(&records(&[])), OWN)), [Some(9999), None]);
}

#[test]
fn records_that_are_no_such_are_refused_with_the_fault() {
    assert_eq!(of_port(8472).to_value(), br#"{"Port":8472}"#);
    assert_eq!(BackendRecord::from_value(br#"{"Port":1,"Later":{"a":[1]}}"#), Ok(of_port(1)));
    let long = [br#"{"Port":1,"x":""#.to_vec(), vec![b'x'; 5000], br#""}"#.to_vec()].concat();
    for wrong in [&b""[..], b"null", b"{}", br#"{"Port":0}"#, br#"{"Port":65536}"#, br#"{"Port":"1"}"#, b"\xff", &long]
    {
        assert!(BackendRecord::from_value(wrong).is_err(), "{}", wrong.escape_ascii());
    }
    for wrong in [&b""[..], b"x", b"10.5.1.1-24", b"10.5.1.0-024", b"\xff", b"10.5.1.0-24/"] {
        assert!(StoredRecord::key(wrong).is_err(), "{}", wrong.escape_ascii());
    }
}

const VXLAN: &str = r#"{"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"},"Port":8472}"#;

fn with_former(former: &str) -> Result<BackendRecord, String> {
    BackendRecord::from_value(format!(r#"{{"Port":8285,"Former":{former}}}"#).as_bytes())
}

#[test]
fn a_former_backend_is_read_as_it_is_written() {
    let record = with_former(VXLAN).unwrap();
    assert_eq!(String::from_utf8(record.to_value()).unwrap(), format!(r#"{{"Port":8285,"Former":{VXLAN}}}"#));
    let former = record.former.unwrap();
    assert_eq!((former.data.name(), former.port), ("vxlan", Some(8472)));
    for (text, data) in [
        (r#"{"BackendType":"udp","Port":1}"#, BackendData::Untyped),
        (r#"{"BackendType":"host-gw"}"#, BackendData::HostGw),
        (r#"{"BackendType":"ipip"}"#, BackendData::Ipip),
    ] {
        let record = with_former(text).unwrap();
        assert_eq!(record.former.clone().unwrap().data, data);
        assert_eq!(BackendRecord::from_value(&record.to_value()), Ok(record));
    }
    // Of a later release.
    let record = BackendRecord::from_value(br#"{"Former":{"BackendType":"later","Later":1}}"#).unwrap();
    assert_eq!(record.former.unwrap().data, BackendData::Other("later".to_owned()));
}

#[test]
fn a_former_backend_that_makes_no_sense_is_refused_with_the_fault() {
    let wrong = [
        (r#"{"BackendType":"udp","Port":0}"#, "Port 0"),
        (r#"{"Port":1}"#, "missing field"),
        (r#"{"BackendType":"vxlan"}"#, "neither BackendData"),
        (r#"{"BackendType":"vxlan","BackendData":{"VNI":16777216,"VtepMAC":"02:00:00:00:00:01"}}"#, "2^24"),
        (r#"{"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}}"#, "no host's"),
        (r#"{"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}}"#, "no host's"),
        (r#"{"BackendType":"vxlan","BackendData":{"VNI":-1,"VtepMAC":"02:00:00:00:00:01"}}"#, "integer"),
        (r#"{"BackendType":"a\u001bb"}"#, "no name"),
        (r#"{"BackendType":7}"#, "invalid type"),
        ("[]", "invalid"),
    ];
    for (text, fault) in wrong {
        let said = with_former(text).unwrap_err();
        assert!(said.contains(fault), "{text}: {said}");
    }
}

#[test]
fn a_former_backend_is_carried_on_without_a_port_that_is_ours() {
    let leases = table(&[(1, Some(7))]);
    let record = StoredRecord { record: with_former(VXLAN).unwrap(), lease: Some(LeaseId(7)) };
    let stored = Folder::of([(subnet(1), record)]);
    let carried = |own| {
        let joined = WithRecords::default().update(&leases, Some(&stored), own);
        let lease = &joined.peers[&subnet(1)].lease;
        (lease.port, lease.former.as_ref().map(|former| former.port))
    };
    assert_eq!(carried(Some(8472)), (Some(8285), Some(None)));
    assert_eq!(carried(Some(8285)), (None, Some(Some(8472))));
    assert_eq!(carried(None), (Some(8285), Some(Some(8472))));
    // It is gone with its record.
    let mut joined = WithRecords::default();
    joined.update(&leases, Some(&stored), OWN);
    let later = Folder::of([(subnet(1), StoredRecord { record: of_port(8285), lease: Some(LeaseId(7)) })]);
    assert_eq!(joined.update(&leases, Some(&later), OWN).peers[&subnet(1)].lease.former, None);
}

proptest! {
    /// Whatever comes in which order: what was brought forward is what follows from the end, while no record is missing.
    #[test]
    fn what_is_brought_forward_is_what_follows_from_all(
        steps in prop::collection::vec((0u8..4, prop::option::of(1i64..3), 1u16..4, 1i64..3), 1..30)
    ) {
        let own = Some(2);
        let (mut leases, mut stored) = (LeaseTable::default(), records(&[]));
        let mut joined = WithRecords::default();
        for number in 0..4 {
            stored.items.insert(subnet(number), StoredRecord { record: of_port(3), lease: Some(LeaseId(1)) });
        }
        for (number, lease, port, of) in steps {
            match lease {
                Some(lease) => drop(leases.peers.insert(subnet(number), entry(number, Some(lease)))),
                None => {
                    let record = StoredRecord { record: of_port(port), lease: Some(LeaseId(of)) };
                    stored.items.insert(subnet(number), record);
                    leases.peers.remove(&subnet(number));
                }
            }
            let brought = joined.update(&leases, Some(&stored), own);
            let anew = WithRecords::default().update(&leases, Some(&stored), own);
            prop_assert_eq!(brought, anew);
        }
    }
}
