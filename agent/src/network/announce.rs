//! What others learn of our subnet, and what we keep of it ourselves.

use std::path::Path;

use tracing::{info, warn};
use wire_backends::Mtu;
use wire_lease::{DualStack, Entry, Prefix, chain};

use super::{Ground, Host};
use crate::{
    daemon_json,
    docker_opts::SubnetEnv,
    exit::Exit,
    files::{self, Durable, WriteError},
};

impl Host {
    /// Tells others which subnet this host has: in files, and on the board.
    pub(super) fn announce(&mut self, ground: &Ground, own: &Entry, mtu: Mtu) -> Result<(), Exit> {
        let subnet = own.lease.subnet;
        let networks = ground.config.pools.map(|_, pool| pool.network);
        let env = SubnetEnv::new(networks, subnet, mtu.0, self.settings.ip_masq);
        self.look_for_clash(&env);
        match self.write_files(&env) {
            Err(error) if self.joined => self.board.fault("files", Some(chain(&error))),
            Err(error) => return Err(Exit::CannotCreate(chain(&error))),
            Ok(()) => self.board.fault("files", None),
        }
        self.state.subnet = DualStack::from_fn(|family| subnet.of(family));
        self.state.link = ground.underlay.mac;
        let kept = self.state_file.save(&self.state);
        if let Err(error) = &kept {
            warn!(error = chain(error), "the state is not kept: after a restart this host may get another subnet");
        }
        self.board.fault("state", kept.err().map(|error| chain(&error)));
        self.board.fault("joining", None);
        self.board.update(|seen| {
            seen.waiting = None;
            seen.subnet = self.state.subnet;
            seen.mtu = mtu.0;
        });
        Ok(())
    }

    fn write_files(&self, env: &SubnetEnv) -> Result<(), WriteError> {
        let folders = &self.settings.folders;
        files::write_if_changed(&folders.subnet_file, &env.to_text(), Durable::No)?;
        if let Some(file) = &folders.docker_opts_file {
            files::write_if_changed(file, &env.individual(true), Durable::No)?;
        }
        Ok(())
    }

    /// Says where dockerd cannot take our options as flags, before they are written. In the log only: `docker-opts
    /// --daemon-json` may put it right at any time, without the agent.
    fn look_for_clash(&self, env: &SubnetEnv) {
        if self.settings.folders.docker_opts_file.is_none() {
            return;
        }
        match daemon_json::clash(Path::new(daemon_json::PATH), &env.daemon_options(true)) {
            Some(clash) if clash.differs => warn!("{clash}"),
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
        let file = std::fs::read_to_string(&self.settings.folders.subnet_file).ok();
        file.and_then(|text| SubnetEnv::from_text(&text).ok()).map(|env| env.subnet()).unwrap_or_default()
    }
}
