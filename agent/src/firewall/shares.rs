//! What networks want of the packet filter: flat ones, and those by name.

use std::sync::Arc;

use wire_firewall::{Carrier, FirewallPolicy, OverlayDevice, SegmentShare};
use wire_lease::{Entry, LeaseTable};
use wire_net::DualStack;

use crate::{docker_opts::DockerOptions, reconcile_loop::Shares};

/// The share of one network in the packet filter.
#[derive(Clone, Debug)]
pub(crate) enum FilterShare {
    /// A flat network.
    Flat(FirewallShare),
    /// A network by name that this host takes part in.
    Named(Arc<SegmentShare>),
    /// One whose members are not known yet. Until they are, the rules of an earlier run stand, and nothing is written.
    Unknown,
}

/// The shares of all networks by their kinds.
#[derive(Debug, Default)]
pub(super) struct Filtered {
    pub(super) flat: Shares<FirewallShare>,
    pub(super) named: Shares<Arc<SegmentShare>>,
}

impl Filtered {
    /// `None` as long as something is not known.
    pub(super) fn of(shares: &Shares<FilterShare>) -> Option<Self> {
        let mut all = Self::default();
        for (network, share) in shares {
            match share {
                FilterShare::Flat(share) => drop(all.flat.insert(network.clone(), share.clone())),
                FilterShare::Named(share) => drop(all.named.insert(network.clone(), share.clone())),
                FilterShare::Unknown => return None,
            }
        }
        // Networks by name stand on a flat one.
        (!all.flat.is_empty()).then_some(all)
    }
}

/// The share of a flat network in the packet filter: the values from which its rules are computed. Each round adds the facts of the host.
#[derive(Clone, Debug)]
pub(crate) struct FirewallShare {
    pub(crate) policy: Arc<FirewallPolicy>,
    pub(crate) own: Arc<Entry>,
    pub(crate) leases: Arc<LeaseTable>,
    pub(crate) devices: DualStack<OverlayDevice>,
    /// The options that we give to Docker.
    pub(crate) docker_options: Arc<DockerOptions>,
    /// The MTU of the overlay, in bytes.
    pub(crate) mtu: u32,
    /// True if the agent moves packets itself.
    pub(crate) is_userspace: bool,
    /// The number of joins. After each join, features of nftables that this host lacked are tried again.
    pub(crate) joins: u64,
}

impl FirewallShare {
    /// The UDP ports at which its devices take encapsulated packets.
    pub(super) fn udp_ports(&self) -> impl Iterator<Item = u16> {
        let devices = self.devices.iter().chain(self.policy.beside.iter());
        devices.filter_map(|(_, device)| match device.carrier {
            Carrier::Udp { port } => Some(port),
            Carrier::Ipip => None,
        })
    }
}
