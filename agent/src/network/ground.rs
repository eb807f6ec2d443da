//! What a network is joined on: its config, the underlay, our public addresses.

use std::net::IpAddr;

use tracing::info;
use wire_backends::Underlay;
use wire_lease::{Admission, DualStack, Entry, NetworkConfig, Prefix};

use super::Host;
use crate::{exit::Exit, underlay};

/// What a network is joined on.
pub(super) struct Ground {
    pub(super) underlay: Underlay,
    pub(super) config: NetworkConfig,
    pub(super) public: DualStack<IpAddr>,
}

impl Ground {
    /// What the leases of others are checked against.
    pub(super) fn admission(&self, own: &Entry) -> Admission {
        Admission {
            pools: self.config.pools,
            own: Some(own.lease.subnet),
            public: self.public,
            macs: own.lease.data.macs(),
            underlay: self.underlay.connected.clone(),
        }
    }
}

impl Host {
    /// Finds the underlay, and our addresses on it.
    pub(super) fn ground(&self, config: NetworkConfig) -> Result<Ground, Exit> {
        let networks: Vec<Prefix> = config.pools.iter().map(|(_, pool)| pool.network).collect();
        let underlay = underlay::find(&self.settings.underlay, &networks)?;
        info!(link = %underlay.link, mtu = %underlay.mtu, "underlay found");
        let public = self.public(&config, &underlay)?;
        self.board.update(|seen| {
            seen.backend = config.backend.name().to_owned();
            seen.underlay = underlay.link.to_string();
            seen.public = public;
        });
        Ok(Ground { underlay, config, public })
    }

    fn public(&self, config: &NetworkConfig, underlay: &Underlay) -> Result<DualStack<IpAddr>, Exit> {
        let mut public = DualStack::default();
        for (family, _) in config.pools.iter() {
            let address = self.settings.public.of(family).or(underlay.addresses.of(family)).copied();
            let missing = || {
                let link = underlay.link;
                Exit::NoUnderlay(format!(
                    "the network has {family}, but the interface {link} has no {family} address: give it one, or choose another with --iface"
                ))
            };
            public.set(family, Some(address.ok_or_else(missing)?));
        }
        Ok(public)
    }
}
