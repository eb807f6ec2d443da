//! The errors of `wire-agent docker-opts`.

use std::{io, path::PathBuf};

use crate::{
    daemon_json::DaemonJsonError,
    exit::{CANNOT_CREATE, NO, USAGE},
};

/// The options for Docker were not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerOptsError {
    #[error("--key {key:?} cannot be the name of a variable")]
    Key { key: String },
    /// The output would be written over the input.
    #[error(
        "{} is {}, the file that the agent writes and that the options are read from: choose another output file",
        output.display(),
        input.display()
    )]
    OutputIsInput { output: PathBuf, input: PathBuf },
    #[error("cannot read {}", file.display())]
    Unread { file: PathBuf, source: io::Error },
    /// subnet.env has an invalid line, or no subnet.
    #[error("{}: {reason}", file.display())]
    NotValid { file: PathBuf, reason: String },
    /// dockerd refuses to start if a key is set as a flag too.
    #[error(
        "docker.service already gives dockerd these options as flags ($DOCKER_OPT_BIP), and dockerd does not start \
         with both: {} was not changed", settings.display()
    )]
    BesideFlags { settings: PathBuf },
    #[error(transparent)]
    DaemonJson(#[from] DaemonJsonError),
}

impl DockerOptsError {
    /// The exit status.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::Key { .. } | Self::OutputIsInput { .. } => USAGE,
            Self::Unread { .. } | Self::NotValid { .. } | Self::BesideFlags { .. } => NO,
            Self::DaemonJson(error) => match error {
                DaemonJsonError::Read { .. }
                | DaemonJsonError::NotAnObject { .. }
                | DaemonJsonError::ByteOrderMark { .. }
                | DaemonJsonError::Clash(_) => NO,
                DaemonJsonError::Write(_) => CANNOT_CREATE,
            },
        }
    }

    /// The next step for the reader, if there is one.
    pub(crate) const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unread { .. } => Some("the agent writes it once it has a subnet, see wire-agent status"),
            Self::BesideFlags { .. } => Some("restart Docker to apply the flags"),
            Self::Key { .. } | Self::OutputIsInput { .. } | Self::NotValid { .. } | Self::DaemonJson(_) => None,
        }
    }
}
