//! Listeners to all that a program may change on a host: the kernel's network, its packet filter, and files.

use std::{cell::Cell, collections::BTreeSet, path::PathBuf, process::Command, time::Duration};

use wire_tests::{Host, Process, Result, check, eventually, output};

use crate::cluster::START;

/// The listeners of a host. They are asked after a change of the test's own, the mark: once they have heard that, nothing is on its way.
pub(crate) struct Listeners<'a> {
    host: &'a Host,
    /// `ip monitor`: links, addresses, routes, rules, neighbours, FDB entries, and the sysctls that it calls netconf.
    network: Process,
    /// `nft monitor`: our table and the chains of iptables.
    rules: Process,
    folders: Vec<PathBuf>,
    marks: Cell<u8>,
}

impl<'a> Listeners<'a> {
    /// Begins to listen on a host, and to these folders.
    pub(crate) fn start(host: &'a Host, folders: Vec<PathBuf>) -> Result<Self> {
        let network = host.start("ip", &["monitor".to_owned(), "all".to_owned()], "ip-monitor")?;
        let rules = host.start("nft", &["monitor".to_owned()], "nft-monitor")?;
        let listeners = Self { host, network, rules, folders, marks: Cell::new(0) };
        // The first marks may come before they listen.
        eventually(START, || listeners.mark(Duration::from_millis(200)))?;
        Ok(listeners)
    }

    /// All that changes during some work, a line each. What the kernel does by itself is no change.
    pub(crate) fn during(&self, work: impl FnOnce() -> Result) -> Result<Vec<String>> {
        // Duplicate address detection ends a second after an address was made.
        eventually(START, || {
            let tentative = self.host.namespace().ip("-6 address show tentative")?;
            check(tentative.is_empty(), || tentative)
        })?;
        self.mark(START)?;
        let logs = || [self.network.log(), self.rules.log()];
        let (before, files) = (logs(), self.files()?);
        work()?;
        let files_after = self.files()?;
        self.mark(START)?;
        let after = logs();
        // A line that was half written is heard again as a whole.
        let heard = after.iter().zip(&before).flat_map(|(after, before)| after[whole_lines(before)..].lines());
        let changes = heard.filter(|line| !is_mark(line) && !is_learned(line)).map(str::to_owned);
        Ok(changes.chain(files.symmetric_difference(&files_after).cloned()).collect())
    }

    /// Makes a change, and waits until both have heard it.
    fn mark(&self, limit: Duration) -> Result {
        let number = self.marks.replace(self.marks.get() + 1);
        let (route, table) = (format!("blackhole 198.51.100.{number} table 99"), format!("table ip mark-{number}-"));
        self.host.namespace().ip(&format!("route add {route}"))?;
        self.host.exec(&format!("nft add {table}"))?;
        eventually(limit, || {
            check(self.network.log().contains(&route), || format!("not heard: {route}"))?;
            check(self.rules.log().contains(&table), || format!("not heard: {table}"))
        })
        .map(drop)
    }

    /// Each file and folder with its inode, mode, size and times: a file that came and went has changed its folder's.
    fn files(&self) -> Result<BTreeSet<String>> {
        let mut command = Command::new("find");
        command.args(&self.folders).args(["-printf", "%p %y %i %m %s %T@ %C@\n"]);
        Ok(output(&mut command)?.lines().map(str::to_owned).collect())
    }
}

/// The length of a text without the line that has no end yet.
fn whole_lines(text: &str) -> usize {
    text.rfind('\n').map_or(0, |end| end + 1)
}

/// Whether a line tells of a mark, or of the number that nft gives to each change that it tells of.
fn is_mark(line: &str) -> bool {
    line.contains("blackhole 198.51.100.") || line.contains("table ip mark-") || line.starts_with("# new generation")
}

/// Whether a line tells what the kernel has found out about a neighbour on the underlay, or made of a multicast group.
fn is_learned(line: &str) -> bool {
    let states = ["REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "INCOMPLETE"];
    line.contains("NOARP") || line.contains("dev eth0") && states.iter().any(|state| line.contains(state))
}
