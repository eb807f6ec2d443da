//! The programs of the workspace, built beside the tests.

use std::{path::PathBuf, process::Command};

use crate::{LabError, Namespace, Result};

/// The binary under test: `WIRE_AGENT_BIN`, or the one built beside this program.
///
/// # Errors
/// Where there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WIRE_AGENT_BIN") {
        return Ok(path.into());
    }
    program("wire-agent")
}

/// Another program of the workspace, built beside this one.
///
/// # Errors
/// Where there is none.
pub fn program(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(LabError::io("cannot tell which program this is"))?;
    let beside = program.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let found = beside.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| LabError::Machine(format!("there is no {name}: run `cargo build --workspace --bins` first")))
}

/// Runs the agent binary on this machine with some words and gives status, standard output and standard error: for `--help`,
/// wrong flags, and `config`.
///
/// # Errors
/// Where there is no binary.
pub fn run_binary(namespace: Option<&Namespace>, words: &[&str]) -> Result<std::process::Output> {
    let binary = binary()?;
    let mut command = namespace.map_or_else(
        || Command::new(&binary),
        |namespace| {
            let mut command = namespace.command("timeout");
            command.arg("20").arg(&binary);
            command
        },
    );
    command.args(words).output().map_err(LabError::io(format!("cannot run {}", binary.display())))
}
