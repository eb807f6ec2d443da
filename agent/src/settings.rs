//! The checked flags, as `run` uses them.

mod usage;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use regex::Regex;
use wire_backends::{ForwardSettings, VxlanBy};
use wire_firewall::{FirewallPolicy, Masquerade, Senders};
use wire_lease::NetworkConfig;
use wire_net::{DualStack, Family, KeyPrefix, LinkName, NetworkName};
use wire_state::{Capabilities, Underlay};
use wire_store::{Credentials, EtcdSettings, Password, TlsFiles};

pub(crate) use self::usage::UsageError;
use crate::{
    cli::{EtcdFlags, RunFlags},
    exit::Exit,
    files,
    flat::folder_of,
};

/// All settings of a run of the agent.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) network: NetworkName,
    pub(crate) etcd: EtcdSettings,
    pub(crate) prefix: KeyPrefix,
    pub(crate) underlay: UnderlayWishes,
    /// Public addresses from the flags; the underlay's own are used without them.
    pub(crate) public: DualStack<IpAddr>,
    pub(crate) folders: Folders,
    pub(crate) lease_ttl: Duration,
    pub(crate) renew_margin: Duration,
    pub(crate) ip_masq: bool,
    pub(crate) firewall: FirewallSettings,
    pub(crate) blackhole: bool,
    pub(crate) forward: ForwardSettings,
    pub(crate) health: Option<SocketAddr>,
    /// Warnings about flags without an effect.
    pub(crate) warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FirewallSettings {
    pub(crate) masquerade: Masquerade,
    /// True if forwarding is accepted.
    pub(crate) forward: bool,
    pub(crate) senders: Senders,
    /// True if established connections skip the forwarding rules.
    pub(crate) flowtable: bool,
    /// The interval of checks, without any notification by the kernel.
    pub(crate) every: Duration,
}

/// The files and folders the agent writes.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) subnet_file: PathBuf,
    pub(crate) docker_opts_file: Option<PathBuf>,
}

/// One way to find the interface of the underlay. The first that finds one is used.
#[derive(Debug)]
pub(crate) enum UnderlayWish {
    /// By name, or by an address it has.
    Interface(String),
    /// By a pattern for either.
    Pattern(Regex),
    /// By the route to an address.
    CanReach(IpAddr),
}

/// All wishes, in order. Without one, the default route decides.
pub(crate) type UnderlayWishes = Vec<UnderlayWish>;

/// The flag that gives a public address.
pub(crate) const fn public_flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "--public-ip",
        Family::V6 => "--public-ipv6",
    }
}

/// The public addresses from the flags. An address that every other host would refuse is an error.
fn public(run: &RunFlags) -> Result<DualStack<IpAddr>, UsageError> {
    let public = DualStack { v4: run.public_ip.map(IpAddr::V4), v6: run.public_ipv6.map(IpAddr::V6) };
    for (family, address) in public.iter() {
        let flag = public_flag(family);
        let is_broadcast = *address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_broadcast {
            return Err(UsageError::NoHostsAddress { flag, address: *address });
        }
    }
    Ok(public)
}

impl FirewallSettings {
    /// The rules for a network with this config, some of whose peers send by the link `direct` without encapsulation.
    pub(crate) fn policy(
        &self,
        network: NetworkName,
        config: &NetworkConfig,
        direct: Option<LinkName>,
    ) -> FirewallPolicy {
        let Self { masquerade, forward, senders, flowtable, every: _ } = *self;
        FirewallPolicy {
            network,
            pools: config.pools,
            masquerade,
            forward,
            senders,
            flowtable,
            direct,
            beside: DualStack::default(),
        }
    }
}

impl Settings {
    /// Checks that the interface exists or could appear.
    ///
    /// # Errors
    /// [`Exit::NoPossibleUnderlay`], naming the flags.
    pub(crate) fn check_underlay(&self) -> Result<(), Exit> {
        if self.underlay.is_empty() || self.underlay.iter().any(UnderlayWish::is_possible) {
            return Ok(());
        }
        let named = self.underlay.iter().filter_map(|wish| match wish {
            UnderlayWish::Interface(text) => Some(format!("--iface={text}")),
            UnderlayWish::Pattern(_) | UnderlayWish::CanReach(_) => None,
        });
        let named: Vec<String> = named.collect();
        Err(Exit::NoPossibleUnderlay { flags: named.join(" ") })
    }

    /// Checks the flags of a run.
    ///
    /// # Errors
    /// Names the flag.
    pub(crate) fn new(etcd: EtcdFlags, mut run: RunFlags, run_dir: &Path) -> Result<Self, UsageError> {
        if let Some(refusal) = run.kubernetes.refusal().or_else(|| run.removed.refusal()) {
            return Err(refusal);
        }
        let forward = forward(&run)?;
        let public = public(&run)?;
        etcd.settle_files(&mut run);
        if files::are_same(&run.subnet_file, Path::new(&run.docker_opts_file)) {
            return Err(UsageError::SameFile { file: run.subnet_file });
        }
        Ok(Self {
            network: etcd.network.clone(),
            warnings: warnings(&run, exposed(etcd.etcd_password_file.as_deref())),
            prefix: etcd.prefix()?,
            public,
            folders: Folders {
                state_dir: run.state_dir,
                run_dir: folder_of(&etcd.network, run_dir),
                subnet_file: run.subnet_file,
                docker_opts_file: Some(run.docker_opts_file).filter(|file| !file.is_empty()).map(PathBuf::from),
            },
            lease_ttl: run.subnet_lease_ttl,
            renew_margin: Duration::from_secs(60) * run.subnet_lease_renew_margin,
            ip_masq: run.ip_masq,
            firewall: FirewallSettings {
                masquerade: match (run.ip_masq, run.ip_masq_fully_random_disable) {
                    (false, _) => Masquerade::Off,
                    (true, false) => Masquerade::Random,
                    (true, true) => Masquerade::Plain,
                },
                forward: run.iptables_forward_rules,
                senders: if run.peers_only { Senders::Peers } else { Senders::Anyone },
                flowtable: run.flowtable,
                every: Duration::from_secs(run.iptables_resync.into()),
            },
            blackhole: run.ip_blackhole_route,
            forward,
            health: (run.healthz_port != 0).then(|| SocketAddr::new(run.healthz_ip, run.healthz_port)),
            underlay: wishes(run.iface, &run.iface_regex, run.iface_can_reach)?,
            etcd: etcd_settings(etcd)?,
        })
    }
}

impl Settings {
    /// The addresses at which other hosts reach this one: those from the flags, else the underlay's own.
    pub(crate) fn public_on(&self, underlay: &Underlay) -> DualStack<IpAddr> {
        underlay.addresses.map(|family, own| *self.public.get(family).unwrap_or(own))
    }

    /// The underlay's flags as text, to compare with those of another run.
    pub(crate) fn asked_underlay(&self) -> String {
        let public = self.public.iter().map(|(_, address)| format!("public {address}"));
        let wishes = self.underlay.iter().map(|wish| match wish {
            UnderlayWish::Interface(name) => format!("interface {name}"),
            UnderlayWish::Pattern(pattern) => format!("pattern {pattern}"),
            UnderlayWish::CanReach(target) => format!("reach {target}"),
        });
        wishes.chain(public).collect::<Vec<_>>().join(", ")
    }
}

impl UnderlayWish {
    /// True if an interface that leads to other hosts could match.
    fn is_possible(&self) -> bool {
        match self {
            Self::Interface(text) => match text.parse::<IpAddr>() {
                Ok(address) => !address.is_loopback() && !address.is_unspecified() && !address.is_multicast(),
                Err(_) => text != "lo" && text.parse::<LinkName>().is_ok(),
            },
            Self::Pattern(_) | Self::CanReach(_) => true,
        }
    }
}

/// Checks the flags for etcd.
///
/// # Errors
/// Names the flag.
pub(crate) fn etcd_settings(flags: EtcdFlags) -> Result<EtcdSettings, UsageError> {
    let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let (ca, cert, key) = (given(flags.etcd_cafile), given(flags.etcd_certfile), given(flags.etcd_keyfile));
    if cert.is_some() != key.is_some() {
        return Err(UsageError::HalfIdentity);
    }
    let name = flags.etcd_username.filter(|name| !name.is_empty());
    let password = password(flags.etcd_password, given(flags.etcd_password_file))?;
    if name.is_none() && password.is_some() {
        return Err(UsageError::PasswordWithoutUser);
    }
    let endpoints: Vec<String> = flags.etcd_endpoints.into_iter().filter(|url| !url.trim().is_empty()).collect();
    if endpoints.is_empty() {
        return Err(UsageError::NoEndpoint);
    }
    Ok(EtcdSettings {
        tls: TlsFiles { ca, cert, key },
        user: name
            .map(|name| Credentials { name, password: password.unwrap_or_else(|| Password::Given(String::new())) }),
        ..EtcdSettings::new(endpoints)
    })
}

fn password(given: Option<String>, file: Option<PathBuf>) -> Result<Option<Password>, UsageError> {
    match (given.filter(|password| !password.is_empty()), file) {
        (Some(_), Some(_)) => Err(UsageError::TwoPasswords),
        (Some(password), None) => Ok(Some(Password::Given(password))),
        (None, file) => Ok(file.map(Password::File)),
    }
}

/// A warning if other users may read the password file.
fn exposed(file: Option<&Path>) -> Option<String> {
    let mode = fs::metadata(file?).ok()?.permissions().mode();
    let file = file?.display();
    (mode & 0o004 != 0)
        .then(|| format!("--etcd-password-file: every user of this host may read {file}: chmod o= {file}"))
}

fn forward(run: &RunFlags) -> Result<ForwardSettings, UsageError> {
    let without = run.forward_without.iter().map(String::as_str).filter(|name| !name.is_empty());
    let capabilities = Capabilities::without(without.clone().filter(|name| *name != "vxlan"))
        .map_err(|name| UsageError::ForwardWithout { name: name.to_owned() })?;
    Ok(ForwardSettings {
        vxlan: if run.userspace_vxlan { VxlanBy::AgentRequested } else { VxlanBy::Kernel },
        queues: run.forward_queues.into(),
        source_check: run.forward_source_check,
        capabilities,
        without_vxlan: without.into_iter().any(|name| name == "vxlan"),
    })
}

fn wishes(names: Vec<String>, patterns: &[String], can_reach: Option<IpAddr>) -> Result<UnderlayWishes, UsageError> {
    let names = names.into_iter().filter(|name| !name.is_empty()).map(|name| Ok(UnderlayWish::Interface(name)));
    let patterns = patterns.iter().filter(|text| !text.is_empty()).map(|text| pattern(text));
    names.chain(patterns).chain(can_reach.map(|ip| Ok(UnderlayWish::CanReach(ip)))).collect()
}

fn pattern(text: &str) -> Result<UnderlayWish, UsageError> {
    Regex::new(text).map(UnderlayWish::Pattern).map_err(|source| UsageError::Pattern { text: text.to_owned(), source })
}

/// All warnings about the flags; `exposed` is the one about the password file.
fn warnings(run: &RunFlags, exposed: Option<String>) -> Vec<String> {
    let idle =
        |asked: bool, flag: &str, why: &str| asked.then(|| format!("--{flag} does nothing in this version: {why}"));
    let masquerade = idle(
        run.ip_masq_fully_random_disable && !run.ip_masq,
        "ip-masq-fully-random-disable",
        "without --ip-masq nothing is masqueraded",
    );
    let of_flags = masquerade.into_iter().chain(run.go_log.warnings()).chain(run.kubernetes.warnings()).chain(exposed);
    let of_flags = of_flags.map(|warning| run.origins.named(&warning));
    run.passed_over.iter().cloned().chain(of_flags).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_subnet_and_dockers_options_each_have_a_file_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::os::unix::fs::symlink("subnet.env", path("link")).unwrap();
        fs::write(path("subnet.env"), "").unwrap();
        for (options, refused) in [("subnet.env", true), ("./subnet.env", true), ("link", true), ("docker.env", false)]
        {
            let files = [("--subnet-file", "subnet.env"), ("--docker-opts-file", options)];
            let words = files.map(|(flag, name)| format!("{flag}={}", path(name)));
            let cli = Cli::read(["wire-agent".to_owned()].into_iter().chain(words).map(Into::into)).unwrap();
            let error = Settings::new(cli.etcd, cli.run, &cli.run_dir).err().map(|error| error.to_string());
            let named = error.as_ref().is_some_and(|error| error.contains("--docker-opts-file"));
            assert!(named == refused && error.is_some() == refused, "{options}: {error:?}");
        }
    }
}
