//! Rules that are brought forward are those that all peers would give.

use super::*;
use wire_state::Before;

use crate::FirewallFromPeers;

/// A lease of a few hosts, so that several leases are of one; with subnets of several lengths, and of one family or both.
fn any_peer() -> impl Strategy<Value = Peer> {
    let lens = prop_oneof![4 => Just(24u8), 1 => Just(25), 1 => Just(28)];
    (2u8..9, 2u8..5, lens, any::<bool>()).prop_map(|(number, host, len, dual)| {
        let Peer { subnet, .. } = peer(number, dual);
        let v4 = Some(format!("10.5.{number}.0/{len}").parse().unwrap());
        let subnet = Subnet::new(DualStack { v4, v6: subnet.get(Family::V6) }).unwrap();
        // One of them has an address in the overlay.
        let public = if host == 4 { "10.5.200.4".parse().unwrap() } else { peer(host, false).public.v4.unwrap() };
        Peer { public: DualStack { v4: Some(public), ..peer(host, dual).public }, subnet }
    })
}

/// The peers of some moments, one after the other. No two have the same subnet.
fn any_moments() -> impl Strategy<Value = Vec<Vec<Peer>>> {
    let peers = prop::collection::vec(any_peer(), 0..8).prop_map(|mut peers| {
        peers.sort_by_key(|peer| peer.subnet);
        peers.dedup_by_key(|peer| peer.subnet);
        peers
    });
    prop::collection::vec(peers, 1..6)
}

fn any_policy() -> impl Strategy<Value = (FirewallPolicy, HostFacts)> {
    let senders = prop_oneof![4 => Just(Senders::Peers), 1 => Just(Senders::Anyone)];
    let nftables = prop_oneof![3 => Just(Nftables::Whole), 1 => Just(Nftables::Simple), 1 => Just(Nftables::Absent)];
    let lens = prop_oneof![3 => Just(24u8), 1 => Just(25)];
    let direct = any::<bool>().prop_map(|direct| direct.then(|| name("eth0")));
    (senders, nftables, lens, any::<bool>(), direct).prop_map(|(senders, nftables, len, dual, direct)| {
        let mut policy = FirewallPolicy { senders, direct, ..policy(dual) };
        policy.pools.v4 = policy.pools.v4.map(|pool| Pool { subnet_len: len, ..pool });
        (policy, HostFacts { support: Support { nftables, ..Support::default() }, ..HostFacts::default() })
    })
}

proptest! {
    #[test]
    fn rules_that_are_brought_forward_are_those_of_all_peers(
        (policy, facts) in any_policy(),
        moments in any_moments(),
    ) {
        let overlay = OverlayDevice::of(&devices(true));
        let own = peer(1, true).subnet;
        let of_all = |peers: &[Peer]| policy.desired(own, &peers.iter().copied(), &overlay, &facts);
        let mut rules = FirewallFromPeers::new(&policy, own, std::iter::empty(), &overlay, &facts);
        let mut before: &[Peer] = &[];
        for peers in &moments {
            let only_in = |one: &[Peer], other: &[Peer]| {
                one.iter().copied().filter(|peer| !other.contains(peer)).collect::<Vec<_>>()
            };
            rules.update(only_in(before, peers).into_iter(), only_in(peers, before).into_iter());
            let (reached, desired) = (of_all(before), of_all(peers));
            prop_assert_eq!(&**rules.firewall(), &desired);
            let have = put(&reached);
            let since = Firewall::plan_since(&have, Before { reached: &reached, index: &(), has_conflicts: false }, &desired);
            prop_assert_eq!(since, Some(plan(&have, &desired)));
            before = peers;
        }
    }
}

#[test]
fn an_address_of_two_leases_stays_until_both_are_gone() {
    let overlay = OverlayDevice::of(&devices(false));
    let second = Peer { subnet: peer(3, false).subnet, ..peer(2, false) };
    let both = [peer(2, false), second];
    let own = peer(1, false).subnet;
    let mut rules = FirewallFromPeers::new(&policy(false), own, both.into_iter(), &overlay, &HostFacts::default());
    let is_there = |rules: &FirewallFromPeers| {
        let address = Element::Address("192.0.2.2".parse().unwrap());
        rules.firewall().table.as_ref().unwrap().sets["peers-v4"].elements.contains(&address)
    };
    rules.update([peer(2, false)].into_iter(), std::iter::empty());
    assert!(is_there(&rules), "of the second lease");
    rules.update([second].into_iter(), std::iter::empty());
    assert!(!is_there(&rules));
}
