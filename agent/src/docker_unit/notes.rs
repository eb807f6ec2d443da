//! Notes for the operator about the way dockerd is started, each with its file and line.

use std::collections::BTreeMap;

use super::{DOCKER_OPTS_FILE, DockerUnit, DropIn, EnvironmentFile, FOR_DOCKER, Flag, OURS, SUBNET_FILE, Tie};
use crate::daemon_json::{self, DaemonOptions, Held};

/// The folder of flannel's files.
const FLANNELS: &str = "/run/flannel";

/// The files that the agent itself writes there.
const WRITTEN: [&str; 2] = [SUBNET_FILE, DOCKER_OPTS_FILE];

impl DockerUnit {
    /// The settings that tie Docker to flanneld.
    pub(crate) fn ties(&self) -> Vec<String> {
        self.ties.iter().map(Tie::text).collect()
    }

    /// All notes if this drop-in is chosen.
    pub(super) fn notes(&self, drop_in: DropIn, options: &DaemonOptions, settings: &Held) -> Vec<String> {
        let told = self.flags().into_iter().filter_map(|flag| said_of(&flag, drop_in)).collect();
        [
            self.ties(),
            self.left_over(),
            told,
            self.outside(options),
            self.doubled(options, settings),
            self.unread.clone(),
        ]
        .concat()
    }

    /// The settings that keep Docker from starting correctly, whichever subnet its bridge has now.
    pub(crate) fn warning(&self, options: &DaemonOptions, settings: &Held) -> Option<String> {
        let doubled = self.doubled(options, settings);
        let all = [self.ties(), self.left_over(), self.outside(options), doubled, self.unread.clone()].concat();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The flags whose values must be in our subnet and are not.
    fn outside(&self, options: &DaemonOptions) -> Vec<String> {
        let flags = self.flags().into_iter();
        let outside = flags.filter_map(|flag| Some((daemon_json::outside(options, flag.name, &flag.value)?, flag)));
        outside.map(|(outside, flag)| format!("{flag}, {outside}: remove it")).collect()
    }

    /// The keys of the settings file that are flags too.
    fn doubled(&self, options: &DaemonOptions, settings: &Held) -> Vec<String> {
        let path = self.settings_path();
        let consequence = "and dockerd refuses to start with both: remove one of them";
        let mut said = BTreeMap::new();
        if self.is_given_ours() {
            // This holds even before the file with the flags is written.
            let ours =
                options.iter().map(|(key, _)| (*key, format!("docker.service gives Docker our --{key} as a flag")));
            said.extend(ours);
        }
        said.extend(self.flags().into_iter().map(|flag| (flag.name, flag.to_string())));
        let doubled = said.into_iter().filter(|(name, _)| settings.all.iter().any(|key| key == name));
        doubled.map(|(name, flag)| format!("{flag}, and {} sets {name}, {consequence}", path.display())).collect()
    }

    /// The files that nobody writes any more once flanneld is gone.
    fn left_over(&self) -> Vec<String> {
        self.environment.iter().filter_map(|file| self.left_over_by(file)).collect()
    }

    fn left_over_by(&self, file: &EnvironmentFile) -> Option<String> {
        let (by, line, path) = (file.place.path.display(), file.place.line, file.path.display());
        if file.place.is_in(OURS) || WRITTEN.iter().chain([&FOR_DOCKER]).any(|name| file.names(name)) {
            return None;
        }
        if file.path.starts_with(FLANNELS) {
            let gives: Vec<String> = self
                .variables
                .iter()
                .filter(|variable| file.names_path(&variable.place.path) && variable.value.contains("--"))
                .map(|variable| format!("{}={:?}", variable.name, variable.value.trim()))
                .collect();
            let gives = if gives.is_empty() { String::new() } else { format!(" (it holds {})", gives.join(", ")) };
            let consequence = if file.optional {
                "Docker may go on with a subnet that is not this host's"
            } else {
                "Docker does not start once that file is gone, after a reboot at the latest"
            };
            return Some(format!(
                "{by} reads {path} in line {line}, which wire-agent does not write{gives}: remove that line, or \
                 {consequence}"
            ));
        }
        let is_pattern = file.pattern.is_some() || file.path.to_string_lossy().contains('%');
        (!file.optional && !file.is_there && !is_pattern)
            .then(|| format!("{by} reads {path} in line {line}, which is not there: Docker does not start without it"))
    }
}

impl Tie {
    fn text(&self) -> String {
        let (path, unit) = (self.path.display(), &self.unit);
        let how = self.how.as_ref().map(|how| format!(" ({how})")).unwrap_or_default();
        let goes_with_disable = self.how.is_none() && self.path.starts_with("/etc");
        match (self.stops, goes_with_disable) {
            (true, false) => format!(
                "{path}{how} ties Docker to {unit}: remove it and run systemctl daemon-reload before you stop flanneld, or Docker \
                 stops with it"
            ),
            (true, true) => format!(
                "{path} ties Docker to {unit}: `systemctl disable --now` removes that link first, but `systemctl \
                 stop` alone stops Docker too"
            ),
            (false, false) => format!(
                "{path}{how} lets Docker start {unit}: remove it and run systemctl daemon-reload, or the next start \
                 of Docker starts flanneld beside wire-agent"
            ),
            (false, true) => format!("{path} lets Docker start {unit}: `systemctl disable` removes that link"),
        }
    }
}

fn said_of(flag: &Flag, drop_in: DropIn) -> Option<String> {
    // Such a unit waits for subnet.env and passes its values to Docker itself.
    let is_of_flannel = flag.value.contains("FLANNEL_") || WRITTEN.iter().any(|file| flag.place.is_in(file));
    let by_us = flag.place.is_in(OURS) || flag.place.is_in(FOR_DOCKER);
    if by_us || is_of_flannel || !(flag.is_ours() || flag.is_bridge()) {
        return None;
    }
    let waits = "so Docker gets no options from wire-agent and only waits for it";
    let remedy = format!("remove it and link the drop-in {}", DropIn::DaemonJson.name());
    Some(match drop_in {
        DropIn::Networks if flag.is_bridge() => format!(
            "{flag}, and dockerd takes either a bridge or wire-agent's subnet, not both: {waits}. To use wire-agent's \
             subnet, {remedy}; or keep it, and create a Docker network for the subnet"
        ),
        DropIn::Networks => format!("{flag}, and Docker keeps that: {waits}. To use wire-agent's subnet, {remedy}"),
        DropIn::Replaces | DropIn::Expands => {
            format!("{flag}: remove it. dockerd uses the last one, which is wire-agent's only if it comes later")
        }
        DropIn::DaemonJson => format!("{flag}: remove it, or Docker does not start"),
    })
}
