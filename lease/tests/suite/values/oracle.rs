//! Reads a lease by way of a whole JSON value: slow and plain. `Lease::from_value` must say the same of every value.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value};
use wire_lease::{BackendData, Lease, LeaseError, Vtep};
use wire_net::{DualStack, Family, MacAddr, MacError, Subnet, Vni};

fn from_value(subnet: Subnet, value: &[u8]) -> Result<Lease, LeaseError> {
    if value.len() > Lease::LONGEST {
        return Err(LeaseError::Long);
    }
    let value: Value = serde_json::from_slice(value).map_err(|error| LeaseError::Json(error.to_string()))?;
    let Value::Object(fields) = value else {
        return Err(LeaseError::Json("it holds no fields".to_owned()));
    };
    let fields = Fields(&fields);
    let public = DualStack {
        v4: fields.address::<Ipv4Addr>("PublicIP")?.map(IpAddr::from).filter(|ip| !ip.is_unspecified()),
        v6: fields.address::<Ipv6Addr>("PublicIPv6")?.map(IpAddr::from),
    };
    for prefix in subnet.prefixes() {
        if public.get(prefix.family()).is_none() {
            let field = if prefix.family() == Family::V4 { "PublicIP" } else { "PublicIPv6" };
            return Err(LeaseError::Field { field, rule: format!("is missing, so nobody can reach {prefix}") });
        }
    }
    let data = match fields.text("BackendType")?.as_deref() {
        None | Some("") => BackendData::Untyped,
        Some("vxlan") => BackendData::Vxlan(vteps(subnet, fields)?),
        Some("host-gw") => BackendData::HostGw,
        Some("ipip") => BackendData::Ipip,
        Some(other) if other.contains(char::is_control) => {
            return Err(LeaseError::Field { field: "BackendType", rule: "holds control characters".to_owned() });
        }
        Some(other) => BackendData::Other(other.chars().take(64).collect()),
    };
    Ok(Lease::new(subnet, public, data))
}

fn vteps(subnet: Subnet, fields: Fields<'_>) -> Result<DualStack<Vtep>, LeaseError> {
    let mut vteps = DualStack::default();
    for prefix in subnet.prefixes() {
        let field = if prefix.family() == Family::V4 { "BackendData" } else { "BackendV6Data" };
        let refuse = |rule: &str| LeaseError::Field { field, rule: rule.to_owned() };
        let Some(Value::Object(data)) = fields.find(field) else {
            return Err(refuse("is missing or no object"));
        };
        let data = Fields(data);
        let vni = match data.find("VNI") {
            None => None,
            Some(number) => {
                let number = number.as_u64().and_then(|number| u32::try_from(number).ok()).and_then(Vni::new);
                Some(number.ok_or_else(|| refuse("has a VNI that is no number below 2^24"))?)
            }
        };
        let mac = data.text("VtepMAC")?.ok_or_else(|| refuse("has no VtepMAC"))?;
        let mac: MacAddr = mac.parse().map_err(|error: MacError| refuse(&format!("has a bad VtepMAC: {error}")))?;
        vteps.set(prefix.family(), Some(Vtep { vni, mac }));
    }
    Ok(vteps)
}

#[derive(Clone, Copy)]
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn find(self, name: &str) -> Option<&'a Value> {
        let any_case = || self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        self.0.get(name).or_else(any_case).filter(|value| !value.is_null())
    }

    fn text(self, field: &'static str) -> Result<Option<String>, LeaseError> {
        match self.find(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(LeaseError::Field { field, rule: "is no text".to_owned() }),
        }
    }

    fn address<A: FromStr>(self, field: &'static str) -> Result<Option<A>, LeaseError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let rule = || format!("holds {text:?}, which is no such address");
        text.parse().map(Some).map_err(|_| LeaseError::Field { field, rule: rule() })
    }
}

/// Names of fields, most of them wanted ones in several spellings; one is written with an escape.
const NAMES: [&str; 16] = [
    "PublicIP",
    "PublicIP",
    "publicip",
    "PUBLICIP",
    r"Publi\u0063IP",
    "PublicIPv6",
    "publicIPv6",
    "BackendType",
    "backendtype",
    "BACKENDTYPE",
    "BackendData",
    "backendData",
    "backenddata",
    "BackendV6Data",
    "backendv6data",
    "Fruit",
];

const DATA_NAMES: [&str; 8] = ["VNI", "vni", "Vni", "VtepMAC", "vtepmac", "VTEPMAC", "BackendType", "Fruit"];

const VALUES: [&str; 25] = [
    r#""192.168.64.3""#,
    r#""192.168.64.4""#,
    r#""0.0.0.0""#,
    r#""192.168.64.3\n""#,
    r#""fd99::3""#,
    r#""fd99::\u0034""#,
    r#""vxlan""#,
    r#""\u0076xlan""#,
    r#""host-gw""#,
    r#""ipip""#,
    r#""a\u0007b""#,
    r#""""#,
    "null",
    "true",
    "7",
    "7.0",
    "-7",
    "-0",
    "16777216",
    "18446744073709551616",
    "1e999",
    r#""c6:d2:32:6f:8f:44""#,
    r#""c6:d2:32:6f:8f""#,
    r#"[1,{"VNI":2,"PublicIP":"192.168.64.5"},[]]"#,
    r#"{"PublicIP":"192.168.64.6","VNI":{"VNI":3},"BackendData":{"VNI":4}}"#,
];

fn object(names: &'static [&'static str], values: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let field = (select(names), values).prop_map(|(name, value)| format!(r#""{name}":{value}"#));
    proptest::collection::vec(field, 0..9).prop_map(|fields| format!("{{{}}}", fields.join(",")))
}

fn values() -> impl Strategy<Value = String> {
    let data = object(&DATA_NAMES, select(&VALUES[..]).prop_map(str::to_owned)).boxed();
    let value = prop_oneof![3 => select(&VALUES[..]).prop_map(str::to_owned), 2 => data.clone()].boxed();
    // A lease that is read, with other fields before and after it.
    let around = [object(&NAMES, value.clone()), object(&NAMES, value.clone())];
    let lease = around.prop_map(|[before, after]| {
        let good = r#""PublicIP":"192.168.64.3","PublicIPv6":"fd99::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VtepMAC":"c6:d2:32:6f:8f:45"}"#;
        let inside = |object: &str| object[1..object.len() - 1].to_owned();
        let parts = [inside(&before), good.to_owned(), inside(&after)];
        format!("{{{}}}", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(","))
    });
    prop_oneof![object(&NAMES, value), lease, data]
}

const SUBNETS: [&str; 3] = ["10.5.52.0-24", "10.5.52.0-24&fd00:1::-64", "fd00:1::-64"];

fn agree(subnet: &str, value: &[u8]) -> Result<(), TestCaseError> {
    let subnet = subnet.parse().unwrap();
    prop_assert_eq!(Lease::from_value(subnet, value), from_value(subnet, value), "{}", value.escape_ascii());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_value_reads_as_a_whole_json_value_does(subnet in select(&SUBNETS[..]), value in values()) {
        agree(subnet, value.as_bytes())?;
    }

    #[test]
    fn so_does_one_with_other_bytes_in_it(
        subnet in select(&SUBNETS[..]),
        value in values(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut value = value.into_bytes();
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
        }
        agree(subnet, &value)?;
    }

    #[test]
    fn so_does_one_that_is_cut_off_or_goes_on(
        subnet in select(&SUBNETS[..]),
        value in values(),
        end in any::<prop::sample::Index>(),
        more in select(&["", " ", "\n", "}", "{}", "x"][..]),
    ) {
        agree(subnet, &value.as_bytes()[..end.index(value.len())])?;
        agree(subnet, format!("{value}{more}").as_bytes())?;
    }
}

#[test]
fn so_does_one_that_is_deep_or_has_text_that_is_no_text() {
    let deep = |levels: usize| format!(r#"{{"Fruit":{}{}}}"#, "[".repeat(levels), "]".repeat(levels)).into_bytes();
    let odd = [
        deep(100),
        deep(126),
        deep(127),
        deep(128),
        deep(1000),
        b"{\"Fruit\":\"\xff\"}".to_vec(),
        b"{\"\xff\":1}".to_vec(),
        br#"{"Fruit":"\ud800"}"#.to_vec(),
        br#"{"\ud800":1}"#.to_vec(),
        b"{1:2}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"\"text\"".to_vec(),
        b"7".to_vec(),
    ];
    for value in odd {
        agree("10.5.52.0-24", &value).unwrap();
    }
}
