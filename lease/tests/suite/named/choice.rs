//! What is chosen for networks by name, their hosts and containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use wire_lease::{
    Taken,
    named::{AddressPool, Asker, NothingFree, choose_own, choose_room, choose_subnet, choose_vni},
};
use wire_net::{HostId, Prefix, Vni};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn a_subnet_overlaps_nothing_that_is_taken() {
    let range = prefix("10.128.0.0/9");
    let mut taken: Taken = ["10.0.0.0/9", "10.128.0.0/17", "10.128.129.7/32"].map(prefix).into_iter().collect();
    assert_eq!(choose_subnet(range, 20, &taken).unwrap(), prefix("10.128.144.0/20"));
    taken.insert(prefix("10.0.0.0/8"));
    let error = choose_subnet(range, 20, &taken).unwrap_err();
    assert!(error.to_string().contains("no /20 is free in 10.128.0.0/9"), "{error}");
    assert!(choose_subnet(range, 8, &Taken::default()).is_err());
    assert_eq!(choose_subnet(prefix("fd57::/48"), 64, &Taken::default()).unwrap(), prefix("fd57::/64"));
}

#[test]
fn a_vni_is_searched_from_a_place_at_random_and_over_the_end() {
    let vni = |number| Vni::new(number).unwrap();
    assert_eq!(choose_vni(&BTreeSet::new(), 0).unwrap(), vni(4096));
    assert_eq!(choose_vni(&BTreeSet::from([vni(4099)]), 3).unwrap(), vni(4100));
    let last = u64::from((1u32 << 24) - 1 - 4096);
    assert_eq!(choose_vni(&BTreeSet::new(), last).unwrap(), vni((1 << 24) - 1));
    assert_eq!(choose_vni(&BTreeSet::from([vni((1 << 24) - 1), vni(4096)]), last).unwrap(), vni(4097));
}

/// Hosts that claim and give away addresses of one pool.
struct Site {
    pool: AddressPool,
    claimed: Vec<Prefix>,
    hosts: BTreeMap<u128, (Vec<Prefix>, BTreeSet<IpAddr>)>,
    claims: usize,
}

impl Site {
    fn new(pool: &str) -> Self {
        Self { pool: AddressPool::new(prefix(pool)).unwrap(), claimed: Vec::new(), hosts: BTreeMap::new(), claims: 0 }
    }

    /// A container of that host gets an address. The first address of a host is its own.
    fn add(&mut self, host: u128) -> Result<IpAddr, NothingFree> {
        let is_first = !self.hosts.contains_key(&host);
        if is_first {
            self.take(host)?;
        }
        self.take(host)
    }

    fn add_all(&mut self, hosts: impl IntoIterator<Item = u128>) {
        for host in hosts {
            self.add(host).unwrap();
        }
    }

    fn take(&mut self, host: u128) -> Result<IpAddr, NothingFree> {
        loop {
            let (rooms, in_use) = self.hosts.entry(host).or_default();
            if let Some(address) = choose_own(&self.pool, rooms, in_use, &[]) {
                in_use.insert(address);
                return Ok(address);
            }
            let asker = Asker { host: HostId::new(host), attempt: 0, is_first: rooms.is_empty() };
            let room = choose_room(&self.pool, &self.claimed, asker)?;
            assert!(self.claimed.iter().all(|other| !other.overlaps(room)), "{room} is taken");
            assert!(room.len() == self.pool.block_len || room.len() == room.family().bits(), "{room}");
            rooms.push(room);
            self.claimed.push(room);
            self.claims += 1;
        }
    }

    fn assert_right(&self) {
        let all: Vec<IpAddr> = self.hosts.values().flat_map(|(_, in_use)| in_use.iter().copied()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an address is given twice");
        assert!(all.iter().all(|address| self.pool.has_address(*address)));
    }
}

#[test]
fn twenty_hosts_have_two_hundred_containers_in_a_24_also_where_they_are_uneven() {
    let mut even = Site::new("10.128.0.0/24");
    even.add_all((0..200).map(|number| number % 20));
    even.assert_right();
    let mut one_by_one = Site::new("10.128.0.0/24");
    one_by_one.add_all((0..200).map(|number| number / 10));
    one_by_one.assert_right();
    let mut uneven = Site::new("10.128.0.0/24");
    uneven.add_all(0..20);
    let loads = (0..20u128).flat_map(|host| std::iter::repeat_n(host, usize::try_from(host).unwrap()));
    uneven.add_all(loads.take(180));
    uneven.assert_right();
}

#[test]
fn a_host_that_is_alone_gets_every_address_of_a_pool_and_then_a_clear_answer() {
    for (pool, containers) in [("10.128.0.0/24", 252), ("10.128.0.0/29", 4), ("10.128.0.0/26", 60), ("fd57::/122", 61)]
    {
        let mut site = Site::new(pool);
        site.add_all((0..containers).map(|_| 1));
        site.assert_right();
        let error = site.add(1).unwrap_err();
        assert_eq!(error, NothingFree::Addresses(prefix(pool)));
    }
}

#[test]
fn in_a_large_pool_most_starts_need_no_claim() {
    for pool in ["10.128.0.0/20", "fd57::/64"] {
        let mut site = Site::new(pool);
        site.add_all((0..1000).map(|number| number % 20));
        site.assert_right();
        assert!(site.claims <= 40, "{pool}: {}", site.claims);
    }
}

#[test]
fn after_a_lost_race_another_room_is_chosen() {
    let pool = AddressPool::new(prefix("10.128.0.0/20")).unwrap();
    let rooms = |is_first, claimed: &[Prefix]| -> BTreeSet<Prefix> {
        let asker = |attempt| Asker { host: HostId::new(7), attempt, is_first };
        (0..8).map(|attempt| choose_room(&pool, claimed, asker(attempt)).unwrap()).collect()
    };
    assert!(rooms(true, &[]).len() > 4);
    let half = [prefix("10.128.0.0/21")];
    let singles = rooms(false, &half);
    assert_eq!(singles.len(), 8);
    assert!(singles.iter().all(|single| single.len() == 32), "{singles:?}");
}

#[test]
fn a_container_that_is_started_again_keeps_its_address() {
    let pool = AddressPool::new(prefix("10.128.0.0/20")).unwrap();
    let rooms = [prefix("10.128.0.0/27")];
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let in_use = BTreeSet::from([address("10.128.0.2"), address("10.128.0.3")]);
    assert_eq!(choose_own(&pool, &rooms, &in_use, &[]), Some(address("10.128.0.4")), "neither network nor gateway");
    let released = ["10.128.0.9", "10.128.0.7", "10.128.0.3", "10.128.9.9", "10.128.0.1"].map(address);
    assert_eq!(
        choose_own(&pool, &rooms, &in_use, &released),
        Some(address("10.128.0.7")),
        "the last that is ours and free"
    );
}
