//! Programs of another Debian root on a host: those that must not be installed on the machine that runs the lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Host, LabError, Process, Result, command::output, eventually};

/// The root with ufw and firewalld.
pub const OTHER_FIREWALLS: &str = "firewalls";

/// Puts an overlay over the root, so that it stays as it is, and becomes a shell in it. A sysfs of its own shows this network
/// namespace.
const ENTER: &str = r#"
mkdir -p upper work root
mount -t overlay overlay -o "lowerdir=$1,upperdir=upper,workdir=work" root
mount --rbind /proc root/proc; mount -t sysfs sysfs root/sys; mount --rbind /dev root/dev; mount -t tmpfs tmpfs root/run
exec chroot root sh -ec "touch /run/entered; $2"
"#;

/// A running script in such a root. What it leaves running goes with the run.
#[derive(Debug)]
pub struct Guest {
    process: Process,
}

impl Guest {
    /// Starts a script in the root of this name, in the host's network namespace.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(host: &Host, root: &str, script: &str) -> Result<Self> {
        let dir = host.dir().join(root);
        fs::create_dir_all(&dir).map_err(LabError::io(format!("cannot create {}", dir.display())))?;
        let mut command = host.namespace().command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh"]);
        command.arg(made(root).with_file_name("root")).arg(script).current_dir(&dir);
        let process = Process::start(host.namespace().run(), &mut command, dir.join("log"))?;
        let guest = Self { process };
        eventually(Duration::from_secs(10), || guest.sh("test -e /run/entered").map(drop))
            .map_err(|error| LabError::Wrong(format!("{error}\n{}", guest.process.log())))?;
        Ok(guest)
    }

    /// Runs a script beside it.
    ///
    /// # Errors
    /// Where it fails, with what it wrote.
    pub fn sh(&self, script: &str) -> Result<String> {
        let pid = self.process.pid().to_string();
        output(Command::new("nsenter").args(["-t", &pid, "-m", "-n", "-r", "-w", "timeout", "60", "sh", "-ec", script]))
    }
}

/// Is there where the root of this name is whole; `make roots` makes it.
pub(crate) fn made(root: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(root).join("made")
}
