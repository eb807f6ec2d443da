//! The thread that keeps the packet filter as it should be.
//!
//! As the dataplane's ([`crate::datapath`]), and apart from it: programs are slow beside netlink, and iptables may wait for
//! others. In: leases (a watch). Out: a report on the board. What wakes it (new leases, the kernel's word that someone
//! changed a rule, a timer) says nothing more than "compare". When nothing has changed, a look costs one netlink request.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};
use wire_backends::{
    ACCEPT_MARK, Counted, DockerRules, FirewallDataplane, FirewallMonitor, FirewallPolicy, LinkName, NetState, Others,
    OverlayDevice, Reconciler, Report, Scope, Surroundings,
};
use wire_lease::{DualStack, Entry, Family, LeaseTable, NetworkConfig, Prefix, chain};

use crate::{
    exit::Exit,
    observed::{Board, FirewallSeen},
    settings::FirewallSettings,
};

/// How soon after the kernel's word it is looked. What follows closely is looked at less and less often, up to `SLOWEST`.
const SETTLE: Duration = Duration::from_millis(30);
const SLOWEST: Duration = Duration::from_secs(1);

/// How long READY waits for the first comparison.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the packet filter follows from.
#[derive(Clone, Debug)]
struct Wish {
    own: Arc<Entry>,
    leases: Arc<LeaseTable>,
    devices: DualStack<OverlayDevice>,
}

/// The running thread. It ends when this is dropped, and leaves the packet filter as it is.
#[derive(Debug)]
pub(crate) struct FirewallKeeper {
    wish: watch::Sender<Option<Wish>>,
    checked: watch::Receiver<bool>,
}

impl FirewallKeeper {
    /// Starts the thread. It writes nothing before the first [`FirewallKeeper::want`].
    ///
    /// # Errors
    /// When there is no netlink or no thread.
    pub(crate) fn start(settings: FirewallSettings, config: &NetworkConfig, board: Board) -> Result<Self, Exit> {
        let policy = FirewallPolicy {
            networks: config.pools.map(|_, pool| pool.network),
            masquerade: settings.masquerade,
            forward: settings.forward,
            senders: settings.senders,
        };
        let families: Vec<Family> = config.families().collect();
        let dataplane = FirewallDataplane::open(families).map_err(|error| Exit::Software(chain(&error)))?;
        let (wish, wishes) = watch::channel(None);
        let (done, checked) = watch::channel(false);
        let keeper = Keeper {
            policy,
            every: settings.every,
            reconciler: Reconciler::new(dataplane, Scope::default()),
            board,
            wishes,
            done,
            seen: FirewallSeen::default(),
            around: Surroundings::default(),
            pause: SETTLE,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Exit::Software(format!("cannot start the firewall's runtime: {error}")))?;
        thread::Builder::new()
            .name("firewall".to_owned())
            .spawn(move || runtime.block_on(keeper.run()))
            .map_err(|error| Exit::Software(format!("cannot start the firewall's thread: {error}")))?;
        Ok(Self { wish, checked })
    }

    /// Says which leases the packet filter should follow from now on.
    pub(crate) fn want(&self, own: Arc<Entry>, leases: Arc<LeaseTable>, devices: DualStack<OverlayDevice>) {
        self.wish.send_replace(Some(Wish { own, leases, devices }));
    }

    /// Waits until it was compared once, whatever came of it.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn in_place(&mut self) {
        // A thread that died, or programs that hang, keep nobody from what works without them.
        let _ = tokio::time::timeout(PATIENCE, self.checked.wait_for(|done| *done)).await;
    }
}

struct Keeper {
    policy: FirewallPolicy,
    every: Duration,
    reconciler: Reconciler<FirewallDataplane>,
    board: Board,
    wishes: watch::Receiver<Option<Wish>>,
    done: watch::Sender<bool>,
    seen: FirewallSeen,
    around: Surroundings,
    /// How soon the kernel's next word is followed.
    pause: Duration,
}

impl Keeper {
    async fn run(mut self) {
        while self.wishes.borrow().is_none() {
            if self.wishes.changed().await.is_err() {
                return;
            }
        }
        let mut monitor = None;
        loop {
            if monitor.is_none() {
                monitor = FirewallMonitor::open().ok();
            }
            let Some(wish) = self.wishes.borrow_and_update().clone() else { return };
            let begun = Instant::now();
            self.look(&wish);
            let busy = begun.elapsed();
            self.done.send_if_modified(|done| !std::mem::replace(done, true));
            let next = Instant::now() + self.every;
            let told = async {
                match &mut monitor {
                    Some(monitor) => monitor.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Of many changes in a row each costs a run of nft: they share it.
                    tokio::time::sleep(busy).await;
                }
                told = told => {
                    if told.is_err() {
                        monitor = None;
                    }
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(SLOWEST);
                }
                () = tokio::time::sleep_until(next.into()) => self.pause = SETTLE,
            }
        }
    }

    /// Compares where anything may have changed, and notes what was counted.
    fn look(&mut self, wish: &Wish) {
        if self.reconciler.dataplane().has_changed() {
            self.reconciler.doubt();
        }
        let subnets: Vec<Prefix> = wish.own.lease.subnet.prefixes().collect();
        match self.reconciler.dataplane().surroundings(&subnets) {
            Ok(around) => self.note_surroundings(around),
            Err(error) => warn!(error = chain(&error), "which links containers are on cannot be told"),
        }
        let firewall = self.policy.desired(&wish.own.lease, &wish.leases, &wish.devices, &self.around);
        let report = self.reconciler.round(&NetState { firewall, ..NetState::default() });
        if report.written + report.removed > 0 {
            // Others who want the first place too are not fought at full speed.
            self.pause = (self.pause * 2).min(self.every);
        }
        self.publish(&report, wish.devices.iter().map(|(_, device)| device.port).next());
    }

    fn note_surroundings(&mut self, around: Surroundings) {
        if around.bridges != self.around.bridges {
            let links: Vec<&str> = around.bridges.iter().map(LinkName::as_str).collect();
            info!(links = links.join(" "), "containers are on");
        }
        let fault = (around.docker == DockerRules::Unmarked).then(|| {
            format!(
                "its rules in nftables drop the overlay's packets to containers: start it with \
                 --bridge-accept-fwmark={ACCEPT_MARK:#x}/{ACCEPT_MARK:#x}, or \"bridge-accept-fwmark\" in daemon.json"
            )
        });
        self.board.fault("docker", fault);
        self.around = around;
    }

    fn publish(&mut self, report: &Report, port: Option<u16>) {
        let fault =
            (!report.converged).then(|| report.failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        if let Some(fault) = &fault
            && self.board.look(|seen| seen.faults.get("firewall") != Some(fault))
        {
            error!(fault, "the firewall is not as it should be");
        }
        self.board.fault("firewall", fault);
        if report.written + report.removed > 0 {
            info!(written = report.written, removed = report.removed, "firewall rules changed");
        }
        let counted = self.reconciler.dataplane().counted().unwrap_or_else(|_| self.seen.counted.clone());
        self.note_blocked(&counted, port);
        let seen = FirewallSeen {
            written: self.seen.written + report.written as u64,
            removed: self.seen.removed + report.removed as u64,
            converged: report.converged,
            counted,
        };
        if seen != self.seen {
            self.board.update(|board| board.firewall = seen.clone());
            self.seen = seen;
        }
    }

    /// What we let in and nobody sees at the end of the way, another firewall of this host has dropped.
    fn note_blocked(&mut self, counted: &Counted, port: Option<u16>) {
        let before = &self.seen.counted;
        if counted.delivered > before.delivered {
            self.board.fault(BLOCKED, None);
        } else if counted.arrived > before.arrived
            && let Some(port) = port
        {
            let fault = blocked(self.reconciler.dataplane().others(), port);
            if self.board.look(|seen| !seen.faults.contains_key(BLOCKED)) {
                warn!(fault, "peers are not heard");
            }
            self.board.fault(BLOCKED, Some(fault));
        }
    }
}

/// What the fault concerns.
const BLOCKED: &str = "encapsulation";

/// Who drops what peers send us, and what to do.
fn blocked(others: Others, port: u16) -> String {
    let (who, remedy) = match (others.ufw, others.firewalld) {
        (true, false) => ("ufw drops", format!("ufw allow {port}/udp")),
        (false, true) => {
            let open = format!("firewall-cmd --permanent --add-port={port}/udp");
            ("firewalld drops", format!("{open} && firewall-cmd --reload"))
        }
        (false, false) | (true, true) => {
            ("a rule of this host drops", "see nft list ruleset and iptables -S INPUT".to_owned())
        }
    };
    format!("{who} what peers send to UDP port {port}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_drops_what_peers_send_is_named_with_the_remedy() {
        let said = |ufw, firewalld| blocked(Others { ufw, firewalld }, 8472);
        assert_eq!(said(true, false), "ufw drops what peers send to UDP port 8472: ufw allow 8472/udp");
        assert!(said(false, true).contains("firewall-cmd --permanent --add-port=8472/udp"));
        assert!(said(false, false).starts_with("a rule of this host drops"));
    }
}
