//! The command line: flannel's flags with flannel's defaults, our own beside them, and the commands.
//!
//! Each flag can come from the environment ([`variables`]): `WIRE_AGENT_<FLAG>`, else `FLANNELD_<FLAG>` where flannel has the
//! flag (upper case, `-` becomes `_`). An empty variable is as good as none. A flag on the command line wins.

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use wire_net::{HostId, NetworkName};

use crate::{
    attach_command::{AttachFlags, DetachFlags},
    docker_unit::DOCKER_OPTS_FILE,
    exit::STATUSES,
    flat::Flat,
    go_syntax,
    guests::GuestsFlags,
    network_command::NetworkCommand,
    old_flags::{KubernetesFlags, LogFlags, RemovedFlags},
    pulse::Part,
    trace,
    variables::{self, Origins},
};

/// Gives this host its part of a container network that is described in etcd.
///
/// Without a command it runs: it leases a subnet, writes it for Docker, makes a VXLAN device and keeps its routes,
/// neighbours and FDB in sync with the leases of the other hosts. A drop-in for flanneld: same keys, files, flags.
#[derive(Debug, Parser)]
#[command(name = "wire-agent", version, after_help = STATUSES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Where etcd is.
    #[command(flatten)]
    pub(crate) etcd: EtcdFlags,
    /// Folder for volatile files: the control socket and a lock.
    #[arg(long, global = true, default_value = "/run/wire-agent", value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// The flags of the agent itself.
    #[command(flatten)]
    pub(crate) run: RunFlags,
    /// What to do instead of running.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Where etcd is, who we are there, and which networks are meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct EtcdFlags {
    /// A further network of this host, with the prefix of its keys. Its files are /run/flannel/networks/NAME.env and NAME.docker.env. Can be given several times; --etcd-prefix is that of the network default.
    #[arg(long, global = true, value_delimiter = ',', value_name = "NAME=PREFIX", help_heading = "Several networks")]
    pub(crate) flat: Vec<Flat>,
    /// The network that a command is about. Without a command: runs for this network alone, beside agents for others.
    #[arg(long, global = true, default_value = "default", value_name = "NAME", help_heading = "Several networks")]
    pub(crate) network: NetworkName,
    /// etcd's members, separated by commas.
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        value_name = "URL,…",
        help_heading = "etcd"
    )]
    pub(crate) etcd_endpoints: Vec<String>,
    /// The prefix of the network's keys.
    #[arg(long, global = true, default_value = wire_net::KeyPrefix::DEFAULT, value_name = "PREFIX", help_heading = "etcd")]
    pub(crate) etcd_prefix: String,
    /// The key of our client certificate, PEM.
    #[arg(long, global = true, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// Our client certificate, PEM.
    #[arg(long, global = true, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// The certificate authority of etcd's certificates, PEM.
    #[arg(long, global = true, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// Our user in etcd.
    #[arg(long, global = true, value_name = "NAME", help_heading = "etcd")]
    pub(crate) etcd_username: Option<String>,
    /// The file with our user's password. It is read for each login, so that a new password needs no restart.
    #[arg(long, global = true, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_password_file: Option<PathBuf>,
    /// Our user's password. Better in a file or in WIRE_AGENT_ETCD_PASSWORD: every user can read a command line.
    #[arg(long, global = true, value_name = "PASSWORD", hide_env_values = true, help_heading = "etcd")]
    pub(crate) etcd_password: Option<String>,
}

/// A boolean as Go writes it: `--x`, `--x=true`, `--x=0`.
const GO_BOOL: fn(&str) -> Result<bool, String> = go_syntax::parse_bool;

/// The flags of the agent itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunFlags {
    /// Interface of the underlay, by name or address; the first of several that matches is taken.
    #[arg(long, value_name = "NAME|IP", help_heading = "Underlay (default: the interface of the default route)")]
    pub(crate) iface: Vec<String>,
    /// Regular expression for an address of the interface, or else for its name; tried after --iface, in order.
    #[arg(long, value_name = "REGEX", help_heading = "Underlay (default: the interface of the default route)")]
    pub(crate) iface_regex: Vec<String>,
    /// The interface from which the kernel would reach this address.
    #[arg(long, value_name = "IP", help_heading = "Underlay (default: the interface of the default route)")]
    pub(crate) iface_can_reach: Option<IpAddr>,
    /// The IPv4 address at which other hosts reach this one. Without --iface it chooses the interface that has it.
    #[arg(long, value_name = "IP", help_heading = "Underlay (default: the interface of the default route)")]
    pub(crate) public_ip: Option<std::net::Ipv4Addr>,
    /// The same for IPv6.
    #[arg(long, value_name = "IP", help_heading = "Underlay (default: the interface of the default route)")]
    pub(crate) public_ipv6: Option<std::net::Ipv6Addr>,

    /// The file with our subnet, for other programs.
    #[arg(long, default_value = crate::docker_unit::SUBNET_FILE, value_name = "FILE", help_heading = "Files")]
    pub(crate) subnet_file: PathBuf,
    /// The file with Docker's options, an EnvironmentFile for its unit. Empty: none is written.
    #[arg(long, default_value = DOCKER_OPTS_FILE, value_name = "FILE", help_heading = "Files")]
    pub(crate) docker_opts_file: String,
    /// Folder for files that survive a reboot: identity, VTEP MAC, the last subnet.
    #[arg(long, default_value = "/var/lib/wire-agent", value_name = "DIR", help_heading = "Files")]
    pub(crate) state_dir: PathBuf,

    /// How long the lease of our subnet lasts after its last renewal.
    #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION", help_heading = "Lease")]
    pub(crate) subnet_lease_ttl: Duration,
    /// Renew the lease at the latest when it has this many minutes left.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1439), value_name = "MINUTES", help_heading = "Lease")]
    pub(crate) subnet_lease_renew_margin: u32,

    /// Masquerade traffic that leaves the overlay.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Firewall")]
    pub(crate) ip_masq: bool,
    /// Masquerade with a packet's own source port if that is free, instead of a random one.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Firewall")]
    pub(crate) ip_masq_fully_random_disable: bool,
    /// Accept forwarding to and from the overlay, even if Docker would drop it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Firewall")]
    pub(crate) iptables_forward_rules: bool,
    /// Accept encapsulated packets only from the public addresses of leases. Set it to false if peers are behind a NAT that hides their addresses.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Firewall")]
    pub(crate) peers_only: bool,
    /// Let established TCP and UDP connections between containers of the overlay skip the forwarding rules. Rules added later do not apply
    /// to them. Only with the kernel's VXLAN. Needs a kernel with NF_FLOW_TABLE_INET and NFT_FLOW_OFFLOAD (Debian's have them); without these, `status` warns and the flag has no effect.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Firewall")]
    pub(crate) flowtable: bool,
    /// Seconds until the firewall is restored after another program has changed it, at most; a change in nftables is noticed at once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), value_name = "SECONDS", help_heading = "Firewall")]
    pub(crate) iptables_resync: u32,
    /// Drop traffic to addresses of our own subnet that no container has, instead of sending it back out.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Firewall")]
    pub(crate) ip_blackhole_route: bool,

    /// Encapsulate in the agent even if the kernel has VXLAN. Without this flag, only if the kernel has none.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Userspace datapath (the udp backend, and VXLAN where the kernel has none)")]
    pub(crate) userspace_vxlan: bool,
    /// Threads for each device that move packets; more than one helps if many peers send at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64), value_name = "N", help_heading = "Userspace datapath (the udp backend, and VXLAN where the kernel has none)")]
    pub(crate) forward_queues: u8,
    /// Accept a packet only from the peer whose subnet holds its inner source. Set it to false if a peer sends from another address than its PublicIP, as behind NAT.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = GO_BOOL, value_name = "BOOL", help_heading = "Userspace datapath (the udp backend, and VXLAN where the kernel has none)")]
    pub(crate) forward_source_check: bool,
    /// For debugging: go without some of what the kernel can do for us (uso, tso, gso, gro, vxlan).
    #[arg(long, hide = true, value_delimiter = ',', value_name = "NAME,…")]
    pub(crate) forward_without: Vec<String>,

    /// Address of /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP", help_heading = "Health and log")]
    pub(crate) healthz_ip: IpAddr,
    /// Port of /healthz and /readyz; 0 for none.
    #[arg(long, default_value_t = 0, value_name = "PORT", help_heading = "Health and log")]
    pub(crate) healthz_port: u16,
    /// Verbosity: 0 logs changes, 1 also the reasons, 4 and more everything.
    #[arg(long = "v", default_value_t = 0, value_name = "LEVEL", help_heading = "Health and log")]
    pub(crate) verbosity: i32,
    /// Form of the log, which goes to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORM", help_heading = "Health and log")]
    pub(crate) log_format: LogFormat,
    /// The flags of Go's log libraries.
    #[command(flatten)]
    pub(crate) go_log: LogFlags,
    /// What no flannel of today has.
    #[command(flatten)]
    pub(crate) removed: RemovedFlags,
    /// The flags that ask for Kubernetes.
    #[command(flatten)]
    pub(crate) kubernetes: KubernetesFlags,
    /// A line for each variable that is passed over.
    #[arg(skip)]
    pub(crate) passed_over: Vec<String>,
    /// The flags that came from variables.
    #[arg(skip)]
    pub(crate) origins: Origins,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// An object for each line.
    Json,
}

/// What to do instead of running.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the state of the running agent, and what is wrong.
    Status(Output),
    /// List the other hosts of the network, and the leases that were refused.
    Peers(Output),
    /// Read, check or write the network config in etcd.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make, list, change and remove networks by name, which are there on all hosts.
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Give a container of this host an interface on a network by name. It has it again at each start, with the same address, until detach. Needs
    /// wire-agent-guests.socket: systemctl enable --now wire-agent-guests.socket.
    Attach(AttachFlags),
    /// Take the interfaces of a container on networks by name away, and free their addresses.
    Detach(DetachFlags),
    /// List the attachments of this host with their states: waiting, attached since when, or blocked and why.
    Attachments {
        /// Those of all hosts instead, as their operators want them: asks etcd, and no agent.
        #[arg(long)]
        all: bool,
        /// Have etcd forget those of a host that is gone for good, by its identity (--all --json).
        #[arg(long, value_name = "HOST", conflicts_with_all = ["all", "json"])]
        forget: Option<HostId>,
        #[command(flatten)]
        output: Output,
    },
    /// Compare this host with what it should hold, and print a sentence for each difference. Changes nothing. A running agent is asked, and
    /// repairs differences as always. Without one, give the agent's own flags before the word verify. Exit status 0: nothing differs, 1: something
    /// does, another: it could not be compared.
    Verify {
        /// The desired state to compare with.
        #[command(flatten)]
        flags: CompareFlags,
        /// Remove the stale routes that are named: those that flannel has left, to subnets that nobody has leased. Nothing else is changed.
        #[arg(long, conflicts_with = "offline")]
        remove_stale: bool,
    },
    /// The same, but print the changes that the agent would make, in their order.
    Plan(CompareFlags),
    /// Say which way a packet to ADDRESS takes on this host, by what its kernel holds: route, neighbour, FDB entry, outer packet, and the rule
    /// of our firewall that drops it. Needs no running agent. The last line is the packet's fate; what may decide and is not looked at is named.
    #[command(after_help = trace::HELP)]
    Trace(trace::Flags),
    /// Leave the network: give the lease back, and remove our devices, routes, rules, files and Docker settings. Stop the agent first. Give the
    /// agent's own flags, like --state-dir, before the word drain.
    Drain {
        /// Only print what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Prepare the return to flanneld, after this agent is stopped: rewrite all routes in flannel's form, in place, and remove our firewall.
    HandBack {
        /// Only remove our firewall, if flanneld runs already. Needs no etcd.
        #[arg(long)]
        firewall_only: bool,
    },
    /// Print or write Docker's options from subnet.env, in the forms of flannel's mk-docker-opts.sh.
    DockerOpts(DockerOptsFlags),
    /// Show how docker.service starts dockerd: which of our drop-ins fits, and which settings conflict with it, with file and line.
    DockerUnit(DockerUnitFlags),
    /// Open for the agent what it needs in the network namespaces of containers, and tell it which run. Runs as root; systemd starts it.
    #[command(hide = true)]
    Guests(GuestsFlags),
    /// Write man pages and shell completions, for packages.
    #[command(hide = true)]
    Generate {
        /// The folder to write them into.
        folder: PathBuf,
    },
    /// What tests of the agent need of a running one.
    #[command(hide = true, subcommand)]
    Debug(DebugCommand),
}

/// What tests need.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Let a part of the running agent hang until the agent is started again: systemd's watchdog does so.
    Hang {
        /// Which part.
        part: Part,
    },
    /// Let a part of the running agent die.
    Panic {
        /// Which part.
        part: Part,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The source of the desired state, and the form of the output.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompareFlags {
    /// Do not ask the running agent or etcd: compare with the network state saved on disk (in --state-dir).
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to do with the network config.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the network config; with --json as etcd holds it.
    Get(Output),
    /// Check a network config and write it, also over an existing one. Running agents apply it at their next start.
    Set {
        /// The config as JSON, or - to read it from standard input.
        config: String,
    },
    /// Write a network config if there is none yet. The backend's type is always written, because flannel reads a missing type as udp.
    Init {
        /// The config as JSON, or - to read it from standard input.
        config: String,
        /// Succeed even if there is a config already.
        #[arg(long)]
        if_absent: bool,
    },
    /// Check a network config, and print its backend and subnets.
    Validate {
        /// The config as JSON, or - to read it from standard input; without it, the one in etcd.
        config: Option<String>,
    },
}

/// The options of flannel's mk-docker-opts.sh.
#[derive(Debug, Args)]
pub(crate) struct DockerOptsFlags {
    /// The file with our subnet.
    #[arg(short = 'f', long = "subnet-env", default_value = crate::docker_unit::SUBNET_FILE, value_name = "FILE")]
    pub(crate) subnet_env: PathBuf,
    /// The file to write; - for standard output.
    #[arg(short = 'd', long = "output", default_value = "/run/docker_opts.env", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Only the single options.
    #[arg(short = 'i', long)]
    pub(crate) individual: bool,
    /// Only the combined option.
    #[arg(short = 'c', long)]
    pub(crate) combined: bool,
    /// The name of the combined option.
    #[arg(short = 'k', long = "key", default_value = "DOCKER_OPTS", value_name = "KEY")]
    pub(crate) key: String,
    /// Leave --ip-masq out.
    #[arg(short = 'm', long)]
    pub(crate) no_ip_masq: bool,
    /// Merge the options into dockerd's own settings file instead, and keep everything else in it. The default is the file that
    /// docker.service names with --config-file, else /etc/docker/daemon.json.
    #[arg(
        long,
        num_args = 0..=1,
        conflicts_with_all = ["output", "individual", "combined", "key"],
        value_name = "FILE"
    )]
    pub(crate) daemon_json: Option<Option<PathBuf>>,
}

/// What to say of docker.service.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DockerUnitFlags {
    /// Only this, for scripts.
    #[arg(long, value_enum, value_name = "PART")]
    pub(crate) only: Option<DockerUnitPart>,
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DockerUnitPart {
    /// The name of the drop-in.
    DropIn,
    /// What ties Docker to flanneld.
    Ties,
    /// All notes, the ties first.
    Notes,
}

impl Cli {
    /// Reads a command line, and what it leaves open from the environment.
    ///
    /// # Errors
    /// clap's own error, which prints itself; also for `--help` and `--version`.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = Self::command();
        let args = go_syntax::normalise(&command, args);
        go_syntax::refuse_apart(&command, &args)?;
        let (mut command, origins, passed_over) = variables::fill_in(command, &args)?;
        let matches = command.try_get_matches_from_mut(args)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        (cli.run.passed_over, cli.run.origins) = (passed_over, origins);
        Ok(cli)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| "it must be a duration like 24h or 90m".to_owned())?;
    if duration < Duration::from_secs(5) { Err("it must be at least 5s".to_owned()) } else { Ok(duration) }
}
