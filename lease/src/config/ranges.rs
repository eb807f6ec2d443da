//! Where the subnets of networks by name come from: the field `Networks` of the network config.

use std::net::Ipv6Addr;

use serde_json::Value;
use wire_net::{DualStack, Family, KeyPrefix, Prefix};

use super::{
    ConfigError,
    fields::{ConfigFields, Fields},
    pool::reserved,
};
use crate::allocate::hash;

/// The range of one family, and the length of the subnets that are chosen from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkRange {
    /// The range.
    pub range: Prefix,
    /// The length of each network's subnet in bits.
    pub len: u8,
}

impl NetworkRange {
    /// Reads the ranges of both families. By default they are 10.128.0.0/9 with subnets of /20, and a /48 that follows from the prefix of the keys
    /// (RFC 4193) with subnets of /64.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn of_config(json: &[u8], prefix: &KeyPrefix) -> Result<DualStack<Self>, ConfigError> {
        let value: Value = serde_json::from_slice(json).map_err(|error| ConfigError::Json(error.to_string()))?;
        let Value::Object(object) = &value else { return Err(ConfigError::NoObject) };
        let fields = ConfigFields { object: Fields(object), path: "" };
        let empty = serde_json::Map::new();
        let networks = match fields.object.find("Networks") {
            None => &empty,
            Some(Value::Object(object)) => object,
            Some(other) => return Err(fields.refuse("Networks", other, "it must be an object")),
        };
        let fields = ConfigFields { object: Fields(networks), path: "Networks." };
        let usual = Self::usual(prefix);
        Ok(DualStack {
            v4: Some(fields.range(usual.v4, ["IPv4Pool", "IPv4Len"])?),
            v6: Some(fields.range(usual.v6, ["IPv6Pool", "IPv6Len"])?),
        })
    }

    /// The ranges without a config.
    fn usual(prefix: &KeyPrefix) -> Usual {
        let hash = (hash(&prefix.to_string(), 0) & u128::from(u32::MAX)) << 80;
        let v6 = Ipv6Addr::from_bits((0xfd57 << 112) | hash).into();
        let range = |address, bits, len| Self { range: Prefix::new(address, bits).expect("a fixed length"), len };
        Usual { v4: range([10, 128, 0, 0].into(), 9, 20), v6: range(v6, 48, 64) }
    }
}

struct Usual {
    v4: NetworkRange,
    v6: NetworkRange,
}

impl ConfigFields<'_> {
    fn range(self, usual: NetworkRange, [pool, len]: [&'static str; 2]) -> Result<NetworkRange, ConfigError> {
        let family = usual.range.family();
        let range = match self.text(pool)? {
            None => usual.range,
            Some(text) => {
                let refuse = |rule: String| self.refuse(pool, &Value::String(text.clone()), &rule);
                let range: Prefix = text.parse().map_err(|error: wire_net::PrefixError| refuse(error.to_string()))?;
                if range.family() != family {
                    return Err(refuse(format!("it must be an {family} prefix")));
                }
                if let Some((reserved, whose)) = reserved().find(|(reserved, _)| range.overlaps(*reserved)) {
                    return Err(refuse(format!("{reserved} is {whose}: take a prefix without it")));
                }
                range
            }
        };
        let longest = family.bits() - 3;
        let shortest = range.len().max(family.bits() / 4);
        let number = self.number::<u8>(len, shortest.into()..=longest.into())?;
        let default = match family {
            Family::V4 => usual.len.max(shortest).min(longest),
            Family::V6 => usual.len.max(shortest).min(96),
        };
        Ok(NetworkRange { range, len: number.unwrap_or(default) })
    }
}
