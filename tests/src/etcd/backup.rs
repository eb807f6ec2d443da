//! A backup of etcd's data, and an etcd that begins anew from one: its revisions go back.

use std::path::{Path, PathBuf};

use super::{Etcd, stored};
use crate::{LabError, Result, check, command::output};

impl Etcd {
    /// The revision of the store.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn revision(&self) -> Result<i64> {
        stored::revision(&self.ctl(&["get", "-w=json", "--", "no such key"])?)
    }

    /// Saves a backup of the first member's data and gives its file.
    ///
    /// # Errors
    /// What `etcdctl` says.
    pub fn back_up(&self) -> Result<PathBuf> {
        let file = self.host(0).dir().join("backup.db");
        self.ctl(&["snapshot", "save", &file.display().to_string()])?;
        Ok(file)
    }

    /// Kills the only member, and gives it the data of a backup in place of its own. [`Etcd::restart`] then begins with that.
    ///
    /// # Errors
    /// Where there are more members, and what the program that restores says.
    pub fn restore(&mut self, backup: &Path) -> Result {
        check(self.members.len() == 1, || "only an etcd of one member is restored".to_owned())?;
        self.wipe(0)?;
        let host = self.host(0);
        let peer = format!("http://{}:2380", host.v4());
        let mut command = host.namespace().command(restorer()?);
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup);
        command.arg("--data-dir").arg(self.data_dir(0)).args(["--name", host.name()]);
        command.args(["--initial-cluster", &format!("{}={peer}", host.name()), "--initial-cluster-token", "lab"]);
        command.args(["--initial-advertise-peer-urls", &peer]);
        output(&mut command).map(drop)
    }
}

/// The program that restores: from etcd 3.6 on `etcdctl` does not.
fn restorer() -> Result<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let exists = |program: &&str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let found = ["etcdutl", "etcdctl"].into_iter().find(exists);
    found.ok_or_else(|| LabError::Machine("there is neither etcdutl nor etcdctl".to_owned()))
}
