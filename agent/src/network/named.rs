//! What the networks by name of this host stand on, told to their task at each join.

use std::net::IpAddr;

use wire_backends::{ForwardSettings, SegmentAgent, SegmentOuter, VxlanBy};
use wire_lease::{
    BackendConfig, NetworkConfig,
    named::{Occupant, Occupied},
};
use wire_net::{DualStack, Family, Prefix};
use wire_state::Underlay;

use super::{JoinContext, Network};
use crate::{
    exit::Exit,
    host::Host,
    named::{DocumentFile, Ground, Leased},
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
        let Some(outer) = outer_of_named(context, host.moves_itself()) else { return };
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

impl<P: Ports> Host<P> {
    /// True if an earlier run had to move the packets of networks by name itself, and the kernel has no VXLAN still. A run that begins with the
    /// kernel's would make their devices anew, and tell others of other ports, at each start.
    ///
    /// # Errors
    /// When the document of networks by name exists and cannot be read.
    pub(crate) fn falls_back_again(&self) -> Result<bool, Exit> {
        let folder = &self.settings.folders.state_dir;
        let unread = |source| Exit::StateUnread { folder: folder.clone(), source };
        let document = DocumentFile::in_folder(folder).peek(self.ports.disk()).map_err(unread)?;
        let forward = self.settings.forward;
        Ok(forward.vxlan == VxlanBy::Kernel
            && document.is_moved_by_agent()
            && (forward.without_vxlan || self.ports.lacks_vxlan()))
    }
}

/// The way of packets of networks by name to other hosts.
/// `agent` has the settings of packets that the agent moves itself ([`Host::moves_itself`]).
pub(crate) fn outer_of_named(
    JoinContext { underlay, config, public }: &JoinContext,
    agent: Option<ForwardSettings>,
) -> Option<SegmentOuter> {
    let local = local(underlay, public)?;
    let port = port(config);
    let agent = agent.map(|settings| SegmentAgent { port, settings });
    Some(SegmentOuter { parent: underlay.parent(), local, port, mtu: underlay.mtu, agent })
}

/// The source of outer packets, as the default network has it: the public address if this host has it (others send there, and accept packets from no
/// other), else the link's own, which a 1:1 NAT translates.
fn local(underlay: &Underlay, public: &DualStack<IpAddr>) -> Option<IpAddr> {
    let family = Family::ALL.into_iter().find(|family| underlay.addresses.get(*family).is_some())?;
    let has = |public: &IpAddr| underlay.local.iter().any(|local| local.address == *public);
    public.get(family).copied().filter(has).or(underlay.addresses.get(family).copied())
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
