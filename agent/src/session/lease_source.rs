//! The source of our lease: etcd or, while etcd is away, the state saved on disk.

use std::sync::Arc;

use tokio::sync::watch::error::RecvError;
use wire_lease::{ConfigWatch, Entry, Hold, HoldState};
use wire_store::LeaseStore;

use super::Event;
use crate::{last_known::LastKnownWriter, ports::Ports};

/// The source of the lease with which the network was joined.
pub(crate) enum LeaseSource<P: Ports> {
    /// etcd: the lease is held there.
    Etcd(Box<EtcdConnections<P>>),
    /// The state saved on disk: the lease that this host held last. Nothing renews it.
    Cache(Arc<Entry>),
}

/// The connections of a host to etcd, besides the watch on the leases of others.
pub(crate) struct EtcdConnections<P: Ports> {
    /// The task that holds our lease. `None` once the next session has taken the lease over.
    pub(crate) hold: Option<Hold<P::Store>>,
    /// The lease with which the network was joined. Traffic uses its subnet.
    pub(crate) own: Arc<Entry>,
    pub(crate) config: ConfigWatch<P::Store>,
    pub(crate) last_known: LastKnownWriter<P>,
}

impl<P: Ports> LeaseSource<P> {
    /// False once the next session has taken our lease over: this session cannot go on.
    pub(crate) const fn is_whole(&self) -> bool {
        match self {
            Self::Etcd(etcd) => etcd.hold.is_some(),
            Self::Cache(_) => true,
        }
    }

    /// Stops holding our lease, and returns its last state.
    pub(crate) fn release(&mut self) -> Option<HoldState> {
        match self {
            Self::Etcd(etcd) => etcd.hold.take().map(|hold| hold.state.borrow().clone()),
            Self::Cache(_) => None,
        }
    }

    /// Our lease as it is held now, if that has the subnet that traffic uses; else the one with which the network was joined.
    pub(crate) fn own(&self) -> Option<Arc<Entry>> {
        match self {
            Self::Etcd(etcd) => {
                let held = etcd.hold.as_ref().and_then(|hold| hold.state.borrow().entry().cloned());
                Some(held.filter(|held| held.lease.subnet == etcd.own.lease.subnet).unwrap_or_else(|| etcd.own.clone()))
            }
            Self::Cache(own) => Some(own.clone()),
        }
    }

    /// Waits for a change of our lease or of the config, or for the time to save the network state. Waits for ever if the lease comes from
    /// disk.
    pub(super) async fn next_event(&mut self) -> Event {
        let Self::Etcd(etcd) = self else { return std::future::pending().await };
        let EtcdConnections { hold, config, last_known, own: _ } = etcd.as_mut();
        tokio::select! {
            changed = held(hold.as_mut()) => changed.map_or(Event::Broken("the holder of the lease"), |()| Event::Hold),
            event = config.next() => Event::Config(event),
            () = last_known.due() => Event::SaveNetwork,
        }
    }
}

async fn held(hold: Option<&mut Hold<impl LeaseStore>>) -> Result<(), RecvError> {
    match hold {
        Some(hold) => hold.state.changed().await,
        None => std::future::pending().await,
    }
}
