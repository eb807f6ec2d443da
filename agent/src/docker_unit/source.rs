//! The folders in which systemd looks for a unit's files, systemd.unit(5), and the order in which it reads them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    EnvironmentFile, Place, Tie,
    unit_file::{Directive, directives},
};
use crate::files::{self, LARGEST_SETTINGS};

/// The folders of units; an earlier one overrides a later one.
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The keys that make Docker stop with the named unit, and those that only start that unit.
const STOPS: [&str; 5] = ["Requires", "BindsTo", "Requisite", "PartOf", "StopPropagatedFrom"];
const STARTS: [&str; 2] = ["Wants", "Upholds"];

/// Folders of units below a root.
pub(super) struct Folders {
    root: PathBuf,
    places: Vec<&'static str>,
}

/// A unit, or a drop-in of it.
pub(super) struct Fragment {
    pub(super) path: PathBuf,
    pub(super) is_unit: bool,
    pub(super) text: String,
}

impl Folders {
    pub(super) fn below(root: &Path) -> Self {
        let mut folders = Self { root: root.to_owned(), places: Vec::new() };
        let mut real = Vec::new();
        for place in UNITS {
            // /lib is often a link to /usr/lib.
            let path = fs::canonicalize(folders.real(Path::new(place)));
            if path.is_ok_and(|path| {
                !real.contains(&path) && {
                    real.push(path);
                    true
                }
            }) {
                folders.places.push(place);
            }
        }
        folders
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text; `None` if there is no such file.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    pub(super) fn text(&self, path: &Path) -> Result<Option<String>, String> {
        let why = |why: &dyn std::fmt::Display| format!("{} cannot be read: {why}", path.display());
        let real = self.real(path);
        match fs::metadata(&real) {
            Ok(found) if found.is_file() => {}
            // A masked unit is a link to /dev/null.
            Ok(_) => return Ok(Some(String::new())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(why(&error)),
        }
        let bytes = files::read_at_most(&real, LARGEST_SETTINGS).map_err(|error| why(&error))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The files that EnvironmentFile= names.
    pub(super) fn named(&self, file: &EnvironmentFile) -> Vec<PathBuf> {
        let Some(pattern) = &file.pattern else { return vec![file.path.clone()] };
        let folder = file.path.parent().unwrap_or(Path::new("/"));
        let mut files: Vec<PathBuf> = self.names(folder).into_iter().map(|name| folder.join(name)).collect();
        files.retain(|file| pattern.matches(file));
        files.sort();
        files
    }

    /// The unit, then its drop-ins by name; and errors for files that cannot be read.
    pub(super) fn fragments(&self, unit: &str) -> (Vec<Fragment>, Vec<String>) {
        let there = |place: &&&str| self.real(&Path::new(place).join(unit)).symlink_metadata().is_ok();
        let file = self.places.iter().find(there).map(|place| Path::new(place).join(unit));
        let (mut fragments, mut unread) = (Vec::new(), Vec::new());
        let files = file.into_iter().map(|path| (path, true));
        for (path, is_unit) in files.chain(self.drop_ins(unit).into_iter().map(|path| (path, false))) {
            match self.text(&path) {
                Ok(text) => fragments.extend(text.map(|text| Fragment { path, is_unit, text })),
                Err(why) => unread.push(why),
            }
        }
        (fragments, unread)
    }

    /// The drop-ins in the order of their names. One in an earlier folder hides those of the same name in later
    /// folders.
    fn drop_ins(&self, unit: &str) -> Vec<PathBuf> {
        let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        let kind = unit.rsplit('.').next().unwrap_or_default();
        for folder in [format!("{unit}.d"), format!("{kind}.d")] {
            for place in &self.places {
                let folder = Path::new(place).join(&folder);
                for name in self.names(&folder) {
                    if Path::new(&name).extension().is_some_and(|end| end == "conf") {
                        by_name.entry(name.clone()).or_insert_with(|| folder.join(name));
                    }
                }
            }
        }
        by_name.into_values().collect()
    }

    fn names(&self, folder: &Path) -> Vec<OsString> {
        fs::read_dir(self.real(folder)).into_iter().flatten().flatten().map(|file| file.file_name()).collect()
    }

    /// The ties that are links, as `systemctl enable` makes them for RequiredBy=.
    pub(super) fn links(&self) -> Vec<Tie> {
        let mut ties = Vec::new();
        for (kind, stops) in [("requires", true), ("wants", false)] {
            for unit in ["docker.service", "docker.socket"] {
                for place in &self.places {
                    let folder = Path::new(place).join(format!("{unit}.{kind}"));
                    let names = self.names(&folder).into_iter().filter_map(|name| name.into_string().ok());
                    let ours = names.filter(|name| is_flannels(name));
                    ties.extend(ours.map(|unit| Tie { path: folder.join(&unit), how: None, unit, stops }));
                }
            }
        }
        ties
    }
}

impl Tie {
    /// The ties to flannel's units in a file of Docker's.
    pub(super) fn of_docker(fragment: &Fragment) -> Vec<Self> {
        Self::found(fragment, &STOPS, true, is_flannels)
            .into_iter()
            .chain(Self::found(fragment, &STARTS, false, is_flannels))
            .collect()
    }

    /// The ties to Docker in a file of flanneld's.
    pub(super) fn of_flanneld(fragment: &Fragment) -> Vec<Self> {
        let found = Self::found(fragment, &["PropagatesStopTo"], true, |unit| unit.starts_with("docker."));
        found.into_iter().map(|tie| Self { unit: "flanneld.service".to_owned(), ..tie }).collect()
    }

    fn found(fragment: &Fragment, keys: &[&str], stops: bool, concerns: impl Fn(&str) -> bool) -> Vec<Self> {
        let of_keys = directives(&fragment.text).into_iter().filter(|one| keys.contains(&one.key.as_str()));
        let mut ties = Vec::new();
        for Directive { key, value, line } in of_keys {
            let units = value.split_whitespace().map(|unit| unit.trim_matches(['"', '\'']));
            for unit in units.filter(|unit| concerns(unit)) {
                let (path, how) = (fragment.path.clone(), Some(format!("line {line}, {key}=")));
                ties.push(Self { path, how, unit: unit.to_owned(), stops });
            }
        }
        ties
    }
}

/// True for `flanneld.service` and its companions: Flatcar's `flannel-docker-opts.service` requires it.
fn is_flannels(unit: &str) -> bool {
    unit.starts_with("flannel")
}

impl Place {
    pub(super) fn is_in(&self, path: &str) -> bool {
        self.path == Path::new(path)
    }
}
