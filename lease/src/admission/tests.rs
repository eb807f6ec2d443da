//! The admission brought forward is the one computed in full.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;
use wire_net::{Directory, DualStack, KeyPrefix, Prefix};
use wire_store::{Event, KeyValue, Listing, Revision};

use super::{Admission, Admitted, admit};
use crate::{Entries, NetworkConfig, hold_down::HoldDown};

const DIRECTORY: &str = "/coreos.com/network/subnets/";
/// Peers may have public addresses outside the range.
const V4: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.1.0"}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.1.0","EnableIPv6":true,
                       "IPv6Network":"fd00:5::/48"}"#;

fn directory() -> Directory {
    KeyPrefix::new("/coreos.com/network").leases(true)
}

/// Few prefixes of several lengths, which often overlap.
fn name() -> impl Strategy<Value = String> {
    let v4 = (0u8..6, 23u8..=25).prop_map(|(block, len)| {
        let host_bits = 32 - u32::from(len);
        let first = ((0x0a05_0000 + u32::from(block) * 128) >> host_bits) << host_bits;
        format!("{}-{len}", std::net::Ipv4Addr::from(first))
    });
    let v6 = (0u8..3, 62u8..=64)
        .prop_map(|(block, len)| format!("&fd00:5:0:{:x}::-{len}", if len < 64 { 0 } else { block }));
    let bad = Just("10.5.0.0-24x".to_owned());
    prop_oneof![4 => v4.clone(), 4 => (v4, v6).prop_map(|(v4, v6)| v4 + &v6), 1 => bad]
}

/// Few public addresses, some inside the overlay network, and few MACs.
fn value() -> impl Strategy<Value = String> {
    const PUBLICS: [&str; 8] =
        ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "10.5.0.9", "10.5.2.9", "10.5.2.200", "127.0.0.1"];
    const PUBLICS6: [&str; 4] = ["2001:db8::1", "2001:db8::2", "fd00:5:0:2::9", "fe80::1"];
    let good = (prop::sample::select(&PUBLICS[..]), prop::sample::select(&PUBLICS6[..]), 1u8..5, 1u8..4, any::<bool>());
    let good = good.prop_map(|(public, public6, mac, mac6, is_vxlan)| {
        let data = format!(
            r#","BackendType":"vxlan","BackendData":{{"VtepMAC":"02:00:00:00:00:0{mac}"}},"BackendV6Data":{{"VtepMAC":"02:00:00:00:00:0{mac6}"}}"#
        );
        let data = if is_vxlan { data } else { String::new() };
        format!(r#"{{"PublicIP":"{public}","PublicIPv6":"{public6}"{data}}}"#)
    });
    prop_oneof![10 => good, 1 => Just("xx{".to_owned())]
}

#[derive(Clone, Debug)]
enum Step {
    Put(String, String),
    /// Written again, unchanged.
    Renew(prop::sample::Index),
    Delete(prop::sample::Index),
    /// A full listing, without some of the entries, and with the store's revision as it was so long ago.
    List {
        missing: usize,
        ago: i64,
    },
    Admission(Facts),
    /// Milliseconds that pass.
    Wait(u64),
}

/// Facts of this host.
#[derive(Clone, Copy, Debug)]
struct Facts {
    is_dual: bool,
    has_own: bool,
    public: u8,
    mac: u8,
}

impl Facts {
    fn admission(self) -> Admission {
        let config = if self.is_dual { DUAL } else { V4 };
        let own = if self.is_dual { "10.5.0.0-24&fd00:5::-64" } else { "10.5.0.0-24" };
        Admission {
            pools: NetworkConfig::from_json(config.as_bytes()).unwrap().pools,
            own: self.has_own.then(|| own.parse().unwrap()),
            public: DualStack { v4: Some([192, 0, 2, self.public].into()), v6: None },
            macs: DualStack { v4: format!("02:00:00:00:00:0{}", self.mac).parse().ok(), v6: None },
            ..Admission::default()
        }
    }
}

fn facts() -> impl Strategy<Value = Facts> {
    let facts = (any::<bool>(), any::<bool>(), 3u8..6, 3u8..6);
    facts.prop_map(|(is_dual, has_own, public, mac)| Facts { is_dual, has_own, public, mac })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (name(), value()).prop_map(|(name, value)| Step::Put(name, value)),
        2 => any::<prop::sample::Index>().prop_map(Step::Renew),
        6 => any::<prop::sample::Index>().prop_map(Step::Delete),
        1 => (0usize..12, prop_oneof![2 => Just(0), 1 => 1i64..50])
            .prop_map(|(missing, ago)| Step::List { missing, ago }),
        1 => facts().prop_map(Step::Admission),
        3 => (0u64..20_000).prop_map(Step::Wait),
    ]
}

/// A store, and what a follower of it keeps.
struct Followed {
    store: BTreeMap<Vec<u8>, KeyValue>,
    revision: i64,
    now: Instant,
    admission: Admission,
    entries: Entries,
    hold_down: HoldDown,
    admitted: Admitted,
}

impl Followed {
    fn new(admission: Admission) -> Self {
        Self {
            store: BTreeMap::new(),
            revision: 1,
            now: Instant::now(),
            entries: Entries::new(directory()),
            hold_down: HoldDown::default(),
            admitted: Admitted::new(&admission),
            admission,
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.revision += 1;
        let mod_revision = Revision(self.revision);
        let create_revision = self.store.get(&key).map_or(mod_revision, |before| before.create_revision);
        let kv = KeyValue { key, value, create_revision, mod_revision, lease: None };
        self.store.insert(kv.key.clone(), kv.clone());
        self.entries.apply(&Event::Put(kv));
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.revision += 1;
        self.store.remove(&key);
        self.entries.apply(&Event::Delete { key, mod_revision: Revision(self.revision) });
    }

    fn list(&mut self) {
        let entries = self.store.values().cloned().collect();
        self.entries.replace(&Listing { entries, revision: Revision(self.revision) });
    }

    fn some_key(&self, index: prop::sample::Index) -> Option<Vec<u8>> {
        (!self.store.is_empty()).then(|| index.get(&self.store.keys().collect::<Vec<_>>()).to_vec())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(name, value) => self.put([DIRECTORY, &name].concat().into_bytes(), value.into_bytes()),
            Step::Renew(index) => {
                if let Some(kv) = self.some_key(index).and_then(|key| self.store.get(&key).cloned()) {
                    self.put(kv.key, kv.value);
                }
            }
            Step::Delete(index) => {
                if let Some(key) = self.some_key(index) {
                    self.delete(key);
                }
            }
            Step::List { missing, ago } => {
                let missing: Vec<Vec<u8>> = self.store.keys().take(missing).cloned().collect();
                self.store.retain(|key, _| !missing.contains(key));
                self.revision = (self.revision - ago).max(1);
                self.list();
            }
            Step::Admission(facts) => self.admission = facts.admission(),
            Step::Wait(milliseconds) => self.now += Duration::from_millis(milliseconds),
        }
    }

    fn update(&mut self) {
        self.admitted.update(&mut self.entries, &mut self.hold_down, &self.admission, self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_brought_forward_is_what_is_computed_in_full(
        facts in facts(),
        steps in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..40),
    ) {
        let mut followed = Followed::new(facts.admission());
        for together in steps {
            together.into_iter().for_each(|step| followed.step(step));
            followed.update();
            let full = admit(&followed.entries, &followed.hold_down, &followed.admission);
            prop_assert_eq!(followed.admitted.table(), &full);
            prop_assert_eq!(followed.entries.valid(), followed.entries.leases().count());
            for prefix in ["10.5.0.0/24", "10.5.1.128/26", "10.5.0.9/32", "0.0.0.0/0", "fd00:5::/63", "fd00:5:0:2::9/128"] {
                let prefix: Prefix = prefix.parse().unwrap();
                let all = full.peers.keys().filter_map(|subnet| subnet.get(prefix.family()));
                let found = full.overlapping(prefix).map(|(subnet, _)| subnet);
                prop_assert_eq!(found.collect::<Vec<_>>(), all.filter(|subnet| subnet.overlaps(prefix)).collect::<Vec<_>>());
            }
        }
    }
}

/// A network of many leases, none of them in conflict.
fn many(count: u16) -> Followed {
    let pools = NetworkConfig::from_json(br#"{"Network":"10.0.0.0/8"}"#).unwrap().pools;
    let mut followed = Followed::new(Admission { pools, ..Admission::default() });
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        followed.put(key(number), vxlan(&format!("172.16.{high}.{low}"), number));
    }
    followed.list();
    followed.update();
    followed
}

fn key(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    format!("{DIRECTORY}10.{high}.{low}.0-24").into_bytes()
}

fn vxlan(public: &str, mac: u16) -> Vec<u8> {
    let [high, low] = mac.to_be_bytes();
    let mac = format!("02:00:00:00:{high:02x}:{low:02x}");
    format!(r#"{{"PublicIP":"{public}","BackendType":"vxlan","BackendData":{{"VtepMAC":"{mac}"}}}}"#).into_bytes()
}

#[test]
fn one_change_among_ten_thousand_leases_claims_only_those_it_concerns() {
    let mut followed = many(10_000);
    assert_eq!(followed.admitted.table().peers.len(), 10_000);
    let before = followed.admitted.claimed;
    let claimed = |followed: &mut Followed| {
        followed.update();
        std::mem::replace(&mut followed.admitted.claimed, before) - before
    };
    followed.put(key(77), vxlan("172.31.0.1", 77));
    assert_eq!(claimed(&mut followed), 1, "it has moved");
    followed.put(key(20_000), vxlan("172.31.0.2", 5));
    assert_eq!(claimed(&mut followed), 2, "a new one with the MAC of another");
    followed.delete(key(5));
    assert_eq!(claimed(&mut followed), 1, "the one that has the MAC now");
    followed.delete(key(6));
    assert_eq!(claimed(&mut followed), 0);
    assert_eq!((followed.admitted.table().peers.len(), followed.admitted.table().refused.total()), (9_999, 0));
    followed.put(format!("{DIRECTORY}10.0.0.0-16").into_bytes(), vxlan("172.31.0.3", 30_000));
    assert_eq!(claimed(&mut followed), 255, "the older leases in it and itself; two are gone, one is new elsewhere");
}

#[test]
fn while_most_leases_are_held_one_that_is_back_claims_only_itself() {
    let mut followed = many(10_000);
    followed.store.clear();
    followed.list();
    followed.update();
    assert_eq!((followed.admitted.table().peers.len(), followed.admitted.table().held), (10_000, 10_000));
    let before = followed.admitted.claimed;
    followed.put(key(5), vxlan("172.16.0.5", 5));
    followed.update();
    assert_eq!((followed.admitted.table().held, followed.admitted.claimed - before), (9_999, 1));
    followed.now += Duration::from_secs(30);
    followed.update();
    assert_eq!((followed.admitted.table().peers.len(), followed.admitted.table().held), (1, 0));
}

/// Of a thousand that are refused a hundred are named; when these go, others are named in time.
#[test]
fn some_of_many_refused_leases_are_always_named() {
    let mut followed = many(10);
    for number in 1000..2000u16 {
        followed.put(key(number), vxlan("127.0.0.1", number));
    }
    for number in 1000..2000u16 {
        followed.update();
        let table = followed.admitted.table();
        assert_eq!(table.refused.total(), 2000 - usize::from(number));
        assert!(table.refused.len() >= table.refused.total().min(100) / 2, "{}", table.refused.len());
        followed.delete(key(number));
    }
    followed.update();
    assert_eq!((followed.admitted.table().refused.total(), followed.admitted.table().refused.len()), (0, 0));
}

#[test]
fn one_lease_in_conflict_with_all_others_costs_no_more_than_all() {
    let mut followed = many(2_000);
    let before = followed.admitted.claimed;
    let covering = [format!("{DIRECTORY}10.0.0.0-9").into_bytes(), key(9)];
    followed.put(covering[0].clone(), vxlan("172.31.0.1", 30_000));
    followed.update();
    followed.delete(covering[1].clone());
    followed.update();
    assert_eq!(followed.admitted.claimed - before, 2_001 + 2_000);
    let full = admit(&followed.entries, &followed.hold_down, &followed.admission);
    assert_eq!(followed.admitted.table(), &full);
    assert_eq!(full.refused.total(), 1);
}
