//! Writes the files about our subnet, for other programs and for the agent's next start.

use std::{path::PathBuf, sync::Arc};

use tracing::{info, warn};
use wire_lease::Entry;
use wire_net::{DualStack, Mtu, Prefix};
use wire_state::{DesiredFile, Writing};

use super::{JoinContext, Network, known::PATIENCE};
use crate::{
    daemon_json,
    docker_opts::{DockerOptions, SubnetEnv},
    docker_unit::DockerUnit,
    exit::Exit,
    host::Host,
    ports::Ports,
    state::{KnownBy, StateFile},
    upkeep::FilesShare,
};

impl<P: Ports> Network<P> {
    /// Publishes this host's subnet, in files and in the status. Returns the options for Docker.
    pub(super) async fn announce(
        &self,
        host: &mut Host<P>,
        context: &JoinContext,
        own: &Entry,
        mtu: Mtu,
    ) -> Result<DockerOptions, Exit> {
        let before = host.state.subnet;
        let env = host.remember(context, own, mtu);
        let docker_options = host.docker_options(&env);
        look_for_clash(&host.ports, &docker_options);
        if self.runs() && before != host.state.subnet {
            let subnet = own.lease.subnet;
            warn!(%subnet, "this host has a new subnet: Docker's bridge keeps the old one until Docker is restarted");
        }
        let share = host.files_share(&env);
        let number = self.loops.files.want(&self.name, share);
        let outcome = self.loops.files.outcome_of(number);
        let outcome = if self.runs() {
            // Nobody follows the leases meanwhile, so a disk that hangs must not hold that up. Its loop goes on trying.
            tokio::time::timeout(PATIENCE, outcome).await.unwrap_or(Some(None))
        } else {
            outcome.await
        };
        match outcome {
            Some(Some(why)) if !self.runs() => return Err(Exit::FileUnwritten { why }),
            Some(_) => {}
            None => return Err(Exit::PartDied { part: "the loop of the files" }),
        }
        host.status.update(|seen| {
            seen.set_joined();
            seen.subnet = host.state.subnet;
            seen.mtu = mtu.0;
        });
        Ok(docker_options)
    }
}

impl<P: Ports> Host<P> {
    /// Takes over what the network was joined with into the state, and returns the content of `subnet.env`.
    pub(crate) fn remember(&mut self, context: &JoinContext, own: &Entry, mtu: Mtu) -> SubnetEnv {
        let subnet = own.lease.subnet;
        self.state.subnet = DualStack::from_fn(|family| subnet.get(family));
        self.state.link = context.underlay.mac;
        self.remember_machine(context);
        self.state.underlay = Some(KnownBy::new(self.settings.asked_underlay(), self.held_on(context)));
        let networks = context.config.pools.map(|_, pool| pool.network);
        SubnetEnv::new(networks, subnet, mtu.0, self.settings.ip_masq)
    }

    /// The files that follow from a network, and from the state.
    pub(crate) fn files_share(&self, env: &SubnetEnv) -> FilesShare {
        FilesShare {
            for_others: Arc::new(self.files(env)),
            state: (self.state_file.path().to_owned(), StateFile::desired(&self.state)),
            options: env.daemon_options(true),
        }
    }

    /// The options for Docker, and the file that they are written to.
    pub(crate) fn docker_options(&self, env: &SubnetEnv) -> DockerOptions {
        DockerOptions { file: self.settings.folders.docker_opts_file.clone(), options: env.daemon_options(true) }
    }

    /// The files for other programs.
    fn files(&self, env: &SubnetEnv) -> Vec<(PathBuf, DesiredFile)> {
        let folders = &self.settings.folders;
        let desired = |path: &PathBuf, content| (path.clone(), DesiredFile { content, writing: Writing::Plain });
        let docker = folders.docker_opts_file.iter().map(|file| desired(file, env.individual(true)));
        std::iter::once(desired(&folders.subnet_file, env.to_text())).chain(docker).collect()
    }

    /// The subnet held last, by this agent or, from flannel's file, by flanneld.
    pub(super) fn preferred(&self) -> DualStack<Prefix> {
        if !self.state.subnet.is_empty() {
            return self.state.subnet;
        }
        SubnetEnv::read(self.ports.disk(), &self.settings.folders.subnet_file)
            .map(|env| env.subnet())
            .unwrap_or_default()
    }
}

/// Logs settings that conflict with our options as flags of dockerd, before they are written. `status` checks this
/// again and again ([`crate::bridges`]), since `docker-opts --daemon-json` may correct it at any time, without the
/// agent.
fn look_for_clash(ports: &impl Ports, docker_options: &DockerOptions) {
    let root = ports.docker_root().filter(|_| docker_options.file.is_some());
    let Some(root) = root else { return };
    match daemon_json::clash(&DockerUnit::read(root).settings_path(), &docker_options.options) {
        Some(clash) if clash.is_foreign() => warn!("{clash}"),
        // `docker-opts --daemon-json` leaves the file like this, which works as long as docker.service sets no
        // flags.
        Some(clash) => info!("{clash}"),
        None => {}
    }
}
