//! A host's kernel in memory, for tests: its links and routes, ours and those of others, with the kernel's rules.
//!
//! All that this crate reads of a kernel is answered from one state, so that a whole agent can run on it. What others do is done by the
//! methods of [`SimHost`].

mod bridges;
mod facts;
mod monitor;
mod others;
mod view;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wire_net::{LinkName, MacAddr, Mtu};
use wire_state::{
    Attempt, DataplaneError, Driver, Namespace, Network, NetworkPart, ObservedKind, ObservedLink, ObservedNet,
    ObservedRoute, Op, Owner, PerNamespace, Reread, RouteKey, Scope, Setting, TunnelOp,
    sim::{FaultRates, Sim},
};

pub use self::monitor::SimMonitor;
use crate::{DeviceCounters, HostAddress, MacOrigin};

/// A host in memory. Clones are the same host.
#[derive(Clone, Debug)]
pub struct SimHost {
    net: Sim<Network>,
    facts: Arc<Mutex<Facts>>,
}

/// The driver of one process of the agent on a [`SimHost`], with the same rules as the kernel.
#[derive(Clone, Debug)]
pub struct SimKernel {
    host: SimHost,
}

/// The links of the host itself, which the agent does not change.
#[derive(Clone, Debug, Default)]
struct Facts {
    links: BTreeMap<LinkName, LinkFacts>,
    /// The links and routes after a boot.
    boot: Boot,
    /// The routes that went away when a link was set down.
    withdrawn: BTreeMap<RouteKey, ObservedRoute>,
    counters: BTreeMap<LinkName, DeviceCounters>,
    bad_checksums: u64,
    uuid: String,
    /// Counts the changes of the underlay.
    underlay_changes: u64,
    /// Counts the times at which the agent made or removed devices.
    own_devices: u64,
    /// Counts the times at which notifications were lost.
    overruns: u64,
}

/// The state after a boot.
#[derive(Clone, Debug, Default)]
struct Boot {
    net: ObservedNet,
    links: BTreeMap<LinkName, LinkFacts>,
}

/// The facts of a link of the host beside its settings.
#[derive(Clone, Debug, Default)]
struct LinkFacts {
    is_loopback: bool,
    has_carrier: bool,
    addresses: Vec<HostAddress>,
    /// The addresses that went away when the link was set down.
    withdrawn: Vec<HostAddress>,
    /// The permanent address of a network card.
    card: Option<MacAddr>,
}

impl SimHost {
    /// A host with a loopback device alone. `uuid` is its product UUID.
    #[must_use]
    pub fn new(uuid: &str) -> Self {
        let facts = Facts { uuid: uuid.to_owned(), ..Facts::default() };
        let host = Self { net: Sim::of_host(ObservedNet::default()), facts: Arc::new(Mutex::new(facts)) };
        host.net.edit_host(|net| {
            net.settings.extend(wire_net::Family::ALL.map(|family| (Setting::Forwarding(family), 0)));
        });
        let lo = LinkFacts { is_loopback: true, has_carrier: true, ..LinkFacts::default() };
        host.insert_link("lo", link(ObservedKind::Other(String::new()), None, Mtu(65536)), lo);
        host.add_address("lo", [127, 0, 0, 1].into(), 8);
        host
    }

    /// The driver of the next process of the agent. The one before has ended, if it had not yet, and its TUN devices are gone.
    #[must_use]
    pub fn driver(&self) -> SimKernel {
        let net = self.net.restarted();
        self.edit_net(|net| {
            let is_tun = |link: &ObservedLink| matches!(link.kind, ObservedKind::Tun(_));
            let tuns: Vec<LinkName> =
                net.links.iter().filter(|(_, link)| is_tun(link)).map(|(name, _)| *name).collect();
            tuns.into_iter().for_each(|name| net.forget_link(name));
        });
        SimKernel { host: Self { net, facts: self.facts.clone() } }
    }

    /// A monitor of this host, for the driver of a scope.
    #[must_use]
    pub fn monitor(&self, scope: Scope) -> SimMonitor {
        SimMonitor::new(self.clone(), scope)
    }

    /// The whole state of the host's namespace, whatever a scope names.
    #[must_use]
    pub fn state(&self) -> ObservedNet {
        self.net.host()
    }

    /// The entries that are not the agent's, and the addresses of the host's links, for comparison.
    #[must_use]
    pub fn foreign(&self) -> (ObservedNet, BTreeMap<LinkName, Vec<IpAddr>>) {
        let of = |link: &LinkFacts| link.addresses.iter().map(|address| address.local.address).collect();
        let addresses = self.facts().links.iter().map(|(name, link)| (*name, of(link))).collect();
        (self.state().foreign(), addresses)
    }

    /// The resource itself, for planned faults: see [`Sim::fail_next`], [`Sim::fail_reads`] and [`Sim::crash_after`].
    #[must_use]
    pub const fn faults(&self) -> &Sim<Network> {
        &self.net
    }

    /// Makes operations and reads fail by chance, drawn from `seed`.
    pub fn fail_by_chance(&self, rates: FaultRates, seed: u64) {
        self.net.fail_by_chance(rates, seed);
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records which devices the agent has made or removed. Of these it hears: the first notification of a new device has it down, and those
    /// of a removed one and of its addresses come when the agent no longer knows it.
    fn note_devices(&self, before: &ObservedNet, ops: &[Op]) {
        let now = self.state();
        let index = |net: &ObservedNet, name: &LinkName| net.links.get(name).map(|link| link.index);
        let named = ops.iter().filter_map(|op| makes_link(op).or(op.deletes_link().map(|place| place.name)));
        let others: Vec<LinkName> = named.filter(|name| index(before, name) != index(&now, name)).collect();
        if others.is_empty() {
            return;
        }
        let had_addresses = before.addresses.iter().any(|own| others.contains(&own.link));
        let mut facts = self.facts();
        facts.own_devices += 1;
        facts.underlay_changes += u64::from(had_addresses);
        drop(facts);
        self.edit_net(|net| others.into_iter().for_each(|name| set_as_new(net, name)));
    }

    /// Changes the host's namespace as another program would.
    fn edit_net<T: Default>(&self, change: impl FnOnce(&mut ObservedNet) -> T) -> T {
        self.net.edit(|state| state.get_mut(Namespace::Host).map(change).unwrap_or_default())
    }
}

impl SimKernel {
    /// The host.
    #[must_use]
    pub const fn host(&self) -> &SimHost {
        &self.host
    }

    /// Whether the process of this driver has ended, for example by [`Sim::crash_after`].
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.host.net.has_crashed()
    }
}

impl Driver for SimKernel {
    type Resource = Network;

    fn read(&mut self, scope: &PerNamespace<Scope>) -> Result<PerNamespace<ObservedNet>, DataplaneError> {
        let whole = self.host.net.read(&PerNamespace::default())?;
        let facts = self.host.facts();
        let within = |(namespace, scope): (Namespace, &Scope)| {
            let net = whole.get(namespace)?;
            Some((namespace, view::within(net, &facts.links, scope)))
        };
        Ok(scope.iter().filter_map(within).collect())
    }

    fn read_part(
        &mut self,
        scope: &PerNamespace<Scope>,
        observed: &mut PerNamespace<ObservedNet>,
        part: &NetworkPart,
    ) -> Result<Reread, DataplaneError> {
        let now = self.read(scope)?;
        let (Some(host), Some(known)) = (now.get(Namespace::Host), observed.get_mut(Namespace::Host)) else {
            return Ok(Reread::None);
        };
        if part.absent.iter().any(|name| host.links.contains_key(name)) {
            return Ok(Reread::None);
        }
        part.made.iter().for_each(|name| view::take_link(known, host, *name));
        for namespace in &part.guests {
            observed.set(*namespace, now.get(*namespace).cloned());
        }
        Ok(if part.guests.is_empty() { Reread::Made } else { Reread::Other })
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let before = ops.iter().any(Op::is_link).then(|| self.host.state());
        let attempts = self.host.net.apply(ops);
        if let Some(before) = before {
            self.host.note_devices(&before, ops);
        }
        attempts
    }
}

const fn makes_link(op: &Op) -> Option<LinkName> {
    match op {
        Op::Kernel(Namespace::Host, wire_state::KernelOp::CreateLink(name, _))
        | Op::Tunnel(TunnelOp::Create(name, _)) => Some(*name),
        Op::Kernel(..) | Op::Tunnel(_) => None,
    }
}

/// Gives a link the settings that the kernel gives a new one, where it has none.
fn set_as_new(net: &mut ObservedNet, name: LinkName) {
    if !net.links.contains_key(&name) {
        return;
    }
    let has_ipv6 = net.has_ipv6(name);
    for family in wire_net::Family::ALL.into_iter().filter(|family| has_ipv6 || *family == wire_net::Family::V4) {
        let forwards = net.settings.get(&Setting::Forwarding(family)).copied().unwrap_or_default();
        net.settings.entry(Setting::LinkForwarding(family, name)).or_insert(forwards);
    }
    // A link without IPv6 has it switched off.
    net.settings.entry(Setting::DisableIpv6(name)).or_insert(u32::from(!has_ipv6));
}

/// A link of the host that is up.
const fn link(kind: ObservedKind, mac: Option<MacAddr>, mtu: Mtu) -> ObservedLink {
    ObservedLink {
        kind,
        mac,
        mtu,
        up: true,
        master: None,
        port: None,
        is_marked: false,
        owner: Owner::Foreign,
        index: 0,
    }
}

impl LinkFacts {
    /// The origin of the link's Ethernet address.
    fn origin(&self, kind: &ObservedKind) -> MacOrigin {
        match (self.card, kind.name()) {
            (Some(card), _) => MacOrigin::Card(card),
            (None, "veth" | "macvlan" | "macvtap") => MacOrigin::Outside,
            (None, _) => MacOrigin::Host,
        }
    }
}

#[cfg(test)]
mod tests;
