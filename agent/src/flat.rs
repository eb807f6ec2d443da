//! Several flat networks on one host: their names, prefixes and files.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use wire_net::{KeyPrefix, NetworkName};

use crate::{
    cli::{EtcdFlags, RunFlags},
    docker_unit::{DOCKER_OPTS_FILE, SUBNET_FILE},
    settings::{Settings, UsageError},
};

/// A further network of this host (`--flat NAME=PREFIX`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flat {
    name: NetworkName,
    prefix: String,
}

impl FromStr for Flat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = text.split_once('=').filter(|(_, prefix)| !prefix.trim_matches('/').is_empty());
        let (name, prefix) = pair.ok_or("it must be NAME=PREFIX, like blue=/blue/network")?;
        let name: NetworkName = name.parse().map_err(|error: wire_net::NetworkNameError| error.to_string())?;
        Ok(Self { name, prefix: prefix.to_owned() })
    }
}

/// The folder of a network among those of all networks.
pub(crate) fn folder_of(network: &NetworkName, folder: &Path) -> PathBuf {
    if network.is_default() { folder.to_owned() } else { folder.join(NETWORKS).join(network.as_str()) }
}

/// The folder of all networks with a name, within another one.
pub(crate) const NETWORKS: &str = "networks";

/// The settings of each network of a run: the one that `--network` names, else all.
///
/// # Errors
/// Names the flag.
pub(crate) fn settings(etcd: &EtcdFlags, run: &RunFlags, run_dir: &Path) -> Result<Vec<Settings>, UsageError> {
    let further: &[Flat] = if etcd.network.is_default() { &etcd.flat } else { &[] };
    refuse_twice(etcd)?;
    let names = std::iter::once(&etcd.network).chain(further.iter().map(|flat| &flat.name));
    names.map(|name| of_network(name, etcd, run, run_dir)).collect()
}

fn of_network(name: &NetworkName, etcd: &EtcdFlags, run: &RunFlags, run_dir: &Path) -> Result<Settings, UsageError> {
    let etcd = EtcdFlags { network: name.clone(), ..etcd.clone() };
    Settings::new(etcd, run.clone(), run_dir)
}

fn refuse_twice(etcd: &EtcdFlags) -> Result<(), UsageError> {
    let mut known = vec![(NetworkName::default(), KeyPrefix::new(&etcd.etcd_prefix))];
    for Flat { name, prefix } in &etcd.flat {
        let prefix = KeyPrefix::new(prefix);
        if known.iter().any(|(other, _)| other == name) {
            return Err(UsageError::NetworkTwice { name: name.clone() });
        }
        if let Some((other, _)) = known.iter().find(|(_, other)| *other == prefix) {
            return Err(UsageError::PrefixTwice { name: name.clone(), other: other.clone(), prefix });
        }
        if let Some((other, _)) = known.iter().find(|(_, other)| is_among_leases(&prefix, other)) {
            return Err(UsageError::PrefixBelow { name: name.clone(), other: other.clone(), prefix });
        }
        known.push((name.clone(), prefix));
    }
    Ok(())
}

/// True if the keys of one prefix lie where leases of the other are: a flanneld that sees other keys there removes all its peers.
fn is_among_leases(one: &KeyPrefix, other: &KeyPrefix) -> bool {
    let begins = |below: &KeyPrefix, above: &KeyPrefix| format!("{below}/").starts_with(&format!("{above}/subnets"));
    begins(one, other) || begins(other, one)
}

impl EtcdFlags {
    /// The prefix of the keys of the network that is meant.
    ///
    /// # Errors
    /// A network with a name has none by default.
    pub(crate) fn prefix(&self) -> Result<KeyPrefix, UsageError> {
        if let Some(flat) = self.flat_of(&self.network) {
            return Ok(KeyPrefix::new(&flat.prefix));
        }
        let prefix = KeyPrefix::new(&self.etcd_prefix);
        if !self.network.is_default() && prefix == KeyPrefix::new(KeyPrefix::DEFAULT) {
            return Err(UsageError::NoPrefix { name: self.network.clone() });
        }
        Ok(prefix)
    }

    /// True if it is a further network of this host.
    pub(crate) fn is_flat(&self, network: &NetworkName) -> bool {
        self.flat_of(network).is_some()
    }

    fn flat_of(&self, network: &NetworkName) -> Option<&Flat> {
        self.flat.iter().find(|flat| flat.name == *network)
    }

    /// Gives the files of a network with a name places of their own, in a folder beside the usual ones. A file that was asked for by its
    /// flag stays, unless the same flags are those of other networks too.
    pub(crate) fn settle_files(&self, run: &mut RunFlags) {
        let name = &self.network;
        if name.is_default() {
            return;
        }
        let is_one_of_several = self.is_flat(name);
        run.state_dir = folder_of(name, &run.state_dir);
        if is_one_of_several || run.subnet_file == Path::new(SUBNET_FILE) {
            run.subnet_file = beside(&run.subnet_file, &format!("{name}.env"));
        }
        let options = &mut run.docker_opts_file;
        if !options.is_empty() && (is_one_of_several || options == DOCKER_OPTS_FILE) {
            *options = beside(Path::new(options), &format!("{name}.docker.env")).to_string_lossy().into_owned();
        }
    }
}

/// A file of a network with a name, for other programs.
fn beside(usual: &Path, name: &str) -> PathBuf {
    usual.with_file_name(NETWORKS).join(name)
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;

    use super::*;

    /// Of each network of a run: its name, prefix, subnet file and Docker's options.
    fn networks(flags: &[&str]) -> Result<Vec<String>, String> {
        let words = ["wire-agent"].iter().chain(flags).map(Into::into);
        let cli = Cli::read(words).map_err(|error| error.to_string())?;
        let all = settings(&cli.etcd, &cli.run, &cli.run_dir).map_err(|error| error.to_string())?;
        Ok(all.iter().map(line).collect())
    }

    fn line(settings: &Settings) -> String {
        let folders = &settings.folders;
        let options = folders.docker_opts_file.clone().unwrap_or_default();
        let [run, state, subnet] =
            [&folders.run_dir, &folders.state_dir, &folders.subnet_file].map(|path| path.display());
        format!("{} {} {run} {state} {subnet} {}", settings.network, settings.prefix, options.display())
    }

    const DEFAULT: &str = "default /coreos.com/network /run/wire-agent /var/lib/wire-agent /run/flannel/subnet.env \
                           /run/flannel/flannel_docker_opts.env";
    const BLUE: &str = "blue /blue /run/wire-agent/networks/blue /var/lib/wire-agent/networks/blue \
                        /run/flannel/networks/blue.env /run/flannel/networks/blue.docker.env";

    #[test]
    fn each_network_of_a_run_has_a_prefix_folders_and_files_of_its_own() {
        assert_eq!(networks(&[]).unwrap(), [DEFAULT]);
        assert_eq!(networks(&["--flat", "blue=/blue"]).unwrap(), [DEFAULT, BLUE]);
        assert_eq!(networks(&["--network=blue", "--etcd-prefix=/blue"]).unwrap(), [BLUE]);
        assert_eq!(networks(&["--network=blue", "--flat=blue=/blue,red=/red"]).unwrap(), [BLUE]);
    }

    #[test]
    fn a_file_that_was_asked_for_is_that_of_one_network_alone() {
        let of_blue = networks(&["--network=blue", "--etcd-prefix=/blue", "--subnet-file=/x.env"]).unwrap();
        assert!(of_blue[0].contains(" /x.env "), "{of_blue:?}");
        let both = networks(&["--flat=blue=/blue", "--subnet-file=/x.env", "--docker-opts-file="]).unwrap();
        assert!(both[0].ends_with(" /x.env ") && both[1].ends_with(" /networks/blue.env "), "{both:?}");
    }

    #[test]
    fn networks_that_cannot_be_told_apart_are_refused() {
        for (flags, said) in [
            (&["--flat=blue"][..], "NAME=PREFIX"),
            (&["--flat=blue=/"], "NAME=PREFIX"),
            (&["--flat=b lue=/blue"], "no network name"),
            (&["--flat=default=/blue"], "--flat: there are two networks default"),
            (&["--flat=blue=/blue,blue=/b"], "--flat: there are two networks blue"),
            (&["--flat=blue=/coreos.com/network/"], "blue and default have the same prefix /coreos.com/network"),
            (&["--flat=blue=/b,red=/b"], "red and blue have the same prefix /b"),
            (
                &["--flat=blue=/coreos.com/network/subnets-b"],
                "the keys of blue (/coreos.com/network/subnets-b) lie among",
            ),
            (
                &["--flat=blue=/coreos.com,red=/coreos.com/subnets/x"],
                "the keys of red (/coreos.com/subnets/x) lie among",
            ),
            (&["--network=blue"], "--network=blue: give the prefix of its keys"),
        ] {
            let refused = networks(flags).unwrap_err();
            assert!(refused.contains(said), "{flags:?}: {refused}");
        }
    }
}
