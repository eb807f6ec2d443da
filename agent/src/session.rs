//! A joined network: each change of the leases becomes a desired state of the kernel.

use std::{sync::Arc, time::Instant};

use tokio::{sync::watch::error::RecvError, task::JoinSet};
use tracing::info;
use wire_backends::{Backend, select};
use wire_firewall::OverlayDevice;
use wire_lease::{ConfigEvent, ConfigWatch, Entry, Follow, Hold, HoldState, NetworkConfig};
use wire_net::{Prefix, chain};
use wire_store::EtcdStore;

use crate::{
    datapath::{Datapath, Outcome},
    exit::Exit,
    firewall::FirewallKeeper,
    last_known::Keeper,
    pulse::Heartbeat,
    status::{EtcdCondition, Status, StatusWriter, UnderlayCondition},
    traffic::TrafficWatch,
    underlay::{Moved, UnderlayWatch, overlaps},
    upkeep::Upkeep,
};

/// The reason why the network must be joined anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The underlay's link or its addresses have changed.
    UnderlayChanged,
    /// The operator asked for it (`SIGHUP`).
    Asked,
    /// The last attempt to join anew failed.
    Again,
    /// The kernel cannot make VXLAN devices.
    NoVxlan,
    /// etcd has answered a host that had joined with the saved network state.
    Answered,
    /// This host has leased another subnet than the one its traffic uses.
    Leased,
}

/// The state with which a network was joined.
pub(crate) enum Basis {
    /// The state in etcd.
    Etcd(Box<Ties>),
    /// The saved state, with the lease this host had then. This host does not hold it now.
    LastKnown(Arc<Entry>),
}

/// The connections of a host to etcd, besides the watch on the leases of others.
pub(crate) struct Ties {
    /// `None` only while the next session is made.
    pub(crate) hold: Option<Hold<EtcdStore>>,
    /// The lease that traffic uses while no lease is held.
    pub(crate) own: Arc<Entry>,
    pub(crate) config: ConfigWatch<EtcdStore>,
    pub(crate) keeper: Keeper,
}

impl Basis {
    /// True if the hold on our lease was not handed over to a next session.
    pub(crate) const fn is_whole(&self) -> bool {
        match self {
            Self::Etcd(ties) => ties.hold.is_some(),
            Self::LastKnown(_) => true,
        }
    }

    /// Stops holding our lease, and returns its last state.
    pub(crate) fn let_go(&mut self) -> Option<HoldState> {
        match self {
            Self::Etcd(ties) => ties.hold.take().map(|hold| hold.state.borrow().clone()),
            Self::LastKnown(_) => None,
        }
    }

    /// Our own lease.
    pub(crate) fn own(&self) -> Option<Arc<Entry>> {
        match self {
            Self::Etcd(ties) => {
                let held = ties.hold.as_ref().and_then(|hold| hold.state.borrow().entry().cloned());
                Some(held.filter(|held| held.lease.subnet == ties.own.lease.subnet).unwrap_or_else(|| ties.own.clone()))
            }
            Self::LastKnown(own) => Some(own.clone()),
        }
    }

    /// Waits for a change of our lease, of the config, or of the state to be saved; waits for ever while etcd is away.
    async fn wake(&mut self) -> Wake {
        let Self::Etcd(ties) = self else { return std::future::pending().await };
        let Ties { hold, config, keeper, own: _ } = ties.as_mut();
        tokio::select! {
            changed = held(hold.as_mut()) => changed.map_or(Wake::Broken("the holder of the lease"), |()| Wake::Hold),
            event = config.next() => Wake::Config(event),
            () = keeper.due() => Wake::Keep,
        }
    }
}

/// The parts of a joined network.
pub(crate) struct Session {
    pub(crate) board: StatusWriter,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) datapath: Datapath,
    pub(crate) firewall: FirewallKeeper,
    pub(crate) basis: Basis,
    pub(crate) follow: Follow,
    /// Follows the names of etcd's members. Ends with the session.
    pub(crate) _endpoints: JoinSet<()>,
    /// The network config with which the network was joined.
    pub(crate) joined_with: NetworkConfig,
    pub(crate) underlay: UnderlayWatch,
    /// The bridges that were inside our subnet before it was leased.
    pub(crate) leased_over: Vec<(String, Prefix)>,
    pub(crate) upkeep: Upkeep,
    /// Ends with the session.
    pub(crate) _traffic: TrafficWatch,
    /// When everything but the firewall became ready; `None` before that, and after READY was sent.
    pub(crate) all_but_firewall: Option<Instant>,
}

/// An event that the session handles.
enum Wake {
    Leases,
    Health,
    Hold,
    Config(ConfigEvent),
    /// The network state is to be saved.
    Keep,
    /// The files are to be checked.
    Files,
    Underlay,
    Round(Outcome),
    /// The firewall is in place, or its grace period has ended.
    Firewall,
    /// The watchdog asks whether this part goes on.
    Asked,
    /// A part that must never end has ended.
    Broken(&'static str),
}

impl Session {
    /// Stays until the network must be joined anew.
    ///
    /// # Errors
    /// When the kernel cannot do what the backend needs, or a part of the agent has died.
    pub(crate) async fn stay(&mut self, answers: &mut Heartbeat) -> Result<Ended, Exit> {
        if self.note_hold() {
            return Ok(Ended::Leased);
        }
        loop {
            match self.wake(answers).await {
                Wake::Leases => self.want(),
                Wake::Health => self.note_health(),
                Wake::Hold => {
                    if self.note_hold() {
                        return Ok(Ended::Leased);
                    }
                }
                Wake::Config(event) => self.note_config(event),
                Wake::Keep => self.keep(),
                Wake::Files => self.upkeep.begin(),
                Wake::Asked => answers.answer().await,
                Wake::Round(outcome) => {
                    if self.note_round(outcome)? == Some(Ended::NoVxlan) {
                        return Ok(Ended::NoVxlan);
                    }
                    // No monitor has reported what changed between the start and its first look.
                    if self.has_moved() {
                        return Ok(Ended::UnderlayChanged);
                    }
                }
                Wake::Firewall => self.note_ready(),
                Wake::Underlay => {
                    if self.has_moved() {
                        return Ok(Ended::UnderlayChanged);
                    }
                }
                Wake::Broken(part) => return Err(Exit::Software(format!("{part} has died"))),
            }
        }
    }

    fn has_moved(&mut self) -> bool {
        let moved = self.underlay.look();
        let fault = match &moved {
            Moved::Lost(why) => Some(why.clone()),
            Moved::Yes | Moved::No => None,
        };
        self.board.set(UnderlayCondition::LOST, fault.map(UnderlayCondition::Lost));
        self.board.set(UnderlayCondition::RENAMED, self.underlay.renamed());
        self.note_overlaps();
        moved == Moved::Yes
    }

    /// Warns of bridges of this host that overlap leases.
    fn note_overlaps(&self) {
        if let Some(own) = self.basis.own() {
            let leases = self.follow.table.borrow();
            let said = overlaps(self.underlay.attached(), &self.leased_over, own.lease.subnet, leases.as_deref());
            self.board.set(UnderlayCondition::OVERLAPS, said.map(UnderlayCondition::Overlaps));
        }
    }

    async fn wake(&mut self, answers: &mut Heartbeat) -> Wake {
        let of = |changed: Result<(), _>, wake, part| if changed.is_ok() { wake } else { Wake::Broken(part) };
        tokio::select! {
            changed = self.follow.table.changed() => of(changed, Wake::Leases, "the follower of the leases"),
            changed = self.follow.health.changed() => of(changed, Wake::Health, "the follower of the leases"),
            wake = self.basis.wake() => wake,
            () = self.underlay.changed() => Wake::Underlay,
            () = self.upkeep.due() => Wake::Files,
            outcome = self.datapath.outcome() => outcome.map_or(Wake::Broken("the dataplane"), Wake::Round),
            () = self.firewall.died() => Wake::Broken("the firewall"),
            () = in_place(&self.firewall, self.all_but_firewall) => Wake::Firewall,
            () = answers.asked() => Wake::Asked,
        }
    }

    /// Computes the desired state from the leases, and hands it to the threads that reconcile.
    fn want(&mut self) {
        let Some(table) = self.follow.table.borrow_and_update().clone() else { return };
        if let Some(own) = self.basis.own() {
            let desired = self.backend.desired(&own.lease, &table);
            self.firewall.want(own.clone(), table.clone(), OverlayDevice::of(&desired));
            self.datapath.want(desired, table.revision);
        }
        if let Basis::Etcd(ties) = &self.basis
            && let Some(hold) = &ties.hold
        {
            hold.tell(table.clone());
        }
        self.board.update(|seen| seen.leases = Some(table));
        self.note_overlaps();
        self.note_known();
    }

    fn note_health(&mut self) {
        let health = self.follow.health.borrow_and_update().clone();
        let listings = self.board.look(|seen| seen.follow.listings);
        if health.listings != listings {
            self.note_known();
        }
        self.board.update(|seen| seen.follow = health);
    }

    /// Saves the network state that etcd has just sent.
    fn note_known(&mut self) {
        if let (Basis::Etcd(ties), Some(table)) = (&mut self.basis, &*self.follow.table.borrow()) {
            ties.keeper.note(table.clone());
        }
    }

    fn keep(&mut self) {
        match &mut self.basis {
            Basis::Etcd(ties) => ties.keeper.keep(),
            Basis::LastKnown(_) => {}
        }
    }

    /// Reports the state of our lease, and whether its subnet differs from the one that traffic uses.
    fn note_hold(&mut self) -> bool {
        let Basis::Etcd(ties) = &mut self.basis else { return false };
        let Some(hold) = &mut ties.hold else { return false };
        let state = hold.state.borrow_and_update().clone();
        let trouble = match &state {
            HoldState::Held { trouble, .. } => trouble.clone().map(EtcdCondition::LeaseAtRisk),
            HoldState::Acquiring { reason } => Some(EtcdCondition::NoLease(reason.clone())),
            HoldState::Lost { reason, .. } => Some(EtcdCondition::LeaseLost(reason.clone())),
        };
        let is_other = state.subnet().is_some_and(|subnet| subnet != ties.own.lease.subnet);
        self.board.set(EtcdCondition::LEASE_LOST, trouble);
        self.board.update(|seen| seen.hold = Some(state));
        is_other
    }

    /// Keeps the session going while `work` runs, whatever happens to the state with which it was joined.
    ///
    /// # Errors
    /// As [`Session::stay`].
    pub(crate) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut answers: Heartbeat,
    ) -> Result<T, Exit> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                // The network is being joined anew already.
                ended = self.stay(&mut answers) => match ended? {
                    Ended::Leased => return Ok(work.await),
                    Ended::UnderlayChanged | Ended::Asked | Ended::Again | Ended::NoVxlan | Ended::Answered => {}
                },
            }
        }
    }

    /// Checks and reports a config that changes while the agent runs. It is applied only by a restart.
    fn note_config(&self, event: ConfigEvent) {
        let fault = match event {
            ConfigEvent::Broken(_) => return,
            ConfigEvent::Is(None) => Some(EtcdCondition::ConfigDeleted),
            ConfigEvent::Is(Some(json)) => match NetworkConfig::from_json(&json) {
                Ok(config) if config == self.joined_with => None,
                Ok(config) => Some(match self.bar(&config) {
                    None => EtcdCondition::ConfigChanged,
                    Some(why) => EtcdCondition::ConfigInapplicable(why),
                }),
                Err(error) => Some(EtcdCondition::ConfigRefused(chain(&error))),
            },
        };
        self.board.set(EtcdCondition::CONFIG_CHANGED, fault);
    }

    /// The reason why a restart could not join with another config.
    fn bar(&self, config: &NetworkConfig) -> Option<String> {
        let placement = match self.underlay.placement(&config.pools) {
            Ok(placement) => placement,
            Err(error) => return Some(error.to_string()),
        };
        select(config, placement).err().map(|error| chain(&error))
    }

    /// Handles the outcome of a comparison with the kernel.
    fn note_round(&mut self, outcome: Outcome) -> Result<Option<Ended>, Exit> {
        let ready = self.board.look(|seen| seen.ready);
        self.all_but_firewall = match outcome {
            Outcome::NoVxlan => return Ok(Some(Ended::NoVxlan)),
            Outcome::NoTun if !ready => return Err(Exit::NoDevice(self.board.look(Status::summary))),
            Outcome::NoTun | Outcome::Pending | Outcome::Unusable => None,
            Outcome::Usable => (!ready).then(Instant::now),
        };
        Ok(None)
    }

    fn note_ready(&mut self) {
        self.all_but_firewall = None;
        self.board.update(|seen| seen.ready = true);
        info!(summary = self.board.look(Status::summary), "ready");
    }
}

async fn in_place(firewall: &FirewallKeeper, since: Option<Instant>) {
    match since {
        Some(since) => firewall.in_place(since).await,
        None => std::future::pending().await,
    }
}

async fn held(hold: Option<&mut Hold<EtcdStore>>) -> Result<(), RecvError> {
    match hold {
        Some(hold) => hold.state.changed().await,
        None => std::future::pending().await,
    }
}
