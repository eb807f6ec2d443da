//! Writes the files about our subnet, for other programs and for the agent's next start.

use std::path::{Path, PathBuf};

use tracing::{info, warn};
use wire_lease::Entry;
use wire_net::{DualStack, Mtu, Prefix, chain};

use super::{Host, JoinContext};
use crate::{
    daemon_json,
    docker_opts::{SubnetEnv, Told},
    docker_unit::DockerUnit,
    exit::Exit,
    files::{Durable, Wanted},
    state::KnownBy,
    upkeep::Upkeep,
};

impl Host {
    /// Tells others which subnet this host has: in files, and on the board. Returns what Docker is told, and what sees to it
    /// that the files stay.
    pub(super) fn announce(&mut self, context: &JoinContext, own: &Entry, mtu: Mtu) -> Result<(Told, Upkeep), Exit> {
        let subnet = own.lease.subnet;
        let networks = context.config.pools.map(|_, pool| pool.network);
        let env = SubnetEnv::new(networks, subnet, mtu.0, self.settings.ip_masq);
        let told = Told { file: self.settings.folders.docker_opts_file.clone(), options: env.daemon_options(true) };
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
        self.board.fault("joining", None);
        self.board.update(|seen| {
            (seen.waiting, seen.useless) = (None, None);
            seen.subnet = self.state.subnet;
            seen.mtu = mtu.0;
        });
        Ok((told, upkeep))
    }

    /// The files that others read.
    fn files(&self, env: &SubnetEnv) -> Vec<Wanted> {
        let folders = &self.settings.folders;
        let wanted = |path: &PathBuf, content| Wanted { path: path.clone(), content, durable: Durable::No };
        let docker = folders.docker_opts_file.iter().map(|file| wanted(file, env.individual(true)));
        std::iter::once(wanted(&folders.subnet_file, env.to_text())).chain(docker).collect()
    }

    /// Says where dockerd cannot take our options as flags, before they are written. What `status` says of it is looked at again
    /// and again ([`crate::bridges`]): `docker-opts --daemon-json` may put it right at any time, without the agent.
    fn look_for_clash(&self, told: &Told) {
        if told.file.is_none() {
            return;
        }
        match daemon_json::clash(&DockerUnit::read(Path::new("/")).settings_path(), &told.options) {
            Some(clash) if clash.is_foreign() => warn!("{clash}"),
            // This is how `docker-opts --daemon-json` leaves it: well, as long as docker's unit has no flags.
            Some(clash) => info!("{clash}"),
            None => {}
        }
    }

    /// The subnet held last, by us or, on a host that was flannel's, as its file says.
    pub(super) fn preferred(&self) -> DualStack<Prefix> {
        if !self.state.subnet.is_empty() {
            return self.state.subnet;
        }
        SubnetEnv::read(&self.settings.folders.subnet_file).map(|env| env.subnet()).unwrap_or_default()
    }
}
