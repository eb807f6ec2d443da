//! What every store must do. The same on the simulated one and on a real etcd.

use std::time::Duration;

use wire_store::{
    Compare, Event, LeaseId, LeaseStore, Revision, SimStore, StoreError, Txn, WatchError, WatchStream, Write,
};

use crate::common::TestEtcd;

#[tokio::test(start_paused = true)]
async fn the_simulated_store_keeps_the_contract() {
    let store = SimStore::new(7);
    contract(&store).await;
    let compacted = store.clone();
    compaction(&store, async move |_| compacted.compact()).await;
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let Some(etcd) = TestEtcd::start().await else { return };
    let store = etcd.store().await;
    contract(&store).await;
    let endpoint = etcd.endpoint.clone();
    compaction(&store, async move |revision: Revision| {
        let compact = ["--endpoints", &endpoint, "compact", &revision.0.to_string()].map(str::to_owned);
        let done = tokio::process::Command::new("etcdctl").env("ETCDCTL_API", "3").args(compact).output().await;
        assert!(done.unwrap().status.success());
    })
    .await;
}

async fn contract<S: LeaseStore>(store: &S) {
    transactions(store).await;
    leases(store).await;
    expiry(store).await;
    lists_and_watches(store).await;
    long_answers(store).await;
}

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Write {
    Write::Put { key: key.into(), value: value.into(), lease }
}

async fn write<S: LeaseStore>(store: &S, write: Write) -> Revision {
    let committed = store.commit(Txn { when: vec![], then: vec![write] }).await.unwrap();
    assert!(committed.succeeded);
    committed.revision
}

async fn transactions<S: LeaseStore>(store: &S) {
    assert_eq!(store.get(b"/t/a").await.unwrap().found, None);
    let create = Txn { when: vec![Compare::Absent(b"/t/a".into())], then: vec![put("/t/a", "1", None)] };
    let created = store.commit(create.clone()).await.unwrap();
    assert!(created.succeeded);
    assert!(!store.commit(create).await.unwrap().succeeded, "a key is created once");
    let found = store.get(b"/t/a").await.unwrap().found.unwrap();
    assert_eq!((found.create_revision, found.mod_revision, found.lease), (created.revision, created.revision, None));

    let changed = |revision| Txn {
        when: vec![Compare::Unchanged(b"/t/a".into(), revision), Compare::Absent(b"/t/b".into())],
        then: vec![put("/t/b", "2", None), Write::Delete(b"/t/a".into())],
    };
    assert!(!store.commit(changed(Revision(created.revision.0 - 1))).await.unwrap().succeeded);
    assert!(store.commit(changed(created.revision)).await.unwrap().succeeded);
    assert_eq!(store.get(b"/t/a").await.unwrap().found, None);
    assert_eq!(store.get(b"/t/b").await.unwrap().found.unwrap().value, b"2");
    let gone = Txn { when: vec![Compare::Unchanged(b"/t/a".into(), created.revision)], then: vec![] };
    assert!(!store.commit(gone).await.unwrap().succeeded, "an absent key is not unchanged");
}

async fn leases<S: LeaseStore>(store: &S) {
    let lease = store.grant(Duration::from_secs(30)).await.unwrap();
    let (left, granted) = store.time_to_live(lease).await.unwrap().unwrap();
    assert!(granted == Duration::from_secs(30) && left <= granted, "{left:?} of {granted:?}");
    write(store, put("/l/a", "1", Some(lease))).await;
    assert_eq!(store.get(b"/l/a").await.unwrap().found.unwrap().lease, Some(lease));
    assert_eq!(store.keep_alive(lease).await.unwrap(), Some(Duration::from_secs(30)));
    write(store, put("/l/b", "1", Some(lease))).await;
    write(store, put("/l/b", "2", None)).await;
    store.revoke(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(store.get(b"/l/a").await.unwrap().found, None, "a key goes with its lease");
    assert!(store.get(b"/l/b").await.unwrap().found.is_some(), "a put without a lease detaches the key");
    lease_gone(store, lease).await;
}

async fn lease_gone<S: LeaseStore>(store: &S, lease: LeaseId) {
    assert_eq!(store.keep_alive(lease).await.unwrap(), None);
    assert_eq!(store.time_to_live(lease).await.unwrap(), None);
    let late = store.commit(Txn { when: vec![], then: vec![put("/l/c", "1", Some(lease))] }).await;
    assert!(matches!(late, Err(StoreError::LeaseGone(gone)) if gone == lease), "{late:?}");
}

async fn expiry<S: LeaseStore>(store: &S) {
    let short = store.grant(Duration::from_secs(1)).await.unwrap();
    write(store, put("/l/d", "1", Some(short))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.get(b"/l/d").await.unwrap().found, None, "a lease that nobody keeps alive ends");
}

async fn lists_and_watches<S: LeaseStore>(store: &S) {
    for key in ["/w/subnets/b", "/w/subnets/a", "/w/subnets-x", "/w/subnet"] {
        write(store, put(key, "1", None)).await;
    }
    let listing = store.list(b"/w/subnets/").await.unwrap();
    let keys: Vec<&[u8]> = listing.entries.iter().map(|kv| kv.key.as_slice()).collect();
    assert_eq!(keys, [b"/w/subnets/a", b"/w/subnets/b"]);
    let mut sink = vec![listing.entries[1].clone(), listing.entries[0].clone()];
    assert_eq!(store.list_into(b"/w/subnets/", &mut sink).await.unwrap(), listing.revision);
    assert_eq!(sink, listing.entries, "what the sink held before counts no more");

    let from = Revision(listing.revision.0 + 1);
    let missed = write(store, put("/w/subnets/a", "2", None)).await;
    let mut watch = store.watch(b"/w/subnets/", from).await.unwrap();
    write(store, put("/w/subnets-x", "2", None)).await;
    let first = watch.next().await.unwrap();
    assert!(
        matches!(&first.events[..], [Event::Put(kv)] if kv.value == b"2" && kv.mod_revision == missed),
        "{first:?}"
    );
    let deleted = write(store, Write::Delete(b"/w/subnets/b".into())).await;
    let second = watch.next().await.unwrap();
    assert_eq!(second.events, [Event::Delete { key: b"/w/subnets/b".into(), mod_revision: deleted }]);
    let idle = tokio::time::timeout(Duration::from_millis(300), watch.next()).await;
    assert!(idle.is_err(), "no change, no batch: {idle:?}");
    let third = write(store, put("/w/subnets/c", "3", None)).await;
    let batch = watch.next().await.unwrap();
    assert!(matches!(&batch.events[..], [Event::Put(kv)] if kv.mod_revision == third), "nothing is lost: {batch:?}");
}

/// A long answer is waited for as long as its parts come.
async fn long_answers<S: LeaseStore>(store: &S) {
    let parts = async |pause: Duration| {
        for _ in 0..10 {
            tokio::time::sleep(pause).await;
            store.get(b"a").await.unwrap();
        }
    };
    let (silence, limit) = (Duration::from_secs(1), Duration::from_secs(60));
    let parts = || parts(Duration::from_millis(150));
    assert!(store.while_responsive(parts(), silence, limit).await.is_some(), "1.5 s, never silent");
    assert!(store.while_responsive(std::future::pending::<()>(), silence, limit).await.is_none(), "silent");
    assert!(store.while_responsive(parts(), silence, silence).await.is_none(), "too long");
    let before = *store.answers().borrow();
    store.get(b"a").await.unwrap();
    assert!(*store.answers().borrow() > before, "an answer is noted");
}

async fn compaction<S: LeaseStore>(store: &S, compact: impl AsyncFnOnce(Revision)) {
    let first = write(store, put("/c/a", "1", None)).await;
    write(store, put("/c/a", "2", None)).await;
    let last = write(store, put("/c/a", "3", None)).await;
    compact(last).await;
    let watched = match store.watch(b"/c/", first).await {
        Ok(mut watch) => watch.next().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(watched, Err(WatchError::Compacted(revision)) if revision == last), "{watched:?}");
}
