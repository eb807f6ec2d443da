//! The way systemd starts dockerd, read from its files: unit, drop-ins of every folder, files of EnvironmentFile=.
//!
//! The package's script, `wire-agent docker-unit` and `status` all use this module, so that none of them gives advice
//! that stops Docker.

mod flags;
mod notes;
mod pattern;
mod source;
mod unit_file;

use std::path::{Path, PathBuf};

pub(crate) use flags::Flag;

use crate::{cli::DockerUnitFlags, daemon_json, docker_opts::SubnetEnv, exit::Exit, files::RealDisk, output};
use pattern::Pattern;
use source::{Folders, Fragment};
use unit_file::{directives, variables, words};

/// The package's drop-in for Docker, or the link to it.
pub(crate) const OURS: &str = "/etc/systemd/system/docker.service.d/40-wire-agent.conf";

/// The options that root writes and systemd reads by that drop-in, in a folder of root. The agent's own file of the
/// same form belongs to the agent's user, who could control dockerd with it.
pub(crate) const FOR_DOCKER: &str = "/run/wire-agent-docker.env";

/// The default path of Docker's options, flannel's.
pub(crate) const DOCKER_OPTS_FILE: &str = "/run/flannel/flannel_docker_opts.env";

/// The default path of the subnet's file, flannel's.
pub(crate) const SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// All settings that decide how dockerd is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct DockerUnit {
    /// The lines that start it. More than one is a mistake, which systemd reports.
    starts: Vec<Start>,
    environment: Vec<EnvironmentFile>,
    variables: Vec<Variable>,
    ties: Vec<Tie>,
    /// The files that could not be read, with the reason.
    unread: Vec<String>,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    path: PathBuf,
    line: usize,
}

#[derive(Clone, Debug)]
struct Start {
    place: Place,
    /// True if the line is in the unit itself, not in a drop-in.
    in_unit: bool,
    words: Vec<String>,
}

#[derive(Clone, Debug)]
struct EnvironmentFile {
    place: Place,
    path: PathBuf,
    /// The path as a pattern, if it is one: several files, in the order of their names.
    pattern: Option<Pattern>,
    /// True if Docker starts without the file: a dash precedes its name.
    optional: bool,
    is_there: bool,
}

#[derive(Clone, Debug)]
struct Variable {
    name: String,
    value: String,
    place: Place,
}

/// A setting that makes Docker stop or start together with flanneld.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tie {
    path: PathBuf,
    /// `line 2, Requires=`; nothing for a link.
    how: Option<String>,
    /// flannel's unit.
    unit: String,
    /// True if Docker stops when that unit is stopped. Otherwise Docker only starts it.
    stops: bool,
}

/// The drop-ins of the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropIn {
    /// Replaces the line that starts dockerd.
    Replaces,
    /// For a line that expands our variables.
    Expands,
    /// Merges our options into daemon.json.
    DaemonJson,
    /// Docker gets no options, and only waits.
    Networks,
}

impl DropIn {
    /// The last part of its folder's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Replaces => "replaces",
            Self::Expands => "expands",
            Self::DaemonJson => "daemon-json",
            Self::Networks => "networks",
        }
    }
}

impl DockerUnit {
    /// Reads the files below a root folder, which is `/` except in tests. Missing files are skipped, as systemd skips
    /// them.
    pub(crate) fn read(root: &Path) -> Self {
        Self::from_fragments(&Folders::below(root), |_| true)
    }

    /// Reads the files without our own drop-in, to choose it.
    pub(crate) fn read_without_ours(root: &Path) -> Self {
        Self::from_fragments(&Folders::below(root), |path| path != Path::new(OURS))
    }

    fn from_fragments(folders: &Folders, wanted: impl Fn(&Path) -> bool) -> Self {
        let mut unit = Self::default();
        let (fragments, unread) = folders.fragments("docker.service");
        unit.unread = unread;
        for fragment in fragments.iter().filter(|fragment| wanted(&fragment.path)) {
            unit.take(fragment);
        }
        // Docker requires both of them, so a stop of one stops Docker.
        let beside = ["docker.socket", "containerd.service"].into_iter().flat_map(|name| folders.fragments(name).0);
        let of_docker = fragments.into_iter().chain(beside).flat_map(|fragment| Tie::of_docker(&fragment));
        let of_flanneld = folders.fragments("flanneld.service").0.into_iter().flat_map(|file| Tie::of_flanneld(&file));
        for tie in folders.links().into_iter().chain(of_docker).chain(of_flanneld) {
            // A drop-in for all services is read for several of these units.
            if !unit.ties.contains(&tie) {
                unit.ties.push(tie);
            }
        }
        unit.read_environment(folders);
        unit
    }

    fn take(&mut self, fragment: &Fragment) {
        for one in directives(&fragment.text) {
            let place = Place { path: fragment.path.clone(), line: one.line };
            match (one.key.as_str(), one.value.as_str()) {
                ("ExecStart", "") => self.starts.clear(),
                ("ExecStart", line) => {
                    self.starts.push(Start { place, in_unit: fragment.is_unit, words: words(line) });
                }
                ("EnvironmentFile", "") => self.environment.clear(),
                ("EnvironmentFile", file) => {
                    let path = PathBuf::from(file.trim_start_matches('-'));
                    let (pattern, optional) = (Pattern::of(&path), file.starts_with('-'));
                    self.environment.push(EnvironmentFile { place, path, pattern, optional, is_there: false });
                }
                ("Environment", "") => self.variables.clear(),
                ("Environment", all) => {
                    self.variables.extend(words(all).iter().filter_map(|word| Variable::assigned(word, &place)));
                }
                (..) => {}
            }
        }
    }

    /// Reads the EnvironmentFile= files. They override Environment=, and a later file overrides an earlier one.
    fn read_environment(&mut self, folders: &Folders) {
        for file in &mut self.environment {
            for path in folders.named(file) {
                match folders.text(&path) {
                    Ok(Some(text)) => {
                        file.is_there = true;
                        self.variables.extend(Variable::all_of(&path, &text));
                    }
                    Ok(None) => {}
                    Err(why) => {
                        file.is_there = true;
                        self.unread.push(why);
                    }
                }
            }
        }
    }

    fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().rev().find(|variable| variable.name == name)
    }

    /// True if dockerd gets our options as flags. Their values do not matter: the file is written just before dockerd
    /// starts.
    pub(crate) fn expands_ours(&self) -> bool {
        self.starts.iter().flat_map(|start| &start.words).any(|word| word.contains("DOCKER_OPT_BIP"))
    }

    /// True if the package's drop-in or the agent's own file sets the variables of those flags.
    pub(crate) fn is_given_ours(&self) -> bool {
        let gives_ours = |file: &EnvironmentFile| [FOR_DOCKER, DOCKER_OPTS_FILE].iter().any(|ours| file.names(ours));
        self.expands_ours() && self.environment.iter().any(gives_ours)
    }

    /// The drop-in that gives Docker this host's subnet and keeps all its settings, or at least lets Docker start.
    pub(crate) fn drop_in(&self, settings: &daemon_json::Held) -> DropIn {
        let flags = self.flags();
        let sets_ours = flags.iter().any(Flag::is_ours);
        if settings.bridge.is_some() || flags.iter().any(Flag::is_bridge) {
            return DropIn::Networks;
        }
        match (settings.keys.is_empty(), self.expands_ours(), self.is_known()) {
            // dockerd refuses a key that is set as a flag too.
            (false, ..) if sets_ours => DropIn::Networks,
            (false, ..) => DropIn::DaemonJson,
            (true, true, _) => DropIn::Expands,
            (true, false, true) => DropIn::Replaces,
            (true, false, false) if sets_ours => DropIn::Networks,
            (true, false, false) => DropIn::DaemonJson,
        }
    }

    /// True for the ExecStart= line of Docker CE or of Debian, which can be replaced without a loss. A line of the
    /// operator is not replaced, and one that comes after ours would override it.
    fn is_known(&self) -> bool {
        let [start] = self.starts.as_slice() else { return self.starts.is_empty() };
        let words: Vec<&str> = start.words.iter().map(String::as_str).collect();
        let ["/usr/bin/dockerd" | "/usr/sbin/dockerd", "-H", "fd://", rest @ ..] = words.as_slice() else {
            return false;
        };
        let rest = rest.strip_prefix(&["--containerd=/run/containerd/containerd.sock"]).unwrap_or(rest);
        start.in_unit && matches!(rest, [] | ["$DOCKER_OPTS"])
    }
}

impl EnvironmentFile {
    /// True if the path, or the pattern, names this file.
    fn names(&self, file: &str) -> bool {
        self.names_path(Path::new(file))
    }

    fn names_path(&self, file: &Path) -> bool {
        self.pattern.as_ref().map_or(self.path == file, |pattern| pattern.matches(file))
    }
}

impl Variable {
    /// Reads one assignment of Environment=.
    fn assigned(word: &str, place: &Place) -> Option<Self> {
        let (name, value) = word.split_once('=')?;
        Some(Self { name: name.to_owned(), value: value.to_owned(), place: place.clone() })
    }

    /// Reads all variables of a file of EnvironmentFile=.
    fn all_of(path: &Path, text: &str) -> Vec<Self> {
        let place = |line| Place { path: path.to_owned(), line };
        variables(text).into_iter().map(|(name, value, line)| Self { name, value, place: place(line) }).collect()
    }
}

/// `wire-agent docker-unit`.
///
/// # Errors
/// As [`output::answer`].
pub(crate) fn command(flags: &DockerUnitFlags) -> Result<(), Exit> {
    use crate::cli::DockerUnitPart::{DropIn, Notes, Ties};
    let unit = DockerUnit::read_without_ours(Path::new("/"));
    let settings = daemon_json::held(&unit.settings_path());
    let drop_in = unit.drop_in(&settings);
    // `None` before this host has its first subnet.
    let env = SubnetEnv::read(&RealDisk, Path::new(SUBNET_FILE));
    let options = env.map(|env| env.daemon_options(true)).unwrap_or_default();
    let notes = unit.notes(drop_in, &options, &settings);
    let name = drop_in.name();
    let lines = match flags.only {
        Some(DropIn) => vec![name.to_owned()],
        Some(Ties) => unit.ties(),
        Some(Notes) => notes,
        None => {
            let notes = notes.into_iter().map(|note| format!("note      {note}"));
            std::iter::once(format!("drop-in   {name}")).chain(notes).collect()
        }
    };
    output::answer(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

#[cfg(test)]
mod tests;
