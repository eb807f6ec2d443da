//! Where our lease comes from, and what is connected to etcd for it.

use std::sync::Arc;

use tokio::sync::watch::error::RecvError;
use wire_lease::{ConfigWatch, Entry, Hold, HoldState};
use wire_store::EtcdStore;

use super::Wake;
use crate::last_known::LastKnownWriter;

/// The state with which a network was joined.
pub(crate) enum LeaseSource {
    /// The state in etcd.
    Etcd(Box<EtcdConnections>),
    /// The saved state, with the lease this host had then. This host does not hold it now.
    Cache(Arc<Entry>),
}

/// The connections of a host to etcd, besides the watch on the leases of others.
pub(crate) struct EtcdConnections {
    /// `None` only while the next session is made.
    pub(crate) hold: Option<Hold<EtcdStore>>,
    /// The lease that traffic uses while no lease is held.
    pub(crate) own: Arc<Entry>,
    pub(crate) config: ConfigWatch<EtcdStore>,
    pub(crate) last_known: LastKnownWriter,
}

impl LeaseSource {
    /// True if the hold on our lease was not handed over to a next session.
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

    /// Our own lease.
    pub(crate) fn own(&self) -> Option<Arc<Entry>> {
        match self {
            Self::Etcd(etcd) => {
                let held = etcd.hold.as_ref().and_then(|hold| hold.state.borrow().entry().cloned());
                Some(held.filter(|held| held.lease.subnet == etcd.own.lease.subnet).unwrap_or_else(|| etcd.own.clone()))
            }
            Self::Cache(own) => Some(own.clone()),
        }
    }

    /// Waits for a change of our lease, of the config, or of the state to be saved; waits for ever while etcd is away.
    pub(super) async fn wake(&mut self) -> Wake {
        let Self::Etcd(etcd) = self else { return std::future::pending().await };
        let EtcdConnections { hold, config, last_known, own: _ } = etcd.as_mut();
        tokio::select! {
            changed = held(hold.as_mut()) => changed.map_or(Wake::Broken("the holder of the lease"), |()| Wake::Hold),
            event = config.next() => Wake::Config(event),
            () = last_known.due() => Wake::Keep,
        }
    }
}

async fn held(hold: Option<&mut Hold<EtcdStore>>) -> Result<(), RecvError> {
    match hold {
        Some(hold) => hold.state.changed().await,
        None => std::future::pending().await,
    }
}
