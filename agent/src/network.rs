//! Joining the network, stage by stage.
//!
//! [`Host::join`] goes from flags to a leased subnet with its traffic: underlay, network config, our old lease, backend,
//! lease, files for others, kernel, ready; then it stays ([`crate::session`]). It knows nothing of how the kernel is
//! written ([`crate::datapath`]) or a lease is kept ([`wire_lease::Hold`]).

mod announce;
mod ground;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{info, warn};
use wire_backends::{
    Backend, Dataplane, ForwardSettings, Forwarder, HostDataplane, Kept, LinkName, NetlinkDataplane, Placement,
    Reconciler, RouteForm, Scope, SelectError, choose, devices, select,
};
use wire_lease::{
    BackendConfig, BackendData, ConfigWatch, Entry, EtcdStore, Follow, FollowSettings, Hold, HoldSettings, HoldState,
    LeaseStore, Listing, MacAddr, NetworkConfig, Offer, Revision, chain, own_entry,
};

use self::ground::Ground;
use crate::{
    datapath::Datapath,
    exit::Exit,
    forwarding::Forwarding,
    notify::Stored,
    observed::{Board, DatapathKind},
    session::{Ended, Session},
    settings::Settings,
    state::{State, StateFile},
    underlay::UnderlayWatch,
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
    /// Whether the kernel was found to have no VXLAN.
    no_vxlan: bool,
    /// What an earlier run of the agent has left for this one.
    kept: Kept,
    /// What is left for a later one.
    stored: Stored,
}

/// The store of the network. Does not wait for etcd.
///
/// # Errors
/// [`Exit::Usage`], naming the endpoint or the certificate that is of no use.
pub(crate) async fn open(settings: &Settings) -> Result<EtcdStore, Exit> {
    EtcdStore::open(settings.etcd.clone()).await.map_err(|error| Exit::Usage(chain(&error)))
}

/// How long joining anew waits for etcd before it goes back to what is joined.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon joining anew is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl Host {
    /// Reads what this host remembers of itself.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub(crate) fn new(settings: Settings, board: Board, (kept, stored): (Kept, Stored)) -> Result<Self, Exit> {
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
            no_vxlan: false,
            kept,
            stored,
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
        let Some(session) = self.session.as_mut().filter(|session| session.hold.is_some()) else {
            tokio::time::sleep(AGAIN).await;
            return Ok(Ended::Asked);
        };
        session.stay().await
    }

    /// From the next time on, does what the kernel was found not to do.
    pub(crate) fn encapsulate(&mut self) {
        warn!("this kernel cannot make VXLAN devices: encapsulating in the agent");
        self.no_vxlan = true;
    }

    /// All stages, from etcd to a running session.
    async fn renew(&mut self) -> Result<Session, Exit> {
        let store = open(&self.settings).await?;
        let ground = self.ground(&store).await?;
        let mut forwarding =
            Forwarding::start(&self.settings, &ground.config, ground.underlay.link, self.board.clone());
        let directory = self.settings.prefix.leases(ground.config.pools.v4.is_some());
        let listing = self.until_answered(|| store.list(&directory));
        let listing = if self.joined {
            // What is joined is not left alone for longer.
            let away = |_| Exit::Unavailable("etcd does not answer".to_owned());
            tokio::time::timeout(PATIENCE, listing).await.map_err(away)?
        } else {
            listing.await
        };
        let mut kernel = NetlinkDataplane::open(RouteForm::default()).map_err(|error| Exit::Software(chain(&error)))?;
        let (backend, scope) = self.backend(&ground, &listing, &mut kernel)?;
        let offer = Offer { public: ground.public, data: backend.data() };
        if let Some(former) = &mut self.session {
            // Two must not hold one lease. The rest of it looks after the kernel until its successor does.
            former.hold = None;
        }
        let mut hold =
            Hold::spawn(store.clone(), self.hold_settings(&ground), watch::channel(offer).1, Some(listing.clone()));
        let own = self.leased(&mut hold.state).await?;
        self.announce(&ground, &own, backend.mtu())?;
        forwarding.in_place().await;
        if let Some(former) = self.session.take() {
            // Its devices and sockets live on: packets that come in meanwhile wait in them.
            self.kept = self.board.look(|seen| seen.tunnels.keep());
            former.datapath.end().await;
        }
        let forwarder = Forwarder::new(std::mem::take(&mut self.kept));
        let (datapath, reason) = self.datapath_kind(&ground.config);
        if !datapath.is_userspace() {
            // A port that an earlier run has left would keep the kernel from it.
            self.stored.follow(&[]);
        }
        info!(?datapath, reason, "datapath chosen");
        self.board.update(|seen| {
            seen.tunnels = forwarder.tunnels();
            (seen.datapath, seen.datapath_reason) = (datapath, reason);
        });
        let without_vxlan = self.settings.forward.without_vxlan;
        let dataplane = HostDataplane { kernel, forwarder, without_vxlan };
        let datapath = Datapath::start(Reconciler::new(dataplane, scope), self.board.clone(), self.stored.clone())?;
        let (admission_in, admission) = watch::channel(ground.admission(&own));
        let follow = Follow::spawn(store.clone(), FollowSettings::new(directory), admission, Some(listing));
        let config = ConfigWatch::new(store, &self.settings.prefix, ground.config_revision);
        let underlay =
            UnderlayWatch::new(ground.underlay, self.settings.clone(), datapath.underlay_changed(), admission_in);
        let (board, joined_with) = (self.board.clone(), ground.config);
        Ok(Session {
            board,
            backend,
            datapath,
            hold: Some(hold),
            follow,
            config,
            joined_with,
            underlay,
            _forwarding: forwarding,
        })
    }

    /// The backend, with the MACs that this host had before where it had any.
    fn backend(
        &mut self,
        ground: &Ground,
        listing: &Listing,
        kernel: &mut NetlinkDataplane,
    ) -> Result<(Box<dyn Backend>, Scope), Exit> {
        let refused = |error: SelectError| Exit::NetworkConfig(chain(&error));
        let published = own_entry(listing, &ground.public, &ground.config.pools).map(|own| own.lease.data);
        let devices = devices(&ground.config).map_err(refused)?;
        let scope = Scope { devices: devices.iter().map(|(_, name)| *name).collect(), ..Scope::default() };
        let have = kernel.read(&scope).map_err(|error| Exit::Software(chain(&error)))?;
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
        let replaces_vxlan = self.settings.forward.replaces_vxlan || self.no_vxlan;
        let forward = ForwardSettings { replaces_vxlan, ..self.settings.forward };
        let backend =
            select(&ground.config, Placement { underlay, public, macs, blackhole, forward }).map_err(refused)?;
        // Devices that a former network config had are ours, and wanted no more.
        let mut scope = backend.scope();
        scope.devices.extend(former.keys().filter_map(|name| name.parse::<LinkName>().ok()));
        Ok((backend, scope))
    }

    /// What moves packets, and why.
    fn datapath_kind(&self, config: &NetworkConfig) -> (DatapathKind, &'static str) {
        match &config.backend {
            BackendConfig::Vxlan(_) if self.no_vxlan => {
                (DatapathKind::UserspaceVxlan, "this kernel cannot make VXLAN devices")
            }
            BackendConfig::Vxlan(_) if self.settings.forward.replaces_vxlan => {
                (DatapathKind::UserspaceVxlan, "--userspace-vxlan asks for it")
            }
            BackendConfig::Vxlan(_) => (DatapathKind::KernelVxlan, "this kernel has VXLAN"),
            BackendConfig::Udp { .. } => (DatapathKind::UserspaceUdp, "the network's backend is udp"),
            BackendConfig::HostGw | BackendConfig::Wireguard | BackendConfig::Alloc | BackendConfig::Foreign(_) => {
                (DatapathKind::None, "the network's backend moves no packets")
            }
        }
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
            same_host: self.joined || (self.state.link.is_some() && self.state.link == ground.underlay.mac),
        }
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
}
