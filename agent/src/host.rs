//! This host: its settings, its saved state and its identity, which are the same for all its networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use wire_net::MacAddr;

use crate::{
    exit::Exit,
    machine::Seen,
    ports::Ports,
    pulse::Watchdog,
    settings::Settings,
    state::{State, StateFile},
    status::StatusWriter,
};

/// This host. It lives as long as the agent, also while a network is joined anew.
pub(crate) struct Host<P> {
    pub(crate) ports: P,
    pub(crate) settings: Arc<Settings>,
    pub(crate) status: StatusWriter,
    pub(crate) watchdog: Watchdog,
    pub(crate) state_file: StateFile,
    pub(crate) state: State,
    /// True if it is certain that this host wrote the saved state, and is no clone of the host that did.
    pub(crate) is_proven: bool,
    /// If this host is a clone: the MACs in the state that it was cloned with, by the names of the devices. It must not use them.
    pub(crate) disowned: BTreeMap<String, MacAddr>,
    /// The addresses at which etcd is, or was, reached.
    pub(crate) endpoints: BTreeSet<IpAddr>,
    /// True once the kernel has refused to create a VXLAN device.
    pub(crate) no_vxlan: bool,
}

impl<P: Ports> Host<P> {
    /// Reads this host's saved state: `read` is [`StateFile::load`] or, for a command that writes nothing, [`StateFile::peek`].
    ///
    /// # Errors
    /// [`Exit::StateUnread`].
    pub(crate) fn open(
        ports: P,
        settings: Arc<Settings>,
        read: fn(&StateFile, &P) -> io::Result<State>,
        status: StatusWriter,
        watchdog: Watchdog,
    ) -> Result<Self, Exit> {
        let folder = &settings.folders.state_dir;
        let state_file = StateFile::in_folder(folder);
        let state = read(&state_file, &ports).map_err(|source| Exit::StateUnread { folder: folder.clone(), source })?;
        status.update(|seen| seen.identity.clone_from(&state.identity));
        Ok(Self {
            ports,
            settings,
            status,
            watchdog,
            state_file,
            state,
            is_proven: false,
            disowned: BTreeMap::new(),
            endpoints: BTreeSet::new(),
            no_vxlan: false,
        })
    }

    /// Saves the state before anything is leased with it: an agent that loses its identity cannot recognise its own lease.
    ///
    /// # Errors
    /// [`Exit::StateUnwritten`].
    pub(crate) fn save_identity(&mut self) -> Result<(), Exit> {
        if self.state.is_unused() {
            // A template machine may never join a network, and its clones must still notice that they are clones.
            self.state.machine = Seen::now(&self.ports).map(|seen| seen.machine(None)).unwrap_or_default();
        }
        self.state_file.save(self.ports.disk(), &self.state).map_err(Exit::StateUnwritten)
    }
}
