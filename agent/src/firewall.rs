//! The loop of the resource `Firewall`: our rules in the packet filter.
//!
//! Input: the leases. Output: a report in the status.
//!
//! Where nothing but leases has changed, a round brings the sets of senders forward, and asks the kernel for nothing ([`leases`]). Everything
//! else is looked at after a notification and by the timer. If nothing has changed, such a look runs no program: it asks the kernel for the
//! generation of the rules, for the bridges and for our counters.

mod claims;
mod compare;
mod doubts;
mod leases;
mod notes;
mod shares;

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tracing::warn;
use wire_firewall::{FirewallDataplane, ForeignRules, HostFacts, Learned, OverlayDevice, Support, SupportProbe};
use wire_net::{DualStack, Family, LinkName, NetworkName, Prefix, chain};
use wire_state::{
    ContainerLink, DataplaneError, DesiredFirewall, EmptyTables, Firewall, FlannelRules, Reconciler, Report,
};

pub(crate) use self::shares::{FilterShare, FirewallShare};
use self::{doubts::Doubts, leases::Rules, notes::is_fault, shares::Filtered};
use crate::{
    audit::pause_after,
    bridges::Findings,
    exit::Exit,
    limited::within,
    other_agents::OtherRanges,
    ports::{FirewallMonitor, FirewallPort, Ports},
    pulse::Heartbeat,
    reconcile_loop::{Answer, LoopHandle, ResourceLoop, Round, Shares},
    settings::Settings,
    status::{FirewallCondition, FirewallSeen, StatusWriter},
};

/// The shortest pause between a notification of the kernel and the round that follows. The pause doubles with each round that finds a
/// change, up to `MAX_PAUSE`, until the timer causes a round.
const MIN_PAUSE: Duration = Duration::from_millis(30);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between new leases and the round that follows, where a round takes long: leases that come within this time share it.
const LEASE_BATCH: Duration = Duration::from_millis(50);

/// Rounds of leases alone that take less need no pause: leases that come meanwhile share the next round anyway.
const SHORT: Duration = Duration::from_millis(5);

/// The interval at which the rules are computed from all leases, and compared with those that were brought forward.
const CHECK: Duration = Duration::from_secs(60);

/// A bridge must be wrong for this time to be reported: while Docker starts, its bridge is there before its address.
const BRIDGE_GRACE: Duration = Duration::from_secs(2);

/// The longest time that READY waits for the first round of the firewall, once everything else is ready.
const READY_GRACE: Duration = Duration::from_secs(10);

/// The longest time that the removal of all rules takes. A command that removes them has a minute in the package's scripts.
const REMOVAL: Duration = Duration::from_secs(20);

/// The loop of the packet filter.
pub(crate) type FirewallHandle = LoopHandle<FilterShare, ()>;

/// A packet filter without rules of ours, as it should be when the agent leaves. flanneld's rules stay: they may be in use again.
pub(crate) fn leaving(network: NetworkName) -> (Reconciler<FirewallDataplane>, DesiredFirewall) {
    let nothing = DesiredFirewall {
        flannel: FlannelRules::Keep,
        empty_tables: EmptyTables::Delete,
        ..DesiredFirewall::default()
    };
    (Reconciler::new(FirewallDataplane::new(network, Family::ALL.to_vec()), ()), nothing)
}

/// Deletes all rules of this network, and the tables that are empty without them, and returns the number of deletions. flanneld's rules stay:
/// they may be in use again.
///
/// # Errors
/// [`Exit::FirewallLeft`] when some of them are still there, or may be.
pub(crate) fn remove(network: NetworkName) -> Result<usize, Exit> {
    let failure = || format!("it has not answered for {}", humantime::format_duration(REMOVAL));
    within(REMOVAL, move || remove_all(network)).unwrap_or_else(|| Err(Exit::FirewallLeft { failure: failure() }))
}

fn remove_all(network: NetworkName) -> Result<usize, Exit> {
    let (mut reconciler, nothing) = leaving(network);
    reconciler.preview(&nothing)?;
    let report = reconciler.round(&nothing);
    let failure = report.failures.first().map(ToString::to_string);
    let failure = failure.or_else(|| reconciler.driver().abandoned_unread().map(|error| chain(error)));
    let failure = failure.or_else(|| reconciler.driver().unread().map(|error| chain(&error)));
    match failure {
        Some(failure) => Err(Exit::FirewallLeft { failure }),
        None => Ok(report.removed),
    }
}

/// Waits for the first round that takes the change with this number into account, whatever its outcome, but not longer than `READY_GRACE`
/// after `since`.
///
/// # Cancel safety
/// Safe.
pub(crate) async fn in_place(firewall: &FirewallHandle, number: u64, since: Instant) {
    // The rest works without these rules, so slow programs must not hold it up.
    let compared = async {
        if firewall.outcome_of(number).await.is_none() {
            // The thread has died. The session learns that from `LoopHandle::died`.
            std::future::pending::<()>().await;
        }
    };
    let _ = tokio::time::timeout_at(since + READY_GRACE, compared).await;
}

/// The findings about bridges, and the time since which they are the same.
struct BridgeFindings {
    findings: Findings,
    since: Instant,
}

pub(crate) struct FirewallLoop<P: Ports> {
    ports: P,
    /// The longest time between two rounds.
    every: Duration,
    reconciler: Reconciler<P::Firewall>,
    status: StatusWriter,
    monitor: Option<<P::Firewall as FirewallPort>::Monitor>,
    /// The number of joins of all networks, as of the last round. `None` before the first round: the probe has learned nothing yet.
    joins: Option<u64>,
    seen: FirewallSeen,
    facts: HostFacts,
    others: OtherRanges,
    rules: Rules,
    /// True if shares were set that no round has used.
    is_behind: bool,
    /// The time of the next look, even without a notification.
    next_look: Instant,
    /// The time of the look that follows a notification.
    heard: Option<Instant>,
    /// The time of the next check of the rules that were brought forward.
    next_check: Instant,
    /// Learns the parts of our table that this host supports.
    probe: SupportProbe,
    /// True if another agent runs here, which undoes our changes.
    contested: bool,
    /// The families in which rules of another program drop the encapsulated packets.
    blocked: BTreeSet<Family>,
    /// The families in which they may be dropped.
    doubts: Doubts,
    bridges: BridgeFindings,
    /// The pause after a notification. It grows while others change their own rules.
    pause: Duration,
    /// The same, but it grows while we have to restore our rules: if another program keeps moving its own rules before
    /// ours, the two must not replace each other's changes without a pause.
    brake: Duration,
}

impl<P: Ports> FirewallLoop<P> {
    /// # Errors
    /// When no netlink socket can be opened.
    pub(crate) fn new(
        ports: P,
        settings: &Settings,
        status: StatusWriter,
        heartbeat: &Heartbeat,
    ) -> Result<Self, DataplaneError> {
        let mut driver = ports.open_firewall()?;
        driver.set_step(Box::new(heartbeat.step()));
        Ok(Self {
            ports,
            every: settings.firewall.every,
            reconciler: Reconciler::new(driver, ()),
            status,
            monitor: None,
            joins: None,
            seen: FirewallSeen::default(),
            facts: HostFacts::default(),
            others: OtherRanges::of(&settings.network, &settings.folders.state_dir),
            rules: Rules::default(),
            is_behind: true,
            next_look: Instant::now(),
            heard: None,
            next_check: Instant::now() + CHECK,
            probe: SupportProbe::default(),
            contested: false,
            blocked: BTreeSet::new(),
            doubts: Doubts::default(),
            bridges: BridgeFindings { findings: Findings::default(), since: Instant::now() },
            pause: MIN_PAUSE,
            brake: MIN_PAUSE,
        })
    }
}

impl<P: Ports> ResourceLoop for FirewallLoop<P> {
    type Share = FilterShare;
    type Outcome = ();

    fn round(&mut self, shares: &Shares<FilterShare>, is_new: bool) -> Round<()> {
        let begun = Instant::now();
        let Some(shares) = &Filtered::of(shares) else {
            self.is_behind = true;
            return Round { outcome: (), next: begun + self.every, batch: Duration::ZERO };
        };
        // What was set while something was not known is new too.
        let is_new = std::mem::take(&mut self.is_behind) || is_new;
        let is_done = is_new && self.follow_leases(shares);
        let is_short = begun.elapsed() < SHORT;
        if !is_done || self.is_look_due(begun) {
            self.look(shares, is_new && !is_done, begun);
        }
        // Without a cached state, each new lease costs a look.
        let is_cheap = is_short && self.reconciler.cached().is_some();
        let batch = if is_cheap { Duration::ZERO } else { begun.elapsed().min(LEASE_BATCH) };
        Round { outcome: (), next: self.next_look, batch }
    }

    fn compare(&mut self, shares: &Shares<FilterShare>) -> Answer {
        let Some(shares) = &Filtered::of(shares) else {
            return Err("the members of networks by name are not known yet".to_owned());
        };
        self.follow_families(shares);
        let links = self.reconciler.driver().container_links(&subnets(&shares.flat)).map_err(|error| chain(&error))?;
        let facts = self.host_facts(&shares.flat, links, Support::default());
        let compared = self.compare_supported(shares, &facts).map_err(|error| chain(&error))?;
        match self.reconciler.driver().unread() {
            Some(error) => Err(chain(&error)),
            None => Ok(compared),
        }
    }

    async fn changed(&mut self) {
        while self.heard.is_none() {
            let Some(monitor) = &mut self.monitor else { return std::future::pending().await };
            let notified = monitor.changed().await;
            if notified.is_err() {
                self.monitor = None;
            } else if self.reconciler.cached().is_some() && self.reconciler.driver().has_own_writes_alone() {
                continue;
            }
            self.heard = Some(Instant::now() + self.pause.max(self.brake));
        }
        if let Some(heard) = self.heard {
            tokio::time::sleep_until(heard).await;
        }
    }

    fn due(&mut self) {
        (self.pause, self.brake) = (MIN_PAUSE, MIN_PAUSE);
    }
}

impl<P: Ports> FirewallLoop<P> {
    fn is_look_due(&self, now: Instant) -> bool {
        self.next_look <= now || self.heard.is_some_and(|heard| heard <= now)
    }

    /// Looks at everything: the facts of the host, the rules of others, our own rules and counters.
    fn look(&mut self, shares: &Filtered, is_new: bool, begun: Instant) {
        self.heard = None;
        if self.monitor.is_none() {
            self.monitor = self.reconciler.driver().monitor().ok();
        }
        self.ports.announce();
        let joins = shares.flat.values().map(|share| share.joins).sum();
        if self.joins.replace(joins) != Some(joins) {
            self.probe = SupportProbe::default();
        }
        if self.next_check <= begun {
            let began = Instant::now();
            self.rules.check();
            self.next_check = begun + pause_after(began.elapsed(), CHECK);
        }
        self.reconcile_and_report(shares, is_new);
        // Counted from the start of the look, and with a margin: iptables-legacy sends no notifications, and a change must be found
        // within `every`.
        self.next_look = begun + self.doubts.pause().unwrap_or(self.every).min(self.every).mul_f64(0.8);
    }

    /// Reconciles, after a read if anything may have changed, and reports the outcome, the counters and the conditions.
    fn reconcile_and_report(&mut self, shares: &Filtered, is_new: bool) {
        // The conditions are about the flat network: a loop has one alone.
        let Some(first) = shares.flat.values().next() else { return };
        self.follow_families(shares);
        if self.reconciler.driver().has_changed() {
            self.reconciler.invalidate();
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
        let report = self.reconcile_until_supported(shares, first);
        self.others.save(self.ports.disk());
        let corrected = report.written + report.removed > 0 && !is_new;
        if corrected {
            self.brake = (self.brake * 2).min(self.every);
        }
        if corrected || self.contested {
            self.note_other_agents();
        }
        if report.read_back {
            self.note_abandoned(&report);
        }
        self.note_support(first);
        let hidden = self.is_blind(first, report.findings.firewalls).then_some(FirewallCondition::DockersChainsHidden);
        self.status.set(FirewallCondition::DOCKERS_CHAINS, hidden);
        self.publish(&report, first);
        if self.note_doubts(&first.counted_devices()) {
            let (report, _) = self.reconcile(shares, first);
            self.publish(&report, first);
        }
        self.note_claims(first);
        self.note_overruled(&report.findings.operator_drops, first);
    }

    fn follow_families(&mut self, shares: &Filtered) {
        let of_flat = shares.flat.values().flat_map(|share| share.policy.families_on());
        let of_named = shares.named.values().flat_map(|share| share.pools.iter().map(|(family, _)| family));
        let families: BTreeSet<Family> = of_flat.chain(of_named).collect();
        self.reconciler.driver().set_families(families.into_iter().collect());
    }

    /// Reconciles, and again with a smaller table as long as the host refuses a part of it. iptables takes over at once what nftables
    /// lacks.
    fn reconcile_until_supported(&mut self, shares: &Filtered, first: &FirewallShare) -> Report<Firewall> {
        let (mut report, mut learned) = self.reconcile(shares, first);
        // Each step leaves out one more part: the table for bridges, the flowtable, the check of inner sources, and nftables as a whole.
        let mut steps = 0..4;
        while learned == Learned::Less && steps.next().is_some() {
            let (again, next) = self.reconcile(shares, first);
            let before = std::mem::replace(&mut report, again);
            report.written += before.written;
            report.removed += before.removed;
            report.changes.splice(..0, before.changes);
            learned = next;
        }
        report
    }

    fn reconcile(&mut self, shares: &Filtered, first: &FirewallShare) -> (Report<Firewall>, Learned) {
        let support = self.probe.support(Instant::now());
        let facts = match self.reconciler.driver().container_links(&subnets(&shares.flat)) {
            Ok(links) => {
                let facts = self.host_facts(&shares.flat, links, support);
                self.note_bridges(&facts, first);
                facts
            }
            Err(error) => {
                warn!(error = chain(&error), "cannot find the links that containers are on");
                HostFacts { support, ..self.facts.clone() }
            }
        };
        self.note_host_facts(facts, &first.devices);
        let (firewall, clashes) = self.rules.desired(shares, &self.facts);
        self.note_clashes(clashes);
        let report = self.reconciler.round(&firewall);
        let learned = self.probe.learn(support, &firewall, &report, Instant::now());
        (report, learned)
    }

    fn host_facts(&mut self, shares: &Shares<FirewallShare>, links: Vec<ContainerLink>, support: Support) -> HostFacts {
        let ForeignRules { docker, tracked } = self.reconciler.driver().foreign_rules();
        let bridges = HostFacts::bridges_among(&links, &subnets(shares));
        let with_flowtable = shares.values().filter(|share| share.policy.flowtable);
        let hookable = with_flowtable.flat_map(|share| self.hookable(&share.devices, &bridges)).collect();
        let (doubted, others) = (self.doubts.families(), self.others.look(&self.ports));
        // Which ports flat networks have is known where all rules are computed.
        let flat_ports = BTreeSet::new();
        HostFacts { bridges, links, docker, support, tracked, doubted, hookable, others, flat_ports }
    }

    /// The links that exist, among those that a flowtable should have.
    fn hookable(&mut self, devices: &DualStack<OverlayDevice>, bridges: &BTreeSet<LinkName>) -> BTreeSet<LinkName> {
        let devices =
            devices.iter().map(|(_, device)| device.link).filter(|link| self.reconciler.driver().has_link(*link));
        devices.chain(bridges.iter().copied()).collect()
    }

    fn publish(&mut self, report: &Report<Firewall>, first: &FirewallShare) {
        let faults: Vec<String> =
            report.failures.iter().filter(|failure| is_fault(failure)).map(ToString::to_string).collect();
        let fault = (!faults.is_empty()).then(|| faults.join("; "));
        let converged = fault.is_none();
        self.status.set(FirewallCondition::NOT_AS_DESIRED, fault.map(FirewallCondition::NotAsDesired));
        self.note_changes(report);
        let counted = self.reconciler.driver().counted().unwrap_or_else(|_| self.seen.counted.clone());
        self.note_blocked(&counted, report.findings.firewalls, &first.counted_devices());
        let tracked = first.policy.tracked(&first.devices, &self.facts);
        self.show(FirewallSeen {
            written: self.seen.written + report.written as u64,
            removed: self.seen.removed + report.removed as u64,
            converged,
            counted,
            tracked: tracked.into_iter().map(|(family, why)| (family, why.to_string())).collect(),
        });
    }

    fn show(&mut self, seen: FirewallSeen) {
        if seen != self.seen {
            self.status.update(|status| status.firewall = seen.clone());
            self.seen = seen;
        }
    }
}

/// The subnets that this host has leased.
fn subnets(shares: &Shares<FirewallShare>) -> Vec<Prefix> {
    shares.values().flat_map(|share| share.own.lease.subnet.prefixes()).collect()
}
