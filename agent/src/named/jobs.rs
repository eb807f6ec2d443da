//! The transactions with the store, each in a task beside, and each safe to repeat.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    panic::AssertUnwindSafe,
    time::Duration,
};

use futures::FutureExt as _;
use tracing::error;
use wire_lease::named::{Joined, Joining, Kept, MemberRecord, NetworkError, NetworkStore, PutBack, Room};
use wire_net::{DualStack, HostId, MacAddr, NetworkName};
use wire_store::{LeaseStore, StoreError};

use crate::{
    attach::{Attachment, AttachmentId},
    guests::{HelperError, Place, Reached},
};

/// The outcome of a job.
#[derive(Debug)]
pub(super) enum Done {
    /// This host has joined, or has put back what was lost.
    Held(NetworkName, Result<Holding, NetworkError>),
    /// It has claimed an address for a container.
    Claimed(NetworkName, AttachmentId, Result<Room, NetworkError>),
    /// It has given a single address back.
    Released(NetworkName, Room, Result<(), NetworkError>),
    /// The helper has opened a namespace, for this process of a container.
    Opened(Place, Option<u32>, Result<Reached, HelperError>),
    /// The networks that it is a member of in the store.
    Memberships(Result<Vec<(NetworkName, Option<Kept>)>, NetworkError>),
    /// The store was told these attachments; false if others write the same keys.
    Told(BTreeMap<AttachmentId, Attachment>, Result<bool, StoreError>),
    /// It has left.
    Left(NetworkName, Result<(), NetworkError>),
    /// The records of the network are saved, or the reason why not.
    Saved(NetworkName, Result<(), String>),
    /// The loop of `Firewall` has taken the share into account, or takes long.
    Filtered(NetworkName, u64),
    /// The loop of `Network` has taken the share into account.
    Round(NetworkName, u64),
}

/// The part of this host in the store.
#[derive(Debug)]
pub(super) enum Holding {
    /// With the addresses in its blocks that other hosts have.
    Kept(Box<Kept>, Vec<IpAddr>),
    /// Other hosts have all that it had, and it gets nothing else.
    Nothing(Box<Kept>, NetworkError),
    /// There is another network of that name.
    Other,
}

/// The time that a job has. The store's own calls end earlier.
pub(super) const LONGEST: Duration = Duration::from_secs(20);

/// Joins a network. What this host has on disk of it is put back first, if the store has lost it.
pub(super) async fn hold<S: LeaseStore>(
    store: NetworkStore<S>,
    name: NetworkName,
    kept: Option<Kept>,
    joining: Joining,
) -> Done {
    let held = async {
        let mut without = None;
        if let Some(kept) = &kept {
            let member = MemberRecord { public: joining.public, port: joining.port, ..kept.member };
            let kept = Kept { member, ..kept.clone() };
            match store.put_back(&name, &kept, &joining).await? {
                PutBack::There { lost } => without = (lost.len() == kept.rooms.len()).then(|| without_rooms(kept)),
                PutBack::Other => return Ok(Holding::Other),
            }
        }
        match (store.join(&name, &joining).await, without) {
            (Ok(joined), _) => Ok(holding(joined)),
            (Err(error @ NetworkError::Full(_)), Some(kept)) => Ok(Holding::Nothing(Box::new(kept), error)),
            (Err(error), _) => Err(error),
        }
    };
    let held = tokio::time::timeout(LONGEST, held).await.unwrap_or_else(|_| Err(late()));
    Done::Held(name, held)
}

/// The part of a host without addresses.
fn without_rooms(kept: Kept) -> Kept {
    Kept { member: MemberRecord { own: DualStack::default(), ..kept.member }, rooms: Vec::new(), ..kept }
}

/// Gets this host one more block, or a single address. What it got without being told so counts too.
pub(super) async fn grow<S: LeaseStore>(
    store: NetworkStore<S>,
    name: NetworkName,
    kept: Kept,
    joining: Joining,
) -> Done {
    let grown = async {
        let joined = store.join(&name, &joining).await?;
        if !joined.rooms.iter().all(|room| kept.rooms.contains(room)) {
            return Ok(holding(joined));
        }
        store.more(&name, joining.host, joining.lease).await?;
        // Others may have addresses in it.
        Ok(holding(store.join(&name, &joining).await?))
    };
    let grown = tokio::time::timeout(LONGEST, grown).await.unwrap_or_else(|_| Err(late()));
    Done::Held(name, grown)
}

/// Claims exactly this address.
pub(super) async fn claim<S: LeaseStore>(
    store: NetworkStore<S>,
    name: NetworkName,
    (id, joining): (AttachmentId, Joining),
    (address, mac): (IpAddr, MacAddr),
) -> Done {
    let claim = store.claim_address(&name, (joining.host, joining.lease), address, mac);
    let claimed = tokio::time::timeout(LONGEST, claim).await.unwrap_or_else(|_| Err(late()));
    Done::Claimed(name, id, claimed)
}

/// Gives a single address back.
pub(super) async fn release<S: LeaseStore>(
    store: NetworkStore<S>,
    name: NetworkName,
    host: HostId,
    room: Room,
) -> Done {
    let release = async { store.release(&name, host, room).await.map(drop) };
    let released = tokio::time::timeout(LONGEST, release).await.unwrap_or_else(|_| Err(late()));
    Done::Released(name, room, released)
}

/// Asks the store for the networks that this host is a member of, but for those that are known.
pub(super) async fn memberships<S: LeaseStore>(
    store: NetworkStore<S>,
    host: HostId,
    known: BTreeSet<NetworkName>,
) -> Done {
    let asked = tokio::time::timeout(LONGEST, store.memberships(host, &known)).await;
    Done::Memberships(asked.unwrap_or_else(|_| Err(late())))
}

/// Leaves a network.
pub(super) async fn leave<S: LeaseStore>(store: NetworkStore<S>, name: NetworkName, host: HostId) -> Done {
    let left = tokio::time::timeout(LONGEST, store.leave(&name, host)).await.unwrap_or_else(|_| Err(late()));
    Done::Left(name, left)
}

fn holding(Joined { network, member, rooms, foreign }: Joined) -> Holding {
    Holding::Kept(Kept { record: (*network.record).clone(), member, rooms }.into(), foreign)
}

/// The outcome of a job; one that panics has this outcome instead, so that nobody waits for it.
pub(super) async fn safely(otherwise: Done, job: impl Future<Output = Done>) -> Done {
    match AssertUnwindSafe(job).catch_unwind().await {
        Ok(done) => done,
        Err(_) => {
            error!(instead = ?otherwise, "a step of a network by name has died inside the agent: it is tried again");
            otherwise
        }
    }
}

pub(super) fn late() -> NetworkError {
    StoreError::Unavailable { operation: "transaction", source: None }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_has_failed_and_is_not_waited_for() {
        let name: NetworkName = "app".parse().unwrap();
        let otherwise = Done::Held(name.clone(), Err(late()));
        let done = safely(otherwise, async { panic!("on purpose") }).await;
        assert!(matches!(done, Done::Held(held, Err(_)) if held == name));
        let done = safely(Done::Left(name.clone(), Err(late())), async { Done::Left(name, Ok(())) }).await;
        assert!(matches!(done, Done::Left(_, Ok(()))));
    }
}
