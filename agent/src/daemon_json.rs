//! dockerd's own settings file: our options merged into it and taken out again, and what in it bars them.
//!
//! All else in it stays, byte for byte: a value that is ours is exchanged where it stands, a new one added behind the last.

mod clash;

use std::{
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

pub(crate) use clash::{Clash, clash, is_outside};

use crate::files::{self, WriteError};

/// Where dockerd looks for it.
pub(crate) const PATH: &str = "/etc/docker/daemon.json";

/// The keys, and flags, by which Docker is told of our subnet.
pub(crate) const OURS: [&str; 5] = ["bip", "mtu", "ip-masq", "ipv6", "fixed-cidr-v6"];

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
    #[error("{} is not a JSON object and stays as it is: correct it by hand", path.display())]
    NotAnObject {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// It is text of an encoding that dockerd does not read, or that older ones do not.
    #[error("{} begins with a byte order mark ({encoding}) and stays as it is: write it as UTF-8 without one", path.display())]
    ByteOrderMark { path: PathBuf, encoding: &'static str },
    /// dockerd would not start with our options in it.
    #[error("{0}")]
    Clash(Clash),
    /// It cannot be written. It is as it was.
    #[error(transparent)]
    Write(WriteError),
}

/// Makes the file hold these options, keeping all else in it, and its mode and owner. A file that is not
/// there is made. True where it had to be written.
///
/// # Errors
/// When it is not a JSON object, gives Docker another bridge or gateway, or cannot be read or written. It is then as it was.
pub(crate) fn merge(path: &Path, options: &DaemonOptions) -> Result<bool, DaemonJsonError> {
    let text = match read(path)? {
        Some(text) if !text.trim().is_empty() => text,
        // As dockerd takes it.
        Some(_) | None => EMPTY.to_owned(),
    };
    let not_an_object = |source| DaemonJsonError::NotAnObject { path: path.to_owned(), source };
    let object: Object<'_> = serde_json::from_str(&text).map_err(not_an_object)?;
    if let Some(clash) = Clash::of_values(path, &object, options) {
        return Err(DaemonJsonError::Clash(clash));
    }
    let merged = merged(&text, &object, options);
    if merged != text {
        files::replace(path, &merged).map_err(DaemonJsonError::Write)?;
    }
    Ok(merged != text)
}

/// The text; nothing where there is no such file.
fn read(path: &Path) -> Result<Option<String>, DaemonJsonError> {
    let unreadable = |source| DaemonJsonError::Read { path: path.to_owned(), source };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unreadable(source)),
    };
    if let Some(encoding) = wire_lease::byte_order_mark(&bytes) {
        return Err(DaemonJsonError::ByteOrderMark { path: path.to_owned(), encoding });
    }
    let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    text.map(Some).map_err(unreadable)
}

/// A file without a setting.
const EMPTY: &str = "{}\n";

/// The text with these options in it.
fn merged(text: &str, object: &Object<'_>, options: &DaemonOptions) -> String {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut added = Vec::new();
    for (key, value) in options {
        match object.raw(key) {
            Some(_) if object.value(key).as_ref() == Some(value) => {}
            Some(raw) => edits.push((span(text, raw), value.to_string())),
            None => added.push(format!("\"{key}\": {value}")),
        }
    }
    if !added.is_empty() {
        let between = between(text);
        let (at, new) = match object.0.last() {
            Some((_, last)) => (span(text, last).end, format!(",{between}{}", added.join(&format!(",{between}")))),
            None => (text.find('{').map_or(0, |brace| brace + 1), format!("\n  {}\n", added.join(",\n  "))),
        };
        edits.push((at..at, new));
    }
    edits.sort_by_key(|(place, _)| place.start);
    let mut merged = text.to_owned();
    for (place, new) in edits.into_iter().rev() {
        merged.replace_range(place, &new);
    }
    merged
}

/// Takes out of the file what [`merge`] has put there for this subnet, keeping all else in it, and says which keys those were.
/// A file that says nothing without them is removed.
/// A file that makes no sense stays: we have put nothing there.
///
/// # Errors
/// When it cannot be read or written. It is then as it was.
pub(crate) fn take_out(path: &Path, options: &DaemonOptions) -> Result<Vec<&'static str>, DaemonJsonError> {
    let text = match read(path) {
        Ok(Some(text)) => text,
        Ok(None) | Err(DaemonJsonError::ByteOrderMark { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let Ok(object) = serde_json::from_str::<Object<'_>>(&text) else { return Ok(Vec::new()) };
    let ours = object.ours(options);
    if !ours.is_empty() {
        let left = without(&text, &object, &ours);
        if left == EMPTY && !path.is_symlink() {
            // What [`merge`] makes of no file, or of one that says nothing.
            files::remove(path)
        } else {
            files::replace(path, &left)
        }
        .map_err(DaemonJsonError::Write)?;
    }
    Ok(ours.into_iter().map(|(key, _)| key).collect())
}

/// The text without these options.
fn without(text: &str, object: &Object<'_>, options: &DaemonOptions) -> String {
    let start = text.find('{').map_or(0, |brace| brace + 1);
    let (mut kept, mut end) = (String::new(), start);
    for (key, raw) in &object.0 {
        // With the comma before it.
        let member = &text[end..span(text, raw).end];
        end = span(text, raw).end;
        if options.iter().any(|(gone, value)| gone == key && parse(raw).as_ref() == Some(value)) {
            continue;
        }
        kept += match member.trim_start().strip_prefix(',') {
            Some(first) if kept.is_empty() => first,
            Some(_) | None => member,
        };
    }
    let rest = if kept.is_empty() { text[end..].trim_start() } else { &text[end..] };
    format!("{}{kept}{rest}", &text[..start])
}

/// Where in the text a value stands that was read from it.
fn span(text: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + raw.get().len()
}

/// What stands between a comma and the next member: as before the first one, a blank where all is on one line.
fn between(text: &str) -> &str {
    let behind = text.trim_start().strip_prefix('{').unwrap_or_default();
    let blank = &behind[..behind.len() - behind.trim_start().len()];
    blank.rfind('\n').map_or(" ", |line| &blank[line..])
}

/// What of the file concerns us, whoever has put it there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The bridge that it gives to Docker's default network; `none` where there is to be no such network.
    pub(crate) bridge: Option<String>,
    /// Those of [`OURS`] that it sets.
    pub(crate) keys: Vec<&'static str>,
    /// Whether containers outlive a stop of dockerd, and the bridge with them.
    pub(crate) live_restore: bool,
}

/// Looks into the file. One that makes no sense, or is not there, holds nothing.
pub(crate) fn held(path: &Path) -> Held {
    let Some(text) = text(path) else { return Held::default() };
    let Ok(object) = serde_json::from_str::<Object<'_>>(&text) else { return Held::default() };
    Held {
        bridge: object.bridge(),
        keys: OURS.into_iter().filter(|key| object.raw(key).is_some()).collect(),
        live_restore: object.value("live-restore") == Some(Value::Bool(true)),
    }
}

/// The text for those who only look: Docker from 23 on takes a byte order mark.
fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// A JSON object with its members in order and their values as they were written.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    fn raw(&self, key: &str) -> Option<&'a RawValue> {
        // Where a key comes twice, dockerd takes the last.
        self.0.iter().rev().find(|(held, _)| held == key).map(|(_, raw)| *raw)
    }

    fn value(&self, key: &str) -> Option<Value> {
        parse(self.raw(key)?)
    }

    /// The options that it holds just so, and that are for our subnet: `mtu` or `ipv6` alone may be anybody's.
    fn ours(&self, options: &DaemonOptions) -> DaemonOptions {
        let holds = |(key, value): &&(&'static str, Value)| self.value(key).as_ref() == Some(value);
        let held: DaemonOptions = options.iter().filter(holds).cloned().collect();
        let has = |key| held.iter().any(|(held, _)| *held == key);
        let (v4, v6) = (has("bip"), has("fixed-cidr-v6"));
        held.into_iter().filter(|(key, _)| v6 || (v4 && *key != "ipv6")).collect()
    }

    /// To dockerd an empty text is as good as none.
    fn bridge(&self) -> Option<String> {
        Some(self.value("bridge")?.as_str()?.to_owned()).filter(|bridge| !bridge.is_empty())
    }

    /// The bridge, where one with an address of ours is to be made.
    fn other_bridge(&self, options: &DaemonOptions) -> Option<String> {
        options.iter().any(|(key, _)| *key == "bip").then(|| self.bridge()).flatten()
    }
}

fn parse(raw: &RawValue) -> Option<Value> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;

    pub(super) fn options() -> DaemonOptions {
        vec![("bip", json!("10.5.52.1/24")), ("mtu", json!(1450)), ("ip-masq", json!(false))]
    }

    pub(super) fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.json");
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn all_else_stays_as_it_was_written() {
        let before = "{\n\t\"log-opts\" : {\"max-size\":  \"10m\", \"b\": 1.0e2},\n\n\t\"mtu\":1500, \"zulu\": [1,\n\t\t2],\n\t\"alpha\": \"ä\\u00e4\" }";
        let (_folder, path) = file(before);
        assert!(merge(&path, &options()).unwrap());
        let after = "{\n\t\"log-opts\" : {\"max-size\":  \"10m\", \"b\": 1.0e2},\n\n\t\"mtu\":1450, \"zulu\": [1,\n\t\t2],\n\t\"alpha\": \"ä\\u00e4\",\n\t\"bip\": \"10.5.52.1/24\",\n\t\"ip-masq\": false }";
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
        assert!(!merge(&path, &options()).unwrap(), "the second time nothing is written");
        let on_one_line = [
            (r#"{"a":1}"#, r#"{"a":1, "bip": "10.5.52.1/24", "mtu": 1450, "ip-masq": false}"#),
            (r#"{"bip":"x","mtu":1,"bip":"y"}"#, r#"{"bip":"x","mtu":1450,"bip":"10.5.52.1/24", "ip-masq": false}"#),
        ];
        for (before, after) in on_one_line {
            assert_eq!(merged(before, &serde_json::from_str(before).unwrap(), &options()), after);
        }
    }

    #[test]
    fn a_missing_or_blank_file_is_made_and_an_empty_object_filled() {
        let (folder, path) = file("{}");
        let new = folder.path().join("docker/daemon.json");
        let ((_empty, empty), (_blank, blank)) = (file(""), file(" \n\t\n"));
        for (path, end) in [(&path, ""), (&new, "\n"), (&empty, "\n"), (&blank, "\n")] {
            assert!(merge(path, &options()).unwrap());
            let text = "{\n  \"bip\": \"10.5.52.1/24\",\n  \"mtu\": 1450,\n  \"ip-masq\": false\n}";
            assert_eq!(fs::read_to_string(path).unwrap(), format!("{text}{end}"));
        }
    }

    #[test]
    fn what_was_merged_is_taken_out_and_all_else_stays() {
        let mut dual = options();
        dual.extend([("ipv6", json!(true)), ("fixed-cidr-v6", json!("fd00:5:0:7::/64"))]);
        let before = [
            r#"{"a":1}"#,
            "{\n\t\"log-opts\" : {\"max-size\":  \"10m\", \"b\": 1.0e2},\n\n\t\"a,b\":\"\\u00e4\" ,\"c\": [1,\n\t\t2]\n\t}",
        ];
        for before in before {
            let (_folder, path) = file(before);
            merge(&path, &dual).unwrap();
            assert_eq!(take_out(&path, &dual).unwrap(), ["bip", "mtu", "ip-masq", "ipv6", "fixed-cidr-v6"]);
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
            assert!(take_out(&path, &dual).unwrap().is_empty());
        }
        for (before, after) in [
            (r#"{"bip":"10.5.52.1/24" , "a,b":1, "mtu":1450,"c":2}"#, r#"{ "a,b":1,"c":2}"#),
            (r#"{"mtu":1500,"bip":"10.5.52.1/24","ip-masq":true}"#, r#"{"mtu":1500,"ip-masq":true}"#),
            (r#"{"bip":"x","bip":"10.5.52.1/24"}"#, r#"{"bip":"x"}"#),
        ] {
            let (_folder, path) = file(before);
            take_out(&path, &dual).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[test]
    fn a_file_that_was_not_there_before_is_not_there_after() {
        let (_folder, path) = file("");
        let link = path.with_file_name("link.json");
        symlink(&path, &link).unwrap();
        for (given, stays) in [(&link, true), (&path, false)] {
            assert!(merge(given, &options()).unwrap());
            assert_eq!(take_out(given, &options()).unwrap(), ["bip", "mtu", "ip-masq"]);
            assert_eq!(path.exists(), stays, "{}", given.display());
        }
    }

    #[test]
    fn what_is_not_for_our_subnet_is_not_taken_out() {
        let mut dual = options();
        dual.extend([("ipv6", json!(true)), ("fixed-cidr-v6", json!("fd00:5:0:7::/64"))]);
        for others in [
            r#"{"mtu": 1450, "ip-masq": false}"#,
            r#"{"bip": "10.5.9.1/24", "mtu": 1450, "ipv6": true, "fixed-cidr-v6": "fd00:9::/64"}"#,
            "no JSON",
            "",
        ] {
            let (_folder, path) = file(others);
            assert!(take_out(&path, &dual).unwrap().is_empty(), "{others}");
            assert_eq!(fs::read_to_string(&path).unwrap(), others);
        }
        assert!(take_out(Path::new("/nowhere/daemon.json"), &dual).unwrap().is_empty());
        let (_folder, path) = file(r#"{"bip": "10.5.52.1/24", "ipv6": true, "fixed-cidr-v6": "fd00:9::/64"}"#);
        assert_eq!(take_out(&path, &dual).unwrap(), ["bip"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{ "ipv6": true, "fixed-cidr-v6": "fd00:9::/64"}"#);
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
    fn a_byte_order_mark_is_named_and_the_file_stays() {
        for (bytes, encoding) in [
            (&b"\xef\xbb\xbf{\"debug\":true}"[..], "UTF-8"),
            (b"\xff\xfe{\0}\0", "UTF-16"),
            (b"\xfe\xff\0{\0}", "UTF-16"),
            (b"\xff\xfe\0\0{\0\0\0}\0\0\0", "UTF-32"),
        ] {
            let (_folder, path) = file("");
            fs::write(&path, bytes).unwrap();
            let error = merge(&path, &options()).unwrap_err().to_string();
            assert!(error.contains(&format!("daemon.json begins with a byte order mark ({encoding})")), "{error}");
            assert!(take_out(&path, &options()).unwrap().is_empty());
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        // A newer dockerd reads such a file.
        let (_folder, path) = file("\u{feff}{\"bridge\":\"br0\",\"live-restore\":true,\"mtu\":1}");
        let seen = Held { bridge: Some("br0".to_owned()), keys: vec!["mtu"], live_restore: true };
        assert_eq!(held(&path), seen);
        assert!(clash(&path, &options()).is_some());
    }

    #[test]
    fn what_is_no_json_object_is_refused_and_stays() {
        for bad in ["null", "[]", "\"x\"", "{\"bip\": }", "{} {}", "bip: 10.5.52.1/24\n", "{\"a\": 1,}"] {
            let (_folder, path) = file(bad);
            let error = merge(&path, &options()).unwrap_err();
            assert!(matches!(error, DaemonJsonError::NotAnObject { .. }), "{bad}: {error}");
            assert!(error.to_string().contains("daemon.json is not a JSON object"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
    }
}
