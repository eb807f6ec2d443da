use wire_backends::SegmentOuter;
use wire_lease::named::Kept;
use wire_net::{DualStack, MacAddr, Vni};
use wire_state::Namespace;

use super::*;
use crate::{
    attach::Endpoint,
    named::samples::{admitted, app, host, kept, outer, records},
};

fn joined() -> Part {
    Part::new(host(1), Entry { is_exposed: true, held: Some(kept(1)), ..Entry::default() })
}

fn neighbours(part: &Part) -> usize {
    part.progress.computed.as_ref().map_or(0, |(_, computed)| computed.net().neighbours.len())
}

#[tokio::test(start_paused = true)]
async fn a_share_is_set_once_the_network_is_admitted_and_again_only_when_it_differs() {
    let (mut part, now) = (joined(), Instant::now());
    assert!(part.share(outer()).is_none(), "nobody has told of it yet");
    let network = admitted(&records(&[1, 2]));
    part.admit(&network, now);
    let share = part.share(outer()).unwrap();
    assert_eq!(share.scope.devices.iter().map(ToString::to_string).collect::<Vec<_>>(), ["wb.5000", "wv.5000"]);
    let net = share.desired.get(Namespace::Host).unwrap();
    assert_eq!((net.links.len(), net.neighbours.len()), (2, 32));
    part.admit(&network, now);
    assert!(part.share(outer()).is_none());
    let moved = SegmentOuter { local: [192, 0, 2, 9].into(), ..outer() };
    assert!(part.share(moved).is_some());
    part.admit(&admitted(&records(&[1, 2, 3])), now);
    assert!(part.share(moved).is_some());
    assert_eq!(neighbours(&part), 64);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_vanish_with_what_is_ours_are_kept_for_a_while() {
    let mut part = joined();
    part.admit(&admitted(&records(&[1, 2])), Instant::now());
    part.share(outer());
    assert!(part.note_lack(Some(Lack::Member), Instant::now()), "it is to be put back");
    assert_eq!(part.seen().reason, Lack::Member.to_string());
    part.admit(&admitted(&records(&[])), Instant::now());
    part.share(outer());
    assert_eq!(neighbours(&part), 32);
    assert!(!part.note_lack(None, Instant::now()));
    let back = admitted(&records(&[1]));
    part.admit(&back, Instant::now());
    part.share(outer());
    assert_eq!((neighbours(&part), part.seen().reason), (32, String::new()), "the other one may be about to come back");
    tokio::time::sleep_until(part.next_time(Instant::now()).unwrap()).await;
    tokio::time::sleep(KEEP).await;
    part.admit(&back, Instant::now());
    part.share(outer());
    assert_eq!(neighbours(&part), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_just_written_is_waited_for_and_is_lost_only_later() {
    let mut part = joined();
    assert!(!part.note_held(kept(1), Vec::new(), Instant::now()), "it is the same");
    assert!(!part.note_lack(Some(Lack::Member), Instant::now()), "the watch has not told of it yet");
    tokio::time::sleep_until(part.next_time(Instant::now()).unwrap()).await;
    assert!(part.note_lack(Some(Lack::Member), Instant::now()));
    part.note_held(kept(1), Vec::new(), Instant::now());
    part.note_lack(None, Instant::now());
    assert!(part.note_lack(Some(Lack::Member), Instant::now()), "it was there, and is gone");
    assert!(!part.note_lack(Some(Lack::Other), Instant::now()), "nothing is written over another network");
}

#[tokio::test(start_paused = true)]
async fn a_network_of_another_vni_is_not_taken_for_the_one_that_was_joined() {
    let mut part = joined();
    let mut other = records(&[1, 2]);
    let mut record = kept(1).record;
    record.vni = Vni::new(6000).unwrap();
    other.networks.insert(app(), crate::named::samples::stored(record, None));
    assert!(!part.admit(&admitted(&other), Instant::now()));
    assert!(part.share(outer()).is_none());
    let mut quiet = records(&[1, 2]);
    let record = wire_lease::named::NetworkRecord { broadcast: false, ..kept(1).record };
    quiet.networks.insert(app(), crate::named::samples::stored(record, None));
    assert!(part.admit(&admitted(&quiet), Instant::now()), "what may be changed is to be saved");
    assert!(part.entry.held.as_ref().is_some_and(|kept| !kept.record.broadcast));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_wants_nothing_on_its_devices_and_joins_anew_when_asked() {
    let mut part = joined();
    part.admit(&admitted(&records(&[1, 2])), Instant::now());
    part.share(outer());
    part.wish(false);
    assert_eq!(part.seen().state, NetworkState::Leaving);
    let leaving = part.leaving(&outer()).unwrap();
    assert!(leaving.desired.get(Namespace::Host).is_some_and(|net| net.links.is_empty()));
    assert_eq!(leaving.scope.devices.len(), 2);
    part.wish(true);
    assert!(part.share(outer()).is_some(), "the devices may be gone");
    part.forget();
    assert!(part.entry.is_exposed && part.entry.held.is_none() && part.leaving(&outer()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_time_that_has_passed_is_not_waited_for_again() {
    let mut part = joined();
    part.note_lack(Some(Lack::Member), Instant::now());
    part.admit(&admitted(&records(&[1, 2])), Instant::now());
    let saved = part.next_time(Instant::now()).unwrap();
    tokio::time::sleep_until(saved).await;
    assert!(!part.is_to_be_saved(Instant::now()), "what may be lost is not saved");
    assert!(part.next_time(Instant::now()).unwrap() > Instant::now(), "else the task would turn without a pause");
}

#[tokio::test(start_paused = true)]
async fn who_no_longer_waits_is_not_told() {
    let mut part = joined();
    let (asker, told) = oneshot::channel();
    part.askers.push(asker);
    assert!(part.is_awaited());
    drop(told);
    assert!(!part.is_awaited());
}

#[tokio::test(start_paused = true)]
async fn the_packet_filter_has_the_members_and_ports_and_nobody_while_members_are_not_known() {
    let mut part = joined();
    let closed = part.closed(outer()).unwrap();
    assert!(closed.members.is_empty() && closed.net.neighbours.is_empty() && closed.net.links.len() == 2);
    let told = |part: &mut Part, hosts: &[u8]| {
        part.admit(&admitted(&records(hosts)), Instant::now());
        part.share(outer());
        let members = part.filter().unwrap().members;
        let text = |member: &Arc<wire_firewall::SegmentMember>| {
            let blocks: Vec<String> = member.blocks.iter().map(ToString::to_string).collect();
            format!("{} {}", member.public, blocks.join(" "))
        };
        members.values().map(text).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(told(&mut part, &[1, 2, 3]), "192.0.2.2 10.128.1.64/27, 192.0.2.3 10.128.1.96/27");
    assert_eq!(told(&mut part, &[1, 3]), "192.0.2.3 10.128.1.96/27");
    let port = port();
    part.set_ports(vec![port.clone()]);
    assert!(part.share(outer()).is_some());
    assert_eq!(part.filter().unwrap().ports, std::slice::from_ref(&port));
    part.set_ports(vec![port]);
    assert!(part.share(outer()).is_none(), "they are the same");
}

fn port() -> ContainerPort {
    ContainerPort {
        link: "wp01234567".parse().unwrap(),
        mac: "02:57:0a:80:01:21".parse().unwrap(),
        addresses: vec![[10, 128, 1, 33].into()],
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_that_could_not_be_done_waits_until_it_is_time() {
    let mut part = joined();
    part.admit(&admitted(&records(&[1, 2])), Instant::now());
    part.share(outer());
    let random = wire_store::Random::seeded(1);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let now = Instant::now();
        part.progress.tell_again(&random, now);
        let at = part.progress.tell_at().unwrap();
        assert!(part.waits_to_tell(now) && part.next_time(now).is_some_and(|next| next <= at));
        pauses.push(at - now);
        // Nobody else waits for it, nor is it tried with others.
        assert!(part.share(outer()).is_none());
        part.set_ports(vec![ContainerPort { link: format!("wp{}", pauses.len()).parse().unwrap(), ..port() }]);
        assert_eq!(part.share(outer()).unwrap().tries, pauses.len() as u64 - 1);
        part.progress.tell_again(&random, now + Duration::from_millis(500));
        assert_eq!(part.progress.tell_at(), Some(at), "the pause goes on");
        tokio::time::sleep_until(at).await;
        assert!(!part.waits_to_tell(at));
        assert_eq!(part.share(outer()).unwrap().tries, pauses.len() as u64, "it is the same, and tried again");
    }
    assert_eq!(pauses[0], Duration::from_secs(1));
    assert!(pauses[6] > Duration::from_secs(7) && pauses[6] <= Duration::from_secs(15), "{pauses:?}");
    part.progress.note_undone("create wv.5000: no such device");
    part.note_lack(None, Instant::now());
    assert!(part.seen().reason.ends_with("tried again: create wv.5000: no such device"), "{:?}", part.seen());
    part.progress.kernel = Kernel::Told(6);
    part.progress.note_round(5, true);
    assert!(!part.seen().reason.is_empty(), "a round of an older share says nothing about this one");
    part.progress.note_round(6, false);
    assert_eq!(part.seen().reason, "", "its devices are there, if not all links of containers");
    let now = Instant::now();
    part.progress.tell_again(&random, now);
    assert!(part.progress.tell_at().unwrap() - now > Duration::from_secs(7), "the pauses go on");
    part.progress.note_round(6, true);
    part.progress.tell_again(&random, Instant::now());
    assert_eq!(part.progress.tell_at(), Some(Instant::now() + Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_address_is_another_hosts_now_has_none() {
    let mut part = joined();
    let endpoint = |last: u8| Endpoint {
        slot: 0,
        holder: None,
        addresses: DualStack { v4: Some([10, 128, 1, last].into()), v6: None },
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        attached: None,
    };
    let id = "00000000000000aa".parse().unwrap();
    part.entry.endpoints.insert(id, vec![endpoint(34), endpoint(66)]);
    assert!(part.note_held(kept(1), Vec::new(), Instant::now()), "the document is another");
    assert_eq!(part.entry.endpoints[&id], [endpoint(34)], "10.128.1.64/27 is host 2's");
}

#[tokio::test(start_paused = true)]
async fn the_other_host_that_has_an_address_is_named_and_what_a_join_has_found_counts_until_it_is_shown() {
    let (mut part, address) = (joined(), |last: u8| IpAddr::from([10, 128, 1, last]));
    assert!(!part.knows_others(), "neither a join nor the records have told yet");
    part.note_held(kept(1), vec![address(40)], Instant::now());
    assert!(part.knows_others());
    assert_eq!(part.other_holder(address(40)).as_deref(), Some("another host"));
    assert_eq!(part.other_holder(address(41)), None);
    part.admit(&admitted(&records(&[1, 2])), Instant::now());
    let named = part.other_holder(address(70)).unwrap();
    assert!(named.starts_with("the host ") && named.ends_with(" (192.0.2.2)"), "{named}");
    assert_eq!(part.other_holder(address(41)), None, "its own block");
    part.note_lack(None, Instant::now());
    assert_eq!(part.other_holder(address(40)), None, "the records show that nobody has it");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_full_is_asked_less_and_less_often() {
    let (mut part, random) = (joined(), wire_store::Random::seeded(1));
    let bare = Kept { rooms: Vec::new(), ..kept(1) };
    for _ in 0..20 {
        part.note_nothing(bare.clone(), Instant::now());
        part.put_off(Trouble::None, &random, Instant::now());
    }
    let asked = Instant::now();
    let slow = part.again.unwrap();
    part.note_held(kept(1), Vec::new(), asked);
    part.put_off(Trouble::None, &random, asked);
    assert!(part.again.unwrap() < slow && slow > asked + Duration::from_secs(3), "{:?}", slow - asked);
}
