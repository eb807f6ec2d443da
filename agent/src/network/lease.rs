//! Our lease: held in etcd or, while that is away, remembered.

use std::{sync::Arc, time::Duration};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use wire_lease::{
    Clock, ConfigWatch, Entry, EtcdStore, Hold, HoldSettings, HoldState, Lease, Offer, Origin, Prefix, Revision, Start,
    Subnet,
};

use super::{Ground, Host, Known};
use crate::{
    exit::Exit,
    last_known::Keeper,
    pulse::Part,
    session::{Basis, Ties},
};

impl Host {
    /// Our lease, once it is held; or the one that was, where etcd is away.
    pub(super) async fn lease(
        &mut self,
        store: EtcdStore,
        ground: &Ground,
        known: &Known,
        offer: Offer,
    ) -> Result<(Basis, Arc<Entry>), Exit> {
        if known.as_of.is_some() {
            let subnet = self.subnet_held(&ground.config);
            let subnet = subnet.ok_or_else(|| Exit::Software("the subnet held last is not known".to_owned()))?;
            // Nothing compares with these revisions: what is held is not written.
            let origin = Origin { create_revision: Revision(0), mod_revision: Revision(0), lease: None };
            let own = Arc::new(Entry { lease: Lease { subnet, public: offer.public, data: offer.data }, origin });
            return Ok((Basis::LastKnown(own.clone()), own));
        }
        if let Some(former) = &mut self.session {
            // Two must not hold one lease. The rest of it looks after the kernel until its successor does.
            former.basis.let_go();
        }
        let beside = Some(self.pulse.part(Part::Holder).beside());
        let start = Start { listing: Some(known.listing.clone()), beside };
        let mut hold = Hold::spawn(store.clone(), self.hold_settings(ground), watch::channel(offer).1, start);
        let own = self.leased(&mut hold.state).await?;
        self.note_bridges(ground, &own, known.listing.revision);
        let keeper = Keeper {
            file: self.last_known.clone(),
            config: known.accepted.json.clone(),
            board: self.board.clone(),
            pending: None,
            writing: None,
        };
        let config = ConfigWatch::new(store, &self.settings.prefix, known.accepted.revision);
        Ok((Basis::Etcd(Box::new(Ties { hold: Some(hold), config, keeper })), own))
    }

    fn hold_settings(&self, ground: &Ground) -> HoldSettings {
        HoldSettings {
            prefix: self.settings.prefix.clone(),
            pools: ground.config.pools,
            identity: self.state.identity.clone(),
            ttl: self.settings.lease_ttl,
            clock: Clock::new(since_boot),
            renew_margin: self.settings.renew_margin,
            preferred: self.preferred(),
            avoid: ground.underlay.connected.clone(),
            rather_not: ground.underlay.attached.iter().map(|(_, prefix)| *prefix).collect(),
            same_host: self.runs() || self.is_proven,
        }
    }

    /// Notes which bridges were inside the subnet before it was leased: Docker has made those that came later. `listed` is as of
    /// when the leases were listed.
    fn note_bridges(&mut self, ground: &Ground, own: &Entry, listed: Revision) {
        let subnet = own.lease.subnet;
        if Subnet::new(self.state.subnet) == Some(subnet) {
            return;
        }
        let is_new = own.origin.create_revision > listed && Subnet::new(self.preferred()) != Some(subnet);
        let inside = |prefix: Prefix| is_new && subnet.prefixes().any(|own| own.overlaps(prefix));
        let attached = ground.underlay.attached.iter().filter(|(_, prefix)| inside(*prefix));
        self.state.leased_over = attached.map(|(link, prefix)| (link.to_string(), *prefix)).collect();
    }

    async fn leased(&self, hold: &mut watch::Receiver<HoldState>) -> Result<Arc<Entry>, Exit> {
        loop {
            // What is there at first only says that nothing was asked yet.
            hold.changed().await.map_err(|_| Exit::Software("the lease is no longer cared for".to_owned()))?;
            let state = hold.borrow_and_update().clone();
            match state {
                HoldState::Held { entry, .. } | HoldState::Lost { entry, .. } => return Ok(entry),
                HoldState::Acquiring { reason } => self.board.wait_for(format!("a subnet: {reason}")),
            }
        }
    }
}

/// The time since the host booted, that in which it was suspended included.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
