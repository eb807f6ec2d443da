//! The thread that keeps the packet filter as it should be.
//!
//! It is apart from the dataplane's ([`crate::datapath`]): programs are slow beside netlink, and iptables may wait for its
//! lock. In: leases (a watch). Out: a report to the status. New leases, the kernel's notification of a changed rule and a
//! timer say nothing more than "compare". If nothing has changed, a look runs no program: it asks the kernel for the
//! generation of the rules, for the bridges and for our counters.

mod claims;
mod doubts;
mod notes;

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};
use wire_firewall::{
    FirewallDataplane, FirewallMonitor, FirewallPolicy, ForeignRules, HostFacts, Learned, OverlayDevice, Peer, Support,
    SupportProbe,
};
use wire_kernel::Links;
use wire_lease::{Entry, LeaseTable, NetworkConfig};
use wire_net::{DualStack, Family, LinkName, Prefix, chain};
use wire_state::{ContainerLink, DataplaneError, DesiredFirewall, Driver, Firewall, FlannelRules, Reconciler, Report};

use self::doubts::Doubts;
use crate::{
    bridges::Findings,
    docker_opts::DockerOptions,
    exit::Exit,
    other_agents,
    pulse::{Part, Watchdog},
    settings::FirewallSettings,
    status::{FirewallCondition, FirewallSeen, StatusWriter},
};

/// The pause between a notification of the kernel and the look that follows. It doubles with each look that finds a
/// change, up to `MAX_PAUSE`, until the timer causes the next look.
const MIN_PAUSE: Duration = Duration::from_millis(30);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The longest wait of new leases for others that follow closely: they share a look.
const LEASE_BATCH: Duration = Duration::from_millis(50);

/// A bridge must be wrong for this time to be reported: while Docker starts, its bridge is there before its address.
const BRIDGE_GRACE: Duration = Duration::from_secs(2);

/// READY waits for the first comparison for this time at most, once everything else is there.
const READY_GRACE: Duration = Duration::from_secs(10);

/// The values of the session that the rules are computed from.
#[derive(Clone, Debug)]
struct Inputs {
    own: Arc<Entry>,
    leases: Arc<LeaseTable>,
    devices: DualStack<OverlayDevice>,
}

impl Inputs {
    /// True if both are the same values, and not only equal ones.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.own, &other.own) && Arc::ptr_eq(&self.leases, &other.leases) && self.devices == other.devices
    }
}

/// Deletes all rules of ours, and returns the number of deletions. flanneld's stay: they may be in use again.
///
/// # Errors
/// [`Exit::No`] when some of them are still there, or may be.
pub(crate) fn remove() -> Result<usize, Exit> {
    let failed = |error: DataplaneError| Exit::Software(chain(&error));
    let mut dataplane = FirewallDataplane::new(Family::ALL.to_vec());
    let have = dataplane.read(&()).map_err(failed)?;
    let nothing = DesiredFirewall { flannel: FlannelRules::Keep, ..DesiredFirewall::default() };
    let mut reconciler = Reconciler::new(dataplane, ());
    let report = reconciler.round(&nothing);
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

/// A handle of the thread. Dropping it ends the thread, and leaves the packet filter as it is.
#[derive(Debug)]
pub(crate) struct FirewallKeeper {
    inputs: watch::Sender<Option<Inputs>>,
    checked: watch::Receiver<bool>,
}

impl FirewallKeeper {
    /// Starts the thread. It writes nothing before the first [`FirewallKeeper::want`]. `told` are the options that Docker
    /// gets from us.
    ///
    /// # Errors
    /// When there is no netlink or no thread.
    pub(crate) fn start(
        settings: FirewallSettings,
        config: &NetworkConfig,
        told: DockerOptions,
        (board, pulse): (StatusWriter, Watchdog),
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
        let dataplane = FirewallDataplane::new(families).with_step(answers.step());
        let (sender, inputs) = watch::channel(None);
        let (done, checked) = watch::channel(false);
        let firewall = FirewallLoop {
            policy,
            told,
            every: settings.every,
            links: Links::open().map_err(|error| Exit::Software(chain(&error)))?,
            reconciler: Reconciler::new(dataplane, ()),
            contested: board.look(|seen| seen.has(FirewallCondition::OTHER_AGENT)),
            board,
            inputs,
            done,
            seen: FirewallSeen::default(),
            facts: HostFacts::default(),
            probe: SupportProbe::default(),
            blocked: BTreeSet::new(),
            doubts: Doubts::default(),
            bridges: BridgeFindings { findings: Findings::default(), since: Instant::now() },
            pause: MIN_PAUSE,
            brake: MIN_PAUSE,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Exit::Software(format!("cannot start the firewall's runtime: {error}")))?;
        thread::Builder::new()
            .name("firewall".to_owned())
            .spawn(move || runtime.block_on(answers.during(firewall.run())))
            .map_err(|error| Exit::Software(format!("cannot start the firewall's thread: {error}")))?;
        Ok(Self { inputs: sender, checked })
    }

    /// Sets the leases that the rules follow from now on.
    pub(crate) fn want(&self, own: Arc<Entry>, leases: Arc<LeaseTable>, devices: DualStack<OverlayDevice>) {
        self.inputs.send_replace(Some(Inputs { own, leases, devices }));
    }

    /// Waits for the end of the first comparison, whatever its outcome, but not longer than `READY_GRACE` after `since`.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn in_place(&self, since: Instant) {
        // The rest works without these rules, so slow programs must not hold it up.
        let mut checked = self.checked.clone();
        let compared = async {
            if checked.wait_for(|done| *done).await.is_err() {
                // The thread has died, which `died` reports.
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout_at((since + READY_GRACE).into(), compared).await;
    }

    /// Waits until the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn died(&self) {
        self.inputs.closed().await;
    }
}

/// The findings about bridges, and the time since which they are the same.
struct BridgeFindings {
    findings: Findings,
    since: Instant,
}

struct FirewallLoop {
    policy: FirewallPolicy,
    told: DockerOptions,
    every: Duration,
    links: Links,
    reconciler: Reconciler<FirewallDataplane>,
    board: StatusWriter,
    inputs: watch::Receiver<Option<Inputs>>,
    done: watch::Sender<bool>,
    seen: FirewallSeen,
    facts: HostFacts,
    /// Learns the parts of our table that this host supports.
    probe: SupportProbe,
    /// Another agent undoes our changes.
    contested: bool,
    /// The families whose encapsulated packets rules of others drop.
    blocked: BTreeSet<Family>,
    /// The families in which they may.
    doubts: Doubts,
    bridges: BridgeFindings,
    /// The pause after a notification, if others change their own rules.
    pause: Duration,
    /// The pause after a notification, if we have to restore ours: others may want the first place too, and must not be
    /// fought at full speed.
    brake: Duration,
}

impl FirewallLoop {
    async fn run(mut self) {
        while self.inputs.borrow().is_none() {
            if self.inputs.changed().await.is_err() {
                return;
            }
        }
        let mut monitor = None;
        let mut followed: Option<Inputs> = None;
        loop {
            if monitor.is_none() {
                monitor = FirewallMonitor::open().ok();
            }
            let Some(inputs) = self.inputs.borrow_and_update().clone() else { return };
            let is_new = !followed.replace(inputs.clone()).is_some_and(|before| before.is(&inputs));
            let begun = Instant::now();
            self.look(&inputs, is_new);
            let busy = begun.elapsed().min(LEASE_BATCH);
            self.done.send_if_modified(|done| !std::mem::replace(done, true));
            // The look's own time counts as part of the interval: iptables-legacy sends no notifications.
            let next = begun + self.doubts.pause().unwrap_or(self.every).min(self.every).mul_f64(0.8);
            let pause = self.pause.max(self.brake);
            let told = async {
                let Some(monitor) = &mut monitor else { return std::future::pending().await };
                let told = monitor.changed().await;
                tokio::time::sleep(pause).await;
                told
            };
            tokio::select! {
                changed = self.inputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Many changes in a row share one look.
                    tokio::time::sleep(busy).await;
                }
                told = told => {
                    if told.is_err() {
                        monitor = None;
                    }
                }
                () = tokio::time::sleep_until(next.into()) => (self.pause, self.brake) = (MIN_PAUSE, MIN_PAUSE),
            }
        }
    }

    /// Compares, after a read if anything may have changed, and publishes the outcome and the counters.
    fn look(&mut self, inputs: &Inputs, is_new: bool) {
        if self.reconciler.driver().has_changed() {
            self.reconciler.invalidate();
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
        let report = self.compare_until_supported(inputs);
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
        self.note_support();
        let hidden = self.is_blind(report.findings.firewalls).then_some(FirewallCondition::DockersChainsHidden);
        self.board.set(FirewallCondition::DOCKERS_CHAINS, hidden);
        self.publish(&report, &inputs.devices);
        if self.note_doubts(&inputs.devices) {
            let (report, _) = self.compare(inputs);
            self.publish(&report, &inputs.devices);
        }
        self.note_claims(&inputs.leases);
        self.note_overruled(&report.findings.operator_drops, &inputs.devices);
    }

    /// Removes our chains from the variant of iptables that is not in use.
    fn leave_other_iptables(&mut self) {
        let removed = self.reconciler.driver().remove_from_other_iptables();
        if let Ok(removed @ 1..) = removed {
            info!(removed, "chains removed from the variant of iptables that is no longer used");
        }
        let failure = removed.err().map(|error| FirewallCondition::OtherIptables(chain(&error)));
        self.board.set(FirewallCondition::OTHER_IPTABLES, failure);
    }

    /// Compares again, for less, as long as the host refuses a part of our table: iptables takes over at once what nftables
    /// lacks.
    fn compare_until_supported(&mut self, inputs: &Inputs) -> Report<Firewall> {
        let (mut report, mut learned) = self.compare(inputs);
        // At most: without a flowtable, without the check of inner sources, without nftables.
        let mut steps = 0..3;
        while learned == Learned::Less && steps.next().is_some() {
            let (again, next) = self.compare(inputs);
            let before = std::mem::replace(&mut report, again);
            report.written += before.written;
            report.removed += before.removed;
            report.changes.splice(..0, before.changes);
            learned = next;
        }
        report
    }

    fn compare(&mut self, inputs: &Inputs) -> (Report<Firewall>, Learned) {
        let support = self.probe.support(Instant::now());
        let subnets: Vec<Prefix> = inputs.own.lease.subnet.prefixes().collect();
        let facts = match self.links.of_containers(&subnets) {
            Ok(links) => {
                let facts = self.host_facts(inputs, links, support);
                self.note_bridges(&facts, subnets);
                facts
            }
            Err(error) => {
                warn!(error = chain(&error), "cannot find the links that containers are on");
                HostFacts { support, ..self.facts.clone() }
            }
        };
        self.note_host_facts(facts, &inputs.devices);
        let peer = |entry: &Arc<Entry>| Peer { public: entry.lease.public, subnet: entry.lease.subnet };
        let peers = inputs.leases.peers.values().map(peer);
        let firewall = self.policy.desired(inputs.own.lease.subnet, &peers, &inputs.devices, &self.facts);
        let report = self.reconciler.round(&firewall);
        let learned = self.probe.learn(support, &firewall, &report, Instant::now());
        (report, learned)
    }

    fn host_facts(&mut self, inputs: &Inputs, links: Vec<ContainerLink>, support: Support) -> HostFacts {
        let ForeignRules { docker, tracked } = self.reconciler.driver().foreign_rules();
        let subnets: Vec<Prefix> = inputs.own.lease.subnet.prefixes().collect();
        let bridges = HostFacts::bridges_among(&links, &subnets);
        let hookable = if self.policy.flowtable { self.hookable(&inputs.devices, &bridges) } else { BTreeSet::new() };
        HostFacts { bridges, links, docker, support, tracked, doubted: self.doubts.families(), hookable }
    }

    /// The links that exist, among those that a flowtable should have.
    fn hookable(&mut self, devices: &DualStack<OverlayDevice>, bridges: &BTreeSet<LinkName>) -> BTreeSet<LinkName> {
        let devices = devices.iter().map(|(_, device)| device.link).filter(|link| self.links.has(*link));
        devices.chain(bridges.iter().copied()).collect()
    }

    fn publish(&mut self, report: &Report<Firewall>, devices: &DualStack<OverlayDevice>) {
        let fault =
            (!report.converged).then(|| report.failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        self.board.set(FirewallCondition::NOT_AS_DESIRED, fault.map(FirewallCondition::NotAsDesired));
        if report.written + report.removed > 0 {
            let (written, removed) = (report.written, report.removed);
            info!(written, removed, changes = report.named(), "firewall rules changed");
        }
        let counted = self.reconciler.driver().counted().unwrap_or_else(|_| self.seen.counted.clone());
        self.note_blocked(&counted, report.findings.firewalls, devices);
        let tracked = self.policy.tracked(devices, &self.facts);
        let seen = FirewallSeen {
            written: self.seen.written + report.written as u64,
            removed: self.seen.removed + report.removed as u64,
            converged: report.converged,
            counted,
            tracked: tracked.into_iter().map(|(family, why)| (family, why.to_string())).collect(),
        };
        if seen != self.seen {
            self.board.update(|board| board.firewall = seen.clone());
            self.seen = seen;
        }
    }
}
