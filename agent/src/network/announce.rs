//! Writes the files about our subnet, for other programs and for the agent's next start.

use std::path::{Path, PathBuf};

use tracing::{info, warn};
use wire_lease::Entry;
use wire_net::{DualStack, Mtu, Prefix, chain};

use super::{Host, JoinContext};
use crate::{
    daemon_json,
    docker_opts::{DockerOptions, SubnetEnv},
    docker_unit::DockerUnit,
    exit::Exit,
    files::{Durable, Wanted},
    state::KnownBy,
    upkeep::Upkeep,
};

impl Host {
    /// Publishes this host's subnet, in files and in the status. Returns the options for Docker, and the task that
    /// maintains the files.
    pub(super) fn announce(
        &mut self,
        context: &JoinContext,
        own: &Entry,
        mtu: Mtu,
    ) -> Result<(DockerOptions, Upkeep), Exit> {
        let subnet = own.lease.subnet;
        let networks = context.config.pools.map(|_, pool| pool.network);
        let env = SubnetEnv::new(networks, subnet, mtu.0, self.settings.ip_masq);
        let told =
            DockerOptions { file: self.settings.folders.docker_opts_file.clone(), options: env.daemon_options(true) };
        self.look_for_clash(&told);
        let subnets = DualStack::from_fn(|family| subnet.get(family));
        if self.runs() && self.state.subnet != subnets {
            warn!(%subnet, "this host has a new subnet: Docker's bridge keeps the old one until Docker is restarted");
        }
        self.state.subnet = subnets;
        self.state.link = context.underlay.mac;
        self.remember_machine(context);
        self.state.underlay = Some(KnownBy::new(self.settings.asked_underlay(), self.held_on(context)));
        let options = told.options.clone();
        let upkeep = Upkeep::new(self.files(&env), self.state_file.of(&self.state), options, self.board.clone());
        match upkeep.look() {
            Err(error) if !self.runs() => return Err(Exit::CannotCreate(chain(&error))),
            Ok(()) | Err(_) => {}
        }
        self.board.update(|seen| {
            seen.set_joined();
            seen.subnet = self.state.subnet;
            seen.mtu = mtu.0;
        });
        Ok((told, upkeep))
    }

    /// The files for other programs.
    fn files(&self, env: &SubnetEnv) -> Vec<Wanted> {
        let folders = &self.settings.folders;
        let wanted = |path: &PathBuf, content| Wanted { path: path.clone(), content, durable: Durable::No };
        let docker = folders.docker_opts_file.iter().map(|file| wanted(file, env.individual(true)));
        std::iter::once(wanted(&folders.subnet_file, env.to_text())).chain(docker).collect()
    }

    /// Logs settings that conflict with our options as flags of dockerd, before they are written. `status` checks this
    /// again and again ([`crate::bridges`]), since `docker-opts --daemon-json` may correct it at any time, without the
    /// agent.
    fn look_for_clash(&self, told: &DockerOptions) {
        if told.file.is_none() {
            return;
        }
        match daemon_json::clash(&DockerUnit::read(Path::new("/")).settings_path(), &told.options) {
            Some(clash) if clash.is_foreign() => warn!("{clash}"),
            // `docker-opts --daemon-json` leaves the file like this, which works as long as docker.service sets no
            // flags.
            Some(clash) => info!("{clash}"),
            None => {}
        }
    }

    /// The subnet held last, by this agent or, from flannel's file, by flanneld.
    pub(super) fn preferred(&self) -> DualStack<Prefix> {
        if !self.state.subnet.is_empty() {
            return self.state.subnet;
        }
        SubnetEnv::read(&self.settings.folders.subnet_file).map(|env| env.subnet()).unwrap_or_default()
    }
}
