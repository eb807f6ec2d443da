//! Others that have, or want, what is ours.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use wire_lease::{Entries, Hold, HoldState};
use wire_net::{Family, KeyPrefix};
use wire_store::SimStore;

use super::{HOUR, Host, PREFIX, V4, flannel_lease, held, held_within, keys};

#[tokio::test(start_paused = true)]
async fn of_two_that_overlap_the_older_one_stays() {
    // flannel knows no guards: its dual-stack key and our IPv4 key differ, and share addresses.
    let store = SimStore::new(10);
    let one = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.2.0"}"#;
    let mut host = Host::new(3, one);
    host.settings.preferred.v4 = Some("10.5.1.0/24".parse().unwrap());
    let listing = Entries::list(&store, KeyPrefix::new(PREFIX).leases(true)).await.unwrap();
    let (key, value) = flannel_lease("10.5.1.0-24&fd00:5:0:1::-64", 4);
    store.put(key, value, None);
    // The listing does not show it.
    let hold = Hold::spawn(
        store.clone(),
        host.settings.clone(),
        host.offer.subscribe(),
        wire_lease::Start { listing: Some(Arc::new(listing)), ..wire_lease::Start::default() },
    );
    assert_eq!(held(&hold).await.lease.subnet.to_string(), "10.5.2.0-24");
    assert_eq!(keys(&store), ["10.5.1.0-24&fd00:5:0:1::-64", "10.5.2.0-24"]);
}

#[tokio::test(start_paused = true)]
async fn a_thief_is_named_and_the_subnet_taken_back_when_it_leaves() {
    let store = SimStore::new(11);
    let hold = Host::new(3, V4).spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    // Cut off for longer than the lease; meanwhile another host gets the subnet.
    store.set_down(true);
    tokio::time::sleep(25 * HOUR).await;
    assert!(matches!(&*hold.state.borrow(), HoldState::Held { trouble: Some(_), .. }), "traffic goes on");
    let (key, value) = flannel_lease(&subnet.to_string(), 4);
    store.put(key.clone(), value, None);
    store.set_down(false);
    let mut state = hold.state.clone();
    let named =
        state.wait_for(|state| matches!(state, HoldState::Lost { reason, .. } if reason.contains("192.168.0.4")));
    timeout(Duration::from_secs(10), named).await.unwrap().unwrap();
    assert_eq!(hold.state.borrow().subnet(), Some(subnet));
    store.delete(key.as_bytes());
    assert_eq!(held_within(&hold, Duration::from_secs(4)).await.lease.subnet, subnet);
}

#[tokio::test(start_paused = true)]
async fn two_agents_with_one_public_address_do_not_share_a_lease() {
    let store = SimStore::new(14);
    let hold = Host::new(3, V4).spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    let mut twin = Host::new(3, V4);
    twin.settings.identity = "twin".to_owned();
    let twin = twin.spawn(&store);
    tokio::time::sleep(2 * HOUR).await;
    let state = twin.state.borrow().clone();
    assert!(matches!(&state, HoldState::Acquiring { reason } if reason.contains("host-3")), "{state:?}");
    assert_eq!(hold.state.borrow().subnet(), Some(subnet));
    // An owner that does not answer is not waited for: a host that was installed anew gets its subnet back.
    drop(hold);
    let entry = held_within(&twin, Duration::from_secs(45)).await;
    assert_eq!(entry.lease.subnet, subnet);
}

#[tokio::test(start_paused = true)]
async fn a_guard_without_its_lease_blocks_nobody() {
    let store = SimStore::new(18);
    let one = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0"}"#;
    let first = Host::new(3, one).spawn(&store);
    held(&first).await;
    // Dead, and its key deleted by an operator; the guard stays for a day.
    drop(first);
    store.delete(b"/coreos.com/network/subnets/10.5.1.0-24");
    assert_eq!(store.listing(b"/coreos.com/network/wire/guards/").entries.len(), 1);
    held_within(&Host::new(4, one).spawn(&store), Duration::from_secs(1)).await;
    assert_eq!(store.listing(b"/coreos.com/network/wire/guards/").entries[0].value, b"host-4");
}

#[tokio::test(start_paused = true)]
async fn the_lease_under_a_former_address_is_kept_by_this_host_and_left_by_its_clone() {
    let store = SimStore::new(23);
    let first = Host::new(3, V4);
    let subnet = held(&first.spawn(&store)).await.lease.subnet;
    let mut moved = Host::new(4, V4);
    moved.settings.identity.clone_from(&first.settings.identity);
    moved.settings.preferred.v4 = subnet.get(Family::V4);
    moved.settings.same_host = false;
    let clone = held(&moved.spawn(&store)).await;
    assert_ne!(clone.lease.subnet, subnet);
    moved.settings.same_host = true;
    let mut moved_again = Host::new(5, V4);
    moved_again.settings = moved.settings;
    assert_eq!(held(&moved_again.spawn(&store)).await.lease.subnet, subnet);
}
