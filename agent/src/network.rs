//! Joining the network, stage by stage.
//!
//! [`Network::join`] goes from flags to a leased subnet with its traffic: underlay, network config, our old lease, backend,
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
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tracing::{info, warn};
use wire_backends::{Backend, Datapath, ForwardSettings, Identity, Placement, VxlanBy, choose_mac, identify, select};
use wire_kernel::{NetlinkDataplane, RouteForm};
use wire_lease::{Follow, FollowSettings, Offer, Start, own_entry};
use wire_net::{LinkName, MacAddr, NetworkName};
use wire_state::{Marks, Owner, Scope};
use wire_store::{EtcdStore, Listing};

use self::known::{JoinPhase, answered};
pub(crate) use self::{
    ground::JoinContext,
    known::{ParsedConfig, Snapshot, Source},
};
use crate::{
    exit::Exit,
    host::Host,
    last_known::LastKnownFile,
    loops::Loops,
    notify::Stored,
    pulse::{Heartbeat, Part},
    session::{Ended, Handover, Progress, Session},
    settings::Settings,
    status::{EtcdCondition, NoAnswer, shown},
    traffic::TrafficWatch,
    underlay::{JoinedOn, UnderlayWatch},
};

/// A network of this host, over all the times it is joined.
pub(crate) struct Network {
    name: NetworkName,
    loops: Loops,
    last_known: LastKnownFile,
    phase: JoinPhase,
    /// etcd's answer, after a start with the saved state.
    answer: Option<Snapshot>,
    /// How often it was joined.
    joins: u64,
    /// What the last session has left.
    handover: Handover,
    /// The current session. It runs until its successor is complete.
    session: Option<Session>,
    /// Whether an earlier run of the agent has left descriptors for this one.
    is_handed_over: bool,
    /// The descriptors that systemd keeps for a later run.
    stored: Stored,
}

/// The chosen backend, with its MACs and devices.
pub(crate) struct Chosen {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) scope: Scope,
    /// The MACs of its devices, by their names.
    pub(crate) macs: BTreeMap<String, MacAddr>,
}

/// Opens the store of the network. Does not wait for etcd.
///
/// # Errors
/// [`Exit::EtcdSettings`], naming the endpoint or the certificate that cannot be used.
pub(crate) async fn open(settings: &Settings) -> Result<EtcdStore, Exit> {
    Ok(EtcdStore::open(settings.etcd.clone()).await?)
}

/// The pauses before joining is tried again: without a session, and with one.
const AGAIN: Duration = Duration::from_secs(1);
const AT_LEISURE: Duration = Duration::from_secs(10);

impl Network {
    /// A network that is joined by [`Network::join`].
    pub(crate) fn new(name: NetworkName, host: &Host, loops: Loops, stored: Stored) -> Self {
        Self {
            name,
            last_known: LastKnownFile::in_folder(&host.settings.folders.state_dir, host.settings.prefix.clone()),
            phase: JoinPhase::New,
            answer: None,
            joins: 0,
            handover: Handover::default(),
            session: None,
            is_handed_over: stored.holds_any(),
            loops,
            stored,
        }
    }

    /// Joins the network and stays until it must be joined anew. Entries that are already correct are not written. If
    /// joining anew fails, the former session stays.
    ///
    /// # Errors
    /// The reason why the agent ends: the first time any error, later only the death of a part of the agent.
    ///
    /// # Cancel safety
    /// Safe: traffic, lease and files stay as they are, and joining again goes on from there.
    pub(crate) async fn join(&mut self, host: &mut Host, heartbeat: &mut Heartbeat) -> Result<Ended, Exit> {
        let renewed = heartbeat.during(self.renew(host)).await;
        let failed = renewed.is_err();
        match renewed {
            Ok(Some(session)) => {
                self.session = Some(session);
                host.status.clear(EtcdCondition::JOINING);
            }
            Ok(None) => return Ok(Ended::UnderlayChanged),
            // An address from DHCP, or a link that is plugged in, may still appear.
            Err(exit @ Exit::NoUnderlay { .. }) => host.status.wait_for(format!("the underlay: {}", exit.report())),
            Err(exit) if exit.is_fatal_while_running() => return Err(exit),
            Err(exit) if self.runs() => host.status.wait_for(exit.report()),
            Err(exit) => return Err(exit),
        }
        let Some(session) = self.session.as_mut().filter(|session| session.source.is_whole()) else {
            heartbeat.during(tokio::time::sleep(AGAIN)).await;
            return Ok(Ended::Again);
        };
        let limit = if failed { AT_LEISURE } else { Duration::MAX };
        let stay = tokio::time::timeout(limit, session.stay(heartbeat));
        let answer = async {
            if let JoinPhase::New | JoinPhase::Joined(_) = self.phase {
                return std::future::pending().await;
            }
            tokio::time::sleep(if failed { AGAIN } else { Duration::ZERO }).await;
            answered(&host.settings, &host.status).await
        };
        tokio::select! {
            ended = stay => ended.unwrap_or(Ok(Ended::Again)),
            answer = answer => {
                self.answer = Some(answer);
                Ok(Ended::Answered)
            }
        }
    }

    /// True once it has joined: an error that stops a first start only degrades a running agent.
    const fn runs(&self) -> bool {
        match self.phase {
            JoinPhase::New => false,
            JoinPhase::FromCache | JoinPhase::Joined(_) => true,
        }
    }

    /// Runs all stages, from etcd to a running session. `None` if the underlay has changed meanwhile.
    async fn renew(&mut self, host: &mut Host) -> Result<Option<Session>, Exit> {
        let store = open(&host.settings).await?;
        let snapshot = self.snapshot(host, &store).await?;
        if !self.runs() {
            host.settle()?;
        }
        host.look_for_endpoints(&self.last_known).await;
        let context = host.join_context(snapshot.parsed.config.clone())?;
        let Chosen { backend, scope, macs } = host.backend(&context, &snapshot.listing)?;
        let offer = Offer { public: context.public, data: backend.data() };
        let Some((source, own)) = self.lease(host, store.clone(), &context, &snapshot, offer).await? else {
            return Ok(None);
        };
        // Not earlier: if another host has published such a MAC, the MAC is not ours.
        host.state.macs = macs;
        let told = self.announce(host, &context, &own, backend.mtu()).await?;
        self.session = None;
        self.joins += 1;
        let reaches = backend.reaches();
        host.status.update(|seen| seen.reaches = Some(reaches));
        self.choose_datapath(host, backend.datapath());
        let (admission_in, admission) = watch::channel(context.admission(&own, host.endpoints()));
        let directory = host.settings.prefix.leases(context.config.pools.v4.is_some());
        let beside = Some(host.watchdog.part(Part::Follower).beside());
        let follow = match snapshot.source {
            Source::Etcd => {
                let before = self.handover.leases.clone();
                let settings = FollowSettings { before, ..FollowSettings::new(directory) };
                Follow::spawn(store, settings, admission, Start { listing: Some(snapshot.listing), beside })
            }
            Source::Cache(_) => Follow::from_listing(directory, &snapshot.listing, admission, beside),
        };
        let endpoints = endpoints::follow(host.settings.clone(), host.state.subnet, admission_in.clone());
        let held = host.held_on(&context);
        let word = self.loops.underlay_changed.clone();
        let underlay = UnderlayWatch::new(
            JoinedOn { underlay: context.underlay, held },
            host.settings.clone(),
            word,
            admission_in,
        );
        self.phase = match snapshot.source {
            Source::Etcd => JoinPhase::Joined(Box::new(snapshot.parsed)),
            Source::Cache(_) => JoinPhase::FromCache,
        };
        host.status.update(|seen| {
            seen.as_of = snapshot.source.as_of().map(shown);
            if seen.as_of.is_none() {
                seen.no_answer = NoAnswer::default();
            }
        });
        let (status, joined_with) = (host.status.clone(), context.config);
        let traffic = TrafficWatch::start(&joined_with, status.clone(), follow.table.clone());
        Ok(Some(Session {
            status,
            network: self.name.clone(),
            backend,
            scope,
            loops: self.loops.clone(),
            policy: Arc::new(host.settings.firewall.policy(&joined_with)),
            told: Arc::new(told),
            joins: self.joins,
            source,
            follow,
            _endpoints: endpoints,
            joined_with,
            underlay,
            leased_over: host.state.leased_over.clone(),
            _traffic: traffic,
            progress: Progress::new(self.handover.is_ready),
        }))
    }

    fn choose_datapath(&self, host: &Host, moves: Datapath) {
        if !moves.is_userspace {
            // A UDP socket that an earlier run left would occupy the kernel's port.
            self.stored.follow(&[]);
        }
        info!(datapath = moves.name, reason = moves.reason, "datapath chosen");
        host.status.update(|seen| seen.datapath = Some(moves));
    }
}

impl Host {
    /// Makes the agent encapsulate from the next join on, because the kernel cannot.
    pub(crate) fn encapsulate(&mut self) {
        warn!("this kernel cannot make VXLAN devices: encapsulating in the agent");
        self.no_vxlan = true;
    }

    /// Chooses the backend, with the MACs that this host had before, if any.
    pub(crate) fn backend(&self, context: &JoinContext, listing: &Listing) -> Result<Chosen, Exit> {
        let own = own_entry(listing, &self.settings.prefix, &context.public, &context.config.pools);
        let published = own.map(|own| own.lease.data.macs()).unwrap_or_default();
        let Identity { devices, marks, .. } = identify(&context.config)?;
        // These MACs mark our devices, also those made for a former network config or underlay.
        let vteps = published.iter().map(|(_, mac)| *mac);
        let kept = self.state.macs.values().chain(self.disowned.values()).copied();
        let own_macs: BTreeSet<MacAddr> = kept.chain(vteps).collect();
        let scope = Scope {
            devices: devices.iter().map(|(_, name)| *name).collect(),
            marks: Marks { macs: own_macs.clone(), ..marks },
            parent: Some(context.underlay.parent()),
            ..Scope::default()
        };
        let have = NetlinkDataplane::open(RouteForm::default()).and_then(|mut kernel| kernel.read(&scope))?;
        let macs = devices.map(|family, name| {
            let disowned = self.disowned.get(name.as_str());
            let ours = have.links.get(name).filter(|link| link.owner == Owner::Ours);
            let device = ours.and_then(|link| link.mac).filter(|mac| Some(mac) != disowned);
            let stored = self.state.macs.get(name.as_str()).copied();
            choose_mac(published.get(family).copied(), device, stored, MacAddr::local(rand::random()))
        });
        let current =
            devices.iter().filter_map(|(family, name)| Some((name.to_string(), *macs.get(family)?))).collect();
        let (underlay, public, blackhole) = (context.underlay.clone(), context.public, self.settings.blackhole);
        let asked = self.settings.forward.vxlan;
        let vxlan = if self.no_vxlan { VxlanBy::AgentFallback } else { asked };
        let forward = ForwardSettings { vxlan, ..self.settings.forward };
        let backend = select(&context.config, Placement { underlay, public, macs, blackhole, forward })?;
        // Devices of a former network config are ours, and no longer wanted.
        let mut scope = backend.scope();
        scope.marks.macs.extend(own_macs);
        let former = self.state.macs.keys().chain(self.disowned.keys());
        scope.devices.extend(former.filter_map(|name| name.parse::<LinkName>().ok()));
        Ok(Chosen { backend, scope, macs: current })
    }
}
