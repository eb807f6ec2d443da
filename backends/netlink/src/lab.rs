//! Network namespaces to try things in.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::process::Command;

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

/// Runs `test` on a thread in a fresh network namespace, which goes with it. Skips loudly without root.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !Uid::effective().is_root() {
        assert!(std::env::var("WIRE_TESTS_REQUIRE_LAB").as_deref() != Ok("1"), "this test needs root");
        eprintln!("SKIPPED: this test needs root");
        return;
    }
    let isolated = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    };
    std::thread::spawn(isolated).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Takes all capabilities from this thread.
pub fn drop_privileges() {
    caps::clear(None, caps::CapSet::Effective).unwrap();
}

/// A runtime on this thread.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The output of a shell command, which has to succeed.
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
