//! The ways in which the program ends, with their exit statuses: those of sysexits(3) where one fits.

use std::process::ExitCode;

/// The reason why the program ends before it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exit {
    /// A flag or variable is not valid. Status 64 (EX_USAGE).
    #[error("{0}")]
    Usage(String),
    /// The network config, or the environment it needs, is wrong. Status 78 (EX_CONFIG).
    #[error("{0}")]
    NetworkConfig(String),
    /// No interface for the underlay. The agent waits for one that may appear, and ends for one that never can. Status
    /// 68 (EX_NOHOST).
    #[error("{0}")]
    NoUnderlay(String),
    /// The kernel can make neither VXLAN nor TUN devices. Status 71 (EX_OSERR).
    #[error("{0}")]
    NoDevice(String),
    /// A running agent or etcd did not answer a command. Status 69 (EX_UNAVAILABLE).
    #[error("{0}")]
    Unavailable(String),
    /// A file or folder that cannot be written. Status 73 (EX_CANTCREAT).
    #[error("{0}")]
    CannotCreate(String),
    /// Another agent is running with the same folders. Status 75 (EX_TEMPFAIL).
    #[error("{0}")]
    AlreadyRunning(String),
    /// No CAP_NET_ADMIN. Status 77 (EX_NOPERM).
    #[error(
        "wire-agent needs CAP_NET_ADMIN to program the network: run it as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN"
    )]
    NoCapability,
    /// The answer to a command is no, for example because there is no config. Status 1.
    #[error("{0}")]
    No(String),
    /// Anything else. Status 70 (EX_SOFTWARE).
    #[error("{0}")]
    Software(String),
}

impl Exit {
    /// The status, as `--help` lists it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::No(_) => 1,
            Self::Usage(_) => 64,
            Self::NoUnderlay(_) => 68,
            Self::Unavailable(_) => 69,
            Self::Software(_) => 70,
            Self::NoDevice(_) => 71,
            Self::CannotCreate(_) => 73,
            Self::AlreadyRunning(_) => 75,
            Self::NoCapability => 77,
            Self::NetworkConfig(_) => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.status().into()
    }
}

/// For `--help`.
pub(crate) const STATUSES: &str = "Variables: each flag can come from WIRE_AGENT_<FLAG>, and flannel's flags from \
                                   FLANNELD_<FLAG> too (upper case, - becomes _):
--etcd-endpoints from \
                                   WIRE_AGENT_ETCD_ENDPOINTS, else from FLANNELD_ETCD_ENDPOINTS. A flag on the line \
                                   wins.

Exit statuses:
   0  the agent was asked to stop, or the command succeeded
 \
                                   1  the command's answer is no (for example: there is no network config)
  64  a \
                                   flag or variable is not valid
  68  --iface can match no interface that leads to \
                                   other hosts (one that does not exist yet is waited for)
  69  etcd or the running \
                                   agent did not answer a command
  70  an error inside wire-agent
  71  the kernel \
                                   can make neither VXLAN nor TUN devices
  73  a file or folder cannot be written
  \
                                   75  another wire-agent is running with the same --run-dir
  77  no CAP_NET_ADMIN
  \
                                   78  the network config in etcd is wrong, or needs something that this version does \
                                   not have";
