//! What the cloud-config files say, each in the words of the program that reads it.

use serde::Deserialize;
use wire_tests::{LabError, Result};

pub(crate) fn yaml<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T> {
    serde_saphyr::from_str(text).map_err(|error| LabError::Wrong(error.to_string()))
}

#[derive(Deserialize)]
pub(crate) struct CloudInit {
    pub(crate) write_files: Vec<WrittenFile>,
}

#[derive(Deserialize)]
pub(crate) struct WrittenFile {
    pub(crate) path: String,
    pub(crate) content: String,
}

/// What coreos-cloudinit reads; what it does not know it passes over in silence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoreOs {
    pub(crate) coreos: CoreOsSection,
    pub(crate) users: Vec<CoreOsUser>,
    pub(crate) write_files: Vec<CoreOsFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoreOsSection {
    pub(crate) flannel: Flannel,
    pub(crate) units: Vec<CoreOsUnit>,
}

/// All that it knows of: it makes FLANNELD_* of these and of nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct Flannel {
    pub(crate) etcd_endpoints: String,
    pub(crate) etcd_cafile: Option<String>,
    pub(crate) etcd_certfile: Option<String>,
    pub(crate) etcd_keyfile: Option<String>,
    pub(crate) etcd_prefix: Option<String>,
    pub(crate) etcd_username: Option<String>,
    pub(crate) etcd_password: Option<String>,
    pub(crate) ip_masq: Option<String>,
    pub(crate) subnet_file: Option<String>,
    pub(crate) interface: Option<String>,
    pub(crate) public_ip: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct CoreOsUser {
    pub(crate) name: String,
    pub(crate) gecos: Option<String>,
    pub(crate) system: Option<bool>,
    pub(crate) no_create_home: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct CoreOsFile {
    pub(crate) path: String,
    pub(crate) permissions: Option<String>,
    pub(crate) content: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct CoreOsUnit {
    pub(crate) name: String,
    pub(crate) command: Option<String>,
    pub(crate) enable: Option<bool>,
    #[serde(default)]
    pub(crate) mask: bool,
    pub(crate) content: Option<String>,
    #[serde(default)]
    pub(crate) drop_ins: Vec<CoreOsDropIn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoreOsDropIn {
    pub(crate) name: String,
    pub(crate) content: String,
}

/// What Butane reads, which refuses other keys only where it is told to be strict.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Butane {
    pub(crate) variant: String,
    pub(crate) version: String,
    pub(crate) passwd: Passwd,
    pub(crate) storage: Storage,
    pub(crate) systemd: Systemd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Passwd {
    pub(crate) users: Vec<ButaneUser>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct ButaneUser {
    pub(crate) name: String,
    pub(crate) gecos: Option<String>,
    pub(crate) system: Option<bool>,
    pub(crate) no_create_home: Option<bool>,
    pub(crate) shell: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storage {
    pub(crate) files: Vec<ButaneFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct ButaneFile {
    pub(crate) path: String,
    pub(crate) mode: Option<String>,
    pub(crate) contents: Contents,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct Contents {
    pub(crate) inline: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) verification: Option<Verification>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct Verification {
    pub(crate) hash: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Systemd {
    pub(crate) units: Vec<ButaneUnit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are here to be known")]
pub(crate) struct ButaneUnit {
    pub(crate) name: String,
    pub(crate) enabled: Option<bool>,
    #[serde(default)]
    pub(crate) mask: bool,
    pub(crate) contents: Option<String>,
    #[serde(default)]
    pub(crate) dropins: Vec<ButaneDropIn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ButaneDropIn {
    pub(crate) name: String,
    pub(crate) contents: String,
}

/// A unit, whoever's words it was in.
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) mask: bool,
    pub(crate) content: Option<String>,
    pub(crate) drop_ins: Vec<DropIn>,
}

pub(crate) struct DropIn {
    pub(crate) name: String,
    pub(crate) content: String,
}

impl From<CoreOsUnit> for Unit {
    fn from(unit: CoreOsUnit) -> Self {
        let drop_in = |CoreOsDropIn { name, content }| DropIn { name, content };
        let drop_ins = unit.drop_ins.into_iter().map(drop_in).collect();
        Self { name: unit.name, mask: unit.mask, content: unit.content, drop_ins }
    }
}

impl From<ButaneUnit> for Unit {
    fn from(unit: ButaneUnit) -> Self {
        let drop_in = |ButaneDropIn { name, contents }| DropIn { name, content: contents };
        let drop_ins = unit.dropins.into_iter().map(drop_in).collect();
        Self { name: unit.name, mask: unit.mask, content: unit.contents, drop_ins }
    }
}
