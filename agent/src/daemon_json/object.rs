//! The file's JSON object, with all its members in order and as they were written.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::DaemonOptions;

/// A JSON object with its members in order and their values as they were written.
pub(super) struct Object<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    pub(super) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        // If a key comes twice, dockerd uses the last.
        self.0.iter().rev().find(|(held, _)| held == key).map(|(_, raw)| *raw)
    }

    pub(super) fn value(&self, key: &str) -> Option<Value> {
        parse(self.raw(key)?)
    }

    /// The options that the file holds with the same values, if they are for our subnet: `mtu` or `ipv6` alone may be
    /// the operator's.
    pub(super) fn ours(&self, options: &DaemonOptions) -> DaemonOptions {
        let holds = |(key, value): &&(&'static str, Value)| self.value(key).as_ref() == Some(value);
        let held: DaemonOptions = options.iter().filter(holds).cloned().collect();
        let has = |key| held.iter().any(|(held, _)| *held == key);
        let (v4, v6) = (has("bip"), has("fixed-cidr-v6"));
        held.into_iter().filter(|(key, _)| v6 || (v4 && *key != "ipv6")).collect()
    }

    /// dockerd treats an empty text like none.
    pub(super) fn bridge(&self) -> Option<String> {
        Some(self.value("bridge")?.as_str()?.to_owned()).filter(|bridge| !bridge.is_empty())
    }

    /// The bridge, if the options ask for a bridge with an address of ours.
    pub(super) fn other_bridge(&self, options: &DaemonOptions) -> Option<String> {
        options.iter().any(|(key, _)| *key == "bip").then(|| self.bridge()).flatten()
    }
}

pub(super) fn parse(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
