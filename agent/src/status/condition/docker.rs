//! Conditions of Docker: its bridges, its settings and docker.service.

use super::{Kind, Log, Message, kinds};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DockerCondition {
    /// Containers are on bridges without this host's subnet: other hosts cannot reach them.
    BridgeMismatch(Message),
    /// Bridges have a larger MTU than the overlay.
    BridgeMtu(Message),
    /// Bridges lack one family of this host's subnet; some may have a larger MTU too.
    BridgeFamily(Message),
    /// Settings in daemon.json conflict with our options: the conflicts, with remedies.
    DaemonJson(String),
    /// Settings of docker.service keep Docker from starting correctly: all of them, with remedies.
    DockerUnit(String),
}

impl DockerCondition {
    kinds! {
        BRIDGE_MISMATCH = Kind::fault("bridge-mismatch", "bridge").logged(Log::Texts);
        BRIDGE_MTU = Kind::warning("bridge-mtu", "bridge").logged(Log::Texts);
        BRIDGE_FAMILY = Kind::warning("bridge-family", "bridge").logged(Log::Texts);
        DAEMON_JSON = Kind::warning("daemon-json", "daemon.json");
        DOCKER_UNIT = Kind::warning("docker-unit", "docker.service").logged(Log::Lines);
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::BridgeMismatch(_) => Self::BRIDGE_MISMATCH,
            Self::BridgeMtu(_) => Self::BRIDGE_MTU,
            Self::BridgeFamily(_) => Self::BRIDGE_FAMILY,
            Self::DaemonJson(_) => Self::DAEMON_JSON,
            Self::DockerUnit(_) => Self::DOCKER_UNIT,
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::BridgeMismatch(message) | Self::BridgeMtu(message) | Self::BridgeFamily(message) => message.clone(),
            Self::DaemonJson(text) | Self::DockerUnit(text) => Message::plain(text),
        }
    }
}
