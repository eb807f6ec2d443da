//! A whole machine on a host: a real systemd in systemd-nspawn, on a Debian root of its own, with cloud-init.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Host, LabError, Process, Result, command::output, run};

/// A machine that has been started. Its network is its host's; its disk outlives [`Machine::power_off`], as a disk does.
/// Dropped, it is killed.
#[derive(Debug)]
pub struct Machine {
    name: String,
    process: Process,
}

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct MachineSpec<'a> {
    /// The root that all machines share and none changes: tests/system/rootfs makes it.
    pub root: &'a Path,
    /// The package, in the machine as /opt/wire-agent.deb.
    pub package: &'a Path,
    /// What cloud-init is given at the first boot.
    pub user_data: &'a str,
}

/// Makes the machine's root and becomes systemd-nspawn. The overlay is gone with the process: its mount namespace is its own.
const BOOT: &str = r#"
set -e
for group in /sys/fs/cgroup/unified /sys/fs/cgroup/systemd /sys/fs/cgroup; do
    if [ -e "$group/cgroup.procs" ]; then
        mkdir -p "$group/$CGROUP/$NAME"
        echo $$ >"$group/$CGROUP/$NAME/cgroup.procs"
    fi
done
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
exec systemd-nspawn --quiet -D "$DIR/root" -M "$NAME" --register=no --keep-unit --console=read-only --resolv-conf=off \
    --network-namespace-path="$NETNS" --capability=all --system-call-filter='bpf keyctl add_key @mount' \
    --bind="$DIR/docker:/var/lib/docker" --bind="$DIR/containerd:/var/lib/containerd" \
    --bind-ro="$DIR/seed:/var/lib/cloud/seed/nocloud" --bind-ro="$PACKAGE:/opt/wire-agent.deb" -b
"#;

impl Machine {
    /// Boots it, for the first time or again.
    ///
    /// # Errors
    /// Where its files cannot be made or nspawn does not start.
    pub fn boot(host: &Host, spec: MachineSpec<'_>) -> Result<Self> {
        let dir = host.dir().join("machine");
        if !dir.exists() {
            prepare(host, &dir, spec.user_data)?;
        }
        let namespace = host.namespace();
        let mut command = namespace.command("unshare");
        command.args(["--mount", "--propagation", "private", "bash", "-c", BOOT]);
        command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network").env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.env("CGROUP", run::cgroup(namespace.run().id())).env("NAME", namespace.name());
        command.env("DIR", &dir).env("ROOT", spec.root).env("PACKAGE", spec.package).env("NETNS", namespace.path());
        let process = Process::start(namespace.run(), &mut command, host.dir().join("console"))?;
        Ok(Self { name: host.name().to_owned(), process })
    }

    /// Runs a script inside, for ten minutes at most, and gives what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it wrote.
    pub fn sh(&self, script: &str) -> Result<String> {
        let init = self.init()?.to_string();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut command = Command::new("nsenter");
        command.args(["-t", &init, "-a", "env", "-i", path, "timeout", "600", "sh", "-ec", script]);
        output(&mut command).map_err(|error| LabError::Wrong(format!("{}: {error}", self.name)))
    }

    /// Where this machine sees a file of it.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.init()?)))
    }

    /// What its console has shown.
    #[must_use]
    pub fn console(&self) -> String {
        self.process.log()
    }

    /// Shuts it down in order.
    ///
    /// # Errors
    /// Where it does not end within two minutes.
    pub fn power_off(mut self) -> Result {
        self.sh("systemctl poweroff --no-block")?;
        self.process.wait(Duration::from_secs(120)).map(drop)
    }

    /// Its first process, as this machine numbers it: the child of nspawn.
    fn init(&self) -> Result<u32> {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        // On the way there nspawn has children that still live in this machine's namespaces: nothing may run there.
        let is_init = |child: &u32| {
            let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            name == "systemd\n" && namespace(&child.to_string()).is_some_and(|its| Some(its) != namespace("self"))
        };
        let first = children.split_whitespace().filter_map(|child| child.parse().ok()).find(is_init);
        first.ok_or_else(|| LabError::Wrong(format!("{} does not run:\n{}", self.name, self.console())))
    }
}

/// Makes what a machine has of its own: its disk, its identity, and what its provider tells cloud-init.
fn prepare(host: &Host, dir: &Path, user_data: &str) -> Result {
    for folder in ["root", "work", "docker", "containerd", "upper/etc/cloud/cloud.cfg.d", "seed"] {
        fs::create_dir_all(dir.join(folder)).map_err(LabError::io(format!("cannot create {folder}")))?;
    }
    let write = |path: PathBuf, text: &str| {
        let what = format!("cannot write {}", path.display());
        fs::write(path, text).map_err(LabError::io(what))
    };
    let name = host.name();
    let [.., number] = host.v4().octets();
    write(dir.join("upper/etc/machine-id"), &format!("{:032x}\n", 0x6d61_6368_0000 + u64::from(number)))?;
    // What a provider sets in its image: the addresses are there already, and there is neither ssh nor a locale.
    let settings = "network: {config: disabled}\ndatasource_list: [NoCloud]\nlocale: false\nssh_genkeytypes: []\n";
    write(dir.join("upper/etc/cloud/cloud.cfg.d/99-lab.cfg"), settings)?;
    write(dir.join("seed/meta-data"), &format!("instance-id: {name}\nlocal-hostname: {name}\n"))?;
    write(dir.join("seed/user-data"), user_data)?;
    let wanted = dir.join("upper/etc/systemd/system/sysinit.target.wants");
    fs::create_dir_all(&wanted).map_err(LabError::io("cannot create a unit's folder"))?;
    write(wanted.join("noexec.service"), NOEXEC)
}

/// A real machine's initramfs mounts /run so that nothing in it can be executed; nspawn does not.
const NOEXEC: &str = "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n\n\
    [Service]\nType=oneshot\nExecStart=/bin/mount -o remount,noexec /run\n";
