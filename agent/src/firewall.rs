//! The thread that keeps the packet filter as it should be.
//!
//! As the dataplane's ([`crate::datapath`]), and apart from it: programs are slow beside netlink, and iptables may wait for
//! others. In: leases (a watch). Out: a report on the board. What wakes it (new leases, the kernel's word that someone
//! changed a rule, a timer) says nothing more than "compare". When nothing has changed, a look runs no program:
//! it asks the kernel for its generation, the bridges and our counters.

mod claims;
mod doubts;
mod notes;
mod said;

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};
use wire_firewall::{FirewallDataplane, FirewallMonitor, FirewallPolicy, HostFacts, OverlayDevice, Peer};
use wire_kernel::Links;
use wire_lease::{Entry, LeaseTable, NetworkConfig};
use wire_net::{DualStack, Family, LinkName, Prefix, chain};
use wire_state::{DataplaneError, Driver, Firewall, Reconciler, Report};

use self::{
    doubts::Doubts,
    said::{DOCKERS_CHAINS, FLOWTABLE, HIDDEN, IPTABLES, NFTABLES, RIVAL, lacking, no_flowtable},
};
use crate::{
    bridges::Findings,
    docker_opts::DockerOptions,
    exit::Exit,
    observed::{Board, FirewallSeen},
    other_agents,
    pulse::{Part, Watchdog},
    settings::FirewallSettings,
};

/// How soon after the kernel's word it is looked. What follows closely is looked at less and less often, up to `SLOWEST`.
const SETTLE: Duration = Duration::from_millis(30);
const SLOWEST: Duration = Duration::from_secs(1);

/// How long new leases wait at most for others that follow closely.
const SHARE: Duration = Duration::from_millis(50);

/// How long a bridge must be wrong to be named: while Docker starts, its bridge is there before it has its address.
const LASTING: Duration = Duration::from_secs(2);

/// How long READY waits for the first comparison, once all else is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the packet filter follows from.
#[derive(Clone, Debug)]
struct Wish {
    own: Arc<Entry>,
    leases: Arc<LeaseTable>,
    devices: DualStack<OverlayDevice>,
}

impl Wish {
    /// Whether it is the same one, and not only as good.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.own, &other.own) && Arc::ptr_eq(&self.leases, &other.leases) && self.devices == other.devices
    }
}

/// Takes away all that is ours in the packet filter, and says how much that was. What is flannel's may be in use again.
///
/// # Errors
/// [`Exit::No`] when something of it is still there, or may be.
pub(crate) fn remove() -> Result<usize, Exit> {
    let failed = |error: DataplaneError| Exit::Software(chain(&error));
    let mut dataplane = FirewallDataplane::open(Family::ALL.to_vec()).map_err(failed)?;
    let have = dataplane.read(&()).map_err(failed)?;
    let left = have.clone().without_ours();
    let mut reconciler = Reconciler::new(dataplane, ());
    let report = reconciler.round(&left);
    let other = reconciler.driver().remove_from_other_iptables();
    let failure =
        report.failures.first().map(ToString::to_string).or_else(|| other.as_ref().err().map(|error| chain(error)));
    let failure = failure.or_else(|| reconciler.driver().unread().map(|error| chain(&error)));
    match failure {
        Some(failure) => Err(Exit::No(format!("not all of the firewall could be removed: {failure}; try again"))),
        None => {
            reconciler.driver().remove_bare_tables(&have);
            Ok(report.removed + other.unwrap_or_default())
        }
    }
}

/// The running thread. It ends when this is dropped, and leaves the packet filter as it is.
#[derive(Debug)]
pub(crate) struct FirewallKeeper {
    wish: watch::Sender<Option<Wish>>,
    checked: watch::Receiver<bool>,
}

impl FirewallKeeper {
    /// Starts the thread. It writes nothing before the first [`FirewallKeeper::want`]. `told` is what Docker is told.
    ///
    /// # Errors
    /// When there is no netlink or no thread.
    pub(crate) fn start(
        settings: FirewallSettings,
        config: &NetworkConfig,
        told: DockerOptions,
        (board, pulse): (Board, Watchdog),
    ) -> Result<Self, Exit> {
        let policy = FirewallPolicy {
            pools: config.pools,
            masquerade: settings.masquerade,
            forward: settings.forward,
            senders: settings.senders,
            flowtable: settings.flowtable,
        };
        let families: Vec<Family> = config.families().collect();
        other_agents::announce();
        // As the dataplane's.
        let mut answers = pulse.part(Part::Firewall);
        let dataplane = FirewallDataplane::open(families).map_err(|error| Exit::Software(chain(&error)))?;
        let dataplane = dataplane.with_step(answers.step());
        let (wish, wishes) = watch::channel(None);
        let (done, checked) = watch::channel(false);
        let keeper = Keeper {
            policy,
            told,
            every: settings.every,
            links: Links::open().map_err(|error| Exit::Software(chain(&error)))?,
            reconciler: Reconciler::new(dataplane, ()),
            contested: board.look(|seen| seen.faults.contains_key(RIVAL)),
            board,
            wishes,
            done,
            seen: FirewallSeen::default(),
            around: HostFacts::default(),
            blocked: BTreeSet::new(),
            doubts: Doubts::default(),
            found: (Findings::default(), Instant::now()),
            pause: SETTLE,
            brake: SETTLE,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Exit::Software(format!("cannot start the firewall's runtime: {error}")))?;
        thread::Builder::new()
            .name("firewall".to_owned())
            .spawn(move || runtime.block_on(answers.during(keeper.run())))
            .map_err(|error| Exit::Software(format!("cannot start the firewall's thread: {error}")))?;
        Ok(Self { wish, checked })
    }

    /// Says which leases the packet filter should follow from now on.
    pub(crate) fn want(&self, own: Arc<Entry>, leases: Arc<LeaseTable>, devices: DualStack<OverlayDevice>) {
        self.wish.send_replace(Some(Wish { own, leases, devices }));
    }

    /// Waits until it was compared once, whatever came of it, but for no longer than what READY has waited for since `since`.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn in_place(&self, since: Instant) {
        // Programs that are slow keep nobody from what works without them.
        let mut checked = self.checked.clone();
        let compared = async {
            if checked.wait_for(|done| *done).await.is_err() {
                // It has died, which is for others to say.
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout_at((since + PATIENCE).into(), compared).await;
    }

    /// Waits until the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn died(&self) {
        self.wish.closed().await;
    }
}

struct Keeper {
    policy: FirewallPolicy,
    told: DockerOptions,
    every: Duration,
    links: Links,
    reconciler: Reconciler<FirewallDataplane>,
    board: Board,
    wishes: watch::Receiver<Option<Wish>>,
    done: watch::Sender<bool>,
    seen: FirewallSeen,
    around: HostFacts,
    /// Whether another agent undoes what we put right.
    contested: bool,
    /// The families of which others drop what we let in.
    blocked: BTreeSet<Family>,
    /// Those of which they may.
    doubts: Doubts,
    /// What is wrong with bridges, and since when.
    found: (Findings, Instant),
    /// How soon the kernel's next word is followed, for what others change.
    pause: Duration,
    /// The same for what we have to put right: others who want the first place too are not fought at full speed.
    brake: Duration,
}

impl Keeper {
    async fn run(mut self) {
        while self.wishes.borrow().is_none() {
            if self.wishes.changed().await.is_err() {
                return;
            }
        }
        let mut monitor = None;
        let mut followed: Option<Wish> = None;
        loop {
            if monitor.is_none() {
                monitor = FirewallMonitor::open().ok();
            }
            let Some(wish) = self.wishes.borrow_and_update().clone() else { return };
            let is_new = !followed.replace(wish.clone()).is_some_and(|before| before.is(&wish));
            let begun = Instant::now();
            self.look(&wish, is_new);
            let busy = begun.elapsed().min(SHARE);
            self.done.send_if_modified(|done| !std::mem::replace(done, true));
            // What a look takes belongs to it: of iptables-legacy nothing else tells.
            let next = begun + self.doubts.pause().unwrap_or(self.every).min(self.every).mul_f64(0.8);
            let pause = self.pause.max(self.brake);
            let told = async {
                let Some(monitor) = &mut monitor else { return std::future::pending().await };
                let told = monitor.changed().await;
                tokio::time::sleep(pause).await;
                told
            };
            tokio::select! {
                changed = self.wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Of many changes in a row each costs a look: they share it.
                    tokio::time::sleep(busy).await;
                }
                told = told => {
                    if told.is_err() {
                        monitor = None;
                    }
                }
                () = tokio::time::sleep_until(next.into()) => (self.pause, self.brake) = (SETTLE, SETTLE),
            }
        }
    }

    /// Compares where anything may have changed, and notes what was counted.
    fn look(&mut self, wish: &Wish, is_new: bool) {
        if self.reconciler.driver().has_changed() {
            self.reconciler.invalidate();
            self.pause = (self.pause * 2).min(SLOWEST);
        }
        let mut report = self.compare(wish);
        // iptables takes over at once what nftables refuses: two steps down, and one more without a flowtable.
        for _ in 0..3 {
            if !self.reconciler.driver().holds_less(&self.around) {
                break;
            }
            let before = std::mem::replace(&mut report, self.compare(wish));
            report.written += before.written;
            report.removed += before.removed;
            report.changes.splice(..0, before.changes);
        }
        let put_right = report.written + report.removed > 0 && !is_new;
        if put_right {
            self.brake = (self.brake * 2).min(self.every);
        }
        if put_right || self.contested {
            self.note_rivals();
        }
        if report.read_back && report.converged {
            self.leave_other_iptables();
        }
        let lack = self.reconciler.driver().nftables_error().map(|error| lacking(self.around.nftables, error));
        self.board.warning(NFTABLES, lack);
        self.board.caution(FLOWTABLE, self.reconciler.driver().flowtable_error().map(no_flowtable));
        let hidden = self.is_blind().then(|| HIDDEN.to_owned());
        self.board.warning(DOCKERS_CHAINS, hidden);
        self.publish(&report, &wish.devices);
        if self.note_doubts(&wish.devices) {
            let report = self.compare(wish);
            self.publish(&report, &wish.devices);
        }
        self.note_claims(&wish.leases);
        self.note_overruled(&wish.devices);
    }

    /// Once our chains stand where they are to be, those in the other iptables are of no use.
    fn leave_other_iptables(&mut self) {
        let removed = self.reconciler.driver().remove_from_other_iptables();
        if let Ok(removed @ 1..) = removed {
            info!(removed, "chains removed from the variant of iptables that is no longer used");
        }
        let failure = removed.err().map(|error| {
            format!(
                "wire-agent's chains could not be removed from the variant of iptables that is not in use: {}",
                chain(&error)
            )
        });
        self.board.warning(IPTABLES, failure);
    }

    fn compare(&mut self, wish: &Wish) -> Report<Firewall> {
        let subnets: Vec<Prefix> = wish.own.lease.subnet.prefixes().collect();
        match self.links.of_containers(&subnets) {
            Ok(links) => {
                let mut around = self.reconciler.driver().host_facts(links, &subnets);
                around.doubted = self.doubts.families();
                if self.policy.flowtable && self.reconciler.driver().tries_flowtables() {
                    around.hookable = self.hookable(&wish.devices, &around.bridges);
                }
                self.note_bridges(&around, subnets);
                self.note_host_facts(around, &wish.devices);
            }
            Err(error) => warn!(error = chain(&error), "cannot find the links that containers are on"),
        }
        let peer = |entry: &Arc<Entry>| Peer { public: entry.lease.public, subnet: entry.lease.subnet };
        let peers = wish.leases.peers.values().map(peer);
        let firewall = self.policy.desired(wish.own.lease.subnet, &peers, &wish.devices, &self.around);
        self.reconciler.round(&firewall)
    }

    /// The links that a flowtable may name: those that are there.
    fn hookable(&mut self, devices: &DualStack<OverlayDevice>, bridges: &BTreeSet<LinkName>) -> BTreeSet<LinkName> {
        let devices = devices.iter().map(|(_, device)| device.link).filter(|link| self.links.has(*link));
        devices.chain(bridges.iter().copied()).collect()
    }

    fn publish(&mut self, report: &Report<Firewall>, devices: &DualStack<OverlayDevice>) {
        let fault =
            (!report.converged).then(|| report.failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        if let Some(fault) = &fault
            && self.board.look(|seen| seen.faults.get("firewall") != Some(fault))
        {
            error!(fault, "the firewall is not in its desired state");
        }
        self.board.fault("firewall", fault);
        if report.written + report.removed > 0 {
            let (written, removed) = (report.written, report.removed);
            info!(written, removed, changes = report.named(), "firewall rules changed");
        }
        let counted = self.reconciler.driver().counted().unwrap_or_else(|_| self.seen.counted.clone());
        self.note_blocked(&counted, devices);
        let seen = FirewallSeen {
            written: self.seen.written + report.written as u64,
            removed: self.seen.removed + report.removed as u64,
            converged: report.converged,
            counted,
            tracked: self.policy.tracked(devices, &self.around),
        };
        if seen != self.seen {
            self.board.update(|board| board.firewall = seen.clone());
            self.seen = seen;
        }
    }
}
