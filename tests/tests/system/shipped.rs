//! What the machines are made of.

use std::{fs, path::PathBuf, process::Command};

use wire_tests::{Lab, LabError, MachineSpec, Result, Share, check};

/// A lab for the test of this name.
pub(crate) fn lab(name: &str) -> Result<Lab> {
    Lab::for_test(name, Share::Alone)?.ok_or_else(|| LabError::Machine("whole machines need a lab".to_owned()))
}

/// The one file that `make dist` has built whose name has this beginning and this end.
pub(crate) fn built_as(start: &str, end: &str) -> Result<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    let files = fs::read_dir(&dir).into_iter().flatten().flatten().map(|file| file.path());
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found: Vec<PathBuf> = files.filter(|path| name(path).starts_with(start) && name(path).ends_with(end)).collect();
    match <[PathBuf; 1]>::try_from(found) {
        Ok([one]) => Ok(one),
        Err(found) => {
            let wrong = format!("{start}*{end} in target/dist: {found:?} instead of one: run `make test-system`");
            Err(LabError::Machine(wrong))
        }
    }
}

/// What `make dist` and tests/system/rootfs have made.
pub(crate) struct Shipped {
    pub(crate) root: PathBuf,
    pub(crate) package: PathBuf,
}

impl Shipped {
    pub(crate) fn find(suite: &str) -> Result<Self> {
        let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target");
        let root = target.join("system").join(suite).join("root");
        check(root.is_dir(), || format!("there is no {}: run `make test-system`", root.display()))?;
        let absolute = |path: PathBuf| {
            path.canonicalize().map_err(|source| LabError::Io { what: format!("no {}", path.display()), source })
        };
        Ok(Self { root: absolute(root)?, package: absolute(built_as("wire-agent_", ".deb")?)? })
    }

    /// A machine of this suite.
    pub(crate) fn spec<'a>(&'a self, user_data: &'a str) -> MachineSpec<'a> {
        MachineSpec { root: &self.root, package: &self.package, user_data }
    }

    /// The file that is shipped, with all that an operator replaces replaced.
    pub(crate) fn user_data(&self, endpoints: &str) -> Result<String> {
        let sum = Command::new("sha256sum").arg(&self.package).output();
        let sum = sum.map_err(|source| LabError::Io { what: "cannot run sha256sum".to_owned(), source })?;
        let sum = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap_or_default().to_owned();
        let shipped = include_str!("../../../dist/cloud-config/cloud-init.yaml");
        let url = shipped.lines().find(|line| line.trim().starts_with("url=")).unwrap_or_default().trim();
        let text = shipped
            .replace(url, "url=file:///opt/wire-agent.deb")
            .replace("sha256=REPLACE-ME", &format!("sha256={sum}"))
            .replace("http://REPLACE-ME.example:2379", endpoints);
        let left = text.lines().any(|line| line.contains("REPLACE-ME") && !line.trim().starts_with('#'));
        check(!left, || format!("not all is replaced:\n{text}")).map(|()| text)
    }
}
