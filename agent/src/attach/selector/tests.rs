use proptest::prelude::*;

use super::*;
use crate::guests::Word;

/// A running container whose id begins so.
pub(crate) fn guest(id: &str, name: &str, labels: &[(&str, &str)]) -> Guest {
    let id = format!("{id:0<64}").parse().unwrap();
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Guest { id, name: name.to_owned(), pid: 7, labels, left_out: 0 }
}

/// By their ids.
pub(in crate::attach) fn by_id(guests: impl IntoIterator<Item = Guest>) -> BTreeMap<ContainerId, Guest> {
    guests.into_iter().map(|guest| (guest.id.clone(), guest)).collect()
}

fn guests() -> BTreeMap<ContainerId, Guest> {
    let of = |service: &'static str, number: &'static str, oneoff: &'static str| {
        [
            ("com.docker.compose.project", "shop"),
            ("com.docker.compose.service", service),
            ("com.docker.compose.container-number", number),
            ("com.docker.compose.oneoff", oneoff),
        ]
    };
    by_id([
        guest("aaaaaaaaaaaa1", "web", &[("tier", "front"), ("empty", "")]),
        guest("aaaaaaaaaaaa2", "db", &[("tier", "back")]),
        guest("bbbb", "cafe", &[("tier", "back")]),
        guest("cafe", "other", &[]),
        guest("1234", "shop-web-1", &of("web", "1", "False")),
        guest("dddd", "shop-web-2", &of("web", "2", "False")),
        guest("eeee", "shop-web-run-77", &of("web", "1", "True")),
    ])
}

/// The names of the containers that are meant.
fn meant(selector: &str) -> Vec<String> {
    let guests = guests();
    let places = selector.parse::<Selector>().unwrap().places(&guests).unwrap();
    let name = |place: &Place| match place {
        Place::Container(id) => guests[id].name.clone(),
        Place::Process { .. } | Place::File(_) => place.to_string(),
    };
    places.iter().map(name).collect()
}

#[test]
fn each_form_means_the_containers_that_it_says() {
    for (selector, names) in [
        ("web", &["web"][..]),
        ("name:web", &["web"]),
        ("nobody", &[]),
        // A name before an id that begins so.
        ("cafe", &["cafe"]),
        ("bbbb", &["cafe"]),
        ("aaaaaaaaaaaa2", &["db"]),
        ("name:bbbb", &[]),
        ("id:AAAAAAAAAAAA1", &["web"]),
        ("id:ffffffffffff", &[]),
        ("label:tier=back", &["db", "cafe"]),
        ("label:tier=", &[]),
        ("label:empty=", &["web"]),
        ("compose:shop/web", &["shop-web-1", "shop-web-2"]),
        ("compose:shop/web/1", &["shop-web-1"]),
        ("compose:shop/web/9", &[]),
        ("compose:other/web", &[]),
        ("1234", &["shop-web-1"]),
        // A word that is kept never means a process: it may be another one by then.
        ("4321", &[]),
        ("pid:1234", &["process 1234"]),
        ("/proc/1234/ns/net", &["process 1234"]),
        ("//proc/./1234//ns/net/", &["process 1234"]),
        ("netns:///run//netns/./x", &["/run/netns/x"]),
        ("/run/netns/x", &["/run/netns/x"]),
        ("netns:/run/netns/x", &["/run/netns/x"]),
    ] {
        assert_eq!(meant(selector), names, "{selector}");
    }
}

/// Later it means what it meant when it was attached, or nobody.
#[test]
fn a_selector_is_kept_as_that_which_it_meant() {
    let guests = guests();
    let kept = |text: &str| {
        let found = text.parse::<Selector>().unwrap().found(&guests).unwrap();
        found.map_or_else(String::new, |(selector, place)| format!("{selector} {place}"))
    };
    let id = |begin: &str| format!("id:{begin:0<64} container {begin:0<12.12}");
    for (text, expected) in [
        ("web", "name:web container aaaaaaaaaaaa".to_owned()),
        ("cafe", "name:cafe container bbbb00000000".to_owned()),
        ("bbbb", id("bbbb")),
        ("id:aaaaaaaaaaaa1", id("aaaaaaaaaaaa1")),
        // An id that begins so before a process.
        ("1234", id("1234")),
        ("4321", "pid:4321 process 4321".to_owned()),
        ("pid:1234", "pid:1234 process 1234".to_owned()),
        ("label:tier=front", "label:tier=front container aaaaaaaaaaaa".to_owned()),
        ("0", String::new()),
        ("nobody", String::new()),
    ] {
        assert_eq!(kept(text), expected, "{text}");
    }
}

#[test]
fn what_is_kept_for_later_is_a_name_or_a_container_that_docker_knows_and_no_process() {
    let mut running = Running::default();
    let stopped: ContainerId = format!("{:0<64}", "abcdefabcdef").parse().unwrap();
    let named_so = guest("dddd", "cafecafecafe", &[]);
    for word in [Word::Begin, Word::Known(stopped.clone()), Word::Running(named_so), Word::Whole] {
        running.hear(word);
    }
    let later = |text: &str| text.parse::<Selector>().unwrap().later(&running).map(|kept| kept.to_string());
    let id = Some(format!("id:{}", stopped.as_str()));
    for (text, kept) in [
        ("web", Some("name:web".to_owned())),
        ("1234", Some("name:1234".to_owned())),
        ("abcdefabcdef", id.clone()),
        ("id:abcdefabcdef", id),
        ("id:abcdefabcdee", None),
        (stopped.as_str(), Some(format!("id:{}", stopped.as_str()))),
        (&"e".repeat(64), None),
        (&"e".repeat(63), Some(format!("name:{}", "e".repeat(63)))),
        ("cafecafecafe", Some("name:cafecafecafe".to_owned())),
        ("label:a=b", Some("label:a=b".to_owned())),
        ("pid:1234", None),
    ] {
        assert_eq!(later(text), kept, "{text}");
    }
}

#[test]
fn a_process_is_for_the_same_as_one_that_was_started_at_the_same_time() {
    let is_same = |one: &str, other: &str| {
        let [one, other] = [one, other].map(|text| text.parse::<Selector>().unwrap());
        assert_eq!(one.is_for_same(&other), other.is_for_same(&one));
        one.is_for_same(&other)
    };
    assert!(is_same("pid:7@100", "pid:7@100") && is_same("pid:7@100", "pid:7"));
    let boots = ["4ad8d9f2-54ab-4fe1-93cb-8f4ef4cb2c2b", "00000000-0000-4000-8000-000000000000"];
    let [one, other] = boots.map(|boot| format!("pid:7@100@{boot}"));
    assert!(is_same(&one, &one) && is_same(&one, "pid:7@100") && !is_same(&one, &other));
    assert!("pid:7@100@".parse::<Selector>().is_err());
    assert!(!is_same("pid:7@100", "pid:7@101") && !is_same("pid:7", "pid:8"));
    assert!(is_same("id:aaaaaaaaaaaa", "id:aaaaaaaaaaaa1") && !is_same("id:aaaaaaaaaaaa1", "id:aaaaaaaaaaaa2"));
    assert!(is_same("web", "name:web") && !is_same("7", "pid:7"));
}

#[test]
fn two_candidates_where_one_can_be_are_refused_and_both_named() {
    for (selector, said) in [
        (
            "aaaaaaaaaaaa",
            "aaaaaaaaaaaa means both web (aaaaaaaaaaaa) and db (aaaaaaaaaaaa): give more digits of the id, or the name",
        ),
        (
            "id:aaaaaaaaaaaa",
            "id:aaaaaaaaaaaa means both web (aaaaaaaaaaaa) and db (aaaaaaaaaaaa): give more digits of the id, or the name",
        ),
    ] {
        let refused = selector.parse::<Selector>().unwrap().places(&guests()).unwrap_err();
        assert_eq!(refused.to_string(), said);
    }
}

#[test]
fn what_selects_nothing_is_refused_with_what_to_write() {
    for (text, said) in [
        ("", "is missing"),
        (&"x".repeat(1025), "at most 1024 bytes"),
        ("web one", "no name of a container"),
        ("-web", "no name of a container"),
        ("name:", "no name of a container"),
        ("id:abc", "at least 12 of its hex digits"),
        ("id:wxyzwxyzwxyz", "at least 12"),
        ("label:tier", "write label:KEY=VALUE"),
        ("label:=x", "write label:KEY=VALUE"),
        ("compose:shop", "write compose:PROJECT/SERVICE"),
        ("compose:shop/web/x", "write compose:PROJECT/SERVICE"),
        ("compose:shop/web/0", "the first with number 1"),
        ("compose:shop//1", "write compose:PROJECT/SERVICE"),
        ("pid:0", "from 1 to 2147483647"),
        ("pid:-1", "from 1 to 2147483647"),
        ("pid:4294967295", "from 1 to 2147483647"),
        ("netns:x", "begins with a slash"),
        ("/run/netns/../../etc/passwd", "has no .."),
        ("/proc/self/ns/net", "write pid: and its number"),
        ("/proc/7/task/8/ns/net", "write pid: and its number"),
        ("netns:/proc/7/fd/3", "write pid: and its number"),
        ("//proc/self/ns/net", "write pid: and its number"),
        ("/./proc/7/fd/3", "write pid: and its number"),
        ("lxc:web", "lxc: is not supported"),
    ] {
        let error = text.parse::<Selector>().unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn whatever_is_written_is_refused_or_read_again_as_it_is_shown(
        text in prop_oneof![".{0,40}", "(name|id|label|compose|pid|netns):[a-f0-9/=.]{0,30}"]
    ) {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector.clone()));
            let _ = selector.places(&guests());
        }
    }
}
