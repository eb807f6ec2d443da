//! What the networks by name of this host stand on, told to their task at each join.

use std::net::IpAddr;

use wire_backends::SegmentOuter;
use wire_lease::{
    BackendConfig, NetworkConfig,
    named::{Occupant, Occupied},
};
use wire_net::Prefix;

use super::{JoinContext, Network};
use crate::{
    host::Host,
    named::{Ground, Leased},
    ports::Ports,
    session::LeaseSource,
};

/// The UDP port of VXLAN where the default network has none: the kernel's own (`VXLAN_DEFAULT_PORT` of drivers/net/vxlan).
const PORT: u16 = 8472;

impl<P: Ports> Network<P> {
    /// Tells the task of networks by name what this network was joined with.
    pub(super) fn found_named(&self, host: &Host<P>, context: &JoinContext, source: &LeaseSource<P>, store: &P::Store) {
        let Some(named) = &self.named else { return };
        // A host whose identity is not as this agent writes it takes part in none.
        let Ok(identity) = host.state.identity.parse() else { return };
        let Some(outer) = outer_of_named(context) else { return };
        let (store, leased) = match source {
            LeaseSource::Etcd(etcd) => {
                let state = etcd.hold.as_ref().map(|hold| Leased::of(&hold.state.borrow()));
                (Some(store.clone()), state.unwrap_or(Leased::Not))
            }
            LeaseSource::Cache(_) => (None, Leased::Not),
        };
        named.ground.send_replace(Some(Ground {
            joins: self.joins,
            resyncs: 0,
            host: identity,
            store,
            public: context.public,
            outer,
            occupied: occupied(context, &host.endpoints()),
            leased,
        }));
    }
}

/// The way of packets of networks by name to other hosts.
pub(crate) fn outer_of_named(JoinContext { underlay, config, .. }: &JoinContext) -> Option<SegmentOuter> {
    let local = underlay.addresses.v4.or(underlay.addresses.v6)?;
    Some(SegmentOuter { parent: underlay.parent(), local, port: port(config), mtu: underlay.mtu })
}

fn port(config: &NetworkConfig) -> u16 {
    match &config.backend {
        BackendConfig::Vxlan(vxlan) => vxlan.port.unwrap_or(PORT),
        BackendConfig::Udp { .. }
        | BackendConfig::HostGw
        | BackendConfig::Ipip { .. }
        | BackendConfig::Wireguard
        | BackendConfig::Alloc
        | BackendConfig::Foreign(_) => PORT,
    }
}

/// The ranges that no network by name may have: that of the default network, and those that this host reaches without it. Packets for them would
/// go to the bridge of such a network instead. `endpoints` are those of etcd ([`Host::endpoints`]).
pub(crate) fn occupied(JoinContext { underlay, config, public }: &JoinContext, endpoints: &[IpAddr]) -> Vec<Occupied> {
    let of = |by| move |prefix: Prefix| Occupied { prefix, by };
    let ranges = config.pools.iter().map(|(_, pool)| pool.network).map(of(Occupant::FlatNetwork));
    let own = public.iter().map(|(_, address)| Prefix::host(*address));
    let connected = underlay.connected.iter().copied().filter(|prefix| prefix.len() > 0);
    ranges.chain(own.chain(connected).map(of(Occupant::Underlay))).chain(Occupied::by_etcd(endpoints)).collect()
}
