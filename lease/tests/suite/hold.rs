//! Holding a lease: on the simulated store with many seeds, and once on a real etcd.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use wire_lease::{BackendData, BackendRecord, Clock, Hold, HoldSettings, HoldState, Lease, NetworkConfig, Offer, Vtep};
use wire_net::{DualStack, Family, KeyPrefix, Prefix, Subnet, Vni};
use wire_store::{LeaseStore, Random, SimStore};

mod announcing;
mod claiming;
mod crowd;
mod former;
mod keeping;
mod odd_keys;
mod other_agents;
mod recording;
mod resuming;
mod sleeping;

const PREFIX: &str = "/coreos.com/network";
const DIRECTORY: &[u8] = b"/coreos.com/network/subnets/";
const RECORD: BackendRecord = BackendRecord { port: Some(8472), former: None };
const HOUR: Duration = Duration::from_secs(3600);

const V4: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.30.0"}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.30.0","EnableIPv6":true,
    "IPv6Network":"fd00:5::/48","IPv6SubnetMin":"fd00:5:0:1::","IPv6SubnetMax":"fd00:5:0:1e::"}"#;

/// One host: what it brings to its lease.
struct Host {
    settings: HoldSettings,
    offer: watch::Sender<Offer>,
}

impl Host {
    fn new(number: u16, config: &str) -> Self {
        let pools = NetworkConfig::from_json(config.as_bytes()).unwrap().pools;
        let settings = HoldSettings {
            prefix: KeyPrefix::new(PREFIX),
            pools,
            identity: format!("host-{number}"),
            ttl: 24 * HOUR,
            clock: Clock::without_sleep(),
            renew_margin: HOUR,
            preferred: DualStack::default(),
            excluded: Vec::new(),
            last_resort: Vec::new(),
            endpoints: Vec::new(),
            same_host: true,
            random: Random::seeded(number.into()),
        };
        let offer = Offer { public: public(number, &pools), data: data(number, &pools), record: Some(RECORD) };
        Self { settings, offer: watch::Sender::new(offer) }
    }

    fn spawn<S: LeaseStore>(&self, store: &S) -> Hold<S> {
        Hold::spawn(store.clone(), self.settings.clone(), self.offer.subscribe(), wire_lease::Start::default())
    }
}

fn public<T>(number: u16, families: &DualStack<T>) -> DualStack<IpAddr> {
    families.map(|family, _| match family {
        Family::V4 => Ipv4Addr::from_bits(0xc0a8_0000 + u32::from(number)).into(),
        Family::V6 => Ipv6Addr::from_bits((0xfd99 << 112) + u128::from(number)).into(),
    })
}

fn data<T>(number: u16, families: &DualStack<T>) -> BackendData {
    let [high, low] = number.to_be_bytes();
    let mac = |last| wire_net::MacAddr::local([2, 0, 0, high, low, last]);
    BackendData::Vxlan(families.map(|family, _| Vtep { vni: Vni::new(1), mac: mac(u8::from(family == Family::V6)) }))
}

async fn held<S>(hold: &Hold<S>) -> Arc<wire_lease::Entry> {
    held_within(hold, Duration::from_secs(60)).await
}

async fn held_within<S>(hold: &Hold<S>, limit: Duration) -> Arc<wire_lease::Entry> {
    let mut state = hold.state.clone();
    let held = state.wait_for(|state| matches!(state, HoldState::Held { .. }));
    match timeout(limit, held).await {
        Ok(state) => Arc::clone(state.unwrap().entry().unwrap()),
        Err(_) => panic!("not held: {:?}", hold.state.borrow()),
    }
}

/// Waits until it was written again.
async fn held_anew<S>(hold: &Hold<S>, limit: Duration) -> Arc<wire_lease::Entry> {
    let before = hold.state.borrow().entry().unwrap().origin.mod_revision;
    let mut state = hold.state.clone();
    let anew =
        state.wait_for(|state| matches!(state, HoldState::Held { entry, .. } if entry.origin.mod_revision != before));
    match timeout(limit, anew).await {
        Ok(state) => Arc::clone(state.unwrap().entry().unwrap()),
        Err(_) => panic!("not held anew: {:?}", hold.state.borrow()),
    }
}

fn assert_disjoint<'a>(subnets: impl IntoIterator<Item = &'a Subnet>) {
    let mut all: Vec<Prefix> = subnets.into_iter().flat_map(Subnet::prefixes).collect();
    all.sort_unstable();
    for pair in all.windows(2) {
        assert!(!pair[0].overlaps(pair[1]), "{} and {}", pair[0], pair[1]);
    }
}

fn keys(store: &SimStore) -> Vec<String> {
    let listing = store.listing(DIRECTORY);
    let name = |key: &[u8]| String::from_utf8(key[DIRECTORY.len()..].to_vec()).unwrap();
    listing.entries.iter().map(|kv| name(&kv.key)).collect()
}

fn flannel_lease(subnet: &str, number: u16) -> (String, Vec<u8>) {
    let subnet: Subnet = subnet.parse().unwrap();
    let families = DualStack::from_fn(|family| subnet.get(family));
    let lease = Lease::new(subnet, public(number, &families), data(number, &families));
    (format!("{PREFIX}/subnets/{subnet}"), lease.to_value())
}
