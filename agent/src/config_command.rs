//! `wire-agent config`: the network config in etcd, so that nobody needs etcdctl.

use std::io::{self, Read};

use serde_json::{Map, Value, json};
use wire_backends::{Reaches, VxlanBy, why_not_beside};
use wire_lease::NetworkConfig;
use wire_net::KeyPrefix;
use wire_store::{Compare, EtcdStore, LeaseStore, Txn, Write};

use crate::{
    cli::{ConfigCommand, EtcdFlags},
    commands::print_json,
    exit::{Exit, NO, SOFTWARE, USAGE},
    output::{answer, complain, report},
    settings::etcd_settings,
};

/// A command about the network config was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigCommandError {
    #[error("etcd has no network config at {prefix}/config: write one with wire-agent config init '{EXAMPLE}'{V2}")]
    Missing { prefix: KeyPrefix },
    #[error("there is a network config already, nothing was changed")]
    Exists,
    #[error("standard input cannot be read")]
    Stdin(#[source] io::Error),
    /// The config with a backend's type cannot be written as JSON.
    #[error(transparent)]
    Json(serde_json::Error),
}

impl ConfigCommandError {
    /// The exit status.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::Missing { .. } | Self::Exists => NO,
            Self::Stdin(_) => USAGE,
            Self::Json(_) => SOFTWARE,
        }
    }
}

/// Carries out one command.
///
/// # Errors
/// [`Exit::Store`] when etcd does not answer, [`Exit::Config`] when the config breaks a rule, and those of
/// [`ConfigCommandError`].
pub(crate) async fn run(command: ConfigCommand, etcd: EtcdFlags) -> Result<(), Exit> {
    let open = || Network::open(etcd);
    match command {
        ConfigCommand::Get(output) => {
            let json = open().await?.read().await?;
            if output.json {
                answer(&format!("{}\n", String::from_utf8_lossy(&json)))
            } else {
                describe(&checked(&json)?)
            }
        }
        ConfigCommand::Validate { config: Some(config) } => describe(&checked(&argument(config)?)?),
        ConfigCommand::Validate { config: None } => describe(&checked(&open().await?.read().await?)?),
        ConfigCommand::Set { config } => {
            let json = argument(config)?;
            let config = checked(&json)?;
            warn_of(&config);
            let network = open().await?;
            // A config that is not there, or not valid, is replaced all the same.
            let before = network.read().await.ok().and_then(|json| NetworkConfig::from_json(&json).ok());
            network.put(json).await?;
            if let Some(next) = before.and_then(|before| next_step(&before, &config)) {
                report(next);
            }
            Ok(())
        }
        ConfigCommand::Init { config, if_absent } => {
            let json = with_backend(argument(config)?)?;
            let config = checked(&json)?;
            match open().await?.create(json).await? {
                true => warn_of(&config),
                false if if_absent => report(ConfigCommandError::Exists),
                false => return Err(ConfigCommandError::Exists.into()),
            }
            Ok(())
        }
    }
}

struct Network {
    store: EtcdStore,
    prefix: KeyPrefix,
}

/// The network config in etcd, checked.
///
/// # Errors
/// As [`run`].
pub(crate) async fn stored(etcd: EtcdFlags) -> Result<NetworkConfig, Exit> {
    checked(&Network::open(etcd).await?.read().await?)
}

impl Network {
    async fn open(etcd: EtcdFlags) -> Result<Self, Exit> {
        let prefix = etcd.prefix()?;
        let store = EtcdStore::open(etcd_settings(etcd)?).await?;
        Ok(Self { store, prefix })
    }

    async fn read(&self) -> Result<Vec<u8>, Exit> {
        let read = self.store.get(&self.prefix.config()).await?;
        let found = read.found.ok_or_else(|| ConfigCommandError::Missing { prefix: self.prefix.clone() })?;
        Ok(found.value)
    }

    async fn put(&self, json: Vec<u8>) -> Result<(), Exit> {
        self.commit(Vec::new(), json).await.map(|_| ())
    }

    async fn create(&self, json: Vec<u8>) -> Result<bool, Exit> {
        self.commit(vec![Compare::Absent(self.prefix.config())], json).await
    }

    async fn commit(&self, when: Vec<Compare>, value: Vec<u8>) -> Result<bool, Exit> {
        let put = Write::Put { key: self.prefix.config(), value, lease: None };
        Ok(self.store.commit(Txn { when, then: vec![put] }).await?.succeeded)
    }
}

/// A network config to start from.
pub(crate) const EXAMPLE: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// A config that is missing in the v3 store is often in the v2 store.
pub(crate) const V2: &str = "; a config written with etcd's v2 API (etcdctl before 3.4 without ETCDCTL_API=3) is in \
                             another store, which the v3 API does not see";

fn argument(config: String) -> Result<Vec<u8>, ConfigCommandError> {
    if config != "-" {
        return Ok(config.into_bytes());
    }
    let mut json = Vec::new();
    io::stdin().read_to_end(&mut json).map_err(ConfigCommandError::Stdin)?;
    Ok(json)
}

fn checked(json: &[u8]) -> Result<NetworkConfig, Exit> {
    Ok(NetworkConfig::from_json(json)?)
}

/// Adds the backend's type if it is missing: flannel reads a missing type as udp, while users expect vxlan.
fn with_backend(json: Vec<u8>) -> Result<Vec<u8>, ConfigCommandError> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice::<Value>(&json) else { return Ok(json) };
    let key = fields.keys().find(|key| key.eq_ignore_ascii_case("Backend")).cloned();
    let backend = fields.entry(key.unwrap_or_else(|| "Backend".to_owned())).or_insert_with(|| Map::new().into());
    if backend.is_null() {
        *backend = Map::new().into();
    }
    let Value::Object(backend) = backend else { return Ok(json) };
    if backend.keys().any(|key| key.eq_ignore_ascii_case("Type")) {
        return Ok(json);
    }
    backend.insert("Type".to_owned(), "vxlan".into());
    serde_json::to_vec(&fields).map_err(ConfigCommandError::Json)
}

fn warn_of(config: &NetworkConfig) {
    for field in &config.ignored {
        complain(format_args!("warning: {field} means nothing in a network config and is ignored"));
    }
    if config.pools.v4.is_some() && config.pools.v6.is_some() {
        complain(
            "warning: a flanneld that was started before EnableIPv6 was set crashes on the first dual-stack lease: \
             restart every flanneld first",
        );
    }
}

/// The way from one backend to another, for the operator; `None` if the backend stays the same.
fn next_step(before: &NetworkConfig, now: &NetworkConfig) -> Option<String> {
    let (former, new) = (Reaches::of(before), Reaches::of(now));
    if former == new {
        return (before != now).then(|| "restart wire-agent on all hosts, one after the other".to_owned());
    }
    let Some(why) = why_cut_off(before, now) else {
        let beyond =
            if Reaches::HostGw == new { "; hosts that are not on one link are cut off from each other" } else { "" };
        return Some(format!(
            "restart wire-agent on all hosts, one after the other: until the last one, each speaks {new} and {former}, and all go on \
             talking; hosts of flanneld speak one of both alone{beyond}"
        ));
    };
    Some(format!(
        "restart wire-agent on all hosts: until then, those that are restarted and those that are not are cut off from each other, since {why}"
    ))
}

/// The reason why hosts do not speak both backends.
fn why_cut_off(before: &NetworkConfig, now: &NetworkConfig) -> Option<String> {
    if before.pools != now.pools {
        return Some("the network itself is another, too".to_owned());
    }
    if [before, now].map(Reaches::of).contains(&Reaches::Nobody) {
        return Some("one of both backends moves no packets".to_owned());
    }
    why_not_beside(now, before, VxlanBy::Kernel)
}

fn describe(config: &NetworkConfig) -> Result<(), Exit> {
    let pools: Vec<Value> = config
        .pools
        .iter()
        .map(|(family, pool)| {
            json!({
                "family": family.to_string(),
                "network": pool.network,
                "subnet_len": pool.subnet_len,
                "first": pool.min,
                "last": pool.max,
                "hosts": pool.size().to_string(),
            })
        })
        .collect();
    print_json(&json!({ "backend": config.backend.name(), "pools": pools, "ignored": config.ignored }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_says_who_goes_on_talking() {
        let config = |text: &str| NetworkConfig::from_json(text.as_bytes()).unwrap();
        let of = |backend: &str| config(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{{{backend}}}}}"#));
        let vxlan = of(r#""Type":"vxlan""#);
        let step = |now: &NetworkConfig| next_step(&vxlan, now);
        assert_eq!(step(&vxlan), None);
        for (backend, said) in [
            (r#""Type":"vxlan","Port":4790"#, "restart wire-agent on all hosts, one after the other"),
            (r#""Type":"vxlan","VNI":7"#, "each speaks vxlan with VNI 7 and vxlan with VNI 1, and all go on talking"),
            (r#""Type":"host-gw""#, "hosts that are not on one link are cut off"),
            (r#""Type":"udp""#, "each speaks udp and vxlan with VNI 1"),
            (r#""Type":"udp","Port":8472"#, "cut off from each other, since both have the UDP port 8472"),
            (r#""Type":"alloc""#, "since one of both backends moves no packets"),
        ] {
            let told = step(&of(backend)).unwrap();
            assert!(told.contains(said), "{backend}: {told}");
        }
        let other = config(r#"{"Network":"10.6.0.0/16","Backend":{"Type":"udp"}}"#);
        assert!(step(&other).unwrap().contains("since the network itself is another, too"));
    }

    #[test]
    fn init_always_writes_the_type_of_the_backend() {
        let typed = |json: &str| String::from_utf8(with_backend(json.into()).unwrap()).unwrap();
        for (json, expected) in [
            (r#"{"Network":"10.5.0.0/16"}"#, r#"{"Backend":{"Type":"vxlan"},"Network":"10.5.0.0/16"}"#),
            (
                r#"{"Network":"10.5.0.0/16","backend":{"VNI":7}}"#,
                r#"{"Network":"10.5.0.0/16","backend":{"Type":"vxlan","VNI":7}}"#,
            ),
            (
                r#"{"Network":"10.5.0.0/16","Backend":{"type":"udp"}}"#,
                r#"{"Network":"10.5.0.0/16","Backend":{"type":"udp"}}"#,
            ),
            ("xx{", "xx{"),
        ] {
            assert_eq!(typed(json), expected);
        }
    }
}
