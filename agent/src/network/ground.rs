//! What a network is joined on: its config, the underlay, our public addresses.

use std::net::IpAddr;

use tracing::info;
use wire_backends::Underlay;
use wire_lease::{Admission, DualStack, Entry, NetworkConfig, Pool};

use super::Host;
use crate::{exit::Exit, state::KnownBy, underlay};

/// What a network is joined on.
pub(super) struct Ground {
    pub(super) underlay: Underlay,
    pub(super) config: NetworkConfig,
    pub(super) public: DualStack<IpAddr>,
}

impl Ground {
    /// What the leases of others are checked against.
    pub(super) fn admission(&self, own: &Entry, endpoints: Vec<IpAddr>) -> Admission {
        Admission {
            pools: self.config.pools,
            own: Some(own.lease.subnet),
            public: self.public,
            local: self.underlay.local.clone(),
            macs: own.lease.data.macs(),
            underlay: self.underlay.connected.clone(),
            endpoints,
        }
    }
}

impl Host {
    /// Finds the underlay, and our addresses on it.
    pub(super) fn ground(&self, config: NetworkConfig) -> Result<Ground, Exit> {
        let underlay = self.underlay(&config.pools)?;
        info!(link = %underlay.link, mtu = %underlay.mtu, "underlay found");
        let public = underlay.addresses.map(|family, own| *self.settings.public.of(family).unwrap_or(own));
        self.board.update(|seen| {
            seen.backend = config.backend.name().to_owned();
            seen.underlay = underlay.link.to_string();
            seen.public = public;
        });
        Ok(Ground { underlay, config, public })
    }

    /// The interface for a network with these pools: the one of the last time for as long as the same is asked for.
    pub(super) fn underlay(&self, pools: &DualStack<Pool>) -> Result<Underlay, Exit> {
        let held = self.state.underlay.as_ref().filter(|before| before.asked == self.settings.asked_underlay());
        underlay::find(&self.settings, pools, held.and_then(KnownBy::held))
    }
}
