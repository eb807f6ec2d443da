//! Conditions of etcd, the network config and the leases.

use std::net::IpAddr;

use super::{Kind, Log, Message, Rank, Severity, kinds};

#[derive(Clone, Debug)]
pub(crate) enum EtcdCondition {
    /// The network is not joined, or could not be joined anew: what is waited for.
    Joining(Message),
    /// The current leases are not known: the reason, and the time of the saved ones that are used instead.
    Away { why: String, as_of: Option<String> },
    /// Many leases vanished at once.
    LeasesVanished { held: usize },
    /// All leases of others are refused: this host is alone although there are others.
    AllRefused(RefusedLeases),
    /// Some leases of others are refused.
    SomeRefused(RefusedLeases),
    /// This host holds its lease, but cannot keep it alive: the reason.
    LeaseAtRisk(String),
    /// This host has no lease yet: the reason.
    NoLease(String),
    /// This host has lost its lease: the reason.
    LeaseLost(String),
    /// The former backend is spoken for hosts that were not restarted since the network config was changed.
    FormerSpoken(SpokenFor),
    /// The network config was deleted.
    ConfigDeleted,
    /// The network config has changed since this agent has read it.
    ConfigChanged,
    /// The network config has changed to one that this host cannot apply: the reason.
    ConfigInapplicable(String),
    /// The network config has changed to one that is not valid: the error.
    ConfigRefused(String),
}

/// The hosts that are reached by the former backend alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpokenFor {
    former: String,
    /// Some of them.
    named: Vec<IpAddr>,
    count: usize,
}

/// The most hosts that are named.
const NAMED: usize = 3;

impl SpokenFor {
    /// `hosts` are in the order in which they are named.
    pub(crate) fn new(former: String, hosts: impl ExactSizeIterator<Item = IpAddr>) -> Self {
        let count = hosts.len();
        Self { former, named: hosts.take(NAMED).collect(), count }
    }

    fn message(&self) -> Message {
        let Self { former, named, count } = self;
        let named: Vec<String> = named.iter().map(ToString::to_string).collect();
        let more = count - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Message::plain(format!(
            "{former} is still spoken, to hosts that have not left it since the network config was changed: {}{more}",
            named.join(", ")
        ))
        .remedy("; ", "restart wire-agent on them, one after the other")
    }
}

/// The leases that are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedLeases {
    /// The number of leases that are not refused.
    pub(crate) peers: usize,
    /// The number of those that are.
    pub(crate) count: usize,
    /// The key of the first, and the reason.
    pub(crate) key: String,
    pub(crate) reason: String,
}

impl EtcdCondition {
    kinds! {
        JOINING = Kind::fault("joining", "joining").logged(Log::TextsAfter("waiting for "));
        AWAY = Kind::fault("etcd-away", "etcd").ranked(Rank::Store);
        VANISHED = Kind::fault("leases-vanished", "leases").ranked(Rank::Vanished);
        ALL_REFUSED = Kind::fault("all-leases-refused", "leases").ranked(Rank::AllRefused);
        SOME_REFUSED = Kind::bare("some-leases-refused", Severity::Warning, Rank::SomeRefused);
        LEASE_AT_RISK = Kind::fault("lease-at-risk", "lease");
        NO_LEASE = Kind::fault("no-lease", "lease");
        LEASE_LOST = Kind::fault("lease-lost", "lease");
        FORMER = Kind::warning("former-backend-spoken", "former backend").logged(Log::Texts);
        CONFIG_DELETED = config("network-config-deleted");
        CONFIG_CHANGED = config("network-config-changed");
        CONFIG_INAPPLICABLE = config("network-config-inapplicable");
        CONFIG_REFUSED = config("network-config-refused");
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Joining(_) => Self::JOINING,
            Self::Away { .. } => Self::AWAY,
            Self::LeasesVanished { .. } => Self::VANISHED,
            Self::AllRefused(_) => Self::ALL_REFUSED,
            Self::SomeRefused(_) => Self::SOME_REFUSED,
            Self::LeaseAtRisk(_) => Self::LEASE_AT_RISK,
            Self::NoLease(_) => Self::NO_LEASE,
            Self::LeaseLost(_) => Self::LEASE_LOST,
            Self::FormerSpoken(_) => Self::FORMER,
            Self::ConfigDeleted => Self::CONFIG_DELETED,
            Self::ConfigChanged => Self::CONFIG_CHANGED,
            Self::ConfigInapplicable(_) => Self::CONFIG_INAPPLICABLE,
            Self::ConfigRefused(_) => Self::CONFIG_REFUSED,
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::Joining(what) => what.clone(),
            Self::Away { why, as_of: None } => Message::plain(why),
            Self::Away { why, as_of: Some(as_of) } => {
                Message::plain(format!("{why}; traffic uses the leases known at {as_of}"))
            }
            Self::LeasesVanished { held } => {
                Message::plain(format!("{held} vanished from etcd at once; their routes are kept for 30 s"))
            }
            Self::AllRefused(refused) | Self::SomeRefused(refused) => refused.message(),
            Self::LeaseAtRisk(reason) => Message::plain(reason),
            Self::NoLease(reason) => Message::plain(format!("there is none yet: {reason}")),
            Self::LeaseLost(reason) => Message::plain(format!("it is lost: {reason}")),
            Self::FormerSpoken(hosts) => hosts.message(),
            Self::ConfigDeleted => {
                Message::plain("it was deleted; this agent keeps the config that it read at its start")
            }
            Self::ConfigChanged => Message::plain("it has changed").remedy(": ", "restart wire-agent to apply it"),
            Self::ConfigInapplicable(why) => {
                Message::plain(format!("it has changed to one that this host cannot apply: {why}"))
                    .remedy("; ", "correct that before you restart wire-agent")
            }
            Self::ConfigRefused(error) => {
                Message::plain(format!("it has changed, and the new one is refused: {error}"))
            }
        }
    }
}

/// All about the network config have one place.
const fn config(name: &'static str) -> Kind {
    Kind::fault(name, "network config").logged(Log::LinesAndEnd)
}

impl RefusedLeases {
    fn message(&self) -> Message {
        let Self { peers, count, key, reason } = self;
        let more = if *count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        Message::plain(format!("{peers} peers, {count} refused: {key}: {reason}{more}"))
            .remedy("; ", "see wire-agent peers")
    }
}
