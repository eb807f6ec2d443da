//! The files about our subnet for other programs: subnet.env, and Docker's options in each form of flannel's
//! mk-docker-opts.sh.

mod error;

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::IpAddr,
    path::{Path, PathBuf},
};

use wire_net::{DualStack, Family, Prefix, Subnet};
use wire_state::ObservedFile;

pub(crate) use self::error::DockerOptsError;
use crate::{
    cli::DockerOptsFlags,
    daemon_json::{self, DaemonOptions},
    docker_unit::DockerUnit,
    exit::Exit,
    files::{self, Durable},
    output,
    ports::Disk,
};

/// The content of `subnet.env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubnetEnv {
    /// The overlay's network, of each family that is on.
    pub(crate) networks: DualStack<Prefix>,
    /// The bridge's address with our subnet's length.
    pub(crate) gateways: DualStack<(IpAddr, u8)>,
    /// Bytes.
    pub(crate) mtu: Option<u32>,
    /// True if the agent masquerades, so that Docker must not.
    pub(crate) ip_masq: Option<bool>,
}

/// The options for Docker that follow from our subnet.
#[derive(Clone, Debug, Default)]
pub(crate) struct DockerOptions {
    /// The file with the options as flags, if one is written.
    pub(crate) file: Option<PathBuf>,
    pub(crate) options: DaemonOptions,
}

impl SubnetEnv {
    pub(crate) fn new(networks: DualStack<Prefix>, subnet: Subnet, mtu: u32, ip_masq: bool) -> Self {
        let subnet = DualStack::from_fn(|family| subnet.get(family));
        Self { networks, mtu: Some(mtu), ..Self::of_subnet(subnet, ip_masq) }
    }

    /// The part of it that follows from a subnet alone.
    pub(crate) fn of_subnet(subnet: DualStack<Prefix>, ip_masq: bool) -> Self {
        let gateways = subnet.map(|_, prefix| (prefix.gateway(), prefix.len()));
        Self { networks: DualStack::default(), gateways, mtu: None, ip_masq: Some(ip_masq) }
    }

    /// Reads the file. `None` if it is missing or not valid.
    pub(crate) fn read(disk: &impl Disk, file: &Path) -> Option<Self> {
        let Some(ObservedFile::Content(text)) = disk.observe(file) else { return None };
        Self::from_text(&text).ok()
    }

    /// The file, in flannel's order.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for family in Family::ALL {
            let v6 = match family {
                Family::V4 => "",
                Family::V6 => "IPV6_",
            };
            if let (Some(network), Some((gateway, len))) = (self.networks.get(family), self.gateways.get(family)) {
                let _ = writeln!(text, "FLANNEL_{v6}NETWORK={network}\nFLANNEL_{v6}SUBNET={gateway}/{len}");
            }
        }
        if let Some(mtu) = self.mtu {
            let _ = writeln!(text, "FLANNEL_MTU={mtu}");
        }
        if let Some(ip_masq) = self.ip_masq {
            let _ = writeln!(text, "FLANNEL_IPMASQ={ip_masq}");
        }
        text
    }

    /// Reads the file of any version of flannel.
    ///
    /// # Errors
    /// Names the invalid line, or says that there is no subnet in it.
    pub(crate) fn from_text(text: &str) -> Result<Self, String> {
        let values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(key, value)| (key, value.trim_matches(['"', '\''])))
            .collect();
        let wrong = |key: &str| format!("{key}={} is not valid", values.get(key).copied().unwrap_or_default());
        let prefix =
            |key: &str| values.get(key).map(|value| value.parse::<Prefix>().map_err(|_| wrong(key))).transpose();
        let gateway = |key: &str, family: Family| {
            values.get(key).map(|value| gateway(value, family).ok_or_else(|| wrong(key))).transpose()
        };
        let mtu = values.get("FLANNEL_MTU").map(|value| value.parse().map_err(|_| wrong("FLANNEL_MTU"))).transpose()?;
        let ip_masq = values.get("FLANNEL_IPMASQ").map(|value| value.parse().map_err(|_| wrong("FLANNEL_IPMASQ")));
        let env = Self {
            networks: DualStack { v4: prefix("FLANNEL_NETWORK")?, v6: prefix("FLANNEL_IPV6_NETWORK")? },
            gateways: DualStack {
                v4: gateway("FLANNEL_SUBNET", Family::V4)?,
                v6: gateway("FLANNEL_IPV6_SUBNET", Family::V6)?,
            },
            mtu,
            ip_masq: ip_masq.transpose()?,
        };
        if env.gateways.is_empty() {
            let remedy = "a running agent writes it again within ten seconds, see wire-agent status";
            return Err(format!("it has neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET; {remedy}"));
        }
        Ok(env)
    }

    /// The subnet as a prefix, of each family.
    pub(crate) fn subnet(&self) -> DualStack<Prefix> {
        DualStack::from_fn(|family| {
            self.gateways.get(family).and_then(|(gateway, len)| Prefix::new(*gateway, *len).ok())
        })
    }

    /// Docker's options by the name of their variable, in the order of their names. Units expand only
    /// `$DOCKER_OPT_BIP`, `$DOCKER_OPT_IPMASQ` and `$DOCKER_OPT_MTU`, so the options for IPv6 share the first.
    fn docker_options(&self, with_ip_masq: bool) -> Vec<(&'static str, String)> {
        let bip = self.gateways.v4.map(|(gateway, len)| format!("--bip={gateway}/{len}"));
        let v6 = self.subnet().v6.map(|prefix| format!("--ipv6 --fixed-cidr-v6={prefix}"));
        let bridge: Vec<String> = bip.into_iter().chain(v6).collect();
        let masq = self.ip_masq.filter(|_| with_ip_masq).map(|ours| format!("--ip-masq={}", !ours));
        [
            ("DOCKER_OPT_BIP", Some(bridge.join(" ")).filter(|options| !options.is_empty())),
            ("DOCKER_OPT_IPMASQ", masq),
            ("DOCKER_OPT_MTU", self.mtu.map(|mtu| format!("--mtu={mtu}"))),
        ]
        .into_iter()
        .filter_map(|(name, options)| options.map(|options| (name, options)))
        .collect()
    }

    /// Docker's options as keys of its daemon.json.
    pub(crate) fn daemon_options(&self, with_ip_masq: bool) -> DaemonOptions {
        let bip = self.gateways.v4.map(|(gateway, len)| ("bip", format!("{gateway}/{len}").into()));
        let mtu = self.mtu.map(|mtu| ("mtu", mtu.into()));
        let masq = self.ip_masq.filter(|_| with_ip_masq).map(|ours| ("ip-masq", (!ours).into()));
        let v6 = self.subnet().v6.map(|prefix| [("ipv6", true.into()), ("fixed-cidr-v6", prefix.to_string().into())]);
        bip.into_iter().chain(mtu).chain(masq).chain(v6.into_iter().flatten()).collect()
    }

    /// Docker's options as single variables: an EnvironmentFile.
    pub(crate) fn individual(&self, with_ip_masq: bool) -> String {
        self.docker_options(with_ip_masq).iter().map(|(name, options)| format!("{name}=\"{options}\"\n")).collect()
    }

    /// Docker's options in one variable, after its earlier content. flannel's script writes a space before each.
    fn combined(&self, key: &str, before: &str, with_ip_masq: bool) -> String {
        let mut all = if before.is_empty() { String::new() } else { format!("{before} ") };
        for (_, options) in self.docker_options(with_ip_masq) {
            all.push(' ');
            all.push_str(&options);
        }
        format!("{key}=\"{all}\"\n")
    }
}

/// Parses a bridge's address with the length of its subnet. An address of the other family would become another flag's
/// value.
fn gateway(value: &str, family: Family) -> Option<(IpAddr, u8)> {
    let (address, _) = value.split_once('/')?;
    let len = value.parse::<Prefix>().ok()?.len();
    let address: IpAddr = address.parse().ok()?;
    (Family::of(address) == family).then_some((address, len))
}

/// `wire-agent docker-opts`.
///
/// # Errors
/// When subnet.env is missing or not valid, or the output cannot be written.
pub(crate) fn command(flags: &DockerOptsFlags) -> Result<(), Exit> {
    let key_is_name = flags.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if flags.key.is_empty() || !key_is_name {
        return Err(DockerOptsError::Key { key: flags.key.clone() }.into());
    }
    let unit = DockerUnit::read(Path::new("/"));
    let settings = flags.daemon_json.clone().map(|file| file.unwrap_or_else(|| unit.settings_path()));
    let written = settings.as_ref().unwrap_or(&flags.output);
    if files::are_same(written, &flags.subnet_env) {
        let input = flags.subnet_env.clone();
        return Err(DockerOptsError::OutputIsInput { output: written.clone(), input }.into());
    }
    let file = || flags.subnet_env.clone();
    let text =
        files::read_small(&flags.subnet_env).map_err(|source| DockerOptsError::Unread { file: file(), source })?;
    let env = SubnetEnv::from_text(&text).map_err(|reason| DockerOptsError::NotValid { file: file(), reason })?;
    let options = env.daemon_options(!flags.no_ip_masq);
    match &settings {
        Some(path) => {
            refuse_beside_flags(path, &unit)?;
            Ok(merge(path, &options)?)
        }
        None => {
            if let Some(clash) = daemon_json::clash(&unit.settings_path(), &options) {
                output::complain(format_args!("wire-agent: {clash}"));
            }
            write(flags, &env)
        }
    }
}

fn refuse_beside_flags(path: &Path, unit: &DockerUnit) -> Result<(), DockerOptsError> {
    if files::are_same(path, &unit.settings_path()) && unit.is_given_ours() {
        return Err(DockerOptsError::BesideFlags { settings: path.to_owned() });
    }
    Ok(())
}

fn merge(path: &Path, options: &DaemonOptions) -> Result<(), DockerOptsError> {
    if daemon_json::merge(path, options)? {
        let path = path.display();
        output::report(format_args!("{path} is written; a running Docker reads it when it is restarted"));
    }
    Ok(())
}

fn write(flags: &DockerOptsFlags, env: &SubnetEnv) -> Result<(), Exit> {
    let both = flags.individual == flags.combined;
    let mut text = String::new();
    if both || flags.individual {
        text += &env.individual(!flags.no_ip_masq);
    }
    if both || flags.combined {
        let before = std::env::var(&flags.key).unwrap_or_default();
        text += &env.combined(&flags.key, &before, !flags.no_ip_masq);
    }
    if flags.output == Path::new("-") {
        return output::answer(&text);
    }
    files::write_if_changed(&flags.output, &text, Durable::No)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn env(subnet: &str, ip_masq: bool) -> SubnetEnv {
        let subnet: Subnet = subnet.parse().unwrap();
        let networks = DualStack { v4: Some("10.5.0.0/16".parse().unwrap()), v6: Some("fd00:1::/48".parse().unwrap()) };
        SubnetEnv::new(networks, subnet, 1450, ip_masq)
    }

    #[test]
    fn subnet_env_is_that_of_the_contract() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        assert_eq!(env("10.5.52.0-24", true).to_text(), text);
        let both = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_IPV6_NETWORK=fd00:1::/48\n\
                    FLANNEL_IPV6_SUBNET=fd00:1:0:5::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        assert_eq!(env("10.5.52.0-24&fd00:1:0:5::-64", false).to_text(), both);
        assert_eq!(SubnetEnv::from_text(both).unwrap(), env("10.5.52.0-24&fd00:1:0:5::-64", false));
    }

    #[test]
    fn docker_options_are_those_of_mk_docker_opts() {
        let single = "DOCKER_OPT_BIP=\"--bip=10.5.52.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n";
        assert_eq!(env("10.5.52.0-24", true).individual(true), single);
        let all = "DOCKER_OPTS=\" --bip=10.5.52.1/24 --ip-masq=false --mtu=1450\"\n";
        assert_eq!(env("10.5.52.0-24", true).combined("DOCKER_OPTS", "", true), all);
        let behind = "X=\"-D  --bip=10.5.52.1/24 --mtu=1450\"\n";
        assert_eq!(env("10.5.52.0-24", true).combined("X", "-D", false), behind);
    }

    #[test]
    fn the_options_for_ipv6_share_the_variable_that_units_expand() {
        let both = env("10.5.52.0-24&fd00:1:0:5::-64", true).individual(true);
        assert!(
            both.starts_with("DOCKER_OPT_BIP=\"--bip=10.5.52.1/24 --ipv6 --fixed-cidr-v6=fd00:1:0:5::/64\"\n"),
            "{both}"
        );
        let only = env("fd00:1:0:5::-64", true).individual(true);
        assert!(only.starts_with("DOCKER_OPT_BIP=\"--ipv6 --fixed-cidr-v6=fd00:1:0:5::/64\"\n"), "{only}");
    }

    #[test]
    fn options_for_daemon_json_are_the_flags_without_their_dashes() {
        let both = env("10.5.52.0-24&fd00:1:0:5::-64", true);
        let text = serde_json::to_string(&both.daemon_options(true)).unwrap();
        let all = r#"[["bip","10.5.52.1/24"],["mtu",1450],["ip-masq",false],["ipv6",true],["fixed-cidr-v6","fd00:1:0:5::/64"]]"#;
        assert_eq!(text, all);
        assert_eq!(env("10.5.52.0-24", true).daemon_options(false).len(), 2);
    }

    #[test]
    fn a_subnet_env_that_makes_no_sense_is_named() {
        for bad in [
            "FLANNEL_SUBNET=10.5.52.1",
            "FLANNEL_SUBNET=fd00::1/64",
            "FLANNEL_IPV6_SUBNET=10.5.52.1/24",
            "FLANNEL_MTU=big",
            "FLANNEL_IPMASQ=perhaps",
            "FLANNEL_NETWORK=x",
        ] {
            let error = SubnetEnv::from_text(bad).unwrap_err();
            assert!(error.contains(bad), "{error}");
        }
    }

    /// The agent's user writes the file, and docker.service reads the resulting options as root.
    #[test]
    fn nothing_but_addresses_and_numbers_passes_from_subnet_env_to_dockers_options() {
        let hostile = "LD_PRELOAD=/tmp/x.so\nFLANNEL_SUBNET=10.5.52.1/24\nDOCKER_OPT_BIP=-H tcp://0.0.0.0:2375\nFLANNEL_MTU=1450\n";
        let told = SubnetEnv::from_text(hostile).unwrap().individual(true);
        assert_eq!(told, "DOCKER_OPT_BIP=\"--bip=10.5.52.1/24\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n");
        for value in [
            "FLANNEL_SUBNET=10.5.52.1/24 -H tcp://0.0.0.0:2375",
            "FLANNEL_SUBNET=10.5.52.1 -H tcp:///24",
            "FLANNEL_MTU=1450 --debug",
            "FLANNEL_IPMASQ=true\u{b}LD_PRELOAD=x",
        ] {
            assert!(SubnetEnv::from_text(&format!("FLANNEL_SUBNET=10.5.52.1/24\n{value}")).is_err(), "{value}");
        }
    }

    #[test]
    fn options_are_not_written_over_the_file_that_they_are_read_from() {
        let folder = tempfile::tempdir().unwrap();
        let env = folder.path().join("subnet.env");
        let text = "FLANNEL_SUBNET=10.5.52.1/24\n";
        fs::write(&env, text).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&env, &link).unwrap();
        let [wide, narrow] = [&["-i", "-k", "DOCKER_NETWORK_OPTIONS"][..], &[]];
        for (from, to, more) in [(&env, &env, wide), (&env, &link, narrow), (&link, &env, wide)] {
            let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
            for output in [&["-d", to][..], &["--daemon-json", to]] {
                let more = if output[0] == "-d" { more } else { &[] };
                let words = [&["wire-agent", "docker-opts", "-f", from], output, more].concat();
                let cli = crate::cli::Cli::read(words.into_iter().map(Into::into)).unwrap();
                let Some(crate::cli::Command::DockerOpts(flags)) = cli.command else { panic!("another command") };
                let refused = command(&flags).unwrap_err();
                assert!(refused.status() == 64 && refused.to_string().contains("another output file"), "{refused}");
                assert_eq!(fs::read_to_string(&env).unwrap(), text);
            }
        }
    }

    #[test]
    fn options_that_docker_gets_as_flags_are_not_merged_into_its_settings() {
        let folder = tempfile::tempdir().unwrap();
        let unit = |text: &str| {
            let path = folder.path().join("etc/systemd/system/docker.service");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            DockerUnit::read(folder.path())
        };
        let start = "[Service]\nExecStart=/usr/bin/dockerd $DOCKER_OPT_BIP\n";
        let settings = Path::new(daemon_json::PATH);
        for file in ["/run/wire-agent-docker.env", "-/run/flannel/flannel_docker_opts.env"] {
            let both = unit(&format!("{start}EnvironmentFile={file}\n"));
            let refused = refuse_beside_flags(settings, &both).unwrap_err().to_string();
            assert!(refused.contains("$DOCKER_OPT_BIP") && refused.contains(daemon_json::PATH), "{refused}");
            assert!(refuse_beside_flags(Path::new("/elsewhere.json"), &both).is_ok());
        }
        // The variable of the flag is empty.
        assert!(refuse_beside_flags(settings, &unit(start)).is_ok());
    }
}
