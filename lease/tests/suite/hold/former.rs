//! Leases that a host had before.

use std::time::Duration;

use super::{DUAL, Host, PREFIX, V4, flannel_lease, held, keys};
use wire_net::KeyPrefix;
use wire_store::SimStore;

const LATER: &str = r#"{"Network":"10.6.0.0/16"}"#;

fn guards(store: &SimStore) -> usize {
    store.listing(&KeyPrefix::new(PREFIX).guards()).entries.len()
}

#[tokio::test(start_paused = true)]
async fn the_lease_that_this_host_had_in_another_network_is_given_back_once_it_has_one_in_this() {
    for config in [V4, DUAL] {
        let store = SimStore::new(40);
        held(&Host::new(3, config).spawn(&store)).await;
        let other = held(&Host::new(4, config).spawn(&store)).await;
        let hold = Host::new(3, LATER).spawn(&store);
        let entry = held(&hold).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let left = [&other, &entry].map(|entry| entry.lease.subnet.to_string());
        assert_eq!(keys(&store), left);
        assert_eq!(store.leases().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_with_our_address_that_another_agent_guards_or_flanneld_made_stays() {
    let store = SimStore::new(41);
    let mut twin = Host::new(3, V4);
    twin.settings.identity = "twin".to_owned();
    let twins = held(&twin.spawn(&store)).await;
    let (key, value) =
        flannel_lease(if twins.lease.subnet.to_string() == "10.5.7.0-24" { "10.5.8.0-24" } else { "10.5.7.0-24" }, 3);
    store.put(key, value, Some(store.grant_now(Duration::from_secs(3600))));
    let hold = Host::new(3, LATER).spawn(&store);
    held(&hold).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((keys(&store).len(), guards(&store)), (3, 2));
}

/// A clone that was not told from its original.
#[tokio::test(start_paused = true)]
async fn a_lease_with_our_identity_whose_owner_lives_stays() {
    let store = SimStore::new(42);
    let original = Host::new(3, V4).spawn(&store);
    let first = held(&original).await;
    let hold = Host::new(3, LATER).spawn(&store);
    held(&hold).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(keys(&store).len(), 2);
    assert_eq!(original.state.borrow().entry().unwrap().origin.create_revision, first.origin.create_revision);
}
