//! Values for the tests of networks by name.

use std::{net::IpAddr, sync::Arc};

use wire_backends::SegmentOuter;
use wire_lease::{
    Origin,
    named::{
        BlockRecord, Joining, Kept, MemberRecord, NamedAdmission, NamedNetwork, NamedRecords, NetworkRecord, Record,
        Room, Stored,
    },
};
use wire_net::{BlockKey, DualStack, HostId, MemberKey, Mtu, NetworkName};
use wire_state::{LinkId, Namespace};
use wire_store::{LeaseId, Revision};

pub(super) const LEASE: LeaseId = LeaseId(7);

pub(super) fn app() -> NetworkName {
    "app".parse().unwrap()
}

pub(super) fn host(number: u8) -> HostId {
    HostId::new(number.into())
}

pub(super) fn public(number: u8) -> DualStack<IpAddr> {
    DualStack { v4: Some([192, 0, 2, number].into()), v6: None }
}

pub(super) fn joining(number: u8) -> Joining {
    Joining { host: host(number), public: public(number), port: 8472, lease: Some(LEASE) }
}

pub(super) fn outer() -> SegmentOuter {
    SegmentOuter {
        parent: LinkId { namespace: Namespace::Host, index: 2, name: "eth0".parse().unwrap() },
        local: [192, 0, 2, 1].into(),
        port: 8472,
        mtu: Mtu(1500),
        agent: None,
    }
}

pub(super) fn record() -> NetworkRecord {
    let json = r#"{"VNI":5000,"IPv4":{"Pool":"10.128.0.0/20","Block":27},"Created":"2026-01-31T12:00:00Z"}"#;
    NetworkRecord::from_value(json.as_bytes()).unwrap()
}

/// The part of a host: a block by its number, and the first address of that.
pub(super) fn kept(number: u8) -> Kept {
    let own = DualStack { v4: Some([10, 128, 1, number * 32].into()), v6: None };
    let block = format!("10.128.1.{}/27", number * 32).parse().unwrap();
    let member = MemberRecord { public: public(number), port: 8472, own };
    Kept { record: record(), member, rooms: vec![Room::Block(block)] }
}

pub(super) fn stored<R>(record: R, lease: Option<LeaseId>) -> Stored<R> {
    let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease };
    Stored { record: Arc::new(record), origin }
}

/// Records of a network that these hosts have joined.
pub(super) fn records(hosts: &[u8]) -> NamedRecords {
    let mut records = NamedRecords::default();
    records.networks.insert(app(), stored(record(), None));
    for number in hosts {
        let (kept, host) = (kept(*number), host(*number));
        records.members.insert(MemberKey { network: app(), host }, stored(kept.member, Some(LEASE)));
        let block = kept.rooms[0].prefix();
        records.blocks.insert(BlockKey { network: app(), block }, stored(BlockRecord { host }, Some(LEASE)));
    }
    records
}

pub(super) fn admitted(records: &NamedRecords) -> Arc<NamedNetwork> {
    NamedAdmission::default().update(records, &[]).networks[&app()].clone()
}
