//! The commands of operators, each in a task beside: by the code that `wire-agent network` runs.

use wire_agent::NetworkWishes;
use wire_lease::{
    NetworkRange,
    named::{NetworkChange, NetworkStore, NewNetwork, Occupant, Occupied, SubnetWish},
};
use wire_net::{DualStack, KeyPrefix, NetworkName, Prefix, Vni};
use wire_store::SimStore;

use super::{Answer, Wish, records::Records};
use crate::world::World;

/// The first length of the subnets of large worlds: blocks for so many hosts.
const LARGE: u8 = 23;
/// The hosts of a world that is not small.
const MANY: u16 = 20;

impl World {
    /// The transactions of an operator.
    fn network_store(&self) -> NetworkStore<SimStore> {
        let prefix = KeyPrefix::new(KeyPrefix::DEFAULT);
        NetworkStore::new(self.store.another_client(), prefix, self.networks.random.fork())
    }

    pub(super) fn create(&mut self, name: &NetworkName) {
        let wanted = self.wanted(name);
        let (store, answers, name) = (self.network_store(), self.networks.answers.clone(), name.clone());
        let flat = Prefix::new([10, 0, 0, 0].into(), 8).expect("a prefix");
        let underlay = Prefix::new([192, 168, 0, 0].into(), 16).expect("a prefix");
        let occupied = [(flat, Occupant::FlatNetwork), (underlay, Occupant::Underlay)];
        let occupied = occupied.map(|(prefix, by)| Occupied { prefix, by });
        tokio::task::spawn_local(async move {
            let made = store.create(&wanted, &occupied).await;
            answers.add(Answer::Created(name, made.map(|stored| (*stored.record).clone())));
        });
    }

    /// A network with pools of any size, of one family or of both.
    fn wanted(&self, name: &NetworkName) -> NewNetwork {
        let random = &self.networks.random;
        let config = format!("{{{}}}", super::Networks::config());
        let prefix = KeyPrefix::new(KeyPrefix::DEFAULT);
        let ranges = NetworkRange::of_config(config.as_bytes(), &prefix).expect("a config");
        let is_large = self.shape.hosts > MANY;
        let len = if is_large { LARGE } else { [24, 24, 25, 26][random.index(4)] };
        let v4 = ranges.v4.map(|range| SubnetWish::From(NetworkRange { len, ..range }));
        // As many addresses as the IPv4 pools have.
        let small = ranges.v6.map(|range| SubnetWish::From(NetworkRange { len: 96 + len, ..range }));
        let both = ranges.v6.map(SubnetWish::From);
        let subnets = match random.index(4) {
            0 => DualStack { v4: None, v6: small },
            1 => DualStack { v4, v6: both },
            _ => DualStack { v4, v6: None },
        };
        NewNetwork {
            name: name.clone(),
            subnets,
            internal: random.chance(300),
            broadcast: random.chance(700),
            mtu: 0,
            labels: Default::default(),
            created: "2027-01-15T08:00:00Z".to_owned(),
        }
    }

    pub(super) fn update(&mut self, name: &NetworkName) {
        let (store, answers, name) = (self.network_store(), self.networks.answers.clone(), name.clone());
        let label = self.networks.random.number(0..3).to_string();
        let labels = [("tier".to_owned(), Some(label))].into();
        let change = NetworkChange { labels, broadcast: Some(self.networks.random.chance(500)) };
        tokio::task::spawn_local(async move {
            let changed = store.update(&name, &change).await;
            answers.add(Answer::Updated(changed.map(drop)));
        });
    }

    pub(super) fn remove(&mut self, name: &NetworkName, force: bool) {
        let vni = Records::of(self).networks.get(name).and_then(|network| Vni::new(network.vni));
        // Hosts that live put it back; until then some have it and some have not.
        self.networks.be_lenient(super::KEPT);
        let (store, answers, name) = (self.network_store(), self.networks.answers.clone(), name.clone());
        tokio::task::spawn_local(async move {
            let removed = store.remove(&name, force).await;
            answers.add(Answer::Removed(name, vni, removed));
        });
    }

    /// Has a host take part, or leave. An agent that is away is not asked, nor one that has not answered yet.
    pub(super) fn ask(&mut self, host: usize, name: &NetworkName, wish: Wish) {
        let key = (host, name.clone());
        let Some(networks) = self.hosts[host].networks().filter(|_| !self.networks.asked.contains(&key)) else {
            return;
        };
        self.networks.asked.insert(key.clone());
        self.networks.wishes.insert(key, Wish::Open);
        let (answers, name) = (self.networks.answers.clone(), name.clone());
        tokio::task::spawn_local(async move {
            let result = carry_out(&networks, &name, wish).await;
            answers.add(Answer::Wished(host, name, wish, result));
        });
    }
}

async fn carry_out(networks: &NetworkWishes, name: &NetworkName, wish: Wish) -> Result<(), wire_agent::WishError> {
    match wish {
        Wish::Exposed => networks.expose(name).await,
        Wish::Hidden => networks.hide(name).await,
        // Whatever was wished: first the one, then the other.
        Wish::Open => {
            networks.hide(name).await?;
            networks.expose(name).await
        }
    }
}
