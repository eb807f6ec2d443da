//! What a network is joined on: its config, the underlay, our public addresses. Waits for what is not there yet.

use std::{future::Future, net::IpAddr, time::Duration};

use tracing::{info, warn};
use wire_backends::Underlay;
use wire_lease::{
    Admission, BackendData, Backoff, ConfigEvent, ConfigWatch, DualStack, Entry, EtcdStore, NetworkConfig, Prefix,
    Revision, StoreError, StoredConfig, chain,
};

use super::Host;
use crate::{config_command::EXAMPLE, exit::Exit, underlay};

/// What a network is joined on.
pub(super) struct Ground {
    pub(super) underlay: Underlay,
    pub(super) config: NetworkConfig,
    pub(super) config_revision: Revision,
    pub(super) public: DualStack<IpAddr>,
}

impl Ground {
    /// What the leases of others are checked against.
    pub(super) fn admission(&self, own: &Entry) -> Admission {
        let macs = match &own.lease.data {
            BackendData::Vxlan(vteps) => vteps.map(|_, vtep| vtep.mac),
            BackendData::Untyped | BackendData::Other(_) => DualStack::default(),
        };
        Admission {
            pools: self.config.pools,
            own: Some(own.lease.subnet),
            public: self.public,
            macs,
            underlay: self.underlay.connected.clone(),
        }
    }
}

impl Host {
    pub(super) async fn ground(&mut self, store: &EtcdStore) -> Result<Ground, Exit> {
        let (config, config_revision) = match &self.accepted {
            Some(accepted) => accepted.clone(),
            None => self.config(store).await?,
        };
        let networks: Vec<Prefix> = config.pools.iter().map(|(_, pool)| pool.network).collect();
        let underlay = underlay::find(&self.settings.underlay, &networks)?;
        info!(link = %underlay.link, mtu = %underlay.mtu, "underlay found");
        let public = self.public(&config, &underlay)?;
        self.accepted = Some((config.clone(), config_revision));
        self.board.update(|seen| {
            seen.backend = config.backend.name().to_owned();
            seen.underlay = underlay.link.to_string();
            seen.public = public;
        });
        Ok(Ground { underlay, config, config_revision, public })
    }

    /// The network config, once there is one.
    async fn config(&self, store: &EtcdStore) -> Result<(NetworkConfig, Revision), Exit> {
        let stored = self.until_answered(|| StoredConfig::read(store, &self.settings.prefix)).await;
        let json = match stored.json {
            Some(json) => json,
            None => self.first_config(store, stored.revision).await,
        };
        let config = NetworkConfig::from_json(&json).map_err(|error| {
            let remedy = "put it right with wire-agent config set";
            Exit::NetworkConfig(format!("{}/config: {}; {remedy}", self.settings.prefix, chain(&error)))
        })?;
        for field in &config.ignored {
            warn!(field, "the network config has a field that means nothing and is ignored");
        }
        Ok((config, stored.revision))
    }

    async fn first_config(&self, store: &EtcdStore, after: Revision) -> Vec<u8> {
        let key = format!("{}/config", self.settings.prefix);
        self.wait_for(format!(
            "a network config: put one to {key}, for example with wire-agent config init '{EXAMPLE}'"
        ));
        let mut watch = ConfigWatch::new(store.clone(), &self.settings.prefix, after);
        loop {
            match watch.next().await {
                ConfigEvent::Is(Some(json)) => return json,
                ConfigEvent::Is(None) => {}
                ConfigEvent::Broken(error) => self.wait_for(format!("etcd: {error}")),
            }
        }
    }

    /// Asks the store until it answers.
    pub(super) async fn until_answered<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pauses = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => self.wait_for(format!("etcd: {}", chain(&error))),
            }
            tokio::time::sleep(pauses.pause()).await;
        }
    }

    /// Says what is waited for, once. An agent that has joined before stays ready: its traffic flows.
    pub(super) fn wait_for(&self, what: String) {
        let known =
            self.board.look(|seen| seen.waiting.as_ref() == Some(&what) || seen.faults.get("joining") == Some(&what));
        if known {
            return;
        }
        warn!("waiting for {what}");
        if self.joined {
            self.board.fault("joining", Some(what));
        } else {
            self.board.update(|seen| seen.waiting = Some(what));
        }
    }

    fn public(&self, config: &NetworkConfig, underlay: &Underlay) -> Result<DualStack<IpAddr>, Exit> {
        let mut public = DualStack::default();
        for (family, _) in config.pools.iter() {
            let address = self.settings.public.of(family).or(underlay.addresses.of(family)).copied();
            let missing = || {
                let link = underlay.link;
                Exit::NoUnderlay(format!(
                    "the network has {family}, but the interface {link} has no {family} address: give it one, or choose another with --iface"
                ))
            };
            public.set(family, Some(address.ok_or_else(missing)?));
        }
        Ok(public)
    }
}
