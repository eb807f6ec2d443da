//! The agent's state, in one value. Health, `status`, `peers` and the messages to systemd are computed from it.

mod answers;
mod refusals;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use tokio::sync::watch;
use tracing::{info, warn};
use wire_backends::Datapath;
use wire_firewall::Counted;
use wire_forward::Tunnels;
use wire_lease::{BackendData, FollowHealth, HoldState, LeaseTable};
use wire_net::{DualStack, Family, Prefix};
use wire_state::{Network, Report};
use wire_store::Revision;

use self::refusals::{Refusals, refusals};
use crate::pulse::Part;

/// The agent's state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) identity: String,
    pub(crate) backend: String,
    pub(crate) underlay: String,
    pub(crate) public: DualStack<IpAddr>,
    pub(crate) mtu: u32,
    /// The reason why the start waits; `None` once the network is joined.
    pub(crate) waiting: Option<String>,
    /// The reason why the saved network state cannot be used instead of etcd's answer.
    pub(crate) useless: Option<String>,
    /// True once READY=1 was sent.
    pub(crate) ready: bool,
    pub(crate) stopping: bool,
    pub(crate) subnet: DualStack<Prefix>,
    pub(crate) hold: Option<HoldState>,
    pub(crate) follow: FollowHealth,
    pub(crate) leases: Option<Arc<LeaseTable>>,
    /// The time of the saved state, while etcd has given no answer since the start; `None` once it has.
    pub(crate) as_of: Option<String>,
    /// The reason for the missing answer, as far as it is known.
    pub(crate) no_answer: NoAnswer,
    pub(crate) dataplane: DataplaneSeen,
    pub(crate) firewall: FirewallSeen,
    /// Lasting faults, by their subject.
    pub(crate) faults: BTreeMap<&'static str, String>,
    /// Parts of the agent that hang.
    pub(crate) hung: Vec<Part>,
    pub(crate) warnings: Vec<String>,
    /// Warnings that may end, by their subject.
    pub(crate) notes: BTreeMap<&'static str, String>,
    /// The datapath, once it is chosen.
    pub(crate) datapath: Option<Datapath>,
    /// True for leases of hosts that our backend reaches.
    pub(crate) reaches: Option<fn(&BackendData) -> bool>,
    pub(crate) tunnels: Tunnels,
}

/// The reason why there is no answer of etcd to join with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It does not answer.
    #[default]
    Silence,
    /// It cannot be reached: the error of the connection.
    Unreachable(String),
    /// It or this host refuses the connection: who, the reason and the remedy.
    Refusal(String),
    /// It has no network config: the command that writes one.
    NoConfig(String),
    /// Its config, or this host's settings for etcd, cannot be used: the reason.
    Useless(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("it does not answer"),
            Self::Unreachable(why) => write!(f, "it does not answer: {why}"),
            Self::Refusal(why) | Self::Useless(why) => f.write_str(why),
            Self::NoConfig(remedy) => write!(f, "it has no network config: {remedy}"),
        }
    }
}

/// The sum of the dataplane's reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataplaneSeen {
    pub(crate) rounds: u64,
    pub(crate) written: u64,
    pub(crate) removed: u64,
    pub(crate) last: Option<Arc<Report<Network>>>,
    /// The revision of the leases that the last report is about.
    pub(crate) applied: Revision,
}

/// The sum of the packet filter's reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FirewallSeen {
    pub(crate) written: u64,
    pub(crate) removed: u64,
    pub(crate) converged: bool,
    pub(crate) counted: Counted,
    /// The families whose encapsulated packets stay tracked, with the reason.
    pub(crate) tracked: BTreeMap<Family, String>,
}

/// The only place that holds the agent's state. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct StatusWriter(watch::Sender<Status>);

impl StatusWriter {
    pub(crate) fn new() -> Self {
        let waiting = Some("starting".to_owned());
        Self(watch::Sender::new(Status { waiting, ..Status::default() }))
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.0.send_modify(change);
    }

    /// Sets a fault, or clears it with `None`.
    pub(crate) fn fault(&self, concern: &'static str, fault: Option<String>) {
        self.0.send_if_modified(|seen| set(&mut seen.faults, concern, fault));
    }

    /// Like [`StatusWriter::fault`], and logs each change.
    pub(crate) fn alarm(&self, concern: &'static str, fault: Option<String>) {
        let before = self.look(|seen| seen.faults.get(concern).cloned());
        match &fault {
            Some(fault) if before.as_ref() != Some(fault) => warn!("{concern}: {fault}"),
            None if before.is_some() => info!("{concern}: as it should be again"),
            Some(_) | None => {}
        }
        self.fault(concern, fault);
    }

    /// Sets a warning for the operator, or clears it with `None`.
    pub(crate) fn warning(&self, concern: &'static str, warning: Option<String>) {
        self.0.send_if_modified(|seen| set(&mut seen.notes, concern, warning));
    }

    /// Like [`StatusWriter::warning`], and logs its beginning. Later changes of the text are not logged, since each lease may
    /// change it.
    pub(crate) fn caution(&self, concern: &'static str, warning: Option<String>) {
        let begins = self.look(|seen| !seen.notes.contains_key(concern));
        if let Some(warning) = warning.as_ref().filter(|_| begins) {
            warn!("{warning}");
        }
        self.warning(concern, warning);
    }

    /// Sets the reason for waiting, and logs it once. An agent that has joined before stays ready, because its traffic
    /// flows.
    pub(crate) fn wait_for(&self, what: String) {
        let known = self.look(|seen| seen.waiting.as_ref() == Some(&what) || seen.faults.get("joining") == Some(&what));
        if known {
            return;
        }
        warn!("waiting for {what}");
        self.update(|seen| match &mut seen.waiting {
            Some(waiting) => *waiting = what,
            None => drop(seen.faults.insert("joining", what)),
        });
    }

    /// Sets the reason why etcd gives no answer to join with. If the agent uses the saved state, `status` shows the
    /// reason already.
    pub(crate) fn wait_for_etcd(&self, why: NoAnswer) {
        let what = format!("etcd: {why}");
        let (is_known, is_said) = self.look(|seen| (seen.no_answer == why, seen.as_of.is_some()));
        if !is_known {
            self.update(|seen| seen.no_answer = why);
        }
        match is_said {
            true if !is_known => warn!("waiting for {what}"),
            true => {}
            false => self.wait_for(what),
        }
    }

    /// Reads the state without a copy.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Status) -> T) -> T {
        at(&self.0.borrow())
    }

    pub(crate) fn now(&self) -> Status {
        self.0.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }
}

/// True if that changes anything.
fn set(said: &mut BTreeMap<&'static str, String>, concern: &'static str, text: Option<String>) -> bool {
    match text {
        Some(text) => said.insert(concern, text.clone()) != Some(text),
        None => said.remove(concern).is_some(),
    }
}

/// The overall state, which `status` prints first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The network is not joined yet.
    Waiting,
    /// Everything works.
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

impl Status {
    /// The phase, and the reason if it is not `Ready`.
    pub(crate) fn phase(&self) -> (Phase, String) {
        if self.stopping {
            return (Phase::Stopping, "asked to end; traffic and lease stay".to_owned());
        }
        if let Some(reason) = &self.waiting {
            let kept = self.useless.iter().map(|why| format!("the network state saved on disk cannot be used: {why}"));
            let reasons: Vec<String> = self.hangs().chain([reason.clone()]).chain(kept).collect();
            return (Phase::Waiting, reasons.join("; "));
        }
        let faults = self.all_faults();
        match (self.ready, faults.is_empty()) {
            (true, true) => (Phase::Ready, String::new()),
            (true, false) => (Phase::Degraded, faults.join("; ")),
            (false, true) => (Phase::Waiting, "for the first entries in the kernel, and the firewall".to_owned()),
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

    /// The reason why etcd's current state is not known.
    fn store_error(&self) -> Option<String> {
        let none = |as_of| format!("{}; traffic uses the leases known at {as_of}", self.no_answer);
        self.as_of.as_ref().map(none).or_else(|| self.follow.error.clone())
    }

    fn hangs(&self) -> impl Iterator<Item = String> {
        self.hung.iter().map(|part| format!("the {} hangs: restart wire-agent", part.name()))
    }

    fn all_faults(&self) -> Vec<String> {
        let store = self.store_error().map(|error| format!("etcd: {error}"));
        let held = self.leases.as_ref().map_or(0, |table| table.held);
        let vanished =
            (held > 0).then(|| format!("leases: {held} vanished from etcd at once; their routes are kept for 30 s"));
        let alone = self.refusals().fault;
        let lasting = self.faults.iter().map(|(concern, fault)| format!("{concern}: {fault}"));
        let last = self.dataplane.last.as_ref();
        let conflicts =
            last.map(|report| report.findings.conflicts.iter().map(ToString::to_string)).into_iter().flatten();
        let failures = last.map(|report| report.failures.iter().map(ToString::to_string)).into_iter().flatten();
        self.hangs().chain(store).chain(vanished).chain(alone).chain(lasting).chain(conflicts).chain(failures).collect()
    }

    fn refusals(&self) -> Refusals {
        self.leases.as_deref().map(refusals).unwrap_or_default()
    }
}
