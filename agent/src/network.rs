//! Joining the network, stage by stage.
//!
//! [`Host::join`] goes from flags to a leased subnet with its traffic: underlay, network config, our old lease, backend,
//! lease, files for others, kernel, ready; then it stays ([`crate::session`]). It knows nothing of how the kernel is
//! written ([`crate::datapath`]) or a lease is kept ([`wire_lease::Hold`]).

use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{info, warn};
use wire_backends::{
    Backend, Dataplane, LinkName, Mtu, NetlinkDataplane, Placement, Reconciler, RouteForm, Scope, SelectError,
    Underlay, choose, devices, select,
};
use wire_lease::{
    Admission, BackendData, Backoff, ConfigEvent, ConfigWatch, DualStack, Entry, EtcdStore, Follow, FollowSettings,
    Hold, HoldSettings, HoldState, LeaseStore, Listing, MacAddr, NetworkConfig, Offer, Prefix, Revision, StoreError,
    StoredConfig, chain, own_entry,
};

use crate::{
    config_command::EXAMPLE,
    datapath::Datapath,
    docker_opts::SubnetEnv,
    exit::Exit,
    files::{self, Durable, WriteError},
    forwarding::Forwarding,
    observed::Board,
    session::{Ended, Session},
    settings::Settings,
    state::{State, StateFile},
    underlay::{self, UnderlayWatch},
};

/// This host, over all the times it joins.
pub(crate) struct Host {
    settings: Arc<Settings>,
    board: Board,
    state_file: StateFile,
    state: State,
    /// The network config of the first time, which holds until the agent is restarted.
    accepted: Option<(NetworkConfig, Revision)>,
    /// What is joined. It lives on until its successor has all it needs, so that the kernel is looked after meanwhile.
    session: Option<Session>,
    /// Whether it has joined before: what stops a first start only degrades a running agent.
    joined: bool,
}

/// How soon joining anew is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The store of the network. Does not wait for etcd.
///
/// # Errors
/// [`Exit::Usage`], naming the endpoint or the certificate that is of no use.
pub(crate) async fn open(settings: &Settings) -> Result<EtcdStore, Exit> {
    EtcdStore::open(settings.etcd.clone()).await.map_err(|error| Exit::Usage(chain(&error)))
}

/// What a network is joined on.
struct Ground {
    underlay: Underlay,
    config: NetworkConfig,
    config_revision: Revision,
    public: DualStack<IpAddr>,
}

impl Ground {
    /// What the leases of others are checked against.
    fn admission(&self, own: &Entry) -> Admission {
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
    /// Reads what this host remembers of itself.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub(crate) fn new(settings: Settings, board: Board) -> Result<Self, Exit> {
        let state_file = StateFile::in_folder(&settings.folders.state_dir);
        let folder = settings.folders.state_dir.display();
        let state = state_file.load().map_err(|error| {
            Exit::CannotCreate(format!("cannot read the state in {folder}: {error}; see --state-dir"))
        })?;
        // Before anything is leased with it: an agent that forgets its identity is a stranger to its own lease.
        state_file.save(&state).map_err(|error| Exit::CannotCreate(format!("{}; see --state-dir", chain(&error))))?;
        board.update(|seen| seen.identity.clone_from(&state.identity));
        Ok(Self {
            settings: Arc::new(settings),
            board,
            state_file,
            state,
            accepted: None,
            session: None,
            joined: false,
        })
    }

    /// Joins the network and stays until it must be joined anew. What is right already is not written. Where joining anew
    /// fails, what was joined before stays.
    ///
    /// # Errors
    /// Whatever makes the agent leave: at the first time all that is wrong, later only a part of the agent that died.
    ///
    /// # Cancel safety
    /// Safe: traffic, lease and files stay as they are, and joining again goes on from there.
    pub(crate) async fn join(&mut self) -> Result<Ended, Exit> {
        match self.renew().await {
            Ok(session) => {
                self.session = Some(session);
                self.joined = true;
                self.board.fault("joining", None);
            }
            Err(exit @ Exit::Software(_)) => return Err(exit),
            Err(exit) if self.joined => self.wait_for(exit.to_string()),
            Err(exit) => return Err(exit),
        }
        let Some(session) = &mut self.session else {
            tokio::time::sleep(AGAIN).await;
            return Ok(Ended::Asked);
        };
        session.stay().await
    }

    /// All stages, from etcd to a running session.
    async fn renew(&mut self) -> Result<Session, Exit> {
        let store = open(&self.settings).await?;
        let ground = self.ground(&store).await?;
        let mut forwarding =
            Forwarding::start(&self.settings, &ground.config, ground.underlay.link, self.board.clone());
        let directory = self.settings.prefix.leases(ground.config.pools.v4.is_some());
        let listing = self.until_answered(|| store.list(&directory)).await;
        let mut dataplane =
            NetlinkDataplane::open(RouteForm::default()).map_err(|error| Exit::Software(chain(&error)))?;
        let (backend, scope) = self.backend(&ground, &listing, &mut dataplane)?;
        let offer = Offer { public: ground.public, data: backend.data() };
        self.session = None;
        let mut hold =
            Hold::spawn(store.clone(), self.hold_settings(&ground), watch::channel(offer).1, Some(listing.clone()));
        let own = self.leased(&mut hold.state).await?;
        self.announce(&ground, &own, backend.mtu())?;
        forwarding.in_place().await;
        let datapath = Datapath::start(Reconciler::new(dataplane, scope), self.board.clone())?;
        let (admission_in, admission) = watch::channel(ground.admission(&own));
        let follow = Follow::spawn(store.clone(), FollowSettings::new(directory), admission, Some(listing));
        let config = ConfigWatch::new(store, &self.settings.prefix, ground.config_revision);
        let underlay =
            UnderlayWatch::new(ground.underlay, self.settings.clone(), datapath.underlay_changed(), admission_in);
        let (board, joined_with) = (self.board.clone(), ground.config);
        Ok(Session { board, backend, datapath, hold, follow, config, joined_with, underlay, _forwarding: forwarding })
    }

    async fn ground(&mut self, store: &EtcdStore) -> Result<Ground, Exit> {
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
    async fn until_answered<T, F>(&self, ask: impl Fn() -> F) -> T
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
    fn wait_for(&self, what: String) {
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

    /// The backend, with the MACs that this host had before where it had any.
    fn backend(
        &mut self,
        ground: &Ground,
        listing: &Listing,
        dataplane: &mut NetlinkDataplane,
    ) -> Result<(Box<dyn Backend>, Scope), Exit> {
        let refused = |error: SelectError| Exit::NetworkConfig(chain(&error));
        let published = own_entry(listing, &ground.public, &ground.config.pools).map(|own| own.lease.data);
        let devices = devices(&ground.config).map_err(refused)?;
        let scope = Scope { devices: devices.iter().map(|(_, name)| *name).collect(), ..Scope::default() };
        let have = dataplane.read(&scope).map_err(|error| Exit::Software(chain(&error)))?;
        let macs = devices.map(|family, name| {
            let published = match &published {
                Some(BackendData::Vxlan(vteps)) => vteps.of(family).map(|vtep| vtep.mac),
                Some(BackendData::Untyped | BackendData::Other(_)) | None => None,
            };
            let device = have.links.get(name).and_then(|link| link.mac);
            let stored = self.state.macs.get(name.as_str()).copied();
            choose(published, device, stored, MacAddr::local(rand::random()))
        });
        let current = devices.iter().filter_map(|(family, name)| Some((name.to_string(), *macs.of(family)?)));
        let former = std::mem::replace(&mut self.state.macs, current.collect());
        let (underlay, public, blackhole) = (ground.underlay.clone(), ground.public, self.settings.blackhole);
        let backend = select(&ground.config, Placement { underlay, public, macs, blackhole }).map_err(refused)?;
        // Devices that a former network config had are ours, and wanted no more.
        let mut scope = backend.scope();
        scope.devices.extend(former.keys().filter_map(|name| name.parse::<LinkName>().ok()));
        Ok((backend, scope))
    }

    fn hold_settings(&self, ground: &Ground) -> HoldSettings {
        HoldSettings {
            prefix: self.settings.prefix.clone(),
            pools: ground.config.pools,
            identity: self.state.identity.clone(),
            ttl: self.settings.lease_ttl,
            renew_margin: self.settings.renew_margin,
            preferred: self.preferred(),
            avoid: ground.underlay.connected.clone(),
            same_host: self.state.link == ground.underlay.mac,
        }
    }

    /// The subnet held last, by us or, on a host that was flannel's, as its file says.
    fn preferred(&self) -> DualStack<Prefix> {
        if !self.state.subnet.is_empty() {
            return self.state.subnet;
        }
        let file = std::fs::read_to_string(&self.settings.folders.subnet_file).ok();
        file.and_then(|text| SubnetEnv::from_text(&text).ok()).map(|env| env.subnet()).unwrap_or_default()
    }

    async fn leased(&self, hold: &mut watch::Receiver<HoldState>) -> Result<Arc<Entry>, Exit> {
        loop {
            // What is there at first only says that nothing was asked yet.
            hold.changed().await.map_err(|_| Exit::Software("the lease is no longer cared for".to_owned()))?;
            let state = hold.borrow_and_update().clone();
            match state {
                HoldState::Held { entry, .. } | HoldState::Lost { entry, .. } => return Ok(entry),
                HoldState::Acquiring { reason } => self.wait_for(format!("a subnet: {reason}")),
            }
        }
    }

    /// Tells others which subnet this host has: in files, and on the board.
    fn announce(&mut self, ground: &Ground, own: &Entry, mtu: Mtu) -> Result<(), Exit> {
        let subnet = own.lease.subnet;
        let networks = ground.config.pools.map(|_, pool| pool.network);
        let env = SubnetEnv::new(networks, subnet, mtu.0, self.settings.ip_masq);
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
}
