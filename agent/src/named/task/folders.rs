//! The folders of the store that networks by name are in.

use wire_lease::{
    FollowFolder,
    named::{AddressRecord, BlockRecord, MemberRecord, NamedRecords, NetworkRecord, Record, Stored},
};
use wire_net::KeyPrefix;
use wire_store::{LeaseStore, Random};

/// All of them, as they change.
pub(super) struct Folders {
    networks: FollowFolder<Stored<NetworkRecord>>,
    members: FollowFolder<Stored<MemberRecord>>,
    blocks: FollowFolder<Stored<BlockRecord>>,
    addresses: FollowFolder<Stored<AddressRecord>>,
}

impl Folders {
    pub(super) fn follow<S: LeaseStore>(store: &S, prefix: &KeyPrefix, random: &Random) -> Self {
        Self {
            networks: folder(store, prefix, random),
            members: folder(store, prefix, random),
            blocks: folder(store, prefix, random),
            addresses: folder(store, prefix, random),
        }
    }

    /// The records in them; `None` until all were listed.
    pub(super) fn records(&mut self) -> Option<NamedRecords> {
        let Self { networks, members, blocks, addresses } = self;
        Some(NamedRecords {
            networks: networks.folder.borrow_and_update().as_ref()?.items.clone(),
            members: members.folder.borrow_and_update().as_ref()?.items.clone(),
            blocks: blocks.folder.borrow_and_update().as_ref()?.items.clone(),
            addresses: addresses.folder.borrow_and_update().as_ref()?.items.clone(),
        })
    }
}

fn folder<S: LeaseStore, R: Record>(store: &S, prefix: &KeyPrefix, random: &Random) -> FollowFolder<Stored<R>> {
    FollowFolder::spawn(store.clone(), R::folder(prefix), None, random.clone())
}

/// Waits for a change; for ever if none is followed.
///
/// # Cancel safety
/// Safe.
pub(super) async fn changed(folders: &mut Option<Folders>) {
    let Some(Folders { networks, members, blocks, addresses }) = folders else {
        return std::future::pending().await;
    };
    tokio::select! {
        () = networks.changed() => {}
        () = members.changed() => {}
        () = blocks.changed() => {}
        () = addresses.changed() => {}
    }
}
