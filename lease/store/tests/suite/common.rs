//! A real etcd for a test, and short forms.

use std::{
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use wire_store::{EtcdSettings, EtcdStore, LeaseStore};

/// An etcd of its own on free ports, with its data in memory where possible. Ends with the test.
pub(crate) struct TestEtcd {
    child: Child,
    command: Vec<String>,
    pub(crate) endpoint: String,
    _dir: TempDir,
}

impl TestEtcd {
    /// `None`, with a line that says so whatever becomes of the test, where etcd is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let etcd = Self::start_with(|_| Vec::new())?;
        etcd.ready().await;
        Some(etcd)
    }

    /// With more arguments, made from the directory. With `--cert-file` among them it listens on https.
    pub(crate) fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("WIRE_TESTS_REQUIRE_LAB").is_none(), "etcd is not installed");
            // Not by a macro, whose output is shown for a test that fails only.
            let test = std::thread::current();
            let line = format!("skipped {}: etcd is not installed\n", test.name().unwrap_or("a test"));
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let more = arguments(dir.path());
        let scheme = if more.iter().any(|argument| argument.starts_with("--cert-file")) { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut command = vec![
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--heartbeat-interval=10".to_owned(),
            "--election-timeout=100".to_owned(),
        ];
        command.extend(more);
        Some(Self { child: spawn(&command), command, endpoint, _dir: dir })
    }

    /// Kills it. Its data stays.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same data.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.command);
    }

    pub(crate) async fn store(&self) -> EtcdStore {
        EtcdStore::open(EtcdSettings::new(vec![self.endpoint.clone()])).await.unwrap()
    }

    pub(crate) async fn ready(&self) {
        answers(&self.store().await).await;
    }
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Waits until the store answers.
pub(crate) async fn answers(store: &EtcdStore) {
    let mut error = None;
    for _ in 0..400 {
        match store.get(b"ready?").await {
            Ok(_) => return,
            Err(now) => error = Some(now),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("etcd does not answer: {}", wire_net::chain(&error.unwrap()));
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(arguments: &[String]) -> Child {
    let quiet = || Stdio::null();
    Command::new("etcd").args(arguments).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap()
}
