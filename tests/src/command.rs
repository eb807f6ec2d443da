//! Running programs, on this machine and inside a namespace.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{LabError, Result, run::Run};

/// How long a command that should end by itself may take, in seconds.
const LIMIT: &str = "60";

/// A network namespace of a run.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    run: Arc<Run>,
}

impl Namespace {
    /// Makes one, with its loopback up.
    ///
    /// # Errors
    /// What `ip netns` says.
    pub fn new(run: &Arc<Run>, host: &str) -> Result<Self> {
        let namespace = Self { name: run.namespace(host), run: Arc::clone(run) };
        namespace.create()?;
        Ok(namespace)
    }

    pub(crate) fn create(&self) -> Result {
        output(Command::new("ip").args(["netns", "add", &self.name]))?;
        self.ip("link set lo up").map(drop)
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its run.
    #[must_use]
    pub const fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// Where `ip netns` keeps it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command in this network namespace that becomes `program`: same process id, all else as here.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a command line, split at blanks, for a minute at most, and gives what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it wrote.
    pub fn exec(&self, line: &str) -> Result<String> {
        output(self.command("timeout").arg(LIMIT).args(line.split_whitespace()))
    }

    /// The same with a shell's script.
    ///
    /// # Errors
    /// Where it fails, with what it wrote.
    pub fn sh(&self, script: &str) -> Result<String> {
        output(self.command("timeout").args([LIMIT, "sh", "-ec", script]))
    }

    /// `ip` in this namespace.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, line: &str) -> Result<String> {
        output(Command::new("ip").args(["-n", &self.name]).args(line.split_whitespace()))
    }

    /// `bridge` in this namespace.
    ///
    /// # Errors
    /// What `bridge` says.
    pub fn bridge(&self, line: &str) -> Result<String> {
        output(Command::new("bridge").args(["-n", &self.name]).args(line.split_whitespace()))
    }

    /// Calls `work` on a thread that has entered the namespace: sockets it opens belong there for good.
    ///
    /// # Errors
    /// Where the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        inside(&self.path(), work)
    }
}

/// Calls `work` on a thread that has entered the network namespace at this path: sockets it opens belong there for good.
///
/// # Errors
/// Where it cannot be entered.
pub fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let name = namespace.display();
    let file = File::open(namespace).map_err(LabError::io(format!("cannot open the namespace {name}")))?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| setns(&file, CloneFlags::CLONE_NEWNET).map(|()| work()));
        let done = worker.join().map_err(|_| LabError::Wrong(format!("a thread in {name} panicked")))?;
        done.map_err(LabError::errno(format!("cannot enter {name}")))
    })
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// Where it fails, with what it wrote.
pub fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(LabError::io(format!("cannot run `{line}`; is it installed?")))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let text = [done.stderr.as_slice(), done.stdout.as_slice()].concat();
    let outcome = match done.status.code() {
        Some(124) => format!("did not end in {LIMIT} s"),
        Some(_) | None => done.status.to_string(),
    };
    Err(LabError::Command { command: line, outcome, output: String::from_utf8_lossy(&text).trim().to_owned() })
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().chars().take(200).collect::<String>()).collect();
    words.join(" ")
}

/// A program that runs until it is stopped. Dropped, it is killed, unless its run is kept.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    run: Arc<Run>,
}

impl Process {
    /// Starts it in a process group of its own, with both outputs appended to `log`.
    pub(crate) fn start(run: &Arc<Run>, command: &mut Command, log: PathBuf) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let what = || LabError::io(format!("cannot write {}", log.display()));
        let file = File::options().create(true).append(true).open(&log).map_err(what())?;
        let copy = file.try_clone().map_err(what())?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0).spawn();
        let child = child.map_err(LabError::io(format!("cannot start `{}`", describe(command))))?;
        Ok(Self { child, log, run: Arc::clone(run) })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Its exit status, where it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) -> Result {
        let pid = i32::try_from(self.pid()).map_err(LabError::answer("the kernel's process id"))?;
        kill(Pid::from_raw(pid), signal).map_err(LabError::errno(format!("cannot send {signal} to {pid}")))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if start.elapsed() > limit {
                let last = format!("process {} still runs", self.pid());
                return Err(LabError::Late { after: limit, last });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.run.is_kept() {
            self.kill();
        }
    }
}
