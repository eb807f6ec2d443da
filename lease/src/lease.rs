//! A lease, and its value in the store, byte for byte as flannel writes it.

mod fields;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use wire_net::{DualStack, Family, MacAddr, Subnet, Vni};
use wire_store::KeyValue;

use self::fields::{Fields, Json};
use crate::{BackendRecord, FormerBackend};

/// The tunnel end point of one family, as `BackendData` and `BackendV6Data` carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// The VNI; old leases have none.
    pub vni: Option<Vni>,
    /// The MAC address of the VXLAN device.
    pub mac: MacAddr,
}

/// The backend's data in a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendData {
    /// The backend `vxlan`: a tunnel end point for each family.
    Vxlan(DualStack<Vtep>),
    /// The backends `alloc` and `udp`, whose leases carry no type.
    Untyped,
    /// The backend `host-gw`, whose leases carry nothing but their type.
    HostGw,
    /// The backend `ipip`, whose leases carry nothing but their type.
    Ipip,
    /// Any other backend, by the name of its type.
    Other(String),
}

impl BackendData {
    /// The value of `BackendType`; empty for leases without one.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::Untyped => "",
            Self::HostGw => "host-gw",
            Self::Ipip => "ipip",
            Self::Other(name) => name,
        }
    }

    /// The MACs of the host's VXLAN devices.
    #[must_use]
    pub fn macs(&self) -> DualStack<MacAddr> {
        match self {
            Self::Vxlan(vteps) => vteps.map(|_, vtep| vtep.mac),
            Self::Untyped | Self::HostGw | Self::Ipip | Self::Other(_) => DualStack::default(),
        }
    }

    fn vtep_json(&self, family: Family) -> Option<VtepJson> {
        match self {
            Self::Vxlan(vteps) => {
                vteps.get(family).map(|vtep| VtepJson { vni: vtep.vni.map(Vni::number), mac: vtep.mac })
            }
            Self::Untyped | Self::HostGw | Self::Ipip | Self::Other(_) => None,
        }
    }
}

/// The lease of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The leased prefixes.
    pub subnet: Subnet,
    /// The host's addresses on the underlay. IPv4 is missing only in IPv6-only networks.
    pub public: DualStack<IpAddr>,
    /// The backend's data.
    pub data: BackendData,
    /// The UDP port to which outer packets for this host are sent, if it is another than ours. It is no part of the value: it comes
    /// from the record beside the lease ([`crate::WithRecords`]).
    pub port: Option<u16>,
    /// The backend that the host spoke before, and still speaks beside that of its lease. From the record, too.
    pub former: Option<Box<FormerBackend>>,
}

/// A value that is not a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The value is longer than any lease.
    #[error("the value has more than {max} bytes, the most that a lease has", max = Lease::LONGEST)]
    Long,
    /// The value is not a JSON object.
    #[error("the value is not a JSON object: {0}")]
    Json(String),
    /// A field is missing or has a wrong value.
    #[error("the field {field} {rule}")]
    Field {
        /// The field, as flannel spells it.
        field: &'static str,
        /// The violated rule.
        rule: String,
    },
}

impl Lease {
    /// The longest value accepted as a lease, in bytes; a listing returns it whole. flannel's own have under 300.
    pub const LONGEST: usize = KeyValue::LONGEST_VALUE;

    /// A lease of whose record nothing is known.
    #[must_use]
    pub const fn new(subnet: Subnet, public: DualStack<IpAddr>, data: BackendData) -> Self {
        Self { subnet, public, data, port: None, former: None }
    }

    /// The record beside it, as far as that is carried on.
    #[must_use]
    pub fn record(&self) -> BackendRecord {
        BackendRecord { port: self.port, former: self.former.as_deref().cloned() }
    }

    /// The value for the store: compact JSON with flannel's fields in flannel's order.
    #[must_use]
    pub fn to_value(&self) -> Vec<u8> {
        let value = LeaseJson {
            public_ip: self.public.get(Family::V4).map_or(Ipv4Addr::UNSPECIFIED.into(), |ip| *ip),
            public_ipv6: self.public.get(Family::V6).copied(),
            backend_type: self.data.name(),
            backend_data: self.data.vtep_json(Family::V4),
            backend_v6_data: self.data.vtep_json(Family::V6),
        };
        serde_json::to_vec(&value).expect("a lease has only text keys")
    }

    /// Parses the value of the key of `subnet`. Field names may have any letter case; unknown fields are ignored.
    ///
    /// # Errors
    /// Names the field and the fault.
    pub fn from_value(subnet: Subnet, value: &[u8]) -> Result<Self, LeaseError> {
        if value.len() > Self::LONGEST {
            return Err(LeaseError::Long);
        }
        let Json::Object(fields) = Json::from_slice(value)? else {
            return Err(LeaseError::Json("it holds no fields".to_owned()));
        };
        let public = DualStack {
            v4: fields.address::<Ipv4Addr>("PublicIP")?.map(IpAddr::from).filter(|ip| !ip.is_unspecified()),
            v6: fields.address::<Ipv6Addr>("PublicIPv6")?.map(IpAddr::from),
        };
        for prefix in subnet.prefixes() {
            if public.get(prefix.family()).is_none() {
                let field = match prefix.family() {
                    Family::V4 => "PublicIP",
                    Family::V6 => "PublicIPv6",
                };
                return Err(LeaseError::Field { field, rule: format!("is missing, so nobody can reach {prefix}") });
            }
        }
        let data = match fields.text("BackendType")? {
            None | Some("") => BackendData::Untyped,
            Some("vxlan") => BackendData::Vxlan(vteps(subnet, &fields)?),
            Some("host-gw") => BackendData::HostGw,
            Some("ipip") => BackendData::Ipip,
            Some(other) if other.contains(char::is_control) => {
                return Err(LeaseError::Field { field: "BackendType", rule: "holds control characters".to_owned() });
            }
            Some(other) => BackendData::Other(other.chars().take(64).collect()),
        };
        Ok(Self::new(subnet, public, data))
    }
}

#[derive(Serialize)]
struct LeaseJson<'a> {
    #[serde(rename = "PublicIP")]
    public_ip: IpAddr,
    #[serde(rename = "PublicIPv6")]
    public_ipv6: Option<IpAddr>,
    #[serde(rename = "BackendType", skip_serializing_if = "str::is_empty")]
    backend_type: &'a str,
    #[serde(rename = "BackendData", skip_serializing_if = "Option::is_none")]
    backend_data: Option<VtepJson>,
    #[serde(rename = "BackendV6Data", skip_serializing_if = "Option::is_none")]
    backend_v6_data: Option<VtepJson>,
}

#[derive(Serialize)]
struct VtepJson {
    #[serde(rename = "VNI", skip_serializing_if = "Option::is_none")]
    vni: Option<u32>,
    #[serde(rename = "VtepMAC")]
    mac: MacAddr,
}

fn vteps(subnet: Subnet, fields: &Fields<'_>) -> Result<DualStack<Vtep>, LeaseError> {
    let mut vteps = DualStack::default();
    for prefix in subnet.prefixes() {
        let field = match prefix.family() {
            Family::V4 => "BackendData",
            Family::V6 => "BackendV6Data",
        };
        let refuse = |rule: &str| LeaseError::Field { field, rule: rule.to_owned() };
        let Some(Json::Object(data)) = fields.find(field) else {
            return Err(refuse("is missing or no object"));
        };
        let vni = match data.find("VNI") {
            None => None,
            Some(number) => {
                let number = if let Json::Whole(number) = number { u32::try_from(*number).ok() } else { None };
                Some(number.and_then(Vni::new).ok_or_else(|| refuse("has a VNI that is no number below 2^24"))?)
            }
        };
        let mac = data.text("VtepMAC")?.ok_or_else(|| refuse("has no VtepMAC"))?;
        let mac: MacAddr =
            mac.parse().map_err(|error: wire_net::MacError| refuse(&format!("has a bad VtepMAC: {error}")))?;
        vteps.set(prefix.family(), Some(Vtep { vni, mac }));
    }
    Ok(vteps)
}
