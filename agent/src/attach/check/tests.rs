use super::*;

/// A document, as it is on disk: this one with some fields changed.
pub(crate) fn document(fields: &str) -> Attachment {
    let mut all = serde_json::json!({
        "id": "00000000000000aa", "generation": 1, "origin": "cli", "guest": "web", "interface": "eth1",
        "link": {"network": {"name": "blue"}}, "addresses": ["10.1.1.5/24"],
    });
    let fields: serde_json::Value = serde_json::from_str(fields).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

#[test]
fn each_rule_is_named_when_it_is_broken() {
    for (fields, said) in [
        (r#"{"addresses":["10.1.1.0/24"]}"#, "10.1.1.0 cannot be an address of a container: it is the network address"),
        (r#"{"addresses":["10.1.1.255/24"]}"#, "it is the broadcast address of its prefix"),
        (r#"{"addresses":["fd00::/64"]}"#, "it is the address of each router"),
        (r#"{"addresses":["224.0.0.5/24"]}"#, "it is for multicast"),
        (r#"{"addresses":["ff02::1/64"]}"#, "it is for multicast"),
        (r#"{"addresses":["127.0.0.1/8"]}"#, "loopback"),
        (r#"{"addresses":["::1/128"]}"#, "loopback"),
        (r#"{"addresses":["0.0.0.0/0"]}"#, "the address of nobody"),
        (r#"{"addresses":["255.255.255.255/32"]}"#, "for broadcast"),
        (r#"{"addresses":["fe80::5/64"]}"#, "link-local"),
        (r#"{"addresses":["::ffff:10.1.1.5/120"]}"#, "write it as IPv4"),
        (r#"{"addresses":["10.1.1.5/24","10.1.1.5/16"]}"#, "10.1.1.5 is given twice"),
        (r#"{"guest":"label:tier=web"}"#, "label:tier=web can be several containers, which cannot all have 10.1.1.5"),
        (r#"{"guest":"compose:shop/web"}"#, "name one container"),
        (
            r#"{"guest":"compose:shop/web","addresses":["network"],"mac":"02:00:00:00:00:01"}"#,
            "the MAC 02:00:00:00:00:01",
        ),
        (r#"{"gateway":"fd00::1"}"#, "fd00::1 is IPv6, and the container gets no address of that family here"),
        (r#"{"gateway":"10.1.1.5"}"#, "the container's own address"),
        (r#"{"gateway":"224.0.0.1"}"#, "cannot be a gateway: it is for multicast"),
        (r#"{"routes":[{"to":"fd00::/64","via":"10.1.1.1"}]}"#, "which is of the other family"),
        (r#"{"routes":[{"to":"10.2.0.0/16","via":"10.1.1.1"},{"to":"10.2.0.0/16","via":"10.1.1.2"}]}"#, "there twice"),
        (r#"{"routes":[{"to":"10.2.0.0/16","via":"127.0.0.1"}]}"#, "127.0.0.1 cannot be a gateway"),
        (r#"{"interface":"lo"}"#, "lo is the container's own"),
        (r#"{"mac":"01:00:5e:00:00:01"}"#, "for groups (multicast)"),
        (r#"{"mac":"00:00:00:00:00:00"}"#, "it is all zero"),
        (r#"{"mtu":60}"#, "an MTU of 60 is too small: IPv4 needs 68"),
        (r#"{"mtu":1000,"addresses":["fd00::5/64"]}"#, "IPv6 needs 1280"),
    ] {
        let error = document(fields).check().unwrap_err().to_string();
        assert!(error.contains(said), "{fields}: {error}");
    }
    let many: Vec<String> = (1..=65).map(|last| format!("\"10.1.1.{last}/24\"")).collect();
    let many = document(&format!("{{\"addresses\":[{}]}}", many.join(",")));
    assert_eq!(many.check().unwrap_err().to_string(), "more than 64 addresses are given");
}

#[test]
fn what_keeps_the_rules_is_taken() {
    for fields in [
        "{}",
        r#"{"addresses":[]}"#,
        r#"{"addresses":["10.1.1.4/31"]}"#,
        r#"{"addresses":["10.1.1.5/32"],"gateway":"10.1.1.1"}"#,
        r#"{"addresses":["fd00::/127"]}"#,
        r#"{"addresses":["10.1.1.5/24","fd00::5/64"],"gateway":"fe80::1"}"#,
        r#"{"addresses":["network"],"gateway":"fd00::1","guest":"label:tier=web"}"#,
        r#"{"guest":"compose:shop/web/2"}"#,
        r#"{"mtu":1400,"mac":"02:00:00:00:00:01","routes":[{"to":"10.2.0.0/16","via":"10.1.1.1"}]}"#,
    ] {
        assert_eq!(document(fields).check(), Ok(()), "{fields}");
    }
}

#[test]
fn a_gateway_outside_of_the_prefixes_is_taken_and_said() {
    let note = document(r#"{"gateway":"10.9.9.9"}"#).notes();
    assert_eq!(
        note,
        ["the gateway 10.9.9.9 is outside of all given prefixes: it gets a route of its own over the interface"]
    );
    for fields in [r#"{"gateway":"10.1.1.1"}"#, "{}", r#"{"addresses":["network"],"gateway":"10.9.9.9"}"#] {
        assert!(document(fields).notes().is_empty(), "{fields}");
    }
}

#[test]
fn what_another_attachment_has_is_refused_and_that_one_named() {
    let others = [document("{}"), document(r#"{"id":"00000000000000bb","guest":"db","addresses":["network"]}"#)];
    for (fields, said) in [
        (
            r#"{"id":"00000000000000cc","addresses":[]}"#,
            "attachment 00000000000000aa makes eth1 in web already: give this one another --name, or detach that one",
        ),
        (
            r#"{"id":"00000000000000cc","guest":"db","interface":"eth2","addresses":["10.1.1.5/16"]}"#,
            "attachment 00000000000000aa has 10.1.1.5 already, for web",
        ),
    ] {
        assert_eq!(document(fields).check_among(others.iter()).unwrap_err().to_string(), said);
    }
    let another = r#"{"id":"00000000000000cc","guest":"db","interface":"eth2","addresses":["network"]}"#;
    assert_eq!(document(another).check_among(others.iter()), Ok(()));
    assert_eq!(document(r#"{"generation":2}"#).check_among(others.iter()), Ok(()), "itself");
}

#[test]
fn a_host_has_no_more_than_1024() {
    let of =
        |number: usize| document(&format!("{{\"id\":\"{number:016x}\",\"guest\":\"web{number}\",\"addresses\":[]}}"));
    let others: Vec<Attachment> = (0..MOST).map(of).collect();
    assert_eq!(of(MOST).check_among(others[1..].iter()), Ok(()));
    assert_eq!(of(MOST).check_among(others.iter()), Err(Refused::Full));
    assert_eq!(of(3).check_among(others.iter()), Ok(()), "one that is there is changed");
}

#[test]
fn texts_are_read_or_refused_with_what_to_write() {
    let wish = |text: &str| text.parse::<Wish>().unwrap_err().to_string();
    assert_eq!(wish("10.1.1.5"), "address needs a prefix length; did you mean 10.1.1.5/24?");
    assert_eq!(wish("fd00::5"), "address needs a prefix length; did you mean fd00::5/64?");
    assert_eq!(wish("10.1.1.5/33"), "10.1.1.5/33: a prefix length of this family is at most 32");
    for text in ["", "web", "10.1.1/24", "10.1.1.5/x", "10.1.1.5/-1", "10.1.1.5/24/8", "10.1.1.5/300"] {
        assert!(wish(text).contains("write 10.1.1.5/24"), "{text}");
    }
    for text in ["10.1.1.5/24", "fd00::5/64", "network"] {
        assert_eq!(text.parse::<Wish>().unwrap().to_string(), text);
    }
    for (text, said) in [
        ("abcdefghijklmnop", "at most 15 letters"),
        ("a/b", "at most 15 letters"),
        ("a b", "at most 15 letters"),
        ("..", "at most 15 letters"),
        ("", "at most 15 letters"),
        ("lo", "the container's own"),
    ] {
        let error = interface(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    for (text, said) in
        [("02:00:00:00:00", "six octets"), ("00:00:00:00:00:00", "all zero"), ("ff:ff:ff:ff:ff:ff", "for groups")]
    {
        let error = mac(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}
