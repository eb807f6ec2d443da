//! The agent's state, in one value. Health, `status`, `peers` and the messages to systemd are computed from it.

mod answers;
mod condition;
mod conditions;
mod message;
mod refusals;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::SystemTime};

use tokio::sync::watch;
use tracing::warn;
use wire_backends::{Addresses, Datapath, Reaches};
use wire_firewall::Counted;
use wire_forward::Tunnels;
use wire_lease::{FollowHealth, HoldState, LeaseTable};
use wire_net::{DualStack, Family, NetworkName, Prefix};
use wire_state::{Network, Report};
use wire_store::Revision;

pub(crate) use self::{
    answers::shown,
    condition::{
        AgentCondition, Blocked, DockerCondition, EtcdCondition, FirewallCondition, KernelCondition, SpokenFor,
        Unchecked, UnderlayCondition,
    },
    message::Message,
};
use self::{
    condition::{Condition, Kind, Place, Severity},
    conditions::{Change, Conditions, Current},
    refusals::refusals,
};
use crate::{
    attach::AttachmentId,
    named::{AttachmentSeen, NetworkSeen},
    ports::{Ports, System},
};

/// The agent's state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) identity: String,
    pub(crate) backend: String,
    pub(crate) underlay: String,
    pub(crate) public: DualStack<IpAddr>,
    pub(crate) mtu: u32,
    /// True once the network is joined. Before, [`EtcdCondition::Joining`] says why the start waits.
    pub(crate) joined: bool,
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
    conditions: Conditions,
    /// The datapath, once it is chosen.
    pub(crate) datapath: Option<Datapath>,
    /// The leases of the hosts that our backends reach: the new one's, then those of a former one.
    pub(crate) reaches: Vec<Reaches>,
    /// The public addresses of peers that our backend cannot reach, since they are not on the underlay's link.
    pub(crate) beyond_link: Addresses,
    pub(crate) tunnels: Tunnels,
    /// This host's part in networks by name.
    pub(crate) networks: BTreeMap<NetworkName, NetworkSeen>,
    /// The interfaces of containers on them.
    pub(crate) attachments: BTreeMap<AttachmentId, AttachmentSeen>,
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

impl NoAnswer {
    /// The text of the wait for etcd.
    fn message(&self) -> Message {
        match self {
            Self::NoConfig(remedy) => Message::plain("etcd: it has no network config").remedy(": ", remedy),
            Self::Silence | Self::Unreachable(_) | Self::Refusal(_) | Self::Useless(_) => {
                Message::plain(format!("etcd: {self}"))
            }
        }
    }
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

/// The only place that holds the agent's state; all parts write through it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    status: watch::Sender<Status>,
    time_of_day: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatusWriter").field(&self.status.borrow()).finish()
    }
}

/// The status of a command, or of a test.
impl Default for StatusWriter {
    fn default() -> Self {
        Self::new(System::default())
    }
}

impl StatusWriter {
    pub(crate) fn new(ports: impl Ports) -> Self {
        let status = Status::starting(ports.time_of_day());
        Self { status: watch::Sender::new(status), time_of_day: Arc::new(move || ports.time_of_day()) }
    }

    /// Forgets everything, for another agent of the same network.
    pub(crate) fn begin_anew(&self) {
        self.status.send_replace(Status::starting((self.time_of_day)()));
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        let (mut changes, now) = (Vec::new(), (self.time_of_day)());
        self.status.send_modify(|seen| {
            change(seen);
            changes = seen.derive(now);
        });
        changes.iter().for_each(Change::log);
    }

    /// Sets a condition until it is cleared. True if its text is new.
    pub(crate) fn raise(&self, condition: impl Into<Condition>) -> bool {
        let condition = condition.into();
        self.replace(condition.kind().place, vec![condition])
    }

    /// Ends a condition, whichever of those with its subject it is.
    pub(crate) fn clear(&self, kind: Kind) {
        self.replace(kind.place, Vec::new());
    }

    /// Sets a condition, or ends it with `None`. `kind` is its kind, or any other with the same subject.
    pub(crate) fn set(&self, kind: Kind, condition: Option<impl Into<Condition>>) {
        self.set_all(kind, condition);
    }

    /// Sets all conditions of a kind that can hold several times.
    pub(crate) fn set_all(&self, kind: Kind, conditions: impl IntoIterator<Item = impl Into<Condition>>) {
        self.replace(kind.place, conditions.into_iter().map(Into::into).collect());
    }

    /// Replaces the conditions of a place, and logs the changes. True if there are any.
    fn replace(&self, place: Place, now: Vec<Condition>) -> bool {
        let mut changes = None;
        self.status.send_if_modified(|seen| {
            changes = seen.conditions.replace(place, now, (self.time_of_day)());
            changes.is_some()
        });
        changes.iter().flatten().for_each(Change::log);
        changes.is_some()
    }

    /// Sets the reason for waiting. An agent that has joined before stays ready, because its traffic flows.
    pub(crate) fn wait_for(&self, what: String) {
        self.raise(EtcdCondition::Joining(Message::plain(what)));
    }

    /// Sets the reason why etcd gives no answer to join with. If the agent uses the saved state, `status` shows the
    /// reason already.
    pub(crate) fn wait_for_etcd(&self, why: NoAnswer) {
        let what = why.message();
        let (is_known, is_said) = self.look(|seen| (seen.no_answer == why, seen.as_of.is_some()));
        if !is_known {
            self.update(|seen| seen.no_answer = why);
        }
        match is_said {
            true if !is_known => warn!("waiting for {what}"),
            true => {}
            false => drop(self.raise(EtcdCondition::Joining(what))),
        }
    }

    /// Reads the state without a copy.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Status) -> T) -> T {
        at(&self.status.borrow())
    }

    pub(crate) fn now(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
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
    fn starting(at: SystemTime) -> Self {
        let mut status = Self::default();
        let starting = EtcdCondition::Joining(Message::plain("starting"));
        let _ = status.conditions.replace(EtcdCondition::JOINING.place, vec![starting.into()], at);
        status
    }

    /// The phase, and the reason if it is not `Ready`.
    pub(crate) fn phase(&self) -> (Phase, String) {
        if self.stopping {
            return (Phase::Stopping, "asked to end; traffic and lease stay".to_owned());
        }
        if !self.joined {
            let reasons = self.conditions().map(|current| &current.condition);
            let reasons = reasons.filter(|condition| WAITING.contains(&condition.kind())).map(Condition::text);
            return (Phase::Waiting, reasons.collect::<Vec<_>>().join("; "));
        }
        let faults: Vec<String> = self.of(Severity::Fault).map(Condition::line).collect();
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

    /// The network is joined: nothing waits for that any more.
    pub(crate) fn set_joined(&mut self) {
        self.joined = true;
        for kind in [EtcdCondition::JOINING, AgentCondition::SAVED_NETWORK] {
            self.conditions.end(kind.place);
        }
    }

    /// All conditions that hold now, the faults first.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Current> {
        // The saved network does not matter once a network is joined.
        let matters = |current: &&Current| !self.joined || current.condition.kind() != AgentCondition::SAVED_NETWORK;
        self.conditions.iter().filter(matters)
    }

    /// True if a condition of this kind holds.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.conditions.get(kind).is_some()
    }

    /// The text of a condition, if it holds.
    pub(crate) fn text_of(&self, kind: Kind) -> Option<String> {
        self.conditions.get(kind).map(Condition::text)
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Condition> {
        let all = self.conditions().map(|current| &current.condition);
        all.filter(move |condition| condition.severity() == severity)
    }

    /// Sets the conditions that follow from the rest of the state.
    fn derive(&mut self, at: SystemTime) -> Vec<Change> {
        let held = self.leases.as_ref().map_or(0, |table| table.held);
        let vanished = (held > 0).then_some(EtcdCondition::LeasesVanished { held });
        let refused = self.leases.as_deref().and_then(refusals);
        let last = self.dataplane.last.as_deref();
        let conflicts =
            last.iter().flat_map(|report| &report.findings.conflicts).cloned().map(KernelCondition::Conflict);
        let failures = last.iter().flat_map(|report| &report.failures).map(KernelCondition::of);
        let derived = [
            (EtcdCondition::AWAY, all(self.away())),
            (EtcdCondition::VANISHED, all(vanished)),
            (EtcdCondition::ALL_REFUSED, of_kind(EtcdCondition::ALL_REFUSED, refused.as_ref())),
            (EtcdCondition::SOME_REFUSED, of_kind(EtcdCondition::SOME_REFUSED, refused.as_ref())),
            (KernelCondition::ROUTE_CONFLICT, all(conflicts)),
            (KernelCondition::OPERATION_FAILED, all(failures)),
        ];
        let changes = derived.into_iter().filter_map(|(kind, now)| self.conditions.replace(kind.place, now, at));
        changes.flatten().collect()
    }

    /// The condition that etcd's current state is not known.
    fn away(&self) -> Option<EtcdCondition> {
        let as_of = self.as_of.clone();
        let why = if as_of.is_some() { Some(self.no_answer.to_string()) } else { self.follow.error.clone() };
        why.map(|why| EtcdCondition::Away { why, as_of })
    }
}

/// The conditions that a start may wait for.
const WAITING: [Kind; 3] = [AgentCondition::HANGS, EtcdCondition::JOINING, AgentCondition::SAVED_NETWORK];

fn all(conditions: impl IntoIterator<Item = impl Into<Condition>>) -> Vec<Condition> {
    conditions.into_iter().map(Into::into).collect()
}

fn of_kind(kind: Kind, condition: Option<&EtcdCondition>) -> Vec<Condition> {
    all(condition.filter(|condition| condition.kind() == kind).cloned())
}
