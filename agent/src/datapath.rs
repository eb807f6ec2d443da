//! The loop of the resource `Network`: the kernel's links, addresses and routes, and the tunnels that the agent runs.
//!
//! Input: the desired state. Output: a report in the status after each round, and a notification when the underlay has changed.

mod outcome;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::{error, info};
use wire_forward::Handle;
use wire_kernel::Changes;
use wire_net::{LinkName, chain};
use wire_state::{
    DataplaneError, DesiredNet, Findings, Namespace, Network, ObservedNet, PerNamespace, Plan, Reconciler, Report,
    Scope,
};
use wire_store::Revision;

pub(crate) use self::outcome::Outcome;
use crate::{
    attach::Opened,
    audit::{Audit, has_found, pause_after},
    notify,
    ports::{NetworkMonitor, NetworkPort, Ports},
    reconcile_loop::{Answer, LastMerge, LoopHandle, ResourceLoop, Round, Shares, merged},
    repeats::Repeats,
    stale::Subnets,
    status::{KernelCondition, StatusWriter},
};

/// The interval at which everything is read and compared, even without a notification. It grows where that takes long ([`pause_after`]).
const PERIOD: Duration = Duration::from_secs(60);

/// The interval while there are links in containers: changes there cause no notification.
const PERIOD_OF_GUESTS: Duration = Duration::from_secs(30);

/// The pause before everything is compared again, if the kernel could not be read while the loop changed it.
const AUDIT_AGAIN: Duration = Duration::from_secs(5);

/// The pause before the next round, if the last one has not reached the desired state.
const RETRY: Duration = Duration::from_secs(1);
/// The pause after failures that concern nothing else: each try reads the whole kernel.
const RETRY_APART: Duration = Duration::from_secs(15);

/// The shortest pause between a notification and the round that follows: changes within this time need one read. The pause grows with the
/// duration of a round.
const SETTLE: Duration = Duration::from_millis(20);

/// The most entries that may come or go in a round while the monitor listens. The notifications of more do not fit into its buffer (16 MiB, as the
/// kernel doubles what it is asked for, with 768 bytes for each neighbour or FDB entry): some would be lost, and all would be read after the round.
const MOST_HEARD: usize = 20_000;

/// The loop of `Network`.
pub(crate) type NetworkHandle = LoopHandle<NetworkShare, Outcome>;

/// The share of one network in the kernel's state.
#[derive(Clone, Debug)]
pub(crate) struct NetworkShare {
    pub(crate) desired: Arc<PerNamespace<DesiredNet>>,
    pub(crate) scope: Scope,
    /// The devices that the network can do without ([`wire_backends::Backend::spare`]).
    pub(crate) spare: BTreeSet<LinkName>,
    /// The containers' namespaces that it has links in.
    pub(crate) guests: BTreeMap<Namespace, GuestShare>,
    /// The subnets that hosts lease, if it is a flat network.
    pub(crate) subnets: Option<Subnets>,
    /// The revision of the leases from which it was computed; `None` if it does not follow from leases.
    pub(crate) revision: Option<Revision>,
    /// Grows each time that what could not be done for it is to be tried again.
    pub(crate) tries: u64,
}

/// The share of one network in a container's namespace.
#[derive(Clone, Debug)]
pub(crate) struct GuestShare {
    pub(crate) opened: Opened,
    pub(crate) scope: Scope,
}

pub(crate) struct NetworkLoop<P: Ports> {
    ports: P,
    reconciler: Reconciler<P::Network>,
    merged: LastMerge<PerNamespace<DesiredNet>>,
    /// [`NetworkShare::tries`] of all networks in the last round.
    tries: Vec<u64>,
    /// The containers' namespaces that the driver has.
    guests: BTreeSet<Namespace>,
    status: StatusWriter,
    underlay_changed: Arc<Notify>,
    /// Is notified when a tunnel has ended by itself.
    tunnel_ended: Arc<Notify>,
    /// The descriptors that systemd stores for a later run.
    stored: notify::Stored,
    repeats: Repeats,
    monitor: Option<<P::Network as NetworkPort>::Monitor>,
    /// The time of the next comparison of everything, even without any notification.
    next_read: Instant,
    /// Such a comparison that is under way, beside this loop.
    audit: Option<Audit>,
    /// The problems with foreign entries in the last round.
    findings: Findings,
    settle: Duration,
}

impl<P: Ports> NetworkLoop<P> {
    /// `underlay_changed` is notified when addresses or links of the host have changed.
    pub(crate) fn new(
        ports: P,
        driver: P::Network,
        status: StatusWriter,
        stored: notify::Stored,
        underlay_changed: Arc<Notify>,
    ) -> Self {
        let tunnel_ended = driver.tunnels().ended();
        Self {
            ports,
            reconciler: Reconciler::new(driver, PerNamespace::default()),
            merged: LastMerge::default(),
            tries: Vec::new(),
            guests: BTreeSet::new(),
            status,
            underlay_changed,
            tunnel_ended,
            stored,
            repeats: Repeats::default(),
            monitor: None,
            next_read: Instant::now() + PERIOD,
            audit: None,
            findings: Findings::default(),
            settle: SETTLE,
        }
    }

    /// Gives new namespaces of containers to the driver, and takes away those that are not wanted any more: a namespace exists for as long as it is
    /// open.
    fn follow_guests(&mut self, shares: &Shares<NetworkShare>) {
        let wanted: BTreeMap<Namespace, &Opened> = shares
            .values()
            .flat_map(|share| share.guests.iter().map(|(namespace, guest)| (*namespace, &guest.opened)))
            .collect();
        for namespace in std::mem::take(&mut self.guests) {
            if wanted.contains_key(&namespace) {
                self.guests.insert(namespace);
            } else {
                self.reconciler.driver().remove_guest(namespace);
            }
        }
        for (namespace, opened) in wanted {
            if self.guests.contains(&namespace) {
                continue;
            }
            let opened = opened.descriptors().map_err(DataplaneError::Open);
            match opened.and_then(|opened| self.reconciler.driver().add_guest(namespace, opened)) {
                Ok(()) => drop(self.guests.insert(namespace)),
                Err(error) => {
                    error!(?namespace, error = chain(&error), "a container's network namespace cannot be used");
                }
            }
        }
    }

    /// The time between two full comparisons.
    fn period(&self) -> Duration {
        if self.guests.is_empty() { PERIOD } else { PERIOD_OF_GUESTS }
    }

    /// The desired state of all networks.
    fn desired(&mut self, shares: &Shares<NetworkShare>) -> Arc<PerNamespace<DesiredNet>> {
        let scope = scopes(shares);
        self.follow_guests(shares);
        if scope != *self.reconciler.scope() {
            // First the monitor: what comes after the read is reported.
            if let (Some(monitor), Some(host)) = (&mut self.monitor, scope.get(Namespace::Host)) {
                monitor.set_scope(host.clone());
            }
            self.reconciler.set_scope(scope);
        }
        merged::<Network>(
            &mut self.merged,
            shares.iter().map(|(network, share)| (network, share.desired.clone())),
            |clashes| {
                self.status.set(KernelCondition::CLASH, clashes.map(KernelCondition::Clashes));
            },
        )
    }
}

impl<P: Ports> ResourceLoop for NetworkLoop<P> {
    type Share = NetworkShare;
    type Outcome = Outcome;

    fn round(&mut self, shares: &Shares<NetworkShare>, is_new: bool) -> Round<Outcome> {
        let desired = self.desired(shares);
        if self.monitor.is_none() {
            self.monitor = self.listen();
        }
        let tries = shares.values().map(|share| share.tries).collect();
        if tries != self.tries {
            self.tries = tries;
            self.reconciler.try_again();
        }
        let is_large = self.is_large(&desired);
        if is_large {
            // It would only make each write take longer. What others change until it is open again is read then.
            self.monitor = None;
        }
        let begun = Instant::now();
        let report = self.reconciler.round(&desired);
        let tunnels = self.reconciler.driver().tunnels();
        self.store(&tunnels.handles());
        self.settle = SETTLE.max(begun.elapsed() * 4);
        if report.read_back {
            self.next_read = Instant::now() + self.period();
            // Whatever caused the read may have changed the underlay too, before the monitor was open.
            self.underlay_changed.notify_one();
        }
        let next = match (report.converged, report.fails_apart()) {
            (true, _) => self.next_read,
            (false, true) => self.next_read.min(Instant::now() + RETRY_APART),
            (false, false) => Instant::now() + RETRY,
        };
        if is_large {
            self.monitor = self.listen();
        }
        let next = if is_large && report.converged { Instant::now() } else { next };
        let revision = shares.values().filter_map(|share| share.revision).min().unwrap_or_default();
        let spare = shares.values().flat_map(|share| &share.spare).copied().collect();
        let outcome = Outcome::of(&report, &spare);
        self.publish(report, revision, is_new);
        Round { outcome, next, batch: Duration::ZERO }
    }

    fn compare(&mut self, shares: &Shares<NetworkShare>) -> Answer {
        let desired = self.desired(shares);
        let mut comparison = self.reconciler.compare(&desired).map_err(|error| chain(&error))?;
        for (share, found) in shares.values().zip(std::iter::repeat(self.reconciler.cached()).flatten()) {
            comparison.stale.extend(share.subnets.iter().flat_map(|subnets| subnets.stale(found, &share.scope)));
        }
        Ok(comparison)
    }

    async fn changed(&mut self) {
        tokio::select! {
            changes = next_changes(self.monitor.as_mut(), host(self.reconciler.cached())) => match changes {
                Ok(changes) => {
                    self.handle(changes);
                    tokio::time::sleep(self.settle).await;
                }
                Err(_) => self.monitor = None,
            },
            () = self.tunnel_ended.notified() => self.reconciler.invalidate(),
            audited = audited(&mut self.audit) => self.note_audit(audited.as_ref()),
        }
    }

    fn due(&mut self) {
        self.reconciler.try_again();
        if self.audit.is_none() {
            self.audit = self.start_audit();
        }
        match self.audit {
            Some(_) => self.next_read = Instant::now() + PERIOD,
            None => self.reconciler.invalidate(),
        }
    }
}

impl<P: Ports> NetworkLoop<P> {
    /// True if more entries are desired, or fewer, than the monitor can hear of.
    fn is_large(&self, desired: &PerNamespace<DesiredNet>) -> bool {
        let entries = |of: &PerNamespace<DesiredNet>| of.get(Namespace::Host).map_or(0, DesiredNet::entries_of_peers);
        self.reconciler.reached().is_some_and(|reached| entries(reached).abs_diff(entries(desired)) > MOST_HEARD)
    }

    /// Opens the monitor. The next round reads what changed before it was open.
    fn listen(&mut self) -> Option<<P::Network as NetworkPort>::Monitor> {
        self.reconciler.invalidate();
        let scope = self.host_scope();
        let opened = self.reconciler.driver().monitor(scope);
        let fault = opened.as_ref().err().map(|error| chain(error));
        if let Some(error) = &fault {
            error!(error, "no notifications come from the kernel; its state is read every {PERIOD:?} instead");
        }
        self.status.set(KernelCondition::NO_NOTIFICATIONS, fault.map(KernelCondition::NoNotifications));
        opened.ok()
    }

    /// Starts to compare everything beside this loop; `None` if that is not possible, so that the next round must read.
    fn start_audit(&mut self) -> Option<Audit> {
        let (scope, desired) = (self.host_scope(), self.reconciler.reached()?.clone());
        let audit = Audit::start(&self.ports, self.reconciler.driver(), scope, &desired)?;
        self.reconciler.record();
        Some(audit)
    }

    /// Makes the next round read the kernel, unless it was found as it is desired.
    fn note_audit(&mut self, audited: Option<&Plan<Network>>) {
        let took = self.audit.take().map_or(Duration::ZERO, |audit| audit.age());
        self.next_read = Instant::now() + pause_after(took, PERIOD);
        // As after each read: the underlay may have changed before the monitor was open.
        self.underlay_changed.notify_one();
        let differs = match (audited, self.reconciler.recorded()) {
            (Some(audited), Some(meanwhile)) => has_found(audited, &self.findings, &meanwhile),
            // The next round reads anyway.
            (Some(_), None) => false,
            // Tables that our own changes make another each time they are read cannot be read in the loop either.
            (None, Some(meanwhile)) if !meanwhile.is_empty() => {
                self.next_read = Instant::now() + AUDIT_AGAIN;
                false
            }
            (None, _) => true,
        };
        if differs {
            self.reconciler.invalidate();
        }
    }

    /// Lets the service manager keep the tunnels' descriptors, and says if it has no room for all.
    fn store(&self, handles: &[Handle]) {
        let without_room = self.stored.follow(self.ports.supervisor(), handles);
        let said = (without_room > 0).then_some(KernelCondition::NotKept { without_room, all: handles.len() });
        self.status.set(KernelCondition::NOT_KEPT, said);
    }

    fn host_scope(&self) -> Scope {
        self.reconciler.scope().get(Namespace::Host).cloned().unwrap_or_default()
    }

    /// Makes the next round read the kernel if anything of ours has changed, and passes on that the underlay has changed.
    fn handle(&mut self, changes: Changes) {
        if changes.ours {
            self.reconciler.invalidate();
        }
        if changes.underlay {
            self.underlay_changed.notify_one();
        }
    }

    /// Warns of changes that are repaired again and again although the leases did not change: another program makes them.
    fn note_repeats(&mut self, report: &Report<Network>, is_new: bool) {
        let changes = if is_new { &[] } else { report.changes.as_slice() };
        let said = self.repeats.note(changes, Instant::now());
        self.status.set(KernelCondition::OTHER_PROGRAM, said);
    }

    fn publish(&mut self, report: Report<Network>, revision: Revision, is_new: bool) {
        let report = Arc::new(report);
        self.findings.clone_from(&report.findings);
        self.status.update(|seen| {
            seen.dataplane.rounds += 1;
            seen.dataplane.written += report.written as u64;
            seen.dataplane.removed += report.removed as u64;
            seen.dataplane.last = Some(report.clone());
            seen.dataplane.applied = revision;
        });
        self.note_repeats(&report, is_new);
        let detours = Some(&report.findings.detours).filter(|detours| !detours.is_empty());
        self.status.set(KernelCondition::DETOURS, detours.map(|detours| KernelCondition::Detours(detours.to_string())));
        let (written, removed) = (report.written, report.removed);
        if written + removed > report.changes.len() || !self.repeats.knows(&report.changes) {
            info!(written, removed, entries = report.named(), "kernel entries changed");
        }
    }
}

/// The union of the scopes of all networks.
fn scopes(shares: &Shares<NetworkShare>) -> PerNamespace<Scope> {
    let mut all = shares.values();
    let first = all.next();
    let mut host = first.map(|share| share.scope.clone()).unwrap_or_default();
    all.for_each(|share| host.extend(&share.scope));
    let mut scopes: BTreeMap<Namespace, Scope> = [(Namespace::Host, host)].into();
    for (namespace, guest) in shares.values().flat_map(|share| &share.guests) {
        scopes.entry(*namespace).or_default().extend(&guest.scope);
    }
    scopes.into_iter().collect()
}

fn host(cached: Option<&PerNamespace<ObservedNet>>) -> Option<&ObservedNet> {
    cached.and_then(|cached| cached.get(Namespace::Host))
}

/// Waits for the end of a comparison; for ever if none is under way.
async fn audited(audit: &mut Option<Audit>) -> Option<Plan<Network>> {
    match audit {
        Some(audit) => audit.finished().await,
        None => std::future::pending().await,
    }
}

/// Waits for changes that the monitor reports. Without a cached state it waits for ever: the next round reads anyway.
async fn next_changes(
    monitor: Option<&mut impl NetworkMonitor>,
    cached: Option<&ObservedNet>,
) -> Result<Changes, DataplaneError> {
    match (monitor, cached) {
        (Some(monitor), Some(cached)) => monitor.changed(cached).await,
        (Some(_) | None, _) => std::future::pending().await,
    }
}
