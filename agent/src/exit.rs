//! The ways in which the program ends, with their exit statuses: those of sysexits(3) where one fits.
//!
//! Errors of a module of its own are an enum there, and are wrapped here. The text that a user reads is
//! [`Exit::report`]; `Display` is only its first part.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use wire_backends::SelectError;
use wire_lease::ConfigError;
use wire_net::{KeyPrefix, Subnet, chain};
use wire_state::DataplaneError;
use wire_store::{EtcdSettingsError, StoreError};

use crate::{
    config_command::ConfigCommandError, docker_opts::DockerOptsError, drain::DrainError, files::WriteError,
    guests::GuestsError, network_command::NetworkCommandError, other_agents::Taken, reconcile_loop::StartError,
    settings::UsageError, status::NoAnswer, trace::TraceError, verify::VerifyError,
};

/// The answer to a command is no.
pub(crate) const NO: u8 = 1;
/// `attach`: no such guest runs.
pub(crate) const NO_GUEST: u8 = 3;
/// `attach`: it is kept, and waits.
pub(crate) const WAITS: u8 = 4;
/// A flag or variable is not valid: EX_USAGE.
pub(crate) const USAGE: u8 = 64;
/// No interface for the underlay: EX_NOHOST.
pub(crate) const NO_HOST: u8 = 68;
/// A running agent or etcd does not answer a command: EX_UNAVAILABLE.
pub(crate) const UNAVAILABLE: u8 = 69;
/// An error inside the agent: EX_SOFTWARE.
pub(crate) const SOFTWARE: u8 = 70;
/// The kernel lacks a kind of device: EX_OSERR.
pub(crate) const OS: u8 = 71;
/// A file or folder cannot be read or written: EX_CANTCREAT.
pub(crate) const CANNOT_CREATE: u8 = 73;
/// Another agent runs: EX_TEMPFAIL.
pub(crate) const TEMPORARY: u8 = 75;
/// A capability is missing: EX_NOPERM.
pub(crate) const NO_PERMISSION: u8 = 77;
/// The network config, or the environment it needs, is wrong: EX_CONFIG.
pub(crate) const CONFIG: u8 = 78;

/// The reason why the program ends before it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exit {
    /// `status`: the agent waits, is degraded or stops.
    #[error("{phase}: {reason}")]
    NotReady { phase: String, reason: String },
    /// `hand-back`: a route or a TUN device could not be changed.
    #[error("not all routes could be written: {failure}")]
    RoutesLeft { failure: String },
    /// Some rules of ours are still there, or may be. `failure` is the first one.
    #[error("not all of the firewall could be removed: {failure}")]
    FirewallLeft { failure: String },
    #[error(transparent)]
    ConfigCommand(#[from] ConfigCommandError),
    #[error(transparent)]
    DockerOpts(#[from] DockerOptsError),
    #[error(transparent)]
    Drain(#[from] DrainError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    NetworkCommand(#[from] NetworkCommandError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Guests(#[from] GuestsError),

    #[error(transparent)]
    Usage(#[from] UsageError),
    /// An endpoint or a certificate from the flags cannot be used.
    #[error(transparent)]
    EtcdSettings(#[from] EtcdSettingsError),

    /// No interface for the underlay now; the agent waits for one that may appear.
    #[error("no interface for the underlay: {reason}")]
    NoUnderlay { reason: String },
    /// No interface can ever match the flags.
    #[error(
        "{flags}: no interface that leads to other hosts can have that name or address: give another, or remove the flag"
    )]
    NoPossibleUnderlay { flags: String },

    /// The control socket does not answer.
    #[error("no agent answers on {}", socket.display())]
    NoAgent { socket: PathBuf, source: tonic::transport::Error },
    /// An agent holds the control socket, and does not answer: it is stopped, or hangs.
    #[error("the agent on {} has not answered for {}", socket.display(), humantime::format_duration(*waited))]
    SilentAgent { socket: PathBuf, waited: Duration },
    /// The agent answers a command with a refusal.
    #[error("the agent refuses: {message}")]
    Refused { message: String },
    /// `attach`: no such guest runs.
    #[error("{message}")]
    NoGuest { message: String },
    /// `attach` and `detach`: the answer is no.
    #[error("{message}")]
    NotAttached { message: String },
    /// `attach`: the interface cannot be made now.
    #[error("it is kept, and blocked: {reason}")]
    Blocked { reason: String },
    /// `attach`: the interface is made as soon as that is possible.
    #[error("it is kept, and waits: {reason}")]
    Waits { reason: String },
    /// A call to etcd failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A call to etcd failed before `hand-back` has changed anything.
    #[error(transparent)]
    HandBackStore(StoreError),
    /// The wait for etcd was too long. The text is that of the wait itself.
    #[error("etcd: {0}")]
    NoAnswer(NoAnswer),
    /// The network has changed, and offers no subnet for the one that is held.
    #[error("this network has no {held}, and no other subnet could be leased yet")]
    NoOtherSubnet { held: Subnet },

    #[error("cannot start the async runtime")]
    Runtime(#[source] io::Error),
    /// The loop of a resource has no thread.
    #[error(transparent)]
    Loop(#[from] StartError),
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    /// The kernel's state cannot be read, or gives no socket.
    #[error(transparent)]
    Kernel(#[from] DataplaneError),
    /// The saved state is used without the subnet that it must name.
    #[error("the subnet held last is not known")]
    NoSubnetHeld,
    #[error("there is no lease to continue with")]
    NoLeaseHeld,
    #[error("the task that holds the lease has ended")]
    HolderEnded,
    #[error("{part} has died")]
    PartDied { part: &'static str },

    /// The kernel can make neither VXLAN nor TUN devices. `summary` is that of the status.
    #[error("{summary}")]
    NoDevice { summary: String },
    /// The kernel has no IPIP, and the network's backend is ipip.
    #[error(
        "this kernel cannot make IPIP devices, which the network's backend ipip needs: load the module (modprobe ipip) or start a \
         kernel with CONFIG_NET_IPIP, or set Backend.Type to vxlan in the network config"
    )]
    NoIpip,

    /// The agent's own state cannot be read at the start.
    #[error("cannot read the state in {}", folder.display())]
    StateUnread { folder: PathBuf, source: io::Error },
    /// The agent's own state cannot be written at the start.
    #[error(transparent)]
    StateUnwritten(WriteError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file for other programs cannot be written at the start. `why` names it.
    #[error("{why}")]
    FileUnwritten { why: String },
    #[error("cannot make {}", path.display())]
    LockUnmade { path: PathBuf, source: io::Error },
    #[error("cannot make {}", path.display())]
    SocketUnmade { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// `generate`: a page or a completion cannot be written.
    #[error("cannot write into {}", folder.display())]
    Generate { folder: PathBuf, source: io::Error },

    /// Another network in this network namespace has what this network needs.
    #[error(transparent)]
    Taken(Taken),
    /// Another agent is running with the same folders.
    #[error("another wire-agent holds {}: stop it, or give each an --network of its own", path.display())]
    LockHeld { path: PathBuf },

    /// No CAP_NET_ADMIN.
    #[error(
        "wire-agent needs CAP_NET_ADMIN to program the network: run it as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN"
    )]
    NoCapability,

    /// A network config breaks a rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The agent cannot join with the network config that is stored.
    #[error("{prefix}/config")]
    StoredConfig { prefix: KeyPrefix, source: Box<dyn std::error::Error + Send + Sync> },
    /// There is no backend for the network config on this host.
    #[error(transparent)]
    Backend(#[from] SelectError),
}

impl Exit {
    /// The status, as `--help` lists it.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::ConfigCommand(error) => error.status(),
            Self::NetworkCommand(error) => error.status(),
            Self::DockerOpts(error) => error.status(),
            Self::Drain(error) => error.status(),
            Self::Verify(error) => error.status(),
            Self::Trace(error) => error.status(),
            Self::Guests(error) => error.status(),
            Self::NotReady { .. }
            | Self::RoutesLeft { .. }
            | Self::FirewallLeft { .. }
            | Self::NotAttached { .. }
            | Self::Blocked { .. } => NO,
            Self::NoGuest { .. } => NO_GUEST,
            Self::Waits { .. } => WAITS,
            Self::Usage(_) | Self::EtcdSettings(_) => USAGE,
            Self::NoUnderlay { .. } | Self::NoPossibleUnderlay { .. } => NO_HOST,
            Self::NoAgent { .. }
            | Self::SilentAgent { .. }
            | Self::Refused { .. }
            | Self::Store(_)
            | Self::HandBackStore(_)
            | Self::NoAnswer(_)
            | Self::NoOtherSubnet { .. } => UNAVAILABLE,
            Self::Runtime(_)
            | Self::Loop(_)
            | Self::Signals(_)
            | Self::Kernel(_)
            | Self::NoSubnetHeld
            | Self::NoLeaseHeld
            | Self::HolderEnded
            | Self::PartDied { .. } => SOFTWARE,
            Self::NoDevice { .. } | Self::NoIpip => OS,
            Self::StateUnread { .. }
            | Self::StateUnwritten(_)
            | Self::Write(_)
            | Self::FileUnwritten { .. }
            | Self::LockUnmade { .. }
            | Self::SocketUnmade { .. }
            | Self::Stdout(_)
            | Self::Generate { .. } => CANNOT_CREATE,
            Self::LockHeld { .. } | Self::Taken(_) => TEMPORARY,
            Self::NoCapability => NO_PERMISSION,
            Self::Config(_) | Self::StoredConfig { .. } | Self::Backend(_) => CONFIG,
        }
    }

    /// The next step for the reader, behind the causes. `None` where the text itself names it, or nothing helps.
    pub(crate) const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::DockerOpts(error) => error.remedy(),
            Self::Drain(error) => error.remedy(),
            Self::Usage(error) => error.remedy(),
            Self::RoutesLeft { .. } | Self::FirewallLeft { .. } => Some("try again"),
            Self::NoUnderlay { .. } => Some("choose one with --iface"),
            Self::NoAgent { .. } => Some("is wire-agent running, with the same --run-dir, and are you root?"),
            // flanneld can use the routes as they are, but our firewall would drop packets of its new peers.
            Self::HandBackStore(_) => Some(
                "nothing was changed. flanneld works with the routes as they are, but not with wire-agent's firewall: \
                 before you start flanneld, remove the firewall with `wire-agent hand-back --firewall-only`, which \
                 needs no etcd",
            ),
            Self::StateUnread { .. } | Self::StateUnwritten(_) => Some("see --state-dir"),
            Self::LockUnmade { .. } => Some("see --run-dir"),
            Self::Taken(taken) => Some(taken.remedy()),
            Self::StoredConfig { .. } => Some("correct it with wire-agent config set"),
            Self::ConfigCommand(_)
            | Self::NetworkCommand(_)
            | Self::Verify(_)
            | Self::Trace(_)
            | Self::Guests(_)
            | Self::NotReady { .. }
            | Self::NoGuest { .. }
            | Self::NotAttached { .. }
            | Self::Blocked { .. }
            | Self::Waits { .. }
            | Self::EtcdSettings(_)
            | Self::NoPossibleUnderlay { .. }
            | Self::SilentAgent { .. }
            | Self::Refused { .. }
            | Self::Store(_)
            | Self::NoAnswer(_)
            | Self::NoOtherSubnet { .. }
            | Self::Runtime(_)
            | Self::Loop(_)
            | Self::Signals(_)
            | Self::Kernel(_)
            | Self::NoSubnetHeld
            | Self::NoLeaseHeld
            | Self::HolderEnded
            | Self::PartDied { .. }
            | Self::NoDevice { .. }
            | Self::NoIpip
            | Self::Write(_)
            | Self::FileUnwritten { .. }
            | Self::SocketUnmade { .. }
            | Self::Stdout(_)
            | Self::Generate { .. }
            | Self::LockHeld { .. }
            | Self::NoCapability
            | Self::Config(_)
            | Self::Backend(_) => None,
        }
    }

    /// The whole text for a user: the error, its causes and the remedy.
    pub(crate) fn report(&self) -> String {
        let text = chain(self);
        match self.remedy() {
            Some(remedy) => format!("{text}; {remedy}"),
            None => text,
        }
    }

    /// True if it ends an agent that has joined before: trying again would not help.
    pub(crate) const fn is_fatal_while_running(&self) -> bool {
        self.status() == SOFTWARE
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
   3  attach: no such container or namespace runs
   4  attach: it is kept, and waits (for etcd, or for what its text says)
  64  a \
                                   flag or variable is not valid
  68  --iface can match no interface that leads to \
                                   other hosts (one that does not exist yet is waited for)
  69  etcd or the running \
                                   agent did not answer a command
  70  an error inside wire-agent
  71  the kernel \
                                   can make neither VXLAN nor TUN devices, or no IPIP devices for the backend ipip
  73  a file or folder cannot be written
  \
                                   75  another wire-agent is running with the same --run-dir and --network
  77  no CAP_NET_ADMIN
  \
                                   78  the network config in etcd is wrong, or needs something that this version does \
                                   not have";

#[cfg(test)]
mod tests;
