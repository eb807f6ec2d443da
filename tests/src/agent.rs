//! The agent under test, as a process in a host's namespace.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    Host, LabError, Namespace, Peers, Process, Result, Status, binary, command::output, notify::Notifications,
    trace::writes_in,
};

/// What to start, besides the files that every agent of the lab has of its own.
#[derive(Clone, Debug, Default)]
pub struct AgentSpec {
    /// Flags, those of [`crate::Etcd::agent_flags`] first.
    pub flags: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Whether `strace` writes down what it sends to the kernel.
    pub traced: bool,
    /// What its folder's name ends with, for a second one on a host.
    pub suffix: &'static str,
    /// A program and its options that starts it, `setpriv --bounding-set=-all` for instance.
    pub wrapper: Vec<String>,
    /// Whether the descriptors that it leaves are handed to its next start, as systemd does (`FileDescriptorStoreMax=`).
    pub hand_over: bool,
    /// Another binary than [`crate::binary`].
    pub binary: Option<PathBuf>,
}

impl AgentSpec {
    /// An agent with these flags and `--iface=eth0`.
    #[must_use]
    pub fn new(flags: Vec<String>) -> Self {
        Self { flags, ..Self::default() }.flag("--iface=eth0")
    }

    /// With one more flag.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// With one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a trace of what it sends over netlink.
    #[must_use]
    pub const fn traced(mut self) -> Self {
        self.traced = true;
        self
    }
}

/// An agent on a host. Dropped, it is killed; what it has put into the kernel and into etcd stays.
#[derive(Debug)]
pub struct Agent {
    namespace: Namespace,
    dir: PathBuf,
    spec: AgentSpec,
    started: Instant,
    process: Option<Process>,
    notifications: Notifications,
}

impl Agent {
    /// Starts one and does not wait.
    ///
    /// # Errors
    /// Where there is no binary.
    pub fn spawn(host: &Host, spec: AgentSpec) -> Result<Self> {
        let dir = host.dir().join(format!("agent{}", spec.suffix));
        fs::create_dir_all(&dir).map_err(LabError::io(format!("cannot create {}", dir.display())))?;
        let notifications = Notifications::listen(&dir.join("notify"), spec.hand_over)?;
        let started = Instant::now();
        let mut agent = Self { namespace: host.namespace().clone(), dir, spec, started, process: None, notifications };
        agent.launch()?;
        Ok(agent)
    }

    /// Starts one and waits for READY=1.
    ///
    /// # Errors
    /// Where it is not ready in ten seconds.
    pub fn start(host: &Host, spec: AgentSpec) -> Result<Self> {
        let mut agent = Self::spawn(host, spec)?;
        agent.wait_ready(Duration::from_secs(10))?;
        Ok(agent)
    }

    /// Starts it again after it has ended, with the same files.
    ///
    /// # Errors
    /// Where it still runs.
    pub fn restart(&mut self) -> Result {
        if self.process.as_mut().is_some_and(|process| process.ended().is_none()) {
            return Err(LabError::Wrong(format!("the agent of {} still runs", self.namespace.name())));
        }
        self.launch()
    }

    /// What it is started with; a change counts from the next start.
    pub const fn spec_mut(&mut self) -> &mut AgentSpec {
        &mut self.spec
    }

    fn launch(&mut self) -> Result {
        // Each start has a trace of its own.
        let _ = fs::remove_file(self.dir.join("trace"));
        self.notifications.forget();
        let (mut words, copies) =
            if self.spec.hand_over { self.notifications.stored().hand_over()? } else { (Vec::new(), Vec::new()) };
        if self.spec.traced {
            // -D: the tracer is the grandchild, so the process we signal is the agent. -v: no list is cut short.
            let trace = self.dir.join("trace").display().to_string();
            let calls = "trace=sendto,sendmsg,sendmmsg,write,writev";
            words.extend(
                ["strace", "-D", "-f", "-tt", "-v", "-yy", "-s", "32", "-o", &trace, "-e", calls].map(str::to_owned),
            );
        }
        words.extend(self.spec.wrapper.iter().cloned());
        words.push(self.binary()?.display().to_string());
        let mut command = self.namespace.command(&words[0]);
        command.args(&words[1..]).args(self.flags());
        command.env("NOTIFY_SOCKET", self.dir.join("notify")).envs(self.spec.environment.iter().cloned());
        self.started = Instant::now();
        self.process = Some(Process::start(self.namespace.run(), &mut command, self.dir.join("log"))?);
        drop(copies);
        Ok(())
    }

    /// Waits for READY=1 and says how long after its start that came.
    ///
    /// # Errors
    /// Where it does not come or the agent ends first; with the end of its log.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<Duration> {
        let asked = Instant::now();
        while asked.elapsed() < limit {
            if let Some(ready) = self.ready_after() {
                return Ok(ready);
            }
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                return Err(LabError::Wrong(format!("the agent ended with {status}:\n{}", self.log_end())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(LabError::Late { after: limit, last: format!("the agent is not ready:\n{}", self.log_end()) })
    }

    /// How long after its start READY=1 came, where it has come.
    #[must_use]
    pub fn ready_after(&self) -> Option<Duration> {
        Some(self.notifications.first("READY=1")?.duration_since(self.started))
    }

    /// When it was started last.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// The last text it told the service manager as STATUS.
    #[must_use]
    pub fn status_line(&self) -> Option<String> {
        self.notifications.last_value("STATUS")
    }

    /// How often systemd was told this line since the last start.
    #[must_use]
    pub fn notified(&self, line: &str) -> usize {
        self.notified_at(line).len()
    }

    /// When systemd was told this line since the last start.
    #[must_use]
    pub fn notified_at(&self, line: &str) -> Vec<Instant> {
        self.notifications.all(line)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Its process id.
    ///
    /// # Errors
    /// Where it was not started.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process()?.pid())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> Result {
        self.process()?.signal(signal)
    }

    /// Ends it with SIGTERM, and says with which status and after how long it went.
    ///
    /// # Errors
    /// Where it still runs after ten seconds.
    pub fn terminate(&mut self) -> Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(Duration::from_secs(10))?;
        Ok((status, start.elapsed()))
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        match &mut self.process {
            Some(process) => process.wait(limit),
            None => Err(LabError::Wrong("the agent was not started".to_owned())),
        }
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().ok_or_else(|| LabError::Wrong("the agent was not started".to_owned()))
    }

    /// All it has logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// `--state-dir`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `--run-dir`.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// `--subnet-file`.
    #[must_use]
    pub fn subnet_file(&self) -> PathBuf {
        self.dir.join("flannel/subnet.env")
    }

    /// `--docker-opts-file`.
    #[must_use]
    pub fn docker_opts_file(&self) -> PathBuf {
        self.dir.join("flannel/docker_opts.env")
    }

    /// The variables of subnet.env.
    ///
    /// # Errors
    /// Where there is none.
    pub fn subnet_env(&self) -> Result<BTreeMap<String, String>> {
        let file = self.subnet_file();
        let text = fs::read_to_string(&file).map_err(LabError::io(format!("cannot read {}", file.display())))?;
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(text.lines().filter_map(pair).collect())
    }

    /// Runs a subcommand of the agent for this agent, `["status"]` for instance, and gives what it printed.
    ///
    /// # Errors
    /// Where it fails.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        output(&mut self.asking(words)?)
    }

    /// The same, and gives status and output whatever comes of it.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn ask(&self, words: &[&str]) -> Result<std::process::Output> {
        self.asking(words)?.output().map_err(LabError::io(format!("cannot run wire-agent {}", words.join(" "))))
    }

    fn asking(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command("timeout");
        command.arg("10").arg(self.binary()?).args(words).arg(format!("--run-dir={}", self.run_dir().display()));
        Ok(command)
    }

    fn binary(&self) -> Result<PathBuf> {
        self.spec.binary.clone().map_or_else(binary, Ok)
    }

    /// Runs a subcommand, perhaps with more words after spaces, with all the flags and the wrapper that the agent is started with, and gives
    /// status and output.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn run_with_its_flags(&self, word: &str) -> Result<std::process::Output> {
        self.command(&word.split(' ').collect::<Vec<_>>())?
            .output()
            .map_err(LabError::io(format!("cannot run wire-agent {word}")))
    }

    /// The same for a reader that has gone before the first line.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn run_unread(&self, word: &str) -> Result<ExitStatus> {
        let cannot = || LabError::io(format!("cannot run wire-agent {word}"));
        let (_, nowhere) = std::io::pipe().map_err(cannot())?;
        let errors = nowhere.try_clone().map_err(cannot())?;
        self.command(&[word])?.stdout(nowhere).stderr(errors).status().map_err(cannot())
    }

    pub(crate) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command("timeout");
        // The running agent has half a minute for a comparison.
        command.arg("60").args(&self.spec.wrapper).arg(self.binary()?).args(self.flags()).args(words);
        Ok(command)
    }

    /// Where its files lie.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn flags(&self) -> Vec<String> {
        let files = [
            ("--state-dir", self.state_dir()),
            ("--run-dir", self.run_dir()),
            ("--subnet-file", self.subnet_file()),
            ("--docker-opts-file", self.docker_opts_file()),
        ];
        let files = files.map(|(flag, file)| format!("{flag}={}", file.display()));
        self.spec.flags.iter().cloned().chain(files).collect()
    }

    /// `wire-agent status --json`, whatever the phase.
    ///
    /// # Errors
    /// Where no agent answers.
    pub fn status(&self) -> Result<Status> {
        // Its exit status is 1 where the phase is not `ready`.
        let answer = self.ask(&["status", "--json"])?;
        let said = || format!("wire-agent status ({})", String::from_utf8_lossy(&answer.stderr).trim());
        serde_json::from_slice(&answer.stdout).map_err(LabError::answer(said()))
    }

    /// `wire-agent peers --json`.
    ///
    /// # Errors
    /// Where it fails.
    pub fn peers(&self) -> Result<Peers> {
        serde_json::from_str(&self.ctl(&["peers", "--json"])?).map_err(LabError::answer("wire-agent peers"))
    }

    /// The writes to the kernel's network tables in the trace of the last start: the names RTM_NEW…, RTM_DEL…, RTM_SET… of
    /// each message sent, in order, or their numbers.
    ///
    /// # Errors
    /// Where it was not started with a trace.
    pub fn kernel_writes(&self) -> Result<Vec<String>> {
        let file = self.dir.join("trace");
        let text = fs::read(&file).map_err(LabError::io(format!("cannot read {}", file.display())))?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().flat_map(writes_in).map(str::to_owned).collect())
    }
}
