//! Conditions of the agent itself, its files and flags.

use std::net::SocketAddr;

use wire_net::NetworkName;
use wire_state::Clash;

use super::{Kind, Log, Message, Rank, Severity, kinds};
use crate::pulse::Part;

#[derive(Clone, Debug)]
pub(crate) enum AgentCondition {
    /// A part of the agent does not answer.
    Hangs(Part),
    /// A flag or variable has no effect, or not the expected one.
    Flag(String),
    /// Nobody can ask for `/healthz` and `/readyz`.
    NoHealthChecks { address: SocketAddr, error: String },
    /// The files for other programs: the error.
    FilesNotWritten(String),
    /// The agent's own state: the error.
    StateNotSaved(String),
    /// The network state for a start without etcd: the error.
    NetworkNotSaved(String),
    /// The network state that an earlier run has saved: the reason. Shown until the network is joined.
    SavedNetworkUnusable(String),
    /// Several networks of this host want the same files.
    FileClashes(Vec<Clash>),
    /// A network by name is not as this host should have it: the reason.
    NetworkByName { network: NetworkName, why: String },
}

impl AgentCondition {
    kinds! {
        HANGS = Kind::bare("part-hangs", Severity::Fault, Rank::Hang).logged(Log::Hangs);
        FLAG = Kind::bare("flag", Severity::Warning, Rank::Flag);
        NO_HEALTH_CHECKS = Kind::fault("no-health-checks", "health checks");
        FILES = Kind::fault("files-not-written", "files").logged(Log::LinesAndEnd);
        STATE = Kind::fault("state-not-saved", "state").logged(Log::LinesAndEnd);
        NETWORK_NOT_SAVED = Kind::fault("network-not-saved", "last known network").logged(Log::LinesAndEnd);
        SAVED_NETWORK = Kind::fault("saved-network-unusable", "saved network");
        NETWORK_BY_NAME = Kind::fault("network-by-name", "network").logged(Log::LinesAndEnd);
        FILE_CLASH = Kind::fault("clash-of-files", "clash of files").logged(Log::LinesAndEnd);
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Hangs(_) => Self::HANGS,
            Self::Flag(_) => Self::FLAG,
            Self::NoHealthChecks { .. } => Self::NO_HEALTH_CHECKS,
            Self::FilesNotWritten(_) => Self::FILES,
            Self::StateNotSaved(_) => Self::STATE,
            Self::NetworkNotSaved(_) => Self::NETWORK_NOT_SAVED,
            Self::SavedNetworkUnusable(_) => Self::SAVED_NETWORK,
            Self::FileClashes(_) => Self::FILE_CLASH,
            Self::NetworkByName { .. } => Self::NETWORK_BY_NAME,
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::Hangs(part) => {
                Message::plain(format!("the {} hangs", part.name())).remedy(": ", "restart wire-agent")
            }
            Self::Flag(warning) => Message::plain(warning),
            Self::FileClashes(clashes) => Message::of_clashes(clashes),
            Self::NoHealthChecks { address, error } => Message::plain(format!("cannot listen on {address}: {error}")),
            Self::FilesNotWritten(error) => {
                Message::plain(format!("{error}: other programs cannot read this host's subnet"))
            }
            Self::StateNotSaved(error) => {
                Message::plain(format!("{error}: after a restart this host may get another subnet"))
            }
            Self::NetworkNotSaved(error) => {
                Message::plain(format!("{error}: the agent could not start while etcd is away"))
            }
            Self::NetworkByName { network, why } => Message::plain(format!("{network}: {why}")),
            Self::SavedNetworkUnusable(reason) => {
                Message::plain(format!("the network state saved on disk cannot be used: {reason}"))
            }
        }
    }

    pub(super) fn instance(&self) -> String {
        match self {
            Self::Hangs(part) => part.name().to_owned(),
            Self::Flag(warning) => warning.clone(),
            Self::NetworkByName { network, .. } => network.to_string(),
            Self::NoHealthChecks { .. }
            | Self::FilesNotWritten(_)
            | Self::StateNotSaved(_)
            | Self::NetworkNotSaved(_)
            | Self::SavedNetworkUnusable(_)
            | Self::FileClashes(_) => String::new(),
        }
    }
}
