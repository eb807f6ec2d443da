//! Our lease: held in etcd or, while etcd is away, read from the disk.

use std::sync::Arc;

use tokio::sync::watch;
use wire_lease::{
    BackendData, Clock, ConfigWatch, Entry, Former, Hold, HoldSettings, HoldState, Lease, Offer, Origin, Start,
};
use wire_net::{Family, Prefix, Subnet};
use wire_store::Revision;

use super::{JoinContext, Network, RETRY, Snapshot, known::PATIENCE};
use crate::{
    exit::Exit,
    host::Host,
    last_known::{Joined, LastKnownWriter},
    ports::Ports,
    pulse::Part,
    session::{EtcdConnections, LeaseSource},
    underlay::is_same,
};

impl<P: Ports> Network<P> {
    /// Waits for our lease; while etcd is away, takes the last one. `None` if the underlay has changed before there was
    /// one.
    pub(super) async fn lease(
        &mut self,
        host: &mut Host<P>,
        store: P::Store,
        context: &JoinContext,
        snapshot: &Snapshot,
        offer: Offer,
    ) -> Result<Option<(LeaseSource<P>, Arc<Entry>)>, Exit> {
        let runs_on = self.session.as_ref().and_then(|former| former.source.own());
        // Two tasks must not hold one lease. The loops go on with what the former session wants.
        if let Some(former) = &mut self.session {
            self.handover = former.hand_over().or(std::mem::take(&mut self.handover));
        }
        if snapshot.source.as_of().is_some() {
            let own = Arc::new(host.lease_held_last(context, offer.data).ok_or(Exit::NoSubnetHeld)?);
            return Ok(Some((LeaseSource::Cache(own.clone()), own)));
        }
        let beside = Some(host.watchdog.part(Part::Holder).beside());
        let settings = self.hold_settings(host, context);
        let offered = watch::channel(offer.clone()).1;
        let (hold, own) = match self.handover.held.clone().filter(|held| held.entry().is_some()) {
            // Traffic uses that lease, so there is nothing to wait for.
            Some(state) => (Hold::resume(store.clone(), settings, offered, Former { state, beside }), None),
            None => {
                let start = Start { listing: Some(snapshot.listing.clone()), beside };
                let mut hold = Hold::spawn(store.clone(), settings, offered, start);
                let Some(own) = self.first_lease(host, &mut hold.state, context, runs_on).await? else {
                    return Ok(None);
                };
                (hold, Some(own))
            }
        };
        let own =
            own.or_else(|| self.handover.held.as_ref().and_then(HoldState::entry).map(|own| offering(own, &offer)));
        let own = own.ok_or(Exit::NoLeaseHeld)?;
        host.note_bridges(context, &own, snapshot.listing.revision());
        let last_known = LastKnownWriter {
            ports: host.ports.clone(),
            file: self.last_known.clone(),
            joined: Arc::new(Joined {
                config: snapshot.parsed.json.clone(),
                endpoints: host.endpoints.iter().copied().collect(),
            }),
            status: host.status.clone(),
            pending: None,
            writing: None,
        };
        let config =
            ConfigWatch::new(store, &host.settings.prefix, snapshot.parsed.revision, host.ports.random().clone());
        Ok(Some((
            LeaseSource::Etcd(Box::new(EtcdConnections { hold: Some(hold), own: own.clone(), config, last_known })),
            own,
        )))
    }

    fn hold_settings(&self, host: &Host<P>, context: &JoinContext) -> HoldSettings {
        let endpoints = host.endpoints();
        let alone = endpoints.iter().filter_map(|ip| Prefix::new(*ip, Family::of(*ip).bits()).ok());
        let excluded = context.underlay.connected.iter().copied().chain(alone).collect();
        HoldSettings {
            prefix: host.settings.prefix.clone(),
            pools: context.config.pools,
            identity: host.state.identity.clone(),
            ttl: host.settings.lease_ttl,
            clock: clock(host.ports.clone()),
            renew_margin: host.settings.renew_margin,
            preferred: host.preferred(),
            excluded,
            last_resort: context.underlay.attached.iter().map(|(_, prefix)| *prefix).collect(),
            endpoints,
            same_host: self.runs() || host.is_proven,
            random: host.ports.random().clone(),
        }
    }

    /// Waits for the lease of a host that has none. An agent that has joined before does not wait long: it keeps the
    /// lease that it `runs_on`, and follows leases and underlay meanwhile.
    async fn first_lease(
        &self,
        host: &Host<P>,
        hold: &mut watch::Receiver<HoldState>,
        context: &JoinContext,
        runs_on: Option<Arc<Entry>>,
    ) -> Result<Option<Arc<Entry>>, Exit> {
        let Some(own) = runs_on else {
            return tokio::select! {
                own = leased(host, hold) => own.map(Some),
                () = moved_from(host, context) => Ok(None),
            };
        };
        if let Ok(own) = tokio::time::timeout(PATIENCE, leased(host, hold)).await {
            return own.map(Some);
        }
        let pools = &context.config.pools;
        let offers = |prefix: Prefix| pools.get(prefix.family()).is_some_and(|pool| pool.offers(prefix));
        if own.lease.subnet.prefixes().all(offers) {
            return Ok(Some(own));
        }
        Err(Exit::NoOtherSubnet { held: own.lease.subnet })
    }
}

impl<P: Ports> Host<P> {
    /// The lease that this host held last, with today's addresses.
    pub(crate) fn lease_held_last(&self, context: &JoinContext, data: BackendData) -> Option<Entry> {
        let subnet = self.subnet_held(&context.config)?;
        // Nothing compares with these revisions, since this lease is not written.
        let origin = Origin { create_revision: Revision(0), mod_revision: Revision(0), lease: None };
        Some(Entry { lease: Lease::new(subnet, context.public, data), origin })
    }

    /// Records the bridges that were inside the subnet before it was leased: Docker made the later ones. `listed` is
    /// the revision of the list of leases.
    fn note_bridges(&mut self, context: &JoinContext, own: &Entry, listed: Revision) {
        let subnet = own.lease.subnet;
        if Subnet::new(self.state.subnet) == Some(subnet) {
            return;
        }
        let is_new = own.origin.create_revision > listed && Subnet::new(self.preferred()) != Some(subnet);
        let inside = |prefix: Prefix| is_new && subnet.prefixes().any(|own| own.overlaps(prefix));
        let attached = context.underlay.attached.iter().filter(|(_, prefix)| inside(*prefix));
        self.state.leased_over = attached.map(|(link, prefix)| (link.to_string(), *prefix)).collect();
    }
}

/// Waits until the underlay changes.
async fn moved_from(host: &Host<impl Ports>, context: &JoinContext) {
    loop {
        tokio::time::sleep(RETRY).await;
        if !host.underlay(&context.config.pools).is_ok_and(|found| is_same(&found, &context.underlay)) {
            return;
        }
    }
}

async fn leased(host: &Host<impl Ports>, hold: &mut watch::Receiver<HoldState>) -> Result<Arc<Entry>, Exit> {
    loop {
        // The first value only says that nothing was asked yet.
        hold.changed().await.map_err(|_| Exit::HolderEnded)?;
        let state = hold.borrow_and_update().clone();
        match state {
            HoldState::Held { entry, .. } | HoldState::Lost { entry, .. } => return Ok(entry),
            HoldState::Acquiring { reason } => host.status.wait_for(format!("a subnet: {reason}")),
        }
    }
}

/// The clock that also runs while the host is suspended.
fn clock(ports: impl Ports) -> Clock {
    Clock::new(move || ports.since_boot())
}

/// The same lease with the current offer, which is published next.
fn offering(own: &Entry, offer: &Offer) -> Arc<Entry> {
    let lease = Lease::new(own.lease.subnet, offer.public, offer.data.clone());
    Arc::new(Entry { lease, origin: own.origin })
}
