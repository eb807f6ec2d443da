use wire_lease::named::{NetworkRecord, Record};

use super::*;
use crate::named::samples;

fn attachment(fields: &str) -> Attachment {
    let mut all = serde_json::json!({
        "id": "00000000000000aa", "generation": 1, "origin": "cli", "guest": "web", "interface": "eth1",
        "link": {"network": {"name": "app"}}, "addresses": ["network"],
    });
    let fields: serde_json::Value = serde_json::from_str(fields).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

/// The block 10.128.1.32/27 and the address .32 of the host itself; with IPv6 beside it.
fn kept() -> Kept {
    let json = r#"{"VNI":5000,"IPv4":{"Pool":"10.128.0.0/20","Block":27},"IPv6":{"Pool":"fd57::/64","Block":123},"Created":"2026-01-31T12:00:00Z"}"#;
    Kept { record: NetworkRecord::from_value(json.as_bytes()).unwrap(), ..samples::kept(1) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn chosen_of(fields: &str, kept: &Kept, own: &[&str]) -> Choice {
    let own = own.iter().map(|text| ip(text)).chain(kept.member.own.iter().map(|(_, own)| *own)).collect();
    let of_other = |address| (address == ip("10.128.1.34")).then(|| "the host 2 (192.0.2.2)".to_owned());
    let taken = Taken { own, named: BTreeSet::new(), holder: &of_other };
    choose(&attachment(fields), kept, &taken)
}

/// The addresses and the MAC as text.
fn chosen(fields: &str, kept: &Kept, own: &[&str]) -> String {
    match chosen_of(fields, kept, own) {
        Choice::Has { addresses, mac } => {
            let all: Vec<String> = addresses.iter().map(|(_, address)| address.to_string()).collect();
            format!("{} {mac}", all.join(" "))
        }
        Choice::Needs(need) => format!("{need:?}"),
        Choice::Refused(why) => why,
    }
}

#[test]
fn a_container_gets_the_first_free_address_and_the_one_of_ipv6_that_belongs_to_it() {
    assert_eq!(chosen("{}", &kept(), &[]), "10.128.1.33 fd57::a80:121 02:57:0a:80:01:21");
    let next = chosen("{}", &kept(), &["10.128.1.33"]);
    assert_eq!(next, "10.128.1.35 fd57::a80:123 02:57:0a:80:01:23", "another host has .34 alone");
    assert_eq!(chosen("{}", &samples::kept(1), &[]), "10.128.1.33 02:57:0a:80:01:21");
    let all: Vec<String> = (33..64).map(|last| format!("10.128.1.{last}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(chosen_of("{}", &kept(), &all), Choice::Needs(Need::More));
}

#[test]
fn a_named_address_is_claimed_where_it_is_in_no_block_of_this_host() {
    assert_eq!(
        chosen(r#"{"addresses":["10.128.1.40/32"]}"#, &kept(), &[]),
        "10.128.1.40 fd57::a80:128 02:57:0a:80:01:28"
    );
    let far = r#"{"addresses":["10.128.9.9/32"]}"#;
    let mac = MacAddr::of_container(ip("10.128.9.9"));
    assert_eq!(chosen_of(far, &kept(), &[]), Choice::Needs(Need::Claim(ip("10.128.9.9"), mac)));
    let mut claimed = kept();
    claimed.rooms.push(Room::Address(ip("10.128.9.9"), mac));
    assert_eq!(chosen(far, &claimed, &[]), "10.128.9.9 fd57::a80:909 02:57:0a:80:09:09");
    let v6 = r#"{"addresses":["network","fd57::7:0:0:9/128"]}"#;
    let usable = r#"{"addresses":["network","fd57::5/128"]}"#;
    assert!(chosen(v6, &kept(), &[]).contains("is none of the addresses"), "{}", chosen(v6, &kept(), &[]));
    let mac = MacAddr::of_container(ip("10.128.1.33"));
    assert_eq!(chosen_of(usable, &kept(), &[]), Choice::Needs(Need::Claim(ip("fd57::5"), mac)));
}

#[test]
fn a_named_mac_is_told_to_the_others_by_a_claim_and_kept_for_whom_it_was_claimed() {
    let named = r#"{"mac":"02:00:00:00:00:07"}"#;
    let mac = "02:00:00:00:00:07".parse().unwrap();
    assert_eq!(chosen_of(named, &kept(), &[]), Choice::Needs(Need::Claim(ip("10.128.1.33"), mac)));
    let mut claimed = kept();
    claimed.rooms.push(Room::Address(ip("10.128.1.33"), mac));
    assert_eq!(chosen(named, &claimed, &[]), "10.128.1.33 fd57::a80:121 02:00:00:00:00:07");
    assert_eq!(chosen("{}", &claimed, &[]), "10.128.1.35 fd57::a80:123 02:57:0a:80:01:23");
}

#[test]
fn what_no_container_can_have_is_refused_with_the_reason() {
    for (address, said) in [
        ("10.128.0.1/32", "the gateway's"),
        ("10.128.1.32/32", "10.128.1.32 is in use on this host already"),
        ("10.128.1.34/32", "the host 2 (192.0.2.2) has 10.128.1.34: give another one"),
        ("10.9.9.9/32", "it is outside"),
        ("fd57::a80:128/128", "give that with --ip"),
        ("fd99::5/128", "it is outside"),
    ] {
        let why = chosen(&format!("{{\"addresses\":[\"network\",\"{address}\"]}}"), &kept(), &[]);
        assert!(why.contains(said), "{address}: {why}");
    }
    let why = chosen(r#"{"addresses":["network","fd57::5/128"]}"#, &samples::kept(1), &[]);
    assert_eq!(why, "the network has no IPv6 addresses");
}

#[test]
fn single_addresses_that_nobody_needs_are_given_back() {
    let mut kept = kept();
    assert_eq!(idle(&kept, &BTreeSet::new()), None);
    let room = Room::Address(ip("10.128.9.9"), MacAddr::of_container(ip("10.128.9.9")));
    kept.rooms.push(room);
    assert_eq!(idle(&kept, &BTreeSet::new()), Some(room));
    assert_eq!(idle(&kept, &[ip("10.128.9.9")].into()), None);
    kept.member.own.v4 = Some(ip("10.128.9.9"));
    assert_eq!(idle(&kept, &BTreeSet::new()), None);
}
