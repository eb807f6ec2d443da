//! Settings in dockerd's settings file that conflict with our options, and the remedies.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use wire_net::{Family, Prefix};

use super::{DaemonOptions, object::Object};

/// The conflicts between the file and the options that dockerd should get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    path: PathBuf,
    /// Options that are keys of the file too.
    keys: Vec<String>,
    /// True if one of those keys has another value than the flag.
    differs: bool,
    /// Another bridge for Docker's default network: dockerd accepts `bridge` or `bip`, not both.
    bridge: Option<String>,
    /// The settings outside the subnet, with their values.
    outside: Vec<(Outside, String)>,
}

/// The keys, and flags, whose values must be in our subnet, each with the option that holds that subnet.
const WITHIN: [(&str, &str); 4] = [
    ("default-gateway", "bip"),
    ("default-gateway-v6", "fixed-cidr-v6"),
    ("fixed-cidr", "bip"),
    ("bip6", "fixed-cidr-v6"),
];

/// A setting of Docker whose value must be in our subnet and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    key: &'static str,
    subnet: Prefix,
}

/// Checks the value of a key or flag of Docker's.
pub(crate) fn outside(options: &DaemonOptions, key: &str, value: &str) -> Option<Outside> {
    let (key, by) = WITHIN.into_iter().find(|(one, _)| *one == key)?;
    let (_, subnet) = options.iter().find(|(option, _)| *option == by)?;
    let (subnet, given) = (prefix(subnet.as_str()?)?, prefix(value)?);
    (!subnet.overlaps(given)).then_some(Outside { key, subnet })
}

/// The network that an address is in, or the address alone.
fn prefix(text: &str) -> Option<Prefix> {
    let (address, len) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().ok()?;
    let len = if len.is_empty() { Family::of(address).bits() } else { len.parse().ok()? };
    Prefix::new(address, len).ok()
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let consequence = match self.key {
            "default-gateway" | "default-gateway-v6" => "dockerd refuses to start with both",
            // 20.10 ignores a fixed-cidr of another subnet.
            _ => "a newer Docker (28) starts no container with both",
        };
        write!(f, "which is not in {}, and {consequence}", self.subnet)
    }
}

impl Clash {
    /// Finds the conflicts that also concern options given as keys of the file instead of flags.
    pub(super) fn of_values(path: &Path, object: &Object<'_>, options: &DaemonOptions) -> Option<Self> {
        let outside = WITHIN.into_iter().filter_map(|(key, _)| {
            let value = object.value(key)?.as_str()?.to_owned();
            Some((outside(options, key, &value)?, value))
        });
        let (outside, bridge) = (outside.collect(), object.other_bridge(options));
        let clash = Self { path: path.to_owned(), keys: Vec::new(), differs: false, bridge, outside };
        clash.is_foreign().then_some(clash)
    }

    /// True if there is more than what our own merge leaves in the file.
    pub(crate) fn is_foreign(&self) -> bool {
        self.differs || self.bridge.is_some() || !self.outside.is_empty()
    }

    fn outside(&self, (outside, value): &(Outside, String)) -> String {
        let (path, key) = (self.path.display(), outside.key);
        format!("{path} sets {key} to {value}, {outside}: remove {key} from it")
    }

    fn keys(&self) -> String {
        let (path, keys) = (self.path.display(), self.keys.join(", "));
        let values = if self.differs { "to other values than this host's subnet needs" } else { "already" };
        format!(
            "{path} sets {keys} {values}, and dockerd refuses to start if a key is set there and as a flag: remove \
             {keys} from it, or keep them there with `wire-agent docker-opts --daemon-json` and remove the flags from \
             docker.service"
        )
    }

    fn bridge(&self, bridge: &str) -> String {
        let path = self.path.display();
        format!(
            "{path} sets bridge to {bridge}, and dockerd refuses to start if bip is set too, there or as a flag: \
             remove bridge from it, or keep it, start Docker without wire-agent's options, and create a Docker \
             network for this host's subnet"
        )
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = (!self.keys.is_empty()).then(|| self.keys());
        let bridge = self.bridge.as_deref().map(|bridge| self.bridge(bridge));
        let outside = self.outside.iter().map(|one| self.outside(one));
        let said: Vec<String> = keys.into_iter().chain(bridge).chain(outside).collect();
        f.write_str(&said.join("; "))
    }
}

/// Finds the conflicts with these options. `None` if the file is missing or not valid: dockerd reports that itself.
pub(crate) fn clash(path: &Path, options: &DaemonOptions) -> Option<Clash> {
    let text = super::text(path)?;
    let object: Object<'_> = serde_json::from_str(&text).ok()?;
    let both: Vec<_> = options.iter().filter_map(|(key, value)| Some((*key, value, object.value(key)?))).collect();
    let of_values = Clash::of_values(path, &object, options);
    if both.is_empty() {
        return of_values;
    }
    let (bridge, outside) = of_values.map(|clash| (clash.bridge, clash.outside)).unwrap_or_default();
    Some(Clash {
        path: path.to_owned(),
        keys: both.iter().map(|(key, ..)| (*key).to_owned()).collect(),
        differs: both.iter().any(|(_, wanted, held)| **wanted != *held),
        bridge,
        outside,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::{
        super::{
            held, merge,
            tests::{file, options},
        },
        *,
    };

    #[test]
    fn keys_that_are_flags_too_are_named_with_the_remedy() {
        let (_folder, path) = file(r#"{"debug": true, "mtu": 1450, "bip": "172.17.0.1/16"}"#);
        let found = clash(&path, &options()).unwrap();
        assert!(found.is_foreign());
        let said = found.to_string();
        assert!(said.contains("sets bip, mtu to other values") && said.contains("--daemon-json"), "{said}");
        fs::write(&path, r#"{"mtu": 1450}"#).unwrap();
        assert!(!clash(&path, &options()).unwrap().is_foreign());
        for none in ["{}", r#"{"debug": true}"#, "no JSON", "[]"] {
            fs::write(&path, none).unwrap();
            assert_eq!(clash(&path, &options()), None, "{none}");
        }
        assert_eq!(clash(Path::new("/nowhere/daemon.json"), &options()), None);
    }

    #[test]
    fn a_bridge_of_the_operators_is_named_with_the_remedy_and_nothing_is_merged() {
        for name in ["br0", "none"] {
            let text = format!(r#"{{"bridge": "{name}", "mtu": 1450}}"#);
            let (_folder, path) = file(&text);
            assert_eq!(held(&path).bridge.as_deref(), Some(name));
            let found = clash(&path, &options()).unwrap();
            let said = found.to_string();
            assert!(found.is_foreign() && said.contains("sets mtu already"), "{said}");
            let named = format!("daemon.json sets bridge to {name}, and dockerd refuses to start");
            assert!(said.contains(&named) && said.contains("remove bridge from it, or keep it"), "{said}");
            let error = merge(&path, &options()).unwrap_err().to_string();
            assert!(error.contains(&named) && !error.contains("mtu"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            // IPv6 alone does not conflict with it.
            assert_eq!(clash(&path, &vec![("ipv6", json!(true))]), None);
        }
        let (_folder, path) = file(r#"{"bridge": ""}"#);
        assert_eq!((held(&path).bridge, clash(&path, &options())), (None, None));
    }

    #[test]
    fn what_is_outside_our_subnet_is_named_and_nothing_is_merged() {
        let mut dual = options();
        dual.extend([("ipv6", json!(true)), ("fixed-cidr-v6", json!("fd00:5:0:7::/64"))]);
        let (refused, unused) = ("dockerd refuses to start", "a newer Docker (28) starts no container");
        for (key, value, subnet, consequence) in [
            ("default-gateway", "172.17.0.254", "10.5.52.0/24", refused),
            ("default-gateway-v6", "fd00:2::1", "fd00:5:0:7::/64", refused),
            ("fixed-cidr", "172.17.0.0/25", "10.5.52.0/24", unused),
            ("bip6", "fd00:2::1/64", "fd00:5:0:7::/64", unused),
        ] {
            let text = format!(r#"{{"{key}": "{value}"}}"#);
            let (_folder, path) = file(&text);
            let named = format!("daemon.json sets {key} to {value}, which is not in {subnet}, and {consequence}");
            let found = clash(&path, &dual).unwrap();
            assert!(found.is_foreign() && found.to_string().contains(&named), "{found}");
            let error = merge(&path, &dual).unwrap_err().to_string();
            assert!(error.contains(&named), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        for right in [
            r#"{"default-gateway": "10.5.52.1"}"#,
            r#"{"default-gateway-v6": "fd00:5:0:7::9"}"#,
            r#"{"default-gateway": "no address"}"#,
            r#"{"default-gateway": 7, "fixed-cidr": "10.5.52.128/25", "bip6": "fd00:5:0:7::1/64"}"#,
            r#"{"fixed-cidr": "10.5.0.0/16"}"#,
        ] {
            let (_folder, path) = file(right);
            assert_eq!(clash(&path, &dual), None, "{right}");
            assert!(merge(&path, &dual).unwrap(), "{right}");
        }
        // If our network has no IPv6, this is the operator's own setting.
        let (_folder, path) = file(r#"{"default-gateway-v6": "fd00:2::1"}"#);
        assert_eq!(clash(&path, &options()), None);
    }
}
