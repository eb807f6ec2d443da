//! Joining the network, stage by stage.
//!
//! [`Host::join`] goes from flags to a leased subnet with its traffic: underlay, network config, our old lease, backend,
//! lease, files for others, kernel, ready; then it stays ([`crate::session`]). It knows nothing of how the kernel is
//! written ([`crate::datapath`]) or a lease is kept ([`wire_lease::Hold`]).

mod announce;
mod endpoints;
mod ground;
mod identity;
mod known;
mod lease;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tracing::{info, warn};
use wire_backends::{
    Backend, ForwardSettings, Identity, Placement, SelectError, VxlanBy, choose_mac, identify, select,
};
use wire_forward::{Forwarder, Kept};
use wire_kernel::{KernelDataplane, RouteForm};
use wire_lease::{Follow, FollowSettings, HoldState, Offer, Start, own_entry};
use wire_net::{LinkName, MacAddr, chain};
use wire_state::{Marks, Owner, PerNamespace, Reconciler, Scope};
use wire_store::{EtcdStore, Listing};

use self::{
    ground::Ground,
    known::{Known, Standing, answered, shown},
};
use crate::{
    datapath::Datapath,
    exit::Exit,
    firewall::FirewallKeeper,
    host_dataplane::HostDataplane,
    last_known::LastKnownFile,
    machine::Seen,
    notify::Stored,
    observed::{Board, NoAnswer},
    pulse::{Answers, Part, Pulse},
    session::{Ended, Session},
    settings::Settings,
    state::{State, StateFile},
    traffic::TrafficWatch,
    underlay::UnderlayWatch,
};

/// This host, over all the times it joins.
pub(crate) struct Host {
    settings: Arc<Settings>,
    board: Board,
    pulse: Pulse,
    state_file: StateFile,
    state: State,
    /// Whether the state was surely written by this host.
    is_proven: bool,
    /// The MACs of the host that this one is a clone of, by their devices.
    disowned: BTreeMap<String, MacAddr>,
    last_known: LastKnownFile,
    standing: Standing,
    /// What etcd has answered to a host that went by what was kept.
    answer: Option<Known>,
    /// By which addresses etcd is reached, or was.
    endpoints: BTreeSet<IpAddr>,
    /// How it stood with our lease when it was held last.
    held: Option<HoldState>,
    /// What is joined. It lives on until its successor has all it needs, so that the kernel is looked after meanwhile.
    session: Option<Session>,
    /// Whether the kernel was found to have no VXLAN.
    no_vxlan: bool,
    /// What an earlier run of the agent has left for this one.
    kept: Kept,
    /// What is left for a later one.
    stored: Stored,
}

/// What moves packets, or has the kernel do so.
struct Chosen {
    backend: Box<dyn Backend>,
    scope: Scope,
    /// The MACs of its devices, by their names.
    macs: BTreeMap<String, MacAddr>,
}

/// The store of the network. Does not wait for etcd.
///
/// # Errors
/// [`Exit::Usage`], naming the endpoint or the certificate that is of no use.
pub(crate) async fn open(settings: &Settings) -> Result<EtcdStore, Exit> {
    EtcdStore::open(settings.etcd.clone()).await.map_err(|error| Exit::Usage(chain(&error)))
}

/// How soon joining anew is tried again, where nothing is joined and where something is.
const AGAIN: Duration = Duration::from_secs(1);
const AT_LEISURE: Duration = Duration::from_secs(10);

impl Host {
    /// Reads what this host remembers of itself.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub(crate) fn new(
        settings: Settings,
        (board, pulse): (Board, Pulse),
        (kept, stored): (Kept, Stored),
    ) -> Result<Self, Exit> {
        let state_file = StateFile::in_folder(&settings.folders.state_dir);
        let folder = settings.folders.state_dir.display();
        let mut state = state_file.load().map_err(|error| {
            Exit::CannotCreate(format!("cannot read the state in {folder}: {error}; see --state-dir"))
        })?;
        if state.is_unused() {
            // A template that never reaches etcd has an identity, too, which its clones must not share.
            state.machine = Seen::now().map(|seen| seen.machine(None)).unwrap_or_default();
        }
        // Before anything is leased with it: an agent that forgets its identity is a stranger to its own lease.
        state_file
            .of(&state)
            .put()
            .map_err(|error| Exit::CannotCreate(format!("{}; see --state-dir", chain(&error))))?;
        board.update(|seen| seen.identity.clone_from(&state.identity));
        Ok(Self {
            last_known: LastKnownFile::in_folder(&settings.folders.state_dir, settings.prefix.clone()),
            settings: Arc::new(settings),
            board,
            pulse,
            state_file,
            state,
            is_proven: false,
            disowned: BTreeMap::new(),
            standing: Standing::New,
            answer: None,
            endpoints: BTreeSet::new(),
            held: None,
            session: None,
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
    pub(crate) async fn join(&mut self, answers: &mut Answers) -> Result<Ended, Exit> {
        let renewed = answers.during(self.renew()).await;
        let failed = renewed.is_err();
        match renewed {
            Ok(Some(session)) => {
                self.session = Some(session);
                self.board.fault("joining", None);
            }
            Ok(None) => return Ok(Ended::UnderlayChanged),
            // What can come by itself is waited for: an address from DHCP, a link that is plugged in.
            Err(Exit::NoUnderlay(reason)) => self.board.wait_for(format!("the underlay: {reason}")),
            Err(exit @ Exit::Software(_)) => return Err(exit),
            Err(exit) if self.runs() => self.board.wait_for(exit.to_string()),
            Err(exit) => return Err(exit),
        }
        let Some(session) = self.session.as_mut().filter(|session| session.basis.is_whole()) else {
            answers.during(tokio::time::sleep(AGAIN)).await;
            return Ok(Ended::Again);
        };
        let limit = if failed { AT_LEISURE } else { Duration::MAX };
        let stay = tokio::time::timeout(limit, session.stay(answers));
        let answer = async {
            if let Standing::New | Standing::Joined(_) = self.standing {
                return std::future::pending().await;
            }
            tokio::time::sleep(if failed { AGAIN } else { Duration::ZERO }).await;
            answered(&self.settings, &self.board).await
        };
        tokio::select! {
            ended = stay => ended.unwrap_or(Ok(Ended::Again)),
            answer = answer => {
                self.answer = Some(answer);
                Ok(Ended::Answered)
            }
        }
    }

    /// Whether it has joined: what stops a first start only degrades a running agent.
    const fn runs(&self) -> bool {
        match self.standing {
            Standing::New => false,
            Standing::Remembering | Standing::Joined(_) => true,
        }
    }

    /// From the next time on, does what the kernel was found not to do.
    pub(crate) fn encapsulate(&mut self) {
        warn!("this kernel cannot make VXLAN devices: encapsulating in the agent");
        self.no_vxlan = true;
    }

    /// All stages, from etcd to a running session. `None` where the underlay has become another meanwhile.
    async fn renew(&mut self) -> Result<Option<Session>, Exit> {
        let store = open(&self.settings).await?;
        let known = self.known(&store).await?;
        self.settle()?;
        self.look_for_endpoints().await;
        let ground = self.ground(known.accepted.config.clone())?;
        let mut kernel = KernelDataplane::open(RouteForm::default()).map_err(|error| Exit::Software(chain(&error)))?;
        let Chosen { backend, scope, macs } = self.backend(&ground, &known.listing, &mut kernel)?;
        let offer = Offer { public: ground.public, data: backend.data() };
        let Some((basis, own)) = self.lease(store.clone(), &ground, &known, offer).await? else { return Ok(None) };
        // Not before: a MAC that another has published was none of ours.
        self.state.macs = macs;
        let (told, upkeep) = self.announce(&ground, &own, backend.mtu())?;
        if let Some(former) = self.session.take() {
            // Its devices and sockets live on: packets that come in meanwhile wait in them.
            self.kept = self.board.look(|seen| seen.tunnels.keep());
            former.datapath.end().await;
        }
        let reaches = backend.reaches();
        self.board.update(|seen| seen.reaches = Some(reaches));
        let datapath = self.start_datapath(backend.datapath(), kernel, scope)?;
        let firewall = FirewallKeeper::start(
            self.settings.firewall,
            &ground.config,
            told,
            (self.board.clone(), self.pulse.clone()),
        )?;
        let (admission_in, admission) = watch::channel(ground.admission(&own, self.endpoints()));
        let directory = self.settings.prefix.leases(ground.config.pools.v4.is_some());
        let beside = Some(self.pulse.part(Part::Follower).beside());
        let follow = match known.as_of {
            None => {
                // Whatever session has learnt it.
                let before = self.board.look(|seen| seen.leases.clone());
                let settings = FollowSettings { before, ..FollowSettings::new(directory) };
                Follow::spawn(store, settings, admission, Start { listing: Some(known.listing), beside })
            }
            Some(_) => Follow::from_listing(directory, &known.listing, admission, beside),
        };
        let endpoints = endpoints::follow(self.settings.clone(), self.state.subnet, admission_in.clone());
        let held = self.held_on(&ground);
        let word = datapath.underlay_changed();
        let underlay = UnderlayWatch::new((ground.underlay, held), self.settings.clone(), word, admission_in);
        self.standing = match known.as_of {
            None => Standing::Joined(Box::new(known.accepted)),
            Some(_) => Standing::Remembering,
        };
        self.board.update(|seen| {
            seen.as_of = known.as_of.map(shown);
            if seen.as_of.is_none() {
                seen.no_answer = NoAnswer::default();
            }
        });
        let (board, joined_with) = (self.board.clone(), ground.config);
        let traffic = TrafficWatch::start(&joined_with, board.clone());
        Ok(Some(Session {
            board,
            backend,
            datapath,
            firewall,
            basis,
            follow,
            _endpoints: endpoints,
            joined_with,
            underlay,
            leased_over: self.state.leased_over.clone(),
            upkeep,
            _traffic: traffic,
            all_but_firewall: None,
        }))
    }

    fn start_datapath(
        &mut self,
        moves: wire_backends::Datapath,
        kernel: KernelDataplane,
        scope: Scope,
    ) -> Result<Datapath, Exit> {
        let forwarder = Forwarder::new(std::mem::take(&mut self.kept));
        if !moves.is_userspace {
            // A port that an earlier run has left would keep the kernel from it.
            self.stored.follow(&[]);
        }
        info!(datapath = moves.name, reason = moves.reason, "datapath chosen");
        self.board.update(|seen| {
            seen.tunnels = forwarder.tunnels();
            seen.datapath = Some(moves);
        });
        let without_vxlan = self.settings.forward.without_vxlan;
        let dataplane = HostDataplane { kernel, forwarder, without_vxlan };
        Datapath::start(
            Reconciler::new(dataplane, PerNamespace::host(scope)),
            (self.board.clone(), self.pulse.clone()),
            self.stored.clone(),
        )
    }

    /// The backend, with the MACs that this host had before where it had any.
    fn backend(&self, ground: &Ground, listing: &Listing, kernel: &mut KernelDataplane) -> Result<Chosen, Exit> {
        let refused = |error: SelectError| Exit::NetworkConfig(chain(&error));
        let own = own_entry(listing, &self.settings.prefix, &ground.public, &ground.config.pools);
        let published = own.map(|own| own.lease.data.macs()).unwrap_or_default();
        let Identity { devices, marks, .. } = identify(&ground.config).map_err(refused)?;
        // By their MACs devices are ours that a former network config, or a former underlay, has made otherwise.
        let vteps = published.iter().map(|(_, mac)| *mac);
        let kept = self.state.macs.values().chain(self.disowned.values()).copied();
        let known: BTreeSet<MacAddr> = kept.chain(vteps).collect();
        let scope = Scope {
            devices: devices.iter().map(|(_, name)| *name).collect(),
            marks: Marks { macs: known.clone(), ..marks },
            parent: Some(ground.underlay.parent()),
            ..Scope::default()
        };
        let have = kernel.host().read(&scope).map_err(|error| Exit::Software(chain(&error)))?;
        let macs = devices.map(|family, name| {
            let disowned = self.disowned.get(name.as_str());
            let ours = have.links.get(name).filter(|link| link.owner == Owner::Ours);
            let device = ours.and_then(|link| link.mac).filter(|mac| Some(mac) != disowned);
            let stored = self.state.macs.get(name.as_str()).copied();
            choose_mac(published.get(family).copied(), device, stored, MacAddr::local(rand::random()))
        });
        let current =
            devices.iter().filter_map(|(family, name)| Some((name.to_string(), *macs.get(family)?))).collect();
        let (underlay, public, blackhole) = (ground.underlay.clone(), ground.public, self.settings.blackhole);
        let asked = self.settings.forward.vxlan;
        let vxlan = if self.no_vxlan { VxlanBy::AgentFallback } else { asked };
        let forward = ForwardSettings { vxlan, ..self.settings.forward };
        let backend =
            select(&ground.config, Placement { underlay, public, macs, blackhole, forward }).map_err(refused)?;
        // Devices that a former network config had are ours, and wanted no more.
        let mut scope = backend.scope();
        scope.marks.macs.extend(known);
        let former = self.state.macs.keys().chain(self.disowned.keys());
        scope.devices.extend(former.filter_map(|name| name.parse::<LinkName>().ok()));
        Ok(Chosen { backend, scope, macs: current })
    }
}
