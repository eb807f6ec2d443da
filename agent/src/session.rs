//! Staying in the network: each change of the leases becomes what the kernel should hold.

use tokio::sync::watch::error::RecvError;
use tracing::{info, warn};
use wire_backends::{Backend, OverlayDevice};
use wire_lease::{ConfigEvent, ConfigWatch, EtcdStore, Follow, Hold, HoldState, NetworkConfig, chain};

use crate::{
    datapath::{Datapath, Outcome},
    exit::Exit,
    firewall::FirewallKeeper,
    forwarding::Forwarding,
    observed::{Board, Observed},
    underlay::{Moved, UnderlayWatch},
};

/// Why a network must be joined anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The link or its addresses are others now.
    UnderlayChanged,
    /// An operator asked for it.
    Asked,
}

/// All that a joined network consists of.
pub(crate) struct Session {
    pub(crate) board: Board,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) datapath: Datapath,
    pub(crate) firewall: FirewallKeeper,
    /// `None` only while the next session is made.
    pub(crate) hold: Option<Hold<EtcdStore>>,
    pub(crate) follow: Follow,
    pub(crate) config: ConfigWatch<EtcdStore>,
    /// The network config all of this was made for.
    pub(crate) joined_with: NetworkConfig,
    pub(crate) underlay: UnderlayWatch,
    /// Ends with the session.
    pub(crate) _forwarding: Forwarding,
}

/// What happened.
enum Wake {
    Leases,
    Health,
    Hold,
    Config(ConfigEvent),
    Underlay,
    Round(Outcome),
    /// A part that must never end has ended.
    Broken(&'static str),
}

impl Session {
    /// Stays until the network must be joined anew.
    ///
    /// # Errors
    /// When the kernel cannot do what the backend needs, or a part of the agent has died.
    pub(crate) async fn stay(&mut self) -> Result<Ended, Exit> {
        self.note_hold();
        loop {
            match self.wake().await {
                Wake::Leases => self.want(),
                Wake::Health => self.note_health(),
                Wake::Hold => self.note_hold(),
                Wake::Config(event) => self.note_config(event),
                Wake::Round(outcome) => {
                    self.note_round(outcome).await?;
                    // What changed between the start and the first look of the monitor, nobody has told.
                    if self.has_moved() {
                        return Ok(Ended::UnderlayChanged);
                    }
                }
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
        self.board.fault("underlay", fault);
        moved == Moved::Yes
    }

    async fn wake(&mut self) -> Wake {
        let of = |changed: Result<(), _>, wake, part| if changed.is_ok() { wake } else { Wake::Broken(part) };
        tokio::select! {
            changed = self.follow.table.changed() => of(changed, Wake::Leases, "the follower of the leases"),
            changed = self.follow.health.changed() => of(changed, Wake::Health, "the follower of the leases"),
            changed = held(self.hold.as_mut()) => of(changed, Wake::Hold, "the holder of the lease"),
            event = self.config.next() => Wake::Config(event),
            () = self.underlay.changed() => Wake::Underlay,
            outcome = self.datapath.outcome() => outcome.map_or(Wake::Broken("the dataplane"), Wake::Round),
        }
    }

    /// Turns the leases into what the kernel should hold.
    fn want(&mut self) {
        let Some(table) = self.follow.table.borrow_and_update().clone() else { return };
        let own = self.hold.as_ref().and_then(|hold| hold.state.borrow().entry().cloned());
        if let Some(own) = own {
            let desired = self.backend.desired(&own.lease, &table);
            self.firewall.want(own.clone(), table.clone(), OverlayDevice::of(&desired));
            self.datapath.want(desired, table.revision);
        }
        self.board.update(|seen| seen.leases = Some(table));
    }

    fn note_health(&mut self) {
        let health = self.follow.health.borrow_and_update().clone();
        self.board.update(|seen| seen.follow = health);
    }

    fn note_hold(&mut self) {
        let Some(hold) = &mut self.hold else { return };
        let state = hold.state.borrow_and_update().clone();
        let trouble = match &state {
            HoldState::Held { trouble, .. } => trouble.clone(),
            HoldState::Acquiring { reason } | HoldState::Lost { reason, .. } => Some(format!("it is lost: {reason}")),
        };
        self.board.fault("lease", trouble);
        self.board.update(|seen| seen.hold = Some(state));
    }

    /// A config that changes while the agent runs is checked and reported, never applied.
    fn note_config(&self, event: ConfigEvent) {
        let fault = match event {
            ConfigEvent::Broken(_) => return,
            ConfigEvent::Is(None) => {
                Some("it was deleted; this agent goes on with what it read at its start".to_owned())
            }
            ConfigEvent::Is(Some(json)) => match NetworkConfig::from_json(&json) {
                Ok(config) if config == self.joined_with => None,
                Ok(_) => Some("it has changed: restart wire-agent to apply it".to_owned()),
                Err(error) => Some(format!("it has changed, and the new one is refused: {}", chain(&error))),
            },
        };
        if let Some(fault) = &fault {
            warn!(fault, "network config");
        }
        self.board.fault("network config", fault);
    }

    /// The kernel was compared: the network is there, is not there yet, or can never be.
    async fn note_round(&mut self, outcome: Outcome) -> Result<(), Exit> {
        match outcome {
            Outcome::NoVxlan if !self.board.look(|seen| seen.ready) => return Err(Exit::NoVxlan),
            Outcome::NoVxlan | Outcome::Pending | Outcome::Unusable => return Ok(()),
            Outcome::Usable => {}
        }
        if !self.board.look(|seen| seen.ready) {
            self.firewall.in_place().await;
            self.board.update(|seen| seen.ready = true);
            info!(summary = self.board.look(Observed::summary), "ready");
        }
        Ok(())
    }
}

async fn held(hold: Option<&mut Hold<EtcdStore>>) -> Result<(), RecvError> {
    match hold {
        Some(hold) => hold.state.changed().await,
        None => std::future::pending().await,
    }
}
