//! Lease values byte for byte, and what is no lease value.

mod oracle;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use wire_lease::{BackendData, Lease, LeaseError, Vtep};
use wire_net::{DualStack, Family, MacAddr, Prefix, Subnet, Vni};

/// Quoted from flannel's Documentation/reservations.md,
/// <https://github.com/flannel-io/flannel/blob/067ed7f6ef35e4450d5c46fae53a941e57286193/Documentation/reservations.md>.
const FLANNELS: (&str, &str) = (
    "10.5.52.0-24",
    r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
);

/// The forms of the contract that flannel's documents do not show.
const OURS: [(&str, &str); 6] = [
    (
        "10.5.52.0-24&fd00:1::-64",
        r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#,
    ),
    (
        "fd00:1::-64",
        r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#,
    ),
    ("10.5.52.0-24", r#"{"PublicIP":"192.168.64.3","PublicIPv6":null}"#),
    ("10.5.52.0-24", r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"host-gw"}"#),
    ("10.5.52.0-24", r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"ipip"}"#),
    (
        "10.5.52.0-24",
        r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
    ),
];

fn read(key: &str, value: &[u8]) -> Result<Lease, LeaseError> {
    Lease::from_value(key.parse().unwrap(), value)
}

#[test]
fn values_come_back_byte_for_byte() {
    for (key, value) in std::iter::once(FLANNELS).chain(OURS) {
        let lease = read(key, value.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(lease.to_value()).unwrap(), value);
    }
}

#[test]
fn flannels_lease_says_what_it_says() {
    let lease = read(FLANNELS.0, FLANNELS.1.as_bytes()).unwrap();
    assert_eq!(lease.public.v4, Some(IpAddr::V4(Ipv4Addr::new(192, 168, 64, 3))));
    let vtep = Vtep { vni: Vni::new(1), mac: MacAddr::new([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]) };
    assert_eq!(lease.data, BackendData::Vxlan(DualStack { v4: Some(vtep), v6: None }));
}

#[test]
fn readers_are_lenient_where_flannel_is() {
    let strict = read(FLANNELS.0, FLANNELS.1.as_bytes()).unwrap();
    let odd = r#" {"publicip":"192.168.64.3","backendTYPE":"vxlan","Fruit":[1],"BACKENDDATA":{"vni":1,"vtepmac":"C6:D2:32:6F:8F:44","x":0}} "#;
    assert_eq!(read(FLANNELS.0, odd.as_bytes()).unwrap(), strict);
    for typed in [r#""BackendType":"","#, r#""BackendType":null,"#, ""] {
        let value = format!(r#"{{{typed}"PublicIP":"192.168.64.3"}}"#);
        assert_eq!(read(FLANNELS.0, value.as_bytes()).unwrap().data, BackendData::Untyped, "{value}");
    }
    let wireguard = r#"{"PublicIP":"192.168.64.3","BackendType":"wireguard","BackendData":{"PublicKey":"x"}}"#;
    assert_eq!(read(FLANNELS.0, wireguard.as_bytes()).unwrap().data, BackendData::Other("wireguard".to_owned()));
}

#[test]
fn what_is_no_lease_is_refused_by_name() {
    let vxlan = |data: &str| format!(r#"{{"PublicIP":"192.168.64.3","BackendType":"vxlan","BackendData":{data}}}"#);
    let mac = |mac: &str| vxlan(&format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
    let megabyte = format!(r#"{{"PublicIP":"192.168.64.3","Fruit":"{}"}}"#, "x".repeat(1 << 20));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"xx{".to_vec(), "not a JSON object"),
        (Vec::new(), "not a JSON object"),
        (b"[]".to_vec(), "not a JSON object"),
        (b"null".to_vec(), "not a JSON object"),
        (b"\xff\xfe{}".to_vec(), "not a JSON object"),
        (b"{\"PublicIP\":\"\xff\"}".to_vec(), "not a JSON object"),
        ("[".repeat(10_000).into_bytes(), "not a JSON object"),
        (megabyte.into_bytes(), "the value has more than 16384 bytes"),
        (b"{}".to_vec(), "PublicIP is missing"),
        (br#"{"PublicIP":null}"#.to_vec(), "PublicIP is missing"),
        (br#"{"PublicIP":"0.0.0.0"}"#.to_vec(), "PublicIP is missing"),
        (br#"{"PublicIP":7}"#.to_vec(), "PublicIP is no text"),
        (br#"{"PublicIP":"fd99::3"}"#.to_vec(), "PublicIP holds \"fd99::3\""),
        (br#"{"PublicIP":"192.168.64.3.4"}"#.to_vec(), "PublicIP holds"),
        (br#"{"PublicIP":"192.168.64.3","PublicIPv6":"x"}"#.to_vec(), "PublicIPv6 holds"),
        (br#"{"PublicIP":"192.168.64.3","BackendType":"vxlan"}"#.to_vec(), "BackendData is missing"),
        (vxlan("7").into_bytes(), "BackendData is missing or no object"),
        (vxlan("{}").into_bytes(), "BackendData has no VtepMAC"),
        (vxlan(r#"{"VNI":"1","VtepMAC":"c6:d2:32:6f:8f:44"}"#).into_bytes(), "BackendData has a VNI"),
        (vxlan(r#"{"VNI":16777216,"VtepMAC":"c6:d2:32:6f:8f:44"}"#).into_bytes(), "BackendData has a VNI"),
        (mac("c6:d2:32:6f:8f").into_bytes(), "BackendData has a bad VtepMAC"),
        (mac("c6:d2:32:6f:8f:4g").into_bytes(), "BackendData has a bad VtepMAC"),
        (mac("").into_bytes(), "BackendData has a bad VtepMAC"),
    ];
    for (value, part) in cases {
        let error = read("10.5.52.0-24", &value).expect_err(&String::from_utf8_lossy(&value)).to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
        assert!(error.len() < 400, "an error is a line, not the value");
    }
    let half = br#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendData":{"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
    assert!(read("10.5.52.0-24&fd00:1::-64", half).unwrap_err().to_string().contains("BackendV6Data is missing"));
}

fn leases() -> impl Strategy<Value = Lease> {
    let vtep = (any::<[u8; 6]>(), proptest::option::of(0u32..1 << 24))
        .prop_map(|(mac, vni)| Vtep { vni: vni.and_then(Vni::new), mac: MacAddr::new(mac) });
    let parts = (any::<u32>(), any::<u128>(), 1u32.., 1u128.., 1u8..4, [vtep.clone(), vtep], 0u8..4);
    parts.prop_map(|(v4, v6, public4, public6, families, [vtep4, vtep6], data)| {
        let wanted = |family| families & if family == Family::V4 { 1 } else { 2 } != 0;
        let both = |family| match family {
            Family::V4 => Prefix::from_bits(family, v4.into(), 24),
            Family::V6 => Prefix::from_bits(family, v6, 64),
        };
        let of = |family| wanted(family).then_some(());
        let families = DualStack::from_fn(of);
        let public = families.map(|family, ()| match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(public4)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(public6)),
        });
        let data = match data {
            0 => BackendData::Untyped,
            1 => BackendData::HostGw,
            2 => BackendData::Ipip,
            _ => BackendData::Vxlan(families.map(|family, ()| if family == Family::V4 { vtep4 } else { vtep6 })),
        };
        Lease {
            subnet: Subnet::new(families.map(|family, ()| both(family).unwrap())).unwrap(),
            public,
            data,
            port: None,
            former: None,
        }
    })
}

proptest! {
    #[test]
    fn a_lease_survives_the_way_through_the_store(lease in leases()) {
        let subnet: Subnet = lease.subnet.to_string().parse().unwrap();
        prop_assert_eq!(Lease::from_value(subnet, &lease.to_value()).unwrap(), lease);
    }

    #[test]
    fn no_bytes_make_it_panic(key in ".{0,60}", value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _key = key.parse::<Subnet>();
        let _value = read("10.5.52.0-24&fd00:1::-64", &value);
    }

    #[test]
    fn no_change_of_one_byte_makes_it_panic(lease in leases(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut value = lease.to_value();
        let at = at.index(value.len());
        value[at] = byte;
        let _value = Lease::from_value(lease.subnet, &value);
    }
}
