use wire_kernel::OpenedGuest;

use super::*;
use crate::{
    attach::guest,
    guests::{Reached, Word},
};

fn attachments() -> Attachments {
    let folder = tempfile::tempdir().unwrap();
    Attachments::load(true, folder.path(), Watched::new(folder.path())).unwrap()
}

fn new(guest: &str, network: &str) -> NewAttachment {
    let (guest, network) = (guest.parse().unwrap(), network.parse().unwrap());
    NewAttachment { guest, namespace: None, network, interface: None, addresses: DualStack::default(), mac: None }
}

fn add(attachments: &mut Attachments, new: &NewAttachment) -> Attachment {
    let document = attachments.document(new, &Random::seeded(attachments.all().len() as u64));
    attachments.found.attachments.insert(document.id, document.clone());
    document
}

#[test]
fn each_attachment_of_a_guest_has_an_interface_of_its_own_and_a_second_one_like_it_is_the_same() {
    let mut all = attachments();
    let first = add(&mut all, &new("web", "app"));
    let second = add(&mut all, &new("name:web", "other"));
    let apart = add(&mut all, &new("db", "app"));
    assert_eq!(
        [first.interface, second.interface, apart.interface].map(|name| name.to_string()),
        ["eth1", "eth2", "eth1"]
    );
    assert_eq!(all.same_as(&new("web", "app")), Some(first.id));
    assert_eq!(all.same_as(&new("web", "none")), None);
    let other = NewAttachment { interface: Some("eth7".parse().unwrap()), ..new("web", "app") };
    assert_eq!(all.same_as(&other), None);
    let refused = all.check_new(&other).unwrap_err();
    assert!(
        refused.starts_with(&format!("web is on app already, by attachment {} of web (eth1)", first.id)),
        "{refused}"
    );
    assert_eq!(all.check_new(&new("web", "third")), Ok(()));
    let fixed = DualStack { v4: Some([10, 128, 0, 9].into()), v6: None };
    assert_eq!(all.same_as(&NewAttachment { addresses: fixed, ..new("web", "app") }), None);
    assert_eq!(add(&mut all, &NewAttachment { addresses: fixed, ..new("c", "app") }).check(), Ok(()));
    assert_eq!(all.named(&"app".parse().unwrap()), [IpAddr::from([10, 128, 0, 9])].into());
}

#[test]
fn a_second_interface_in_one_network_is_refused_also_by_another_selector_of_the_same_guest() {
    let mut all = attachments();
    let web = guest("aaaaaaaaaaaa", "web", &[("tier", "front")]);
    let mut running = Running::default();
    let words = [Word::Begin, Word::Running(web.clone()), Word::Running(guest("bbbb", "db", &[])), Word::Whole];
    words.into_iter().for_each(|word| running.hear(word));
    all.running = watch::channel(running).1;
    let first = add(&mut all, &new("name:web", "app"));
    for (selector, refused) in [
        ("id:aaaaaaaaaaaa", true),
        ("label:tier=front", true),
        ("name:db", false),
        ("label:tier=back", false),
        ("/x", false),
    ] {
        let said = all.check_new(&new(selector, "app"));
        assert_eq!(said.is_err(), refused, "{selector}: {said:?}");
        assert_eq!(all.check_new(&new(selector, "other")), Ok(()));
    }
    let said = all.check_new(&new("label:tier=front", "app")).unwrap_err();
    let begin = format!("container aaaaaaaaaaaa is on app already, by attachment {} of name:web (eth1)", first.id);
    assert!(said.starts_with(&begin), "{said}");
    // By what is open.
    all.place(Instant::now());
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let opened = OpenedGuest { namespace: null(), route: null(), ipv4: null(), ipv6: None };
    let reached = Reached { namespace: Namespace::Guest(5), opened, process: None };
    all.spots.note(&Place::Container(web.id), Some(7), Ok(reached), Instant::now());
    let at = |number| NewAttachment { namespace: Some(Namespace::Guest(number)), ..new("/x", "app") };
    assert!(all.check_new(&at(5)).is_err() && all.check_new(&at(6)).is_ok());
    let second = add(&mut all, &new("name:db", "app"));
    assert_eq!((first.number, second.number), (1, 2));
}

#[test]
fn a_guest_its_networks_and_its_interfaces_name_what_is_to_be_detached() {
    let mut all = attachments();
    let first = add(&mut all, &new("web", "app"));
    let second = add(&mut all, &new("web", "other"));
    add(&mut all, &new("db", "app"));
    let meant = |guest: &str, network: Option<&str>, interface: Option<&str>| {
        let network = network.map(|name| name.parse().unwrap());
        let interface = interface.map(|name| name.parse().unwrap());
        all.meant(&Which { guest: guest.parse().unwrap(), network, interface }).unwrap()
    };
    assert_eq!(meant("web", None, None), [first.id, second.id].into());
    assert_eq!(meant("name:web", Some("other"), None), [second.id].into());
    assert_eq!(meant("web", None, Some("eth1")), [first.id].into());
    assert_eq!(meant(&second.id.to_string(), None, None), [second.id].into());
    assert!(meant("nobody", None, None).is_empty());
}

#[test]
fn a_word_is_a_name_else_the_beginning_of_an_id_else_a_process() {
    let mut all = attachments();
    let named = add(&mut all, &new("name:77", "app"));
    let by_id = add(&mut all, &new(&format!("id:8{}", "a".repeat(63)), "app"));
    let process = add(&mut all, &new("pid:9@100", "app"));
    let meant = |all: &Attachments, guest: &str| {
        all.meant(&Which { guest: guest.parse().unwrap(), network: None, interface: None })
    };
    assert_eq!(meant(&all, "77"), Ok([named.id].into()));
    assert_eq!(meant(&all, "8a"), Ok([by_id.id].into()));
    assert_eq!(meant(&all, "9"), Ok([process.id].into()));
    add(&mut all, &new(&format!("id:8{}", "b".repeat(63)), "app"));
    let both = meant(&all, "8").unwrap_err();
    assert!(both.contains("means both"), "{both}");
}
