//! dockerd's own settings file: our options merged into it, and the keys in it that bar the same options as flags.
//!
//! Every other key stays where it is, byte for byte: only the top level is taken apart.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::files::{self, WriteError};

/// Where dockerd looks for it.
pub(crate) const PATH: &str = "/etc/docker/daemon.json";

/// dockerd's options as keys of the file, in the order in which new ones are added.
pub(crate) type DaemonOptions = Vec<(&'static str, Value)>;

/// Why the file was left alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonJsonError {
    /// It is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is not a JSON object and stays as it is: correct it by hand (dockerd does not start with it either)", path.display())]
    NotAnObject {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// It cannot be written. It is as it was.
    #[error(transparent)]
    Write(WriteError),
}

/// Makes the file hold these options, keeping all others, their order and the file's mode and owner. A file that is not
/// there is made. True where it had to be written.
///
/// # Errors
/// When it is not a JSON object, or cannot be read or written. It is then as it was.
pub(crate) fn merge(path: &Path, options: &DaemonOptions) -> Result<bool, DaemonJsonError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "{}".to_owned(),
        Err(source) => return Err(DaemonJsonError::Read { path: path.to_owned(), source }),
    };
    let mut object: Object =
        serde_json::from_str(&text).map_err(|source| DaemonJsonError::NotAnObject { path: path.to_owned(), source })?;
    let mut changed = false;
    for (key, value) in options {
        changed |= object.set(key, value);
    }
    if changed {
        files::replace(path, &object.to_text(&indent(&text))).map_err(DaemonJsonError::Write)?;
    }
    Ok(changed)
}

/// What the file already says about options that dockerd is to get as flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    path: PathBuf,
    keys: Vec<String>,
    /// Whether a value is another than the flag's.
    pub(crate) differs: bool,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, keys) = (self.path.display(), self.keys.join(", "));
        let values = if self.differs { "to other values than this host's subnet needs" } else { "already" };
        write!(
            f,
            "{path} sets {keys} {values}, and dockerd refuses to start where a key is given there and as a flag too: remove \
             {keys} from it, or keep them there with `wire-agent docker-opts --daemon-json` and take the flags out of docker's unit"
        )
    }
}

/// The options that the file sets too. Nothing where it is not there or makes no sense: dockerd has its own word for that.
pub(crate) fn clash(path: &Path, options: &DaemonOptions) -> Option<Clash> {
    let object: Object = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let both: Vec<_> = options.iter().filter_map(|(key, value)| Some((*key, value, object.value(key)?))).collect();
    (!both.is_empty()).then(|| Clash {
        path: path.to_owned(),
        keys: both.iter().map(|(key, ..)| (*key).to_owned()).collect(),
        differs: both.iter().any(|(_, wanted, held)| **wanted != *held),
    })
}

/// A JSON object with its members in order and their values as they were written.
struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    fn value(&self, key: &str) -> Option<Value> {
        // Where a key comes twice, dockerd takes the last.
        let (_, raw) = self.0.iter().rev().find(|(held, _)| held == key)?;
        serde_json::from_str(raw.get()).ok()
    }

    /// True where it held another value, or none.
    fn set(&mut self, key: &str, value: &Value) -> bool {
        if self.value(key).as_ref() == Some(value) {
            return false;
        }
        let raw = RawValue::from_string(value.to_string()).expect("a value is printed as JSON");
        match self.0.iter_mut().rev().find(|(held, _)| held == key) {
            Some((_, held)) => *held = raw,
            None => self.0.push((key.to_owned(), raw)),
        }
        true
    }

    fn to_text(&self, indent: &str) -> String {
        let members: Vec<String> =
            self.0.iter().map(|(key, raw)| format!("{indent}{}: {}", Value::from(key.as_str()), raw.get())).collect();
        if members.is_empty() { "{}\n".to_owned() } else { format!("{{\n{}\n}}\n", members.join(",\n")) }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
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

/// What the file's first member is indented with; two blanks where it stands on the brace's line.
fn indent(text: &str) -> String {
    let behind = text.trim_start().strip_prefix('{').unwrap_or_default();
    let blank = &behind[..behind.len() - behind.trim_start().len()];
    let first = blank.rsplit_once('\n').map_or("", |(_, indent)| indent);
    if first.is_empty() { "  ".to_owned() } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;

    fn options() -> DaemonOptions {
        vec![("bip", json!("10.5.52.1/24")), ("mtu", json!(1450)), ("ip-masq", json!(false))]
    }

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.json");
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn every_other_key_its_order_and_its_form_stay() {
        let before = "{\n\t\"log-opts\": {\"max-size\":  \"10m\", \"b\": 1.0e2},\n\t\"mtu\": 1500,\n\t\"zulu\": [1,\n\t\t2],\n\t\"alpha\": \"ä\\u00e4\"\n}";
        let (_folder, path) = file(before);
        assert!(merge(&path, &options()).unwrap());
        let after = "{\n\t\"log-opts\": {\"max-size\":  \"10m\", \"b\": 1.0e2},\n\t\"mtu\": 1450,\n\t\"zulu\": [1,\n\t\t2],\n\t\"alpha\": \"ä\\u00e4\",\n\t\"bip\": \"10.5.52.1/24\",\n\t\"ip-masq\": false\n}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
        assert!(!merge(&path, &options()).unwrap(), "the second time nothing is written");
    }

    #[test]
    fn a_missing_file_is_made_and_an_empty_object_filled() {
        let (folder, path) = file("{}");
        let new = folder.path().join("docker/daemon.json");
        for path in [&path, &new] {
            assert!(merge(path, &options()).unwrap());
            let text = "{\n  \"bip\": \"10.5.52.1/24\",\n  \"mtu\": 1450,\n  \"ip-masq\": false\n}\n";
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        }
    }

    #[test]
    fn mode_and_symlink_stay() {
        let (folder, path) = file("{}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = folder.path().join("link.json");
        symlink("daemon.json", &link).unwrap();
        assert!(merge(&link, &options()).unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().contains("bip"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn what_is_no_json_object_is_refused_and_stays() {
        for bad in ["", "null", "[]", "\"x\"", "{\"bip\": }", "{} {}", "bip: 10.5.52.1/24\n", "{\"a\": 1,}"] {
            let (_folder, path) = file(bad);
            let error = merge(&path, &options()).unwrap_err();
            assert!(matches!(error, DaemonJsonError::NotAnObject { .. }), "{bad}: {error}");
            assert!(error.to_string().contains("daemon.json is not a JSON object"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
    }

    #[test]
    fn keys_that_are_flags_too_are_named_with_the_remedy() {
        let (_folder, path) = file(r#"{"debug": true, "mtu": 1450, "bip": "172.17.0.1/16"}"#);
        let found = clash(&path, &options()).unwrap();
        assert!(found.differs);
        let said = found.to_string();
        assert!(said.contains("sets bip, mtu to other values") && said.contains("--daemon-json"), "{said}");
        fs::write(&path, r#"{"mtu": 1450}"#).unwrap();
        assert!(!clash(&path, &options()).unwrap().differs);
        for none in ["{}", r#"{"debug": true}"#, "no JSON", "[]"] {
            fs::write(&path, none).unwrap();
            assert_eq!(clash(&path, &options()), None, "{none}");
        }
        assert_eq!(clash(Path::new("/nowhere/daemon.json"), &options()), None);
    }
}
