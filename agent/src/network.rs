//! Joining the network, stage by stage.
//!
//! [`Host::join`] goes from flags to a leased subnet with its traffic: underlay, network config, our old lease, backend,
//! lease, files for others, kernel, ready; then it stays ([`crate::session`]). It knows nothing of how the kernel is
//! written ([`crate::datapath`]) or a lease is kept ([`wire_lease::Hold`]).

mod announce;
mod ground;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use wire_backends::{
    Backend, Dataplane, LinkName, NetlinkDataplane, Placement, Reconciler, RouteForm, Scope, SelectError, choose,
    devices, select,
};
use wire_lease::{
    BackendData, ConfigWatch, Entry, EtcdStore, Follow, FollowSettings, Hold, HoldSettings, HoldState, LeaseStore,
    Listing, MacAddr, NetworkConfig, Offer, Revision, chain, own_entry,
};

use self::ground::Ground;
use crate::{
    datapath::Datapath,
    exit::Exit,
    firewall::FirewallKeeper,
    forwarding::Forwarding,
    observed::Board,
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
        let Some(session) = self.session.as_mut().filter(|session| session.hold.is_some()) else {
            tokio::time::sleep(AGAIN).await;
            return Ok(Ended::Asked);
        };
        session.stay().await
    }

    /// All stages, from etcd to a running session.
    async fn renew(&mut self) -> Result<Session, Exit> {
        let store = open(&self.settings).await?;
        let ground = self.ground(&store).await?;
        let mut forwarding = Forwarding::start(&ground.config, ground.underlay.link, self.board.clone());
        let directory = self.settings.prefix.leases(ground.config.pools.v4.is_some());
        let listing = self.until_answered(|| store.list(&directory));
        let listing = if self.joined {
            // What is joined is not left alone for longer.
            let away = |_| Exit::Unavailable("etcd does not answer".to_owned());
            tokio::time::timeout(PATIENCE, listing).await.map_err(away)?
        } else {
            listing.await
        };
        let mut dataplane =
            NetlinkDataplane::open(RouteForm::default()).map_err(|error| Exit::Software(chain(&error)))?;
        let (backend, scope) = self.backend(&ground, &listing, &mut dataplane)?;
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
        self.session = None;
        let datapath = Datapath::start(Reconciler::new(dataplane, scope), self.board.clone())?;
        let firewall = FirewallKeeper::start(self.settings.firewall, &ground.config, self.board.clone())?;
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
            firewall,
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
