//! Joining the network, stage by stage.
//!
//! [`Network::join`] reads the network config and the leases, finds the underlay, chooses the backend, acquires our lease and
//! writes the files for other programs. Then a session ([`crate::session`]) hands the desired state to the loops each time
//! the leases change. This module neither writes to the kernel ([`crate::datapath`]) nor renews a lease
//! ([`wire_lease::Hold`]).

mod announce;
mod endpoints;
mod former;
mod ground;
mod identity;
mod known;
mod lease;
mod named;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tracing::{info, warn};
use wire_backends::{
    Backend, Datapath, ForwardSettings, Identity, Placement, PortUse, VxlanBy, choose_mac, identify, select,
};
use wire_firewall::{FirewallPolicy, OverlayDevice};
use wire_lease::{BackendRecord, Entries, Follow, FollowFolder, FollowSettings, Offer, Start, WithRecords, own_entry};
use wire_net::{LinkName, MacAddr, NetworkName};
use wire_state::{Marks, Owner, Scope};

use self::known::{JoinPhase, answered};
pub(crate) use self::{
    ground::JoinContext,
    known::{ParsedConfig, Snapshot, Source},
    named::{occupied, outer_of_named},
};
use crate::{
    exit::Exit,
    host::Host,
    last_known::LastKnownFile,
    loops::Loops,
    named::Named,
    notify::Stored,
    ports::{Claims, Ports},
    pulse::{Heartbeat, Part},
    session::{Ended, Handover, NeedingFormer, Progress, Session},
    status::{EtcdCondition, NoAnswer, shown},
    traffic::TrafficWatch,
    underlay::{JoinedOn, UnderlayWatch},
};

/// A network of this host. It lives as long as the agent, also while it is joined anew.
pub(crate) struct Network<P: Ports> {
    name: NetworkName,
    loops: Loops,
    last_known: LastKnownFile,
    phase: JoinPhase,
    /// etcd's answer, after a start with the saved state.
    answer: Option<Snapshot>,
    /// The number of joins so far.
    joins: u64,
    /// The state that the next session takes over from the last one.
    handover: Handover,
    /// The current session. It runs until the next one is complete.
    session: Option<Session<P>>,
    /// Whether an earlier run of the agent has left descriptors for this one.
    is_handed_over: bool,
    /// The descriptors that systemd stores for a later run.
    stored: Stored,
    /// Networks by name, which stand on this one.
    named: Option<Named<P::Store>>,
}

/// The chosen backend, with its MACs and devices.
pub(crate) struct Chosen {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) scope: Scope,
    /// The MACs of its devices, by their names.
    pub(crate) macs: BTreeMap<String, MacAddr>,
    /// The UDP port that hosts without a record have; `None` if leases carry each.
    pub(crate) own_port: Option<u16>,
    /// The record beside our lease.
    pub(crate) record: Option<BackendRecord>,
    /// The UDP ports to which encapsulated packets come.
    pub(crate) ports: Vec<PortUse>,
    /// The network config of the former backend that is spoken, too, as JSON.
    pub(crate) former: Option<String>,
}

/// The pause before joining is tried again while there is no session.
const RETRY: Duration = Duration::from_secs(1);

/// The same while the former session still runs.
const RETRY_WITH_SESSION: Duration = Duration::from_secs(10);

impl<P: Ports> Network<P> {
    /// A network that is joined by [`Network::join`].
    pub(crate) fn new(
        name: NetworkName,
        host: &Host<P>,
        (loops, named): (Loops, Option<Named<P::Store>>),
        stored: Stored,
    ) -> Self {
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
            named,
        }
    }

    /// Joins the network and runs its session until the network must be joined anew. Entries that are already correct are
    /// not written. If joining anew fails, the former session goes on.
    ///
    /// # Errors
    /// Any that must end the agent. Before the first join, that is every error except a missing underlay, which is waited
    /// for; later only the death of a part of the agent.
    ///
    /// # Cancel safety
    /// Safe: traffic, lease and files stay as they are, and the next call uses them.
    pub(crate) async fn join(&mut self, host: &mut Host<P>, heartbeat: &mut Heartbeat) -> Result<Ended, Exit> {
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
            heartbeat.during(tokio::time::sleep(RETRY)).await;
            return Ok(Ended::Retry);
        };
        let limit = if failed { RETRY_WITH_SESSION } else { Duration::MAX };
        let stay = tokio::time::timeout(limit, session.stay(heartbeat));
        let answer = async {
            if let JoinPhase::New | JoinPhase::Joined(_) = self.phase {
                return std::future::pending().await;
            }
            tokio::time::sleep(if failed { RETRY } else { Duration::ZERO }).await;
            answered(host).await
        };
        tokio::select! {
            ended = stay => ended.unwrap_or(Ok(Ended::Retry)),
            answer = answer => {
                self.answer = Some(answer);
                Ok(Ended::EtcdAnswered)
            }
        }
    }

    /// True once the network was joined. An error that ends the agent before that is only reported afterwards.
    const fn runs(&self) -> bool {
        match self.phase {
            JoinPhase::New => false,
            JoinPhase::FromCache | JoinPhase::Joined(_) => true,
        }
    }

    /// Runs all stages, from etcd to a running session. `None` if the underlay has changed meanwhile.
    async fn renew(&mut self, host: &mut Host<P>) -> Result<Option<Session<P>>, Exit> {
        let store = host.ports.open_store(&host.settings.etcd).await?;
        let snapshot = self.snapshot(host, &store).await?;
        if !self.runs() {
            host.settle()?;
        }
        host.look_for_endpoints(&self.last_known).await;
        let context = host.join_context(snapshot.parsed.config.clone())?;
        let Chosen { backend, scope, macs, own_port, record, former, ports } =
            host.backend(&context, &snapshot.listing)?;
        let ranges = context.config.pools.iter().map(|(_, pool)| pool.network).collect();
        let claims = Claims { devices: scope.devices.iter().copied().collect(), ranges, ports };
        host.ports.claim(&claims).map_err(Exit::Taken)?;
        let offer = Offer { public: context.public, data: backend.data(), record };
        let Some((source, own)) = self.lease(host, store.clone(), &context, &snapshot, offer).await? else {
            return Ok(None);
        };
        // Only once the lease is ours: before that, another host may turn out to have published these MACs.
        host.state.macs = macs;
        host.note_spoken(&snapshot.parsed.json, former);
        let docker_options = self.announce(host, &context, &own, backend.mtu()).await?;
        self.session = None;
        self.joins += 1;
        let direct = backend.direct();
        let reaches = [Some(backend.reaches()), backend.former()].into_iter().flatten();
        host.status.update(|seen| seen.reaches = reaches.collect());
        let beside = OverlayDevice::beside(&backend.base(&own.lease, &[]));
        let policy =
            FirewallPolicy { beside, ..host.settings.firewall.policy(self.name.clone(), &context.config, direct) };
        // The next session names them again.
        host.status.clear(EtcdCondition::FORMER);
        self.publish_datapath(host, backend.datapath());
        self.found_named(host, &context, &source, &store);
        let (admission_in, admission) = watch::channel(context.admission(&own, host.endpoints()));
        let directory = host.settings.prefix.leases(context.config.pools.v4.is_some());
        let beside = Some(host.watchdog.part(Part::Follower).beside());
        let records = match snapshot.source {
            Source::Etcd => {
                let (folder, random) = (host.settings.prefix.records(), host.ports.random().clone());
                FollowFolder::spawn(store.clone(), folder, snapshot.records, random)
            }
            Source::Cache(_) => FollowFolder::from_known(snapshot.records.unwrap_or_default()),
        };
        let follow = match snapshot.source {
            Source::Etcd => {
                let before = self.handover.leases.clone();
                let settings = FollowSettings { before, ..FollowSettings::new(directory, host.ports.random().clone()) };
                Follow::spawn(store, settings, admission, Start { listing: Some(snapshot.listing), beside })
            }
            Source::Cache(_) => Follow::from_listing(snapshot.listing, admission, beside),
        };
        let protecting = (admission_in.clone(), self.named.clone());
        let endpoints = endpoints::follow(host.ports.clone(), host.settings.clone(), host.state.subnet, protecting);
        let held = host.held_on(&context);
        let underlay_changed = self.loops.underlay_changed.clone();
        let underlay = UnderlayWatch::new(
            host.ports.clone(),
            JoinedOn { underlay: context.underlay, held, is_direct: direct.is_some() },
            host.settings.clone(),
            underlay_changed,
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
        let traffic = TrafficWatch::start(host.ports.clone(), &joined_with, status.clone(), follow.table.clone());
        Ok(Some(Session {
            status,
            network: self.name.clone(),
            named: self.named.clone(),
            backend,
            scope,
            loops: self.loops.clone(),
            rounds: self.loops.network.clone(),
            policy: Arc::new(policy),
            docker_options: Arc::new(docker_options),
            joins: self.joins,
            source,
            follow,
            records,
            own_port,
            joined: WithRecords::default(),
            leave_former_at: None,
            needing_former: NeedingFormer::default(),
            is_without_vxlan: host.no_vxlan,
            _endpoints: endpoints,
            joined_with,
            underlay,
            leased_over: host.state.leased_over.clone(),
            _traffic: traffic,
            computed: None,
            progress: Progress::new(self.handover.is_ready),
        }))
    }

    /// Reports the datapath to the status and the log.
    fn publish_datapath(&self, host: &Host<P>, datapath: Datapath) {
        if !datapath.is_userspace {
            // A UDP socket that an earlier run left would occupy the kernel's port.
            self.stored.follow(host.ports.supervisor(), &[]);
        }
        info!(datapath = datapath.name, reason = datapath.reason, "datapath chosen");
        host.status.update(|seen| seen.datapath = Some(datapath));
    }
}

impl<P: Ports> Host<P> {
    /// Makes the agent encapsulate from the next join on, because the kernel cannot.
    pub(crate) fn encapsulate(&mut self) {
        warn!("this kernel cannot make VXLAN devices: encapsulating in the agent");
        self.no_vxlan = true;
    }

    /// The settings of VXLAN packets that the agent moves itself; `None` if the kernel does.
    pub(crate) fn moves_itself(&self) -> Option<ForwardSettings> {
        match self.vxlan_by() {
            VxlanBy::Kernel => None,
            vxlan @ (VxlanBy::AgentRequested | VxlanBy::AgentFallback) => {
                Some(ForwardSettings { vxlan, ..self.settings.forward })
            }
        }
    }

    /// Who does VXLAN on this host.
    fn vxlan_by(&self) -> VxlanBy {
        if self.no_vxlan { VxlanBy::AgentFallback } else { self.settings.forward.vxlan }
    }

    /// Chooses the backend of a config, with the MACs that this host had before, if any.
    fn backend_alone(&self, context: &JoinContext, listing: &Entries) -> Result<Chosen, Exit> {
        let own = own_entry(listing, &context.public, &context.config.pools);
        let published = own.map(|own| own.lease.data.macs()).unwrap_or_default();
        let Identity { devices, marks, port } = identify(&context.config)?;
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
        let have = self.ports.observed(&scope)?;
        let macs = devices.map(|family, name| {
            let disowned = self.disowned.get(name.as_str());
            let ours = have.links.get(name).filter(|link| link.owner == Owner::Ours);
            let device = ours.and_then(|link| link.mac).filter(|mac| Some(mac) != disowned);
            let stored = self.state.macs.get(name.as_str()).copied();
            choose_mac(published.get(family).copied(), device, stored, MacAddr::local(self.ports.random().bytes()))
        });
        let current =
            devices.iter().filter_map(|(family, name)| Some((name.to_string(), *macs.get(family)?))).collect();
        let (underlay, public, blackhole) = (context.underlay.clone(), context.public, self.settings.blackhole);
        let vxlan = self.vxlan_by();
        let forward = ForwardSettings { vxlan, ..self.settings.forward };
        let backend = select(&context.config, Placement { underlay, public, macs, blackhole, forward })?;
        // Devices of a former network config are ours, and no longer wanted.
        let mut scope = backend.scope();
        scope.marks.macs.extend(own_macs);
        let former = self.state.macs.keys().chain(self.disowned.keys());
        scope.devices.extend(former.filter_map(|name| name.parse::<LinkName>().ok()));
        let record = port.map(|port| BackendRecord { port: Some(port), former: None });
        let ports = PortUse::of(&context.config, vxlan).into_iter().collect();
        Ok(Chosen { backend, scope, macs: current, own_port: port, record, former: None, ports })
    }
}
