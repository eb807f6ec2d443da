//! A joined network: computes the desired state of the kernel and the packet filter from the leases, each time they change.

mod former;
mod handover;
mod lease_source;
mod notes;

use std::{collections::BTreeMap, sync::Arc};

use tokio::{task::JoinSet, time::Instant};
use tracing::{error, info};
use wire_backends::{Backend, NetFromLeases};
use wire_firewall::{FirewallPolicy, OverlayDevice};
use wire_lease::{
    ConfigEvent, Entry, Follow, FollowFolder, Lease, LeaseTable, NetworkConfig, StoredRecord, WithRecords,
};
use wire_net::{NetworkName, Prefix};
use wire_state::{DesiredNet, PerNamespace, Scope};

pub(crate) use self::{
    former::NeedingFormer,
    handover::{Handover, Progress},
    lease_source::{EtcdConnections, LeaseSource},
};
use crate::{
    datapath::{NetworkHandle, NetworkShare, Outcome},
    docker_opts::DockerOptions,
    exit::Exit,
    firewall::{self, FilterShare, FirewallHandle, FirewallShare},
    loops::Loops,
    named::Named,
    ports::Ports,
    pulse::Heartbeat,
    stale::Subnets,
    status::{Status, StatusWriter},
    traffic::TrafficWatch,
    underlay::UnderlayWatch,
};

/// The reason why the network must be joined anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The underlay's link or its addresses have changed.
    UnderlayChanged,
    /// The operator has asked for it (`SIGHUP`).
    Reload,
    /// The last attempt to join anew failed.
    Retry,
    /// The kernel cannot make VXLAN devices.
    NoVxlan,
    /// etcd has answered a host that had joined with the saved network state.
    EtcdAnswered,
    /// This host has leased another subnet than the one its traffic uses.
    OtherSubnet,
    /// No other host needs the former backend any more.
    FormerUnneeded,
    /// The kernel lacks what the former backend needs.
    FormerImpossible,
}

/// The parts of a joined network.
pub(crate) struct Session<P: Ports> {
    pub(crate) status: StatusWriter,
    pub(crate) network: NetworkName,
    /// Networks by name, which stand on this one.
    pub(crate) named: Option<Named<P::Store>>,
    pub(crate) backend: Box<dyn Backend>,
    /// What was computed from the last leases; `None` before the first.
    pub(crate) computed: Option<NetFromLeases>,
    /// The part of the kernel's state that the backend's devices and routes are in.
    pub(crate) scope: Scope,
    pub(crate) loops: Loops,
    /// A handle of its own on the loop of `Network`, which knows the rounds that this session has handled.
    pub(crate) rounds: NetworkHandle,
    pub(crate) policy: Arc<FirewallPolicy>,
    /// The options that we give to Docker.
    pub(crate) docker_options: Arc<DockerOptions>,
    /// The number of joins of this network, including this one.
    pub(crate) joins: u64,
    pub(crate) source: LeaseSource<P>,
    pub(crate) follow: Follow,
    pub(crate) records: FollowFolder<StoredRecord>,
    /// The port of our backend, which hosts without a record have too; `None` with a former backend, which may have another.
    pub(crate) own_port: Option<u16>,
    /// The leases with the ports of their hosts.
    pub(crate) joined: WithRecords,
    /// When the former backend is left, if no peer needs it until then.
    pub(crate) leave_former_at: Option<Instant>,
    pub(crate) needing_former: NeedingFormer,
    /// True if it was joined in the knowledge that the kernel cannot make VXLAN devices.
    pub(crate) is_without_vxlan: bool,
    /// The task that resolves the names of etcd's members again and again. Ends with the session.
    pub(crate) _endpoints: JoinSet<()>,
    /// The network config with which the network was joined.
    pub(crate) joined_with: NetworkConfig,
    pub(crate) underlay: UnderlayWatch<P>,
    /// The bridges that overlapped our subnet before it was leased.
    pub(crate) leased_over: Vec<(String, Prefix)>,
    /// Watches the traffic of peers. Ends with the session.
    pub(crate) _traffic: TrafficWatch,
    pub(crate) progress: Progress,
}

/// An event that the session handles.
enum Event {
    Leases,
    /// The records beside the leases.
    Records,
    Health,
    Hold,
    Config(ConfigEvent),
    /// It is time to save the network state.
    SaveNetwork,
    Underlay,
    Round(Outcome),
    /// The firewall is in place, or its grace period has ended.
    Firewall,
    /// No peer needs the former backend any more.
    FormerUnneeded,
    /// The watchdog asks whether this part still runs.
    Watchdog,
    /// A part that must never end has ended.
    Broken(&'static str),
}

impl<P: Ports> Session<P> {
    /// Handles events until the network must be joined anew.
    ///
    /// # Errors
    /// When the kernel cannot do what the backend needs, or a part of the agent has died.
    pub(crate) async fn stay(&mut self, heartbeat: &mut Heartbeat) -> Result<Ended, Exit> {
        if self.note_hold() {
            return Ok(Ended::OtherSubnet);
        }
        loop {
            match self.next_event(heartbeat).await {
                Event::Leases | Event::Records => self.want(),
                Event::Health => self.note_health(),
                Event::Hold => {
                    if self.note_hold() {
                        return Ok(Ended::OtherSubnet);
                    }
                }
                Event::Config(event) => self.note_config(event),
                Event::SaveNetwork => self.save_network(),
                Event::FormerUnneeded => {
                    self.put_off_leaving();
                    return Ok(Ended::FormerUnneeded);
                }
                Event::Watchdog => heartbeat.answer().await,
                Event::Round(outcome) => {
                    if let Some(ended) = self.note_round(outcome)? {
                        return Ok(ended);
                    }
                    // The monitor did not report changes that were made before it was open.
                    if self.note_underlay() {
                        return Ok(Ended::UnderlayChanged);
                    }
                }
                Event::Firewall => self.note_ready(),
                Event::Underlay => {
                    if self.note_underlay() {
                        return Ok(Ended::UnderlayChanged);
                    }
                }
                Event::Broken(part) => return Err(Exit::PartDied { part }),
            }
        }
    }

    /// Waits for the next event.
    async fn next_event(&mut self, heartbeat: &mut Heartbeat) -> Event {
        let of = |changed: Result<(), _>, event, part| if changed.is_ok() { event } else { Event::Broken(part) };
        tokio::select! {
            changed = self.follow.table.changed() => of(changed, Event::Leases, "the follower of the leases"),
            () = self.records.changed() => Event::Records,
            changed = self.follow.health.changed() => of(changed, Event::Health, "the follower of the leases"),
            wake = self.source.next_event() => wake,
            () = self.underlay.changed() => Event::Underlay,
            outcome = next_outcome(&mut self.rounds, &self.progress) => {
                outcome.map_or(Event::Broken("the dataplane"), Event::Round)
            }
            name = self.loops.died() => Event::Broken(name),
            () = in_place(&self.loops.firewall, &self.progress) => Event::Firewall,
            () = former::unneeded(self.leave_former_at) => Event::FormerUnneeded,
            () = heartbeat.asked() => Event::Watchdog,
        }
    }

    /// Computes the desired state from the leases, and hands it to the loops.
    fn want(&mut self) {
        let Some(leases) = self.follow.table.borrow_and_update().clone() else { return };
        let records = self.records.folder.borrow_and_update().clone();
        let table = Arc::new(self.joined.update(&leases, records.as_ref(), self.own_port));
        self.note_former(&table);
        if let Some(own) = self.source.own() {
            let desired = self.desired(&own.lease, &table);
            self.note_beyond_link();
            let firewall = self.firewall_share(own, &table, &desired);
            let desired = Arc::new(PerNamespace::host(desired));
            let (scope, subnets) =
                (self.scope.clone(), Subnets { pools: self.joined_with.pools, leases: table.clone() });
            let (subnets, guests) = (Some(subnets), BTreeMap::new());
            let (spare, revision) = (self.backend.spare(), Some(table.revision));
            let share = NetworkShare { desired, scope, spare, guests, subnets, revision, tries: 0 };
            let network = self.loops.network.want(&self.network, share);
            let firewall = self.loops.firewall.want(&self.network, FilterShare::Flat(firewall));
            self.progress.first_changes.get_or_insert((network, firewall));
        }
        if let LeaseSource::Etcd(etcd) = &self.source
            && let Some(hold) = &etcd.hold
        {
            hold.tell(leases);
        }
        self.note_known(&table);
        self.status.update(|seen| seen.leases = Some(table));
        self.note_overlaps();
    }

    /// The desired state of the host's namespace, brought forward from the last leases.
    fn desired(&mut self, own: &Lease, table: &LeaseTable) -> DesiredNet {
        let computed = match self.computed.take() {
            Some(mut computed) => {
                computed.update(&*self.backend, own, table);
                computed
            }
            None => NetFromLeases::new(&*self.backend, own, table),
        };
        self.computed.insert(computed).net().clone()
    }

    /// Compares what was brought forward with what follows from all leases: with each full listing.
    fn check_desired(&mut self) {
        let is_right = self.computed.as_mut().is_none_or(|computed| computed.check(&*self.backend));
        if !is_right {
            error!("the entries that follow from all leases are others than those that were brought forward");
            self.want();
        }
    }

    fn firewall_share(&self, own: Arc<Entry>, table: &Arc<LeaseTable>, desired: &DesiredNet) -> FirewallShare {
        FirewallShare {
            policy: self.policy.clone(),
            own,
            leases: table.clone(),
            devices: OverlayDevice::of(desired),
            docker_options: self.docker_options.clone(),
            mtu: self.backend.mtu().0,
            is_userspace: self.backend.datapath().is_userspace,
            joins: self.joins,
        }
    }

    /// Stops holding our lease, and returns the state for the next session.
    pub(crate) fn hand_over(&mut self) -> Handover {
        Handover {
            held: self.source.release(),
            leases: self.follow.table.borrow().clone(),
            is_ready: self.progress.is_ready,
        }
    }

    fn note_health(&mut self) {
        let health = self.follow.health.borrow_and_update().clone();
        if std::mem::replace(&mut self.progress.listings, health.listings) != health.listings {
            self.note_known_again();
            // The first one is what everything was just computed from.
            if health.listings > 1 {
                self.check_desired();
            }
        }
        if let Some(named) = &self.named {
            named.note_resyncs(health.resyncs);
        }
        self.status.update(|seen| seen.follow = health);
    }

    /// Notes the leases that etcd has just sent. They are saved some seconds later ([`Event::SaveNetwork`]).
    fn note_known(&mut self, table: &Arc<LeaseTable>) {
        if let LeaseSource::Etcd(etcd) = &mut self.source {
            etcd.last_known.note(table.clone());
        }
    }

    /// Notes them with the time of a listing, changed or not.
    fn note_known_again(&mut self) {
        if let Some(table) = self.status.look(|seen| seen.leases.clone()) {
            self.note_known(&table);
        }
    }

    /// Starts to save the network state that was noted.
    fn save_network(&mut self) {
        match &mut self.source {
            LeaseSource::Etcd(etcd) => etcd.last_known.keep(),
            LeaseSource::Cache(_) => {}
        }
    }

    /// Handles events while `work` runs, which is a part of joining anew: reasons to join anew are ignored meanwhile.
    ///
    /// # Errors
    /// As [`Session::stay`].
    pub(crate) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut heartbeat: Heartbeat,
    ) -> Result<T, Exit> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                ended = self.stay(&mut heartbeat) => match ended? {
                    // It would end in the same way again and again, so only `work` goes on.
                    Ended::OtherSubnet => return Ok(work.await),
                    Ended::UnderlayChanged
                    | Ended::Reload
                    | Ended::Retry
                    | Ended::NoVxlan
                    | Ended::EtcdAnswered
                    | Ended::FormerUnneeded
                    | Ended::FormerImpossible => {}
                },
            }
        }
    }

    /// Handles an outcome of the loop of `Network` that differs from the one before.
    fn note_round(&mut self, outcome: Outcome) -> Result<Option<Ended>, Exit> {
        self.progress.outcome = outcome;
        let is_ready = self.progress.is_ready;
        self.progress.all_but_firewall = match outcome {
            Outcome::NoVxlan if !self.is_without_vxlan => return Ok(Some(Ended::NoVxlan)),
            // An earlier share of a network by name, which is set anew.
            Outcome::NoVxlan => None,
            // It may be the new one that lacks it: then the next session says so.
            Outcome::NoTun | Outcome::NoIpip if !is_ready && self.backend.former().is_some() => {
                return Ok(Some(Ended::FormerImpossible));
            }
            Outcome::NoTun if !is_ready => return Err(Exit::NoDevice { summary: self.status.look(Status::summary) }),
            Outcome::NoIpip if !is_ready => return Err(Exit::NoIpip),
            Outcome::NoTun | Outcome::NoIpip | Outcome::Pending | Outcome::Unusable => None,
            Outcome::Usable => (!is_ready).then(Instant::now),
        };
        Ok(None)
    }

    fn note_ready(&mut self) {
        (self.progress.all_but_firewall, self.progress.is_ready) = (None, true);
        self.status.update(|seen| seen.ready = true);
        info!(summary = self.status.look(Status::summary), "ready");
    }
}

/// Waits until a round for this session has another outcome than the one before. `None` if the thread has died.
async fn next_outcome(network: &mut NetworkHandle, progress: &Progress) -> Option<Outcome> {
    let Some((number, _)) = progress.first_changes else { return std::future::pending().await };
    loop {
        let outcome = network.next_round(number).await?;
        if outcome != progress.outcome {
            return Some(outcome);
        }
    }
}

/// Waits until READY may be sent: the firewall is in place, or its grace period has ended. Waits for ever while anything else is not ready.
async fn in_place(firewall: &FirewallHandle, progress: &Progress) {
    match (progress.first_changes, progress.all_but_firewall) {
        (Some((_, number)), Some(since)) => firewall::in_place(firewall, number, since).await,
        (Some(_) | None, _) => std::future::pending().await,
    }
}
