//! The backend that a host spoke before, as its record names it: with the fields of a lease.

use serde::{Deserialize, Serialize};
use wire_net::{DualStack, MacAddr, Vni};

use crate::{BackendData, Vtep};

/// The name of the backend whose leases have none.
const UDP: &str = "udp";

/// A backend that a host speaks beside that of its lease, until all others speak the new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FormerJson", into = "FormerJson")]
pub struct FormerBackend {
    /// Its data, as in a lease.
    pub data: BackendData,
    /// The UDP port on which it listens, if its packets are in UDP. Carried on if it is another than ours.
    pub port: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct FormerJson {
    #[serde(rename = "BackendType")]
    backend_type: String,
    #[serde(rename = "BackendData", default, skip_serializing_if = "Option::is_none")]
    backend_data: Option<VtepJson>,
    #[serde(rename = "BackendV6Data", default, skip_serializing_if = "Option::is_none")]
    backend_v6_data: Option<VtepJson>,
    #[serde(rename = "Port", default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct VtepJson {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: MacAddr,
}

impl VtepJson {
    fn checked(&self) -> Result<Vtep, String> {
        let Self { vni, mac } = *self;
        let vni = Vni::new(vni).ok_or_else(|| format!("Former has the VNI {vni}, which is no number below 2^24"))?;
        if !mac.is_unicast() {
            return Err(format!("Former has the VtepMAC {mac}, which is no host's"));
        }
        Ok(Vtep { vni: Some(vni), mac })
    }
}

impl TryFrom<FormerJson> for FormerBackend {
    type Error = String;

    fn try_from(json: FormerJson) -> Result<Self, String> {
        let FormerJson { backend_type, backend_data, backend_v6_data, port } = json;
        if port == Some(0) {
            return Err("Former has the Port 0".to_owned());
        }
        let data = match backend_type.as_str() {
            UDP => BackendData::Untyped,
            "host-gw" => BackendData::HostGw,
            "ipip" => BackendData::Ipip,
            "vxlan" => {
                let checked = |data: Option<VtepJson>| data.as_ref().map(VtepJson::checked).transpose();
                let vteps = DualStack { v4: checked(backend_data)?, v6: checked(backend_v6_data)? };
                if vteps.is_empty() {
                    return Err("Former is vxlan, and has neither BackendData nor BackendV6Data".to_owned());
                }
                BackendData::Vxlan(vteps)
            }
            // One that a later release knows. It is nobody's whom this one reaches.
            other if other.len() <= 64 && !other.contains(char::is_control) => BackendData::Other(backend_type),
            _ => return Err("Former has a BackendType that is no name".to_owned()),
        };
        Ok(Self { data, port })
    }
}

impl From<FormerBackend> for FormerJson {
    fn from(FormerBackend { data, port }: FormerBackend) -> Self {
        let vteps = match &data {
            BackendData::Vxlan(vteps) => *vteps,
            BackendData::Untyped | BackendData::HostGw | BackendData::Ipip | BackendData::Other(_) => {
                DualStack::default()
            }
        };
        let json = |vtep: Option<Vtep>| Some(VtepJson { vni: vtep?.vni?.number(), mac: vtep?.mac });
        let (backend_data, backend_v6_data) = (json(vteps.v4), json(vteps.v6));
        let backend_type = if data == BackendData::Untyped { UDP } else { data.name() }.to_owned();
        Self { backend_type, backend_data, backend_v6_data, port }
    }
}
