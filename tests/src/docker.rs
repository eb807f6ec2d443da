//! A real dockerd in a host's namespace, with the options an agent has written for it.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use wire_net::Family;

use crate::{
    Host, Kernel, LabError, Namespace, Process, Result, check, command::output, eventually, kernel::damaged_in, run,
};

/// The image every dockerd of the lab has: a static busybox.
const IMAGE: &str = "lab";

/// Names the root of another Debian, whose dockerd is to be used instead of this machine's: another version of Docker.
const ROOTFS: &str = "WIRE_TESTS_DOCKER_ROOTFS";

/// Starts the dockerd of that root ($1) with a folder of this machine ($2) at the same place in it. It needs a sysfs of its own
/// network namespace with the control groups in it. A mere chroot would be undone by `docker exec`, which enters a container's
/// mount namespace by its root.
const IN_ROOTFS: &str = r#"root=$1; dir=$2; shift 2
mount --bind "$root" "$root"; cd "$root"
mount --rbind /proc proc; mount -t sysfs sysfs sys; mount --rbind /sys/fs/cgroup sys/fs/cgroup; mount --rbind /dev dev
mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp; mkdir -p "./$dir"; mount --bind "$dir" "./$dir"
pivot_root . mnt; cd /; /mnt/bin/busybox umount -l /mnt; exec dockerd "$@""#;

/// A dockerd. Dropped, its containers are removed first, then it stops.
#[derive(Debug)]
pub struct Dockerd {
    namespace: Namespace,
    dir: PathBuf,
    process: Process,
    containers: u32,
}

/// A running container.
#[derive(Clone, Debug)]
pub struct Container {
    name: String,
    docker: Client,
}

/// The command line client of one daemon.
#[derive(Clone, Debug)]
struct Client {
    namespace: Namespace,
    socket: PathBuf,
}

impl Dockerd {
    /// Starts one with options as docker.service expands them, and gives it the image.
    ///
    /// # Errors
    /// Where it does not start, with the end of its log.
    pub fn start(host: &Host, options: &[String]) -> Result<Self> {
        let dir = Self::settings_dir(host);
        fs::create_dir_all(&dir).map_err(LabError::io(format!("cannot create {}", dir.display())))?;
        let namespace = host.namespace().clone();
        let process = Self::launch(&namespace, &dir, options)?;
        let mut dockerd = Self { namespace, dir, process, containers: 0 };
        dockerd.wait_ready()?;
        dockerd.import_image(host)?;
        Ok(dockerd)
    }

    /// The folder with its settings file, `daemon.json`; one that is there before it starts is kept.
    #[must_use]
    pub fn settings_dir(host: &Host) -> PathBuf {
        host.dir().join("docker")
    }

    /// Starts one as docker.service does: with `$DOCKER_OPT_BIP $DOCKER_OPT_MTU $DOCKER_OPT_IPMASQ` of an environment file.
    ///
    /// # Errors
    /// Where the file cannot be read, or [`Dockerd::start`] fails.
    pub fn start_with_file(host: &Host, file: &Path) -> Result<Self> {
        Self::start(host, &docker_options(file)?)
    }

    /// Starts it again with the same data and other options, as `systemctl restart docker` does.
    ///
    /// # Errors
    /// Where it does not stop or start.
    pub fn restart(&mut self, options: &[String]) -> Result {
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(30))?;
        self.process = Self::launch(&self.namespace, &self.dir, options)?;
        self.wait_ready()
    }

    /// Runs a container that sleeps.
    ///
    /// # Errors
    /// What docker says.
    pub fn run(&mut self) -> Result<Container> {
        self.run_with(&[])
    }

    /// The same with further options of `docker run`.
    ///
    /// # Errors
    /// What docker says.
    pub fn run_with(&mut self, options: &[&str]) -> Result<Container> {
        self.containers += 1;
        let name = format!("c{}", self.containers);
        let docker = self.client();
        let words = ["run", "--detach", "--name", &name].into_iter().chain(options.iter().copied());
        docker.call(&words.chain([IMAGE, "sleep", "86400"]).collect::<Vec<_>>())?;
        eventually(Duration::from_secs(10), || self.bridge_has_addresses())?;
        Ok(Container { name, docker })
    }

    /// With its first container docker0 gets a carrier, and only then the kernel asks whether another host has the bridge's IPv6
    /// addresses. Until nobody has answered, the bridge answers nobody either: a container has no gateway.
    fn bridge_has_addresses(&self) -> Result {
        let kernel = Kernel::new(&self.namespace);
        let has_carrier =
            kernel.link("docker0")?.is_some_and(|bridge| bridge.flags.iter().any(|flag| flag == "LOWER_UP"));
        let addresses = kernel.addresses("docker0")?;
        check(!has_carrier || addresses.iter().all(|address| !address.tentative), || format!("{addresses:?}"))
    }

    /// Runs the docker client.
    ///
    /// # Errors
    /// What docker says.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        self.client().call(words)
    }

    /// The socket of its API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// Its process id, as its pid file has it.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn pid(&self) -> Result<u32> {
        let file = self.dir.join("pid");
        let text = fs::read_to_string(&file).map_err(LabError::io(format!("cannot read {}", file.display())))?;
        text.trim().parse().map_err(LabError::answer("dockerd's pid file"))
    }

    /// What dockerd has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn client(&self) -> Client {
        Client { namespace: self.namespace.clone(), socket: self.dir.join("docker.sock") }
    }

    fn launch(namespace: &Namespace, dir: &Path, options: &[String]) -> Result<Process> {
        // A mount namespace of its own, because all daemons want /run/docker. `ip netns exec` would do that too, but it
        // mounts /sys anew, and then dockerd finds no control groups.
        let mut command = namespace.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        match std::env::var_os(ROOTFS) {
            None => {
                command.args(["mkdir -p /run/docker; mount -t tmpfs tmpfs /run/docker; exec dockerd \"$@\"", "dockerd"])
            }
            Some(root) => command.args([IN_ROOTFS, "dockerd"]).arg(root).arg(dir),
        };
        for (option, file) in
            [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid"), ("--config-file", "daemon.json")]
        {
            command.arg(option).arg(dir.join(file));
        }
        // dockerd wants the file it is told of.
        if !dir.join("daemon.json").exists() {
            fs::write(dir.join("daemon.json"), "{}").map_err(LabError::io("cannot write daemon.json"))?;
        }
        command.arg("--host").arg(format!("unix://{}/docker.sock", dir.display()));
        // vfs works on every file system, an overlay included; the image has 2 MB.
        command.args(["--storage-driver", "vfs", "--cgroup-parent", &run::cgroup(namespace.run().id())]);
        Process::start(namespace.run(), command.args(options), dir.join("log"))
    }

    fn wait_ready(&mut self) -> Result {
        let client = self.client();
        let mut ended = None;
        let ready = eventually(Duration::from_secs(40), || {
            ended = self.process.ended();
            if ended.is_some() { Ok(()) } else { client.call(&["version"]).map(drop) }
        });
        let ready = ended.map_or(ready, |status| Err(LabError::Wrong(format!("it has ended: {status}"))));
        let log = || self.process.log().lines().rev().take(8).collect::<Vec<_>>().join("\n");
        ready.map(drop).map_err(|error| LabError::Wrong(format!("dockerd is not ready: {error}\n{}", log())))
    }

    fn import_image(&self, host: &Host) -> Result {
        let archive = image(host.namespace().run().dir())?;
        self.docker(&["import", &archive.display().to_string(), IMAGE]).map(drop)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if self.namespace.run().is_kept() || !self.namespace.path().exists() || self.process.ended().is_some() {
            return;
        }
        // Without this dockerd takes ten seconds to stop. What fails here falls to the removal of the run.
        if let Ok(names) = self.docker(&["ps", "--all", "--quiet"])
            && !names.is_empty()
        {
            let words = ["rm", "--force"].into_iter().chain(names.split_whitespace());
            let _ = self.docker(&words.collect::<Vec<_>>());
        }
        let _ = self.process.signal(nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait(Duration::from_secs(5));
    }
}

impl Container {
    /// Its address of a family, in the one network it is in.
    ///
    /// # Errors
    /// Where it has none.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        let field = match family {
            Family::V4 => "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            Family::V6 => "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}",
        };
        let text = self.docker.call(&["inspect", "--format", field, &self.name])?;
        text.trim().parse().map_err(LabError::answer(format!("docker inspect of {} ({text:?})", self.name)))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command line in it, split at blanks.
    ///
    /// # Errors
    /// Where it fails.
    pub fn exec(&self, line: &str) -> Result<String> {
        let words = ["exec", &self.name].into_iter().chain(line.split_whitespace());
        self.docker.call(&words.collect::<Vec<_>>())
    }

    /// Whether `count` pings are all answered, by the exit status of ping.
    #[must_use]
    pub fn pings(&self, target: IpAddr, count: u32) -> bool {
        // busybox's ping is content with one answer; a loss shows in its summary. It waits only for the first one that long.
        let answer = self.exec(&format!("ping -c {count} -W 5 {target}"));
        answer.is_ok_and(|text| text.contains(" 0% packet loss"))
    }

    /// What [`crate::Kernel::damaged`] says of it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn damaged(&self) -> Result<BTreeMap<String, u64>> {
        Ok(damaged_in(&self.exec("cat /proc/net/snmp")?, &self.exec("cat /proc/net/snmp6")?))
    }

    /// Its process id on this machine.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pid(&self) -> Result<u32> {
        let text = self.docker.call(&["inspect", "--format", "{{.State.Pid}}", &self.name])?;
        text.trim().parse().map_err(LabError::answer("docker inspect"))
    }

    /// Everything docker knows of it.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn inspect(&self) -> Result<Value> {
        let text = self.docker.call(&["inspect", &self.name])?;
        let values: Value = serde_json::from_str(&text).map_err(LabError::answer("docker inspect"))?;
        Ok(values[0].clone())
    }
}

impl Client {
    fn call(&self, words: &[&str]) -> Result<String> {
        let mut command = self.namespace.command("timeout");
        command.args(["60", "docker", "--host"]).arg(format!("unix://{}", self.socket.display()));
        // A DOCKER_CONTEXT or a client config of the person who runs the lab must not lead elsewhere.
        output(command.args(words).env("DOCKER_CONFIG", "/nonexistent").env_remove("DOCKER_CONTEXT"))
    }
}

/// The words docker.service makes of an environment file: `$DOCKER_OPT_BIP $DOCKER_OPT_MTU $DOCKER_OPT_IPMASQ`, unquoted.
///
/// # Errors
/// Where the file cannot be read.
pub fn docker_options(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).map_err(LabError::io(format!("cannot read {}", file.display())))?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
    };
    let expanded = ["DOCKER_OPT_BIP", "DOCKER_OPT_MTU", "DOCKER_OPT_IPMASQ"].map(value).join(" ");
    Ok(expanded.split_whitespace().map(str::to_owned).collect())
}

/// The archive of the image, made once for a run, though several daemons may start at once.
fn image(dir: &Path) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let archive = dir.join("image.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let bin = dir.join("image/bin");
    let what = || LabError::io("cannot make the image");
    fs::create_dir_all(&bin).map_err(what())?;
    fs::create_dir_all(dir.join("image/tmp")).map_err(what())?;
    fs::copy("/bin/busybox", bin.join("busybox")).map_err(what())?;
    for applet in output(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", bin.join(applet)).map_err(what())?;
    }
    output(Command::new("tar").arg("-C").arg(dir.join("image")).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}
