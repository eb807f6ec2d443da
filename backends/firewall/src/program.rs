//! Runs nft and both variants of iptables: their rules are too complex to be written over netlink here.

use std::{
    env, fs,
    io::{self, Write as _},
    process::{Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use wire_net::Family;
use wire_state::{ErrorKind, OpError};

use super::iptables::has_chain;

/// Seconds that iptables waits for others to release its lock.
const WAIT: &str = "5";

/// Limit of one run: a program that hangs must not delay everything after it.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);

/// Environment variables that programs get: where they and their libraries are. The others may hold a password.
const PASSED: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "XTABLES_LIBDIR", "XTABLES_LOCKFILE"];

/// Runs a script of nft, as one transaction.
pub(crate) fn nft(script: &str) -> Result<(), OpError> {
    run("nft", &["-f", "-"], script).map(drop)
}

/// Has nft and the kernel check a script of nft, as one transaction that is then given up.
pub(crate) fn check_nft(script: &str) -> Result<(), OpError> {
    run("nft", &["--check", "-f", "-"], script).map(drop)
}

/// The packet filter of the kernel that a set of iptables programs works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// nftables, by iptables-nft.
    Nft,
    /// ip_tables, the older one, by iptables-legacy.
    Legacy,
}

impl Variant {
    const fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }
}

/// The rules of one family, and the programs to change them.
pub(crate) struct Listing {
    /// The programs to be used.
    pub(crate) programs: Programs,
    /// All tables, as iptables-save writes them.
    pub(crate) text: String,
}

/// The programs of one family and variant.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) variant: Variant,
    /// Their name before `-save` and `-restore`.
    stem: String,
}

impl Programs {
    /// The programs of the other variant.
    pub(crate) fn other(&self, family: Family) -> Self {
        let variant = self.variant.other();
        Self { variant, stem: format!("{}{}", word(family), variant.suffix()) }
    }

    /// Lists all tables.
    pub(crate) fn save(&self) -> Result<String, OpError> {
        run(&format!("{}-save", self.stem), &[], "")
    }

    /// Applies `input`; chains it does not name stay as they are.
    pub(crate) fn restore(&self, input: &str) -> Result<(), OpError> {
        run(&format!("{}-restore", self.stem), &["--noflush", "-w", WAIT], input).map(drop)
    }
}

/// Lists all rules of one family, with the variant of iptables that holds Docker's chains, else with the host's
/// default. `nft_tables` says whether nftables holds a table that iptables-nft may have made. `step` is called before
/// each program.
pub(crate) fn list(family: Family, nft_tables: bool, step: &dyn Fn()) -> Result<Listing, OpError> {
    step();
    let default = default_variant(family)?;
    step();
    let text = save(family, default, true, nft_tables)?;
    let (variant, text) = if has_chain(&text, "DOCKER") {
        (default, text)
    } else {
        step();
        // If the other variant is not installed, Docker does not use it.
        match save(family, default.other(), false, nft_tables) {
            Ok(others) if has_chain(&others, "DOCKER") => (default.other(), others),
            Ok(_) | Err(_) => (default, text),
        }
    };
    let suffix = if variant == default { "" } else { variant.suffix() };
    if variant == Variant::Legacy && !Uid::effective().is_root() {
        let detail = "iptables on this host is iptables-legacy, which only root can use: run wire-agent as root, or \
                      switch the host to iptables-nft (update-alternatives --set iptables /usr/sbin/iptables-nft)";
        return Err(OpError::program(ErrorKind::Permission, detail.to_owned(), io::ErrorKind::PermissionDenied.into()));
    }
    Ok(Listing { programs: Programs { variant, stem: format!("{}{suffix}", word(family)) }, text })
}

fn save(family: Family, variant: Variant, default: bool, nft_tables: bool) -> Result<String, OpError> {
    let holds_any = match variant {
        Variant::Nft => nft_tables,
        Variant::Legacy => has_legacy_tables(family),
    };
    if !holds_any {
        return Ok(String::new());
    }
    let suffix = if default { "" } else { variant.suffix() };
    run(&format!("{}{suffix}-save", word(family)), &[], "")
}

/// True if iptables-legacy was ever used. Running it would create its tables, so it is not asked.
pub(crate) fn has_legacy_tables(family: Family) -> bool {
    legacy_tables(family).is_ok_and(|names| !names.trim().is_empty())
}

/// True if iptables-legacy may have been used, and only root can see that. Its module may be loaded (systemd does so)
/// without being used.
pub(crate) fn hides_legacy_tables(family: Family) -> bool {
    legacy_tables(family).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// True if iptables-legacy was used, or only root can see whether it was.
pub(crate) fn may_have_legacy_tables(family: Family) -> bool {
    match legacy_tables(family) {
        Ok(names) => !names.trim().is_empty(),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The tables of iptables-legacy in this thread's own network namespace. The file exists once the module is loaded.
fn legacy_tables(family: Family) -> io::Result<String> {
    fs::read_to_string(match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    })
}

fn default_variant(family: Family) -> Result<Variant, OpError> {
    let version = run(word(family), &["--version"], "")?;
    // Before 1.8 there was only the legacy variant.
    Ok(if version.contains("nf_tables") { Variant::Nft } else { Variant::Legacy })
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, OpError> {
    run_within(RUN_TIMEOUT, program, arguments, input)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "most kinds of io::Error are treated alike")]
fn run_within(timeout: Duration, program: &str, arguments: &[&str], input: &str) -> Result<String, OpError> {
    let mut command = Command::new(program);
    let passed = PASSED.into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
    command.args(arguments).env_clear().envs(passed).env("LC_ALL", "C");
    let (output, killed) = finish(&mut command, input, timeout).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => OpError::program(ErrorKind::NoProgram, remedy(program), source),
        _ => OpError::program(ErrorKind::Program, format!("cannot run {program}"), source),
    })?;
    if killed {
        let detail = format!("{program} has not ended within {} seconds, and was killed", timeout.as_secs());
        return Err(OpError::program(ErrorKind::Program, detail, io::ErrorKind::TimedOut.into()));
    }
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr = stderr.lines().filter(|line| !line.trim().is_empty()).take(2).collect::<Vec<_>>().join("; ");
    let message: String = stderr.chars().take(300).collect();
    let source = io::Error::other(output.status.to_string());
    Err(OpError::program(ErrorKind::Program, format!("{program}: {message}"), source))
}

/// Runs a command and returns its output, and whether it had to be killed after `timeout`.
fn finish(command: &mut Command, input: &str, timeout: Duration) -> io::Result<(Output, bool)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (ended, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let guard = scope.spawn(move || {
            let late = end.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout);
            if late {
                // It was not waited for yet, so its PID cannot have been reused.
                let _ = kill(pid, Signal::SIGKILL);
            }
            late
        });
        // A failed write is no error: a program that ends without reading its input says on stderr why.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output();
        drop(ended);
        Ok((output?, guard.join().unwrap_or_default()))
    })
}

fn remedy(program: &str) -> String {
    if program == "nft" {
        "nft is not installed: install nftables".to_owned()
    } else {
        format!(
            "{program} is not installed: install iptables, or start with --iptables-forward-rules=false and make sure \
             that the chain FORWARD accepts the overlay"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_is_killed_and_one_that_does_not_listen_is_heard() {
        let run_script = |script| run_within(Duration::from_secs(1), "sh", &["-c", script], &"x".repeat(1 << 20));
        let error = run_script("exec sleep 60").unwrap_err();
        assert!(error.to_string().contains("sh has not ended within 1 seconds"), "{error}");
        let error = run_script("echo no library >&2; exit 127").unwrap_err();
        assert!(error.to_string().contains("no library"), "{error}");
        assert_eq!(run_script("wc -c").unwrap().trim(), "1048576");
    }

    #[test]
    fn a_program_is_told_nothing_of_our_environment_but_where_programs_are() {
        // Cargo sets this variable for tests, as systemd may set one with a password for the agent.
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some());
        let environment = run("env", &[], "").unwrap();
        let names: Vec<&str> =
            environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(names.contains(&"PATH") && names.contains(&"LC_ALL"), "{names:?}");
        assert!(names.iter().all(|name| *name == "LC_ALL" || PASSED.contains(name)), "{names:?}");
    }

    #[test]
    fn a_missing_program_is_named_with_what_to_do() {
        let error = run("iptables-of-nowhere", &[], "").unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoProgram);
        insta::assert_snapshot!(error, @"a program is missing: iptables-of-nowhere is not installed: install \
                                         iptables, or start with --iptables-forward-rules=false and make sure that \
                                         the chain FORWARD accepts the overlay");
    }
}
