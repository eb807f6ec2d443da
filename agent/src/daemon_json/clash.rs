//! What in dockerd's settings file bars our options, and what to do.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{DaemonOptions, Object};

/// What in the file bars options that dockerd is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    path: PathBuf,
    /// Options that are keys of it too.
    keys: Vec<String>,
    /// Whether a value of those is another than the flag's.
    differs: bool,
    /// Another bridge for Docker's default network: dockerd takes `bridge` or `bip`, and not both.
    bridge: Option<String>,
}

impl Clash {
    /// A bridge alone.
    pub(super) fn of_bridge(path: &Path, bridge: String) -> Self {
        Self { path: path.to_owned(), keys: Vec::new(), differs: false, bridge: Some(bridge) }
    }

    /// Whether it is more than what our own merge leaves there.
    pub(crate) fn is_foreign(&self) -> bool {
        self.differs || self.bridge.is_some()
    }

    fn keys(&self) -> String {
        let (path, keys) = (self.path.display(), self.keys.join(", "));
        let values = if self.differs { "to other values than this host's subnet needs" } else { "already" };
        format!(
            "{path} sets {keys} {values}, and dockerd refuses to start where a key is given there and as a flag too: remove \
             {keys} from it, or keep them there with `wire-agent docker-opts --daemon-json` and take the flags out of docker's unit"
        )
    }

    fn bridge(&self, bridge: &str) -> String {
        let path = self.path.display();
        format!(
            "{path} sets bridge to {bridge}, and dockerd refuses to start where it is given a bip too, there or as a flag: remove \
             bridge from it, or keep it and start Docker without wire-agent's options, with a network of its own for this \
             host's subnet"
        )
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = (!self.keys.is_empty()).then(|| self.keys());
        let bridge = self.bridge.as_deref().map(|bridge| self.bridge(bridge));
        let said: Vec<String> = keys.into_iter().chain(bridge).collect();
        f.write_str(&said.join("; "))
    }
}

/// What in the file bars these options. Nothing where it is not there or makes no sense: dockerd has its own word for that.
pub(crate) fn clash(path: &Path, options: &DaemonOptions) -> Option<Clash> {
    let text = fs::read_to_string(path).ok()?;
    let object: Object<'_> = serde_json::from_str(&text).ok()?;
    let both: Vec<_> = options.iter().filter_map(|(key, value)| Some((*key, value, object.value(key)?))).collect();
    let bridge = object.other_bridge(options);
    (!both.is_empty() || bridge.is_some()).then(|| Clash {
        path: path.to_owned(),
        keys: both.iter().map(|(key, ..)| (*key).to_owned()).collect(),
        differs: both.iter().any(|(_, wanted, held)| **wanted != *held),
        bridge,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            bridge, merge,
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
            assert_eq!(bridge(&path).as_deref(), Some(name));
            let found = clash(&path, &options()).unwrap();
            let said = found.to_string();
            assert!(found.is_foreign() && said.contains("sets mtu already"), "{said}");
            let named = format!("daemon.json sets bridge to {name}, and dockerd refuses to start");
            assert!(said.contains(&named) && said.contains("remove bridge from it, or keep it"), "{said}");
            let error = merge(&path, &options()).unwrap_err().to_string();
            assert!(error.contains(&named) && !error.contains("mtu"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            // IPv6 alone goes with it.
            assert_eq!(clash(&path, &vec![("ipv6", json!(true))]), None);
        }
        let (_folder, path) = file(r#"{"bridge": ""}"#);
        assert_eq!((bridge(&path), clash(&path, &options())), (None, None));
    }
}
