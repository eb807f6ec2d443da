//! Letting the overlay's packets through a FORWARD chain that drops by default, as Docker makes it.
//!
//! In a chain of our own, `WIRE-FORWARD` of the table `filter`, that FORWARD jumps to. Nobody else's rules are touched.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use wire_lease::{Family, Prefix};

/// Accepts forwarding from and to the overlay's networks.
#[derive(Clone, Debug)]
pub struct ForwardAccept {
    networks: Vec<Prefix>,
}

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// No such program.
    #[error(
        "{program} is not installed: install iptables, or start with --iptables-forward-rules=false and see that \
         {network} is let through the FORWARD chain"
    )]
    Missing {
        /// The program.
        program: &'static str,
        /// The network it was wanted for.
        network: Prefix,
    },
    /// The program could not be run.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: &'static str,
        /// What it said.
        message: String,
    },
}

/// Our chain.
const CHAIN: &str = "WIRE-FORWARD";
/// What our rules are marked with.
const COMMENT: &str = "wire-agent forward";

impl ForwardAccept {
    /// For the networks of the overlay, one of each family at most.
    #[must_use]
    pub const fn new(networks: Vec<Prefix>) -> Self {
        Self { networks }
    }

    /// Puts the rules where they are missing. True where something was missing. Blocks while iptables runs (some
    /// milliseconds, and up to five seconds for its lock).
    ///
    /// # Errors
    /// When iptables is not there or refuses.
    pub fn ensure(&self) -> Result<bool, FirewallError> {
        let mut changed = false;
        for network in &self.networks {
            changed |= Tables::of(network.family()).ensure(*network)?;
        }
        Ok(changed)
    }
}

/// The programs of one family.
struct Tables {
    list: &'static str,
    restore: &'static str,
}

impl Tables {
    const fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self { list: "iptables", restore: "iptables-restore" },
            Family::V6 => Self { list: "ip6tables", restore: "ip6tables-restore" },
        }
    }

    fn ensure(&self, network: Prefix) -> Result<bool, FirewallError> {
        let listing = self.run(self.list, &["-w", "5", "-t", "filter", "-S"], "", network)?;
        let Some(input) = missing(&listing, network) else { return Ok(false) };
        self.run(self.restore, &["--noflush", "-w", "5"], &input, network)?;
        Ok(true)
    }

    fn run(
        &self,
        program: &'static str,
        arguments: &[&str],
        input: &str,
        network: Prefix,
    ) -> Result<String, FirewallError> {
        let run = || -> io::Result<Output> {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()))?;
            child.wait_with_output()
        };
        let output = run().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FirewallError::Missing { program, network },
            _ => FirewallError::Run { program, source },
        })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect();
            return Err(FirewallError::Failed { program, message });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What to restore so that a table with that listing has our rules; `None` where it has them.
fn missing(listing: &str, network: Prefix) -> Option<String> {
    let ours = |line: &&str| line.starts_with(&format!("-A {CHAIN} "));
    let wanted = rules(network);
    let jump = format!("-A FORWARD -m comment --comment \"{COMMENT}\" -j {CHAIN}");
    let has_jump = listing.lines().any(|line| line == jump);
    let has_rules = listing.lines().filter(ours).eq(wanted.iter().map(String::as_str));
    if has_jump && has_rules {
        return None;
    }
    // Naming a chain makes it, or empties it where it is there: all of this is one transaction.
    let mut input = format!("*filter\n:{CHAIN} - [0:0]\n");
    for rule in &wanted {
        input.extend([rule, "\n"]);
    }
    if !has_jump {
        // In front: rules behind may drop.
        input.extend([jump.replacen("-A FORWARD", "-I FORWARD 1", 1).as_str(), "\n"]);
    }
    input.push_str("COMMIT\n");
    Some(input)
}

/// Our rules, as iptables lists them.
fn rules(network: Prefix) -> Vec<String> {
    let rule = |side| format!("-A {CHAIN} {side} {network} -m comment --comment \"{COMMENT}\" -j ACCEPT");
    vec![rule("-s"), rule("-d")]
}

#[cfg(test)]
mod tests;
