//! What the agent knows of itself, in one value: health, `status`, `peers` and systemd are told from it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tokio::{sync::watch, time::Instant};
use wire_backends::{Conflict, Counted, Report};
use wire_lease::{BackendData, DualStack, Entry, Family, FollowHealth, HoldState, LeaseTable, Prefix, Revision};

use crate::control::proto;

/// The agent as it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) identity: String,
    pub(crate) backend: String,
    pub(crate) underlay: String,
    pub(crate) public: DualStack<IpAddr>,
    pub(crate) mtu: u32,
    /// What the start waits for; `None` once there is a network.
    pub(crate) waiting: Option<String>,
    /// Whether READY=1 was said.
    pub(crate) ready: bool,
    pub(crate) stopping: bool,
    pub(crate) subnet: DualStack<Prefix>,
    pub(crate) hold: Option<HoldState>,
    pub(crate) follow: FollowHealth,
    pub(crate) leases: Option<Arc<LeaseTable>>,
    pub(crate) dataplane: DataplaneSeen,
    pub(crate) firewall: FirewallSeen,
    /// Faults that last: what is wrong, by what it concerns.
    pub(crate) faults: BTreeMap<&'static str, String>,
    pub(crate) warnings: Vec<String>,
}

/// What the dataplane reported, added up.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataplaneSeen {
    pub(crate) rounds: u64,
    pub(crate) written: u64,
    pub(crate) removed: u64,
    pub(crate) last: Option<Arc<Report>>,
    /// The leases that the last report is about.
    pub(crate) applied: Revision,
}

/// What became of the packet filter, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FirewallSeen {
    pub(crate) written: u64,
    pub(crate) removed: u64,
    pub(crate) converged: bool,
    pub(crate) counted: Counted,
}

/// The one place where the agent's state is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Board(watch::Sender<Observed>);

impl Board {
    pub(crate) fn new() -> Self {
        let waiting = Some("starting".to_owned());
        Self(watch::Sender::new(Observed { waiting, ..Observed::default() }))
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Observed)) {
        self.0.send_modify(change);
    }

    /// Notes that something is wrong, or with `None` that it no longer is.
    pub(crate) fn fault(&self, concern: &'static str, fault: Option<String>) {
        self.0.send_if_modified(|seen| match fault {
            Some(fault) => seen.faults.insert(concern, fault.clone()) != Some(fault),
            None => seen.faults.remove(concern).is_some(),
        });
    }

    /// Looks at it without a copy.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Observed) -> T) -> T {
        at(&self.0.borrow())
    }

    pub(crate) fn now(&self) -> Observed {
        self.0.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Observed> {
        self.0.subscribe()
    }
}

/// What an operator is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The network is not there yet.
    Waiting,
    /// All is well.
    Ready,
    /// Traffic flows, but something is wrong.
    Degraded,
    /// Asked to end.
    Stopping,
}

impl Phase {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
        }
    }
}

impl Observed {
    /// The phase, and why it is not `Ready`.
    pub(crate) fn phase(&self) -> (Phase, String) {
        if self.stopping {
            return (Phase::Stopping, "asked to end; traffic and lease stay".to_owned());
        }
        if let Some(reason) = &self.waiting {
            return (Phase::Waiting, reason.clone());
        }
        let faults = self.all_faults();
        match (self.ready, faults.is_empty()) {
            (true, true) => (Phase::Ready, String::new()),
            (true, false) => (Phase::Degraded, faults.join("; ")),
            (false, true) => (Phase::Waiting, "for the first entries in the kernel".to_owned()),
            (false, false) => (Phase::Waiting, faults.join("; ")),
        }
    }

    /// One line for systemd's STATUS and for people.
    pub(crate) fn summary(&self) -> String {
        let (phase, reason) = self.phase();
        match phase {
            Phase::Ready => {
                let peers = self.leases.as_ref().map_or(0, |table| table.peers.len());
                let subnet: Vec<String> = self.subnet.iter().map(|(_, prefix)| prefix.to_string()).collect();
                format!("{} on {}, {peers} peers", subnet.join(" "), self.underlay)
            }
            Phase::Waiting | Phase::Degraded | Phase::Stopping => format!("{}: {reason}", phase.name()),
        }
    }

    fn all_faults(&self) -> Vec<String> {
        let store = self.follow.error.clone().map(|error| format!("etcd: {error}"));
        let lasting = self.faults.iter().map(|(concern, fault)| format!("{concern}: {fault}"));
        let last = self.dataplane.last.as_ref();
        let conflicts = last.map(|report| report.conflicts.iter().map(ToString::to_string)).into_iter().flatten();
        let failures = last.map(|report| report.failures.iter().map(ToString::to_string)).into_iter().flatten();
        store.into_iter().chain(lasting).chain(conflicts).chain(failures).collect()
    }

    pub(crate) fn to_status(&self) -> proto::StatusReply {
        let (phase, reason) = self.phase();
        let text = |prefix: Option<&Prefix>| prefix.map(ToString::to_string).unwrap_or_default();
        let ip = |family| self.public.of(family).map(ToString::to_string).unwrap_or_default();
        let mut refused: BTreeMap<String, u32> = BTreeMap::new();
        for refusal in self.leases.iter().flat_map(|table| table.refused.values()) {
            *refused.entry(refusal.kind.to_string()).or_default() += 1;
        }
        proto::StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: phase.name().to_owned(),
            reason,
            identity: self.identity.clone(),
            backend: self.backend.clone(),
            subnet: text(self.subnet.v4.as_ref()),
            subnet_v6: text(self.subnet.v6.as_ref()),
            public_ip: ip(Family::V4),
            public_ipv6: ip(Family::V6),
            underlay: self.underlay.clone(),
            mtu: self.mtu,
            store: Some(self.store_status()),
            dataplane: Some(self.dataplane_status()),
            peers: self.leases.as_ref().map_or(0, |table| u32::try_from(table.peers.len()).unwrap_or(u32::MAX)),
            refused,
            warnings: self.warnings.clone(),
            firewall: Some(self.firewall_status()),
        }
    }

    fn store_status(&self) -> proto::StoreStatus {
        let held = match &self.hold {
            Some(HoldState::Held { entry, expires, .. }) => entry.origin.lease.map(|lease| (lease, *expires)),
            Some(HoldState::Acquiring { .. } | HoldState::Lost { .. }) | None => None,
        };
        let seconds =
            |expires: Option<Instant>| expires.map_or(0, |at| at.saturating_duration_since(Instant::now()).as_secs());
        proto::StoreStatus {
            synced: self.follow.error.is_none() && self.leases.is_some(),
            error: self.follow.error.clone().unwrap_or_default(),
            revision: self.leases.as_ref().map_or(0, |table| table.revision.0),
            resyncs: self.follow.listings,
            lease: held.map(|(lease, _)| lease.to_string()).unwrap_or_default(),
            lease_seconds: held.map_or(0, |(_, expires)| seconds(expires)),
        }
    }

    fn dataplane_status(&self) -> proto::DataplaneStatus {
        let last = self.dataplane.last.as_ref();
        proto::DataplaneStatus {
            converged: last.is_some_and(|report| report.converged),
            written: self.dataplane.written,
            removed: self.dataplane.removed,
            rounds: self.dataplane.rounds,
            failures: last.map(|report| report.failures.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            conflicts: last
                .map(|report| report.conflicts.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
        }
    }

    fn firewall_status(&self) -> proto::FirewallStatus {
        let FirewallSeen { written, removed, converged, counted } = &self.firewall;
        proto::FirewallStatus {
            converged: *converged,
            written: *written,
            removed: *removed,
            strangers: counted.strangers,
            senders: counted.senders.iter().map(ToString::to_string).collect(),
            containers: counted.containers,
            spoofed: counted.spoofed,
        }
    }

    pub(crate) fn to_peers(&self) -> proto::PeersReply {
        let Some(table) = &self.leases else { return proto::PeersReply::default() };
        let refused = table.refused.iter().map(|(key, refusal)| proto::Refused {
            key: key.clone(),
            kind: refusal.kind.to_string(),
            reason: refusal.reason.clone(),
        });
        proto::PeersReply {
            peers: table.peers.values().map(|entry| peer(entry, self.is_programmed(entry))).collect(),
            refused: refused.collect(),
        }
    }

    /// Whether all of a peer's entries are in the kernel.
    fn is_programmed(&self, entry: &Entry) -> bool {
        let Some(report) = &self.dataplane.last else { return false };
        let in_the_way = |conflict: &Conflict| match conflict {
            Conflict::Route { key, .. } => entry.lease.subnet.prefixes().any(|prefix| prefix == key.destination),
            Conflict::Name { .. } | Conflict::Vni { .. } => true,
        };
        report.converged
            && entry.lease.data.name() == self.backend
            && entry.origin.mod_revision <= self.dataplane.applied
            && !report.conflicts.iter().any(in_the_way)
    }
}

fn peer(entry: &Entry, programmed: bool) -> proto::Peer {
    let lease = &entry.lease;
    let prefix = |family| lease.subnet.of(family).map(|prefix| prefix.to_string()).unwrap_or_default();
    let ip = |family| lease.public.of(family).map(ToString::to_string).unwrap_or_default();
    let mac = |family| match &lease.data {
        BackendData::Vxlan(vteps) => vteps.of(family).map(|vtep| vtep.mac.to_string()).unwrap_or_default(),
        BackendData::Untyped | BackendData::Other(_) => String::new(),
    };
    proto::Peer {
        subnet: prefix(Family::V4),
        subnet_v6: prefix(Family::V6),
        public_ip: ip(Family::V4),
        public_ipv6: ip(Family::V6),
        backend_type: lease.data.name().to_owned(),
        vtep_mac: mac(Family::V4),
        vtep_mac_v6: mac(Family::V6),
        programmed,
        reservation: entry.origin.lease.is_none(),
    }
}
