//! Network namespaces for tests.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::process::Command;

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};

/// Runs `test` on a thread in a new network namespace, which is deleted with the thread. Without root the test is
/// skipped with a message, or fails if `WIRE_TESTS_REQUIRE_LAB` is 1.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !Uid::effective().is_root() {
        assert!(std::env::var("WIRE_TESTS_REQUIRE_LAB").as_deref() != Ok("1"), "this test needs root");
        eprintln!("SKIPPED: this test needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Drops all effective capabilities of this thread.
pub fn drop_privileges() {
    caps::clear(None, caps::CapSet::Effective).unwrap();
}

/// Leaves this thread CAP_NET_ADMIN alone, and no way to another capability by starting a program.
pub fn keep_only_net_admin() {
    let kept = caps::CapsHashSet::from([caps::Capability::CAP_NET_ADMIN]);
    for capability in caps::all().difference(&kept) {
        // Kernels know fewer.
        let _ = caps::drop(None, caps::CapSet::Bounding, *capability);
    }
    caps::clear(None, caps::CapSet::Inheritable).unwrap();
    caps::set(None, caps::CapSet::Effective, &kept).unwrap();
    caps::set(None, caps::CapSet::Permitted, &kept).unwrap();
}

/// Builds a tokio runtime that runs on the calling thread.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a shell command, which must succeed, and returns its standard output.
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
