//! The loop that keeps the packet filter.
//!
//! Input: the leases. Output: a report in the status. If nothing has changed, a round runs no program: it asks the kernel for the
//! generation of the rules, for the bridges and for our counters.

mod claims;
mod doubts;
mod notes;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};
use wire_firewall::{
    FirewallDataplane, FirewallMonitor, FirewallPolicy, ForeignRules, HostFacts, Learned, Nftables, OverlayDevice,
    Peer, Support, SupportProbe,
};
use wire_kernel::Links;
use wire_lease::{Entry, LeaseTable};
use wire_net::{DualStack, Family, LinkName, NetworkName, Prefix, chain};
use wire_state::{
    Clash, Comparison, ContainerLink, DataplaneError, DesiredFirewall, EmptyTables, Firewall, FlannelRules, Reconciler,
    Report, Resource, Share,
};

use self::{doubts::Doubts, notes::is_fault};
use crate::{
    bridges::Findings,
    docker_opts::DockerOptions,
    exit::Exit,
    other_agents,
    pulse::Heartbeat,
    reconcile_loop::{Answer, Kept, LoopHandle, Round, Shares},
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

/// The loop of the packet filter.
pub(crate) type FirewallHandle = LoopHandle<FirewallLoop>;

/// What one network wants of the packet filter: the values that its rules are computed from. The facts of the host are added in each round.
#[derive(Clone, Debug)]
pub(crate) struct FirewallShare {
    pub(crate) policy: Arc<FirewallPolicy>,
    pub(crate) own: Arc<Entry>,
    pub(crate) leases: Arc<LeaseTable>,
    pub(crate) devices: DualStack<OverlayDevice>,
    /// The options that Docker gets from us.
    pub(crate) told: Arc<DockerOptions>,
    /// The MTU of the overlay, in bytes.
    pub(crate) mtu: u32,
    /// Whether the agent moves packets itself.
    pub(crate) is_userspace: bool,
    /// How often the network was joined: with each time, what this host lacked is tried again.
    pub(crate) joins: u64,
}

/// A packet filter without rules of ours, as it should be when the agent leaves. flanneld's rules stay: they may be in use again.
pub(crate) fn leaving() -> (Reconciler<FirewallDataplane>, DesiredFirewall) {
    let nothing = DesiredFirewall {
        flannel: FlannelRules::Keep,
        empty_tables: EmptyTables::Delete,
        ..DesiredFirewall::default()
    };
    (Reconciler::new(FirewallDataplane::new(Family::ALL.to_vec()), ()), nothing)
}

/// Deletes all rules of ours, and the tables that are empty without them, and returns the number of deletions. flanneld's rules stay:
/// they may be in use again.
///
/// # Errors
/// [`Exit::FirewallLeft`] when some of them are still there, or may be.
pub(crate) fn remove() -> Result<usize, Exit> {
    let (mut reconciler, nothing) = leaving();
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

/// Waits for the end of the first round that knows the change of this number, whatever its outcome, but not longer than `READY_GRACE` after
/// `since`.
///
/// # Cancel safety
/// Safe.
pub(crate) async fn in_place(firewall: &FirewallHandle, number: u64, since: Instant) {
    // The rest works without these rules, so slow programs must not hold it up.
    let compared = async {
        if firewall.compared(number).await.is_none() {
            // The thread has died, which the session is told in another way.
            std::future::pending::<()>().await;
        }
    };
    let _ = tokio::time::timeout_at((since + READY_GRACE).into(), compared).await;
}

/// The findings about bridges, and the time since which they are the same.
struct BridgeFindings {
    findings: Findings,
    since: Instant,
}

pub(crate) struct FirewallLoop {
    /// The longest time between two rounds.
    every: Duration,
    links: Links,
    reconciler: Reconciler<FirewallDataplane>,
    status: StatusWriter,
    monitor: Option<FirewallMonitor>,
    /// How often the networks were joined, as of the last round; `None` before the first, when the probe has learned nothing yet.
    joins: Option<u64>,
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
    /// # Errors
    /// When there is no netlink.
    pub(crate) fn new(every: Duration, status: StatusWriter, heartbeat: &Heartbeat) -> Result<Self, DataplaneError> {
        Ok(Self {
            every,
            links: Links::open()?,
            reconciler: Reconciler::new(FirewallDataplane::new(Vec::new()).with_step(heartbeat.step()), ()),
            status,
            monitor: None,
            joins: None,
            seen: FirewallSeen::default(),
            facts: HostFacts::default(),
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

impl Kept for FirewallLoop {
    type Share = FirewallShare;
    type Outcome = ();

    fn round(&mut self, shares: &Shares<FirewallShare>, is_new: bool) -> Round<()> {
        if self.monitor.is_none() {
            self.monitor = FirewallMonitor::open().ok();
        }
        other_agents::announce();
        let joins = shares.values().map(|share| share.joins).sum();
        if self.joins.replace(joins) != Some(joins) {
            self.probe = SupportProbe::default();
        }
        let begun = Instant::now();
        self.look(shares, is_new);
        let batch = begun.elapsed().min(LEASE_BATCH);
        // The round's own time counts as part of the interval: iptables-legacy sends no notifications.
        let next = begun + self.doubts.pause().unwrap_or(self.every).min(self.every).mul_f64(0.8);
        Round { outcome: (), next, batch }
    }

    fn compare(&mut self, shares: &Shares<FirewallShare>) -> Answer {
        self.follow_families(shares);
        let links = self.links.of_containers(&subnets(shares)).map_err(|error| chain(&error))?;
        let facts = self.host_facts(shares, links, Support::default());
        let compared = self.supports().into_iter().map(|support| {
            let (desired, _) = desired(shares, &HostFacts { support, ..facts.clone() });
            self.reconciler.compare(&desired).map(|compared| (support, compared)).map_err(|error| chain(&error))
        });
        let mut compared = compared.collect::<Result<Vec<(Support, Comparison)>, _>>()?;
        // A table that is there was written by an agent on a host that supports it, whatever was changed in it since.
        if self.joins.is_none() && self.reconciler.cached().is_some_and(|found| found.table.is_some()) {
            compared.retain(|(support, _)| support.nftables != Nftables::Absent);
        }
        let compared = compared.into_iter().map(|(_, comparison)| comparison);
        let least = compared.min_by_key(|comparison| comparison.differences.len());
        match self.reconciler.driver().unread() {
            Some(error) => Err(chain(&error)),
            None => Ok(least.unwrap_or_default()),
        }
    }

    async fn changed(&mut self) {
        let Some(monitor) = &mut self.monitor else { return std::future::pending().await };
        let told = monitor.changed().await;
        tokio::time::sleep(self.pause.max(self.brake)).await;
        if told.is_err() {
            self.monitor = None;
        }
    }

    fn due(&mut self) {
        (self.pause, self.brake) = (MIN_PAUSE, MIN_PAUSE);
    }
}

impl FirewallLoop {
    /// What this host may support of our table. Before the first round only an earlier run of the agent knows: whatever differs least
    /// from what it has written.
    fn supports(&self) -> Vec<Support> {
        if self.joins.is_some() {
            return vec![self.probe.support(Instant::now())];
        }
        let all = [Nftables::Whole, Nftables::Simple, Nftables::Absent];
        all.into_iter().flat_map(|nftables| [true, false].map(|flowtables| Support { nftables, flowtables })).collect()
    }

    /// Compares, after a read if anything may have changed, and publishes the outcome and the counters.
    fn look(&mut self, shares: &Shares<FirewallShare>, is_new: bool) {
        // Reports are about the default network: no other has rules yet.
        let Some(first) = shares.values().next() else { return };
        self.follow_families(shares);
        if self.reconciler.driver().has_changed() {
            self.reconciler.invalidate();
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
        let report = self.reconcile_until_supported(shares, first);
        let put_right = report.written + report.removed > 0 && !is_new;
        if put_right {
            self.brake = (self.brake * 2).min(self.every);
        }
        if put_right || self.contested {
            self.note_rivals();
        }
        if report.read_back {
            self.note_abandoned(&report);
        }
        self.note_support();
        let hidden = self.is_blind(first, report.findings.firewalls).then_some(FirewallCondition::DockersChainsHidden);
        self.status.set(FirewallCondition::DOCKERS_CHAINS, hidden);
        self.publish(&report, first);
        if self.note_doubts(&first.devices) {
            let (report, _) = self.reconcile(shares, first);
            self.publish(&report, first);
        }
        self.note_claims(first);
        self.note_overruled(&report.findings.operator_drops, first);
    }

    fn follow_families(&mut self, shares: &Shares<FirewallShare>) {
        let families: BTreeSet<Family> = shares.values().flat_map(|share| share.policy.families_on()).collect();
        self.reconciler.driver().set_families(families.into_iter().collect());
    }

    /// Reconciles again, for less, as long as the host refuses a part of our table: iptables takes over at once what nftables
    /// lacks.
    fn reconcile_until_supported(&mut self, shares: &Shares<FirewallShare>, first: &FirewallShare) -> Report<Firewall> {
        let (mut report, mut learned) = self.reconcile(shares, first);
        // At most: without a flowtable, without the check of inner sources, without nftables.
        let mut steps = 0..3;
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

    fn reconcile(&mut self, shares: &Shares<FirewallShare>, first: &FirewallShare) -> (Report<Firewall>, Learned) {
        let support = self.probe.support(Instant::now());
        let facts = match self.links.of_containers(&subnets(shares)) {
            Ok(links) => {
                let facts = self.host_facts(shares, links, support);
                self.note_bridges(&facts, first);
                facts
            }
            Err(error) => {
                warn!(error = chain(&error), "cannot find the links that containers are on");
                HostFacts { support, ..self.facts.clone() }
            }
        };
        self.note_host_facts(facts, &first.devices);
        let (firewall, clashes) = desired(shares, &self.facts);
        let clashes = (!clashes.is_empty()).then_some(FirewallCondition::Clashes(clashes));
        self.status.set(FirewallCondition::CLASH, clashes);
        let report = self.reconciler.round(&firewall);
        let learned = self.probe.learn(support, &firewall, &report, Instant::now());
        (report, learned)
    }

    fn host_facts(&mut self, shares: &Shares<FirewallShare>, links: Vec<ContainerLink>, support: Support) -> HostFacts {
        let ForeignRules { docker, tracked } = self.reconciler.driver().foreign_rules();
        let bridges = HostFacts::bridges_among(&links, &subnets(shares));
        let with_flowtable = shares.values().filter(|share| share.policy.flowtable);
        let hookable = with_flowtable.flat_map(|share| self.hookable(&share.devices, &bridges)).collect();
        HostFacts { bridges, links, docker, support, tracked, doubted: self.doubts.families(), hookable }
    }

    /// The links that exist, among those that a flowtable should have.
    fn hookable(&mut self, devices: &DualStack<OverlayDevice>, bridges: &BTreeSet<LinkName>) -> BTreeSet<LinkName> {
        let devices = devices.iter().map(|(_, device)| device.link).filter(|link| self.links.has(*link));
        devices.chain(bridges.iter().copied()).collect()
    }

    fn publish(&mut self, report: &Report<Firewall>, first: &FirewallShare) {
        let faults: Vec<String> =
            report.failures.iter().filter(|failure| is_fault(failure)).map(ToString::to_string).collect();
        let fault = (!faults.is_empty()).then(|| faults.join("; "));
        let converged = fault.is_none();
        self.status.set(FirewallCondition::NOT_AS_DESIRED, fault.map(FirewallCondition::NotAsDesired));
        if report.written + report.removed > 0 {
            let (written, removed) = (report.written, report.removed);
            info!(written, removed, changes = report.named(), "firewall rules changed");
        }
        let counted = self.reconciler.driver().counted().unwrap_or_else(|_| self.seen.counted.clone());
        self.note_blocked(&counted, report.findings.firewalls, &first.devices);
        let tracked = first.policy.tracked(&first.devices, &self.facts);
        let seen = FirewallSeen {
            written: self.seen.written + report.written as u64,
            removed: self.seen.removed + report.removed as u64,
            converged,
            counted,
            tracked: tracked.into_iter().map(|(family, why)| (family, why.to_string())).collect(),
        };
        if seen != self.seen {
            self.status.update(|status| status.firewall = seen.clone());
            self.seen = seen;
        }
    }
}

/// The subnets that this host leases.
fn subnets(shares: &Shares<FirewallShare>) -> Vec<Prefix> {
    shares.values().flat_map(|share| share.own.lease.subnet.prefixes()).collect()
}

/// The rules of all networks on a host with these facts.
fn desired(shares: &Shares<FirewallShare>, facts: &HostFacts) -> (DesiredFirewall, Vec<Clash>) {
    let desired: Vec<(&NetworkName, DesiredFirewall)> =
        shares.iter().map(|(network, share)| (network, share.desired(facts))).collect();
    let shares: Vec<Share<'_, DesiredFirewall>> =
        desired.iter().map(|(network, desired)| Share { network, desired }).collect();
    Firewall::merge(&shares)
}

impl FirewallShare {
    /// The rules of this network on a host with these facts.
    pub(crate) fn desired(&self, facts: &HostFacts) -> DesiredFirewall {
        let peer = |entry: &Arc<Entry>| Peer { public: entry.lease.public, subnet: entry.lease.subnet };
        let peers = self.leases.peers.values().map(peer);
        self.policy.desired(self.own.lease.subnet, &peers, &self.devices, facts)
    }
}
