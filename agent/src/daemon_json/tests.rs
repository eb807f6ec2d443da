use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use serde_json::json;
use wire_net::chain;

use super::*;

/// Removes our options from the file, as `wire-agent drain` does, and returns their keys.
fn take_out(path: &Path, options: &DaemonOptions) -> Result<Vec<&'static str>, DaemonJsonError> {
    let Some(Without { keys, left }) = without_ours(path, options)? else { return Ok(Vec::new()) };
    let written = match left {
        Some(left) => files::replace(path, &left),
        None => files::remove(path),
    };
    written.map_err(DaemonJsonError::Write)?;
    Ok(keys)
}

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
    let all = ["bridge", "live-restore", "mtu"].map(str::to_owned).into();
    let seen = Held { bridge: Some("br0".to_owned()), keys: vec!["mtu"], all, live_restore: true };
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

#[test]
fn a_pipe_is_not_waited_for_and_what_is_too_large_is_refused() {
    let (_folder, path) = file("");
    fs::write(&path, format!("{{\"bip\":\"10.5.52.1/24\"{}}}", " ".repeat(1 << 20))).unwrap();
    let refused = |path: &Path| chain(&merge(path, &options()).unwrap_err());
    assert!(refused(&path).ends_with("it is larger than 1024 KiB"), "{}", refused(&path));
    assert_eq!((held(&path), clash(&path, &options())), (Held::default(), None));
    let pipe = path.with_file_name("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refused(&pipe).ends_with("it is not a regular file"), "{}", refused(&pipe));
    assert_eq!((held(&pipe), clash(&pipe, &options())), (Held::default(), None));
}
