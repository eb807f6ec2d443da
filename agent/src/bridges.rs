//! Checks that containers are on a bridge with this host's subnet. Docker reads its options only when it starts, so it
//! may keep another subnet than this host leases. The agent reports that and never corrects it, because a correction
//! would stop containers.

use std::{fmt::Write, net::IpAddr, path::PathBuf};

use wire_net::{DualStack, Family, Prefix};
use wire_state::ContainerLink;

use crate::{
    daemon_json::{self, Clash},
    docker_opts::DockerOptions,
    docker_unit::{DockerUnit, Flag},
    ports::Ports,
    status::{DockerCondition, Message},
};

/// The addresses and the MTU that bridges of containers should have.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) subnets: Vec<Prefix>,
    /// The overlay's networks.
    pub(crate) networks: DualStack<Prefix>,
    /// In bytes; 0 if it is not known.
    pub(crate) mtu: u32,
    pub(crate) told: DockerOptions,
}

/// Facts about Docker that can be read without its API.
#[derive(Clone, Debug)]
pub(crate) struct Docker {
    /// The bridge of its default network.
    pub(crate) bridge: String,
    /// True if a dockerd runs in this network namespace.
    pub(crate) runs: bool,
    /// The flags from docker.service, as far as its files can be read.
    pub(crate) flags: Vec<Flag>,
    /// True if docker.service passes our options to it as flags.
    pub(crate) expands_ours: bool,
    /// Its settings file.
    pub(crate) settings_path: PathBuf,
    /// True if live-restore is set: containers keep running, and the bridge stays, while dockerd restarts.
    pub(crate) live_restore: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Containers cannot be reached.
    pub(crate) fault: Option<DockerCondition>,
    /// They can be reached, but with a wrong MTU or without one family.
    pub(crate) warning: Option<DockerCondition>,
    /// Docker's own settings conflict with our options.
    pub(crate) clash: Option<String>,
}

impl Docker {
    pub(crate) fn look(ports: &impl Ports) -> Self {
        let sockets = ports.unix_sockets();
        let unit = ports.docker_root().map(DockerUnit::read).unwrap_or_default();
        let settings_path = unit.settings_path();
        let settings = daemon_json::held(&settings_path);
        let bridge = settings.bridge.or_else(|| unit.flag("bridge").filter(Flag::is_bridge).map(|flag| flag.value));
        Self {
            bridge: bridge.unwrap_or_else(|| "docker0".to_owned()),
            live_restore: settings.live_restore || unit.flag("live-restore").is_some_and(|flag| flag.value != "false"),
            flags: unit.flags(),
            expands_ours: unit.expands_ours(),
            settings_path,
            // dockerd listens there for its runtime, whatever its data folder is.
            runs: sockets.lines().any(|line| line.contains("/libnetwork/") && line.ends_with(".sock")),
        }
    }
}

impl Expected {
    /// Compares the links with this. Without Docker and without containers there are no findings.
    pub(crate) fn compare(&self, links: &[ContainerLink], docker: impl FnOnce() -> Docker) -> Findings {
        let (held, missing): (Vec<Prefix>, Vec<Prefix>) =
            self.subnets.iter().partition(|subnet| links.iter().any(|link| fits(link, subnet)));
        let too_large: Vec<Message> =
            links.iter().filter(|link| self.is_too_large(link)).map(|link| self.mtu_warning(link)).collect();
        let warning = Message::joined(too_large.clone()).map(DockerCondition::BridgeMtu);
        let mut findings = Findings { warning, ..Findings::default() };
        if missing.is_empty() {
            return findings;
        }
        let docker = docker();
        findings.clash = daemon_json::clash(&docker.settings_path, &self.told.options)
            .filter(Clash::is_foreign)
            .map(|clash| clash.to_string());
        let others = |link: &ContainerLink| missing.iter().any(|subnet| !of_family(link, subnet.family()).is_empty());
        let (wrong, lacking): (Vec<_>, Vec<_>) =
            links.iter().filter(|link| self.concerns(link, &held, &docker)).partition(|link| others(link));
        // A bridge without the family concerns it only where it has the other.
        let lacking = lacking.into_iter().filter(|link| held.is_empty() || link.holds(&held));
        if held.is_empty() || !wrong.is_empty() {
            let wrong = wrong.into_iter().chain(lacking.filter(|_| held.is_empty()));
            let astray = wrong.map(|link| self.astray(link, &docker));
            findings.fault = Message::joined(astray).map(DockerCondition::BridgeMismatch);
        } else {
            let lacking: Vec<Message> = lacking.map(|link| self.lacks(link, &missing, &docker)).collect();
            if !lacking.is_empty() {
                findings.warning = Message::joined([too_large, lacking].concat()).map(DockerCondition::BridgeFamily);
            }
        }
        findings
    }

    /// True for a bridge in the overlay's networks, and for Docker's default bridge if no bridge has our subnets.
    fn concerns(&self, link: &ContainerLink, held: &[Prefix], docker: &Docker) -> bool {
        let of_ours = link.holds(&self.subnets) || self.networks.iter().any(|(_, network)| link.holds(&[*network]));
        let is_default = held.is_empty() && link.name.as_str() == docker.bridge;
        link.is_bridge && (docker.runs || link.is_used) && (of_ours || is_default)
    }

    fn lacks(&self, link: &ContainerLink, missing: &[Prefix], docker: &Docker) -> Message {
        let sentence = format!("{} has no address of {}: its containers have none", link.name, list(missing));
        Message::plain(sentence).remedy("; ", self.remedy(link, docker))
    }

    fn astray(&self, link: &ContainerLink, docker: &Docker) -> Message {
        let (name, subnets) = (link.name, list(&self.subnets));
        let has: Vec<String> = Family::ALL.into_iter().flat_map(|family| of_family(link, family)).collect();
        let has = if has.is_empty() { "no address".to_owned() } else { has.join(" ") };
        let sentence =
            format!("{name} has {has}, but this host leases {subnets}: other hosts cannot reach its containers");
        Message::plain(sentence).remedy("; ", self.remedy(link, docker))
    }

    fn remedy(&self, link: &ContainerLink, docker: &Docker) -> String {
        if link.name.as_str() != docker.bridge {
            let subnets: Vec<String> = self.subnets.iter().map(|subnet| format!("--subnet={subnet}")).collect();
            return format!("recreate its network with {}", subnets.join(" "));
        }
        let ours: Vec<&Flag> = docker.flags.iter().filter(|flag| flag.is_ours()).collect();
        let others: Vec<String> =
            ours.iter().filter(|flag| !flag.says(&self.told.options)).map(ToString::to_string).collect();
        // dockerd does not start where a key of daemon.json is a flag too: that is no advice for such a unit.
        let merge = "run wire-agent docker-opts --daemon-json, then restart Docker";
        let mut remedy = String::new();
        if docker.live_restore {
            remedy += "stop its containers first (live-restore keeps them running, and the bridge as it is), then ";
        }
        if !others.is_empty() {
            let _ = write!(remedy, "remove the flags that docker.service gives it ({}), and ", others.join("; "));
        }
        let _ = match &self.told.file {
            Some(file) if ours.is_empty() && !docker.expands_ours => write!(
                remedy,
                "restart Docker with the options in {}, or, if docker.service does not pass them, {merge}",
                file.display()
            ),
            Some(file) => write!(remedy, "restart Docker with the options in {}", file.display()),
            None if !docker.expands_ours && (ours.is_empty() || !others.is_empty()) => write!(remedy, "{merge}"),
            None => write!(remedy, "restart Docker"),
        };
        if link.is_used && !docker.live_restore {
            remedy += "; if live-restore is on, stop its containers first: running containers keep the bridge as it is";
        }
        remedy
    }

    /// True if the containers of a bridge have a larger MTU than the overlay. The MTU of a bridge without containers does
    /// not show theirs.
    fn is_too_large(&self, link: &ContainerLink) -> bool {
        link.is_bridge && link.is_used && link.holds(&self.subnets) && self.mtu > 0 && link.mtu.0 > self.mtu
    }

    fn mtu_warning(&self, link: &ContainerLink) -> Message {
        let (name, has, fits) = (link.name, link.mtu.0, self.mtu);
        let sentence = format!(
            "{name} has MTU {has}, but the overlay has {fits}: large packets of its containers are fragmented or sent again"
        );
        let remedy = format!("give Docker --mtu={fits}, or its network -o com.docker.network.driver.mtu={fits}");
        Message::plain(sentence).remedy("; ", remedy)
    }
}

/// True if containers on the link get addresses of this subnet only.
fn fits(link: &ContainerLink, subnet: &Prefix) -> bool {
    link.addresses.iter().any(|(address, len)| {
        *len < Family::of(*address).bits() && Prefix::new(*address, *len).is_ok_and(|prefix| subnet.covers(prefix))
    })
}

/// The addresses of one family that other hosts could reach.
fn of_family(link: &ContainerLink, family: Family) -> Vec<String> {
    let is_local = |address: IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let reached = link.addresses.iter().filter(|(address, _)| Family::of(*address) == family && !is_local(*address));
    reached.map(|(address, len)| format!("{address}/{len}")).collect()
}

fn list(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use wire_net::Mtu;

    use std::fs;

    use super::*;

    fn bridge(name: &str, addresses: &[&str]) -> ContainerLink {
        let address = |text: &&str| {
            let (address, len) = text.split_once('/').unwrap();
            (address.parse().unwrap(), len.parse().unwrap())
        };
        ContainerLink {
            name: name.parse().unwrap(),
            is_bridge: true,
            mtu: Mtu(1450),
            is_used: true,
            addresses: addresses.iter().map(address).collect(),
        }
    }

    fn expected(subnets: &[&str]) -> Expected {
        Expected {
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            networks: DualStack { v4: Some("10.5.0.0/16".parse().unwrap()), v6: Some("fd00:5::/48".parse().unwrap()) },
            mtu: 1450,
            told: DockerOptions {
                file: Some("/run/flannel/flannel_docker_opts.env".into()),
                ..DockerOptions::default()
            },
        }
    }

    fn compare(subnets: &[&str], links: &[ContainerLink]) -> Findings {
        expected(subnets).compare(links, || docker("docker0", true))
    }

    fn docker(bridge: &str, runs: bool) -> Docker {
        let settings_path = daemon_json::PATH.into();
        Docker {
            bridge: bridge.to_owned(),
            runs,
            flags: Vec::new(),
            expands_ours: false,
            settings_path,
            live_restore: false,
        }
    }

    const V4: &[&str] = &["10.5.7.0/24"];
    const DUAL: &[&str] = &["10.5.7.0/24", "fd00:5:0:7::/64"];
    const V6: &[&str] = &["fd00:5:0:7::/64"];

    #[test]
    fn a_bridge_of_any_name_with_our_subnet_or_a_part_of_it_is_right() {
        for (name, address) in [("docker0", "10.5.7.1/24"), ("br-1", "10.5.7.1/24"), ("br-2", "10.5.7.129/25")] {
            let links = [bridge(name, &[address, "fe80::1/64"]), bridge("docker1", &["172.17.0.1/16"])];
            assert_eq!(compare(V4, &links), Findings::default(), "{name}");
        }
        let links = [bridge("docker0", &["172.17.0.1/16"]), bridge("br-1", &["10.5.7.1/24"])];
        assert_eq!(compare(V4, &links), Findings::default());
    }

    #[test]
    fn a_bridge_with_another_subnet_is_named_with_what_it_has_and_what_to_do() {
        for address in ["172.17.0.1/16", "10.5.9.1/24", "10.5.7.1/16"] {
            let found = compare(V4, &[bridge("docker0", &[address, "fe80::1/64"])]);
            let said = found.fault.unwrap().message().to_string();
            assert!(said.starts_with(&format!("docker0 has {address}, but this host leases 10.5.7.0/24")), "{said}");
            assert!(said.contains("restart Docker with the options in /run/flannel/flannel_docker_opts.env"), "{said}");
            assert_eq!(found.warning, None);
        }
        let said = compare(V4, &[bridge("br-9", &["10.5.9.1/24"])]).fault.unwrap().message().to_string();
        assert!(said.ends_with("recreate its network with --subnet=10.5.7.0/24"), "{said}");
    }

    #[test]
    fn the_remedy_never_keeps_docker_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let unit = |line: &str| {
            let path = folder.path().join("etc/systemd/system/docker.service");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("[Service]\nExecStart=/usr/bin/dockerd {line}\n")).unwrap();
            DockerUnit::read(folder.path())
        };
        let remedy = |unit: DockerUnit, file| {
            let mut expected = expected(V4);
            let option = |key, value: &str| (key, serde_json::Value::from(value));
            expected.told = DockerOptions { file, options: vec![option("bip", "10.5.7.1/24")] };
            let (flags, expands_ours) = (unit.flags(), unit.expands_ours());
            let docker = || Docker { flags, expands_ours, ..docker("docker0", true) };
            expected.compare(&[bridge("docker0", &["172.17.0.1/16"])], docker).fault.unwrap().message().to_string()
        };
        let file = || Some("/run/flannel/flannel_docker_opts.env".into());
        let said = remedy(unit(""), file());
        assert!(
            said.contains("or, if docker.service does not pass them, run wire-agent docker-opts --daemon-json"),
            "{said}"
        );
        let said = remedy(unit("--bip=10.5.7.1/24"), file());
        assert!(!said.contains("--daemon-json") && !said.contains("remove the flags"), "{said}");
        assert!(!remedy(unit("--bip=10.5.7.1/24"), None).contains("--daemon-json"));
        // The file with the variable is not there before Docker starts.
        let said = remedy(unit("$DOCKER_OPT_BIP $DOCKER_OPT_MTU"), file());
        assert!(said.contains("restart Docker with the options in") && !said.contains("--daemon-json"), "{said}");
        assert!(!remedy(unit("$DOCKER_OPT_BIP"), None).contains("--daemon-json"));
        let said = remedy(unit("--bip 10.5.9.1/24"), file());
        let named = "remove the flags that docker.service gives it (/etc/systemd/system/docker.service sets \
                     --bip=10.5.9.1/24 in line 2), and";
        assert!(said.contains(named) && !said.contains("--daemon-json"), "{said}");
    }

    #[test]
    fn where_containers_outlive_docker_they_are_to_be_stopped_first() {
        let links = [bridge("docker0", &["172.17.0.1/16"])];
        let keeps = || Docker { live_restore: true, ..docker("docker0", true) };
        let said = expected(V4).compare(&links, keeps).fault.unwrap().message().to_string();
        let known =
            "stop its containers first (live-restore keeps them running, and the bridge as it is), then restart Docker";
        assert!(said.contains(known), "{said}");
        // Another settings file, which the agent does not know, may set it.
        assert!(compare(V4, &links).fault.unwrap().message().to_string().ends_with("keep the bridge as it is"));
        let mut idle = links[0].clone();
        idle.is_used = false;
        assert!(!compare(V4, &[idle]).fault.unwrap().message().to_string().contains("live-restore"));
    }

    #[test]
    fn without_docker_without_containers_and_on_bridges_of_others_nothing_is_wrong() {
        let mut idle = bridge("docker0", &["172.17.0.1/16"]);
        idle.is_used = false;
        let runs = |runs| move || docker("docker0", runs);
        assert_eq!(expected(V4).compare(&[idle.clone()], runs(false)), Findings::default());
        assert!(expected(V4).compare(&[idle], runs(true)).fault.is_some());
        assert_eq!(compare(V4, &[]), Findings::default());
        assert_eq!(compare(V4, &[bridge("virbr0", &["192.168.122.1/24"])]), Findings::default());
        let other = || docker("none", true);
        assert_eq!(expected(V4).compare(&[bridge("docker0", &["172.17.0.1/16"])], other), Findings::default());
    }

    #[test]
    fn each_family_counts() {
        let none = compare(DUAL, &[bridge("docker0", &["172.17.0.1/16"])]).fault.unwrap().message().to_string();
        assert!(none.contains("leases 10.5.7.0/24 fd00:5:0:7::/64"), "{none}");
        let v4 = compare(DUAL, &[bridge("docker0", &["10.5.7.1/24", "fe80::1/64"])]);
        assert!(v4.warning.unwrap().message().to_string().starts_with("docker0 has no address of fd00:5:0:7::/64"));
        assert_eq!(v4.fault, None);
        let v6 = compare(DUAL, &[bridge("docker0", &["172.17.0.1/16", "fd00:5:0:7::1/64"])]);
        assert!(v6.fault.unwrap().message().to_string().starts_with("docker0 has 172.17.0.1/16 fd00:5:0:7::1/64"));
        let links = [bridge("docker0", &["172.17.0.1/16", "fdaa::1/64"]), bridge("br-1", &["10.5.7.1/24"])];
        let beside = compare(DUAL, &links);
        assert_eq!(beside.fault, None);
        assert!(beside.warning.unwrap().message().to_string().starts_with("br-1 has no address of fd00:5:0:7::/64"));
        assert_eq!(compare(V6, &[bridge("docker0", &["172.17.0.1/16", "fd00:5:0:7::1/64"])]), Findings::default());
        assert!(compare(V6, &[bridge("docker0", &["172.17.0.1/16"])]).fault.is_some());
    }

    #[test]
    fn an_mtu_that_is_too_large_is_named_once_containers_have_it() {
        let mut large = bridge("br-1", &["10.5.7.1/24"]);
        large.mtu = Mtu(1500);
        let found = compare(V4, &[large.clone()]);
        assert_eq!(found.fault, None);
        assert!(found.warning.unwrap().message().to_string().contains("com.docker.network.driver.mtu=1450"));
        large.is_used = false;
        assert_eq!(compare(V4, &[large]), Findings::default());
    }
}
