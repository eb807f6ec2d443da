//! The record of a scene: all that an agent has brought about on its hosts and in etcd, as text.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use wire_tests::{Host, LabError, Result, Stored, check, eventually};

use crate::{
    stage::{SOON, Site, Stage, shown},
    words::Words,
};

/// What begins the line above each part of a record.
pub(crate) const HEADING: &str = "== ";

/// What stands under a heading, in a record and in what is read.
pub(crate) fn part_of<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let heading = format!("{HEADING}{heading}\n");
    let rest = match text.strip_prefix(&heading) {
        Some(rest) => rest,
        None => text.split_once(&format!("\n{heading}"))?.1,
    };
    let end = format!("\n{HEADING}");
    // An empty part ends where it begins.
    if rest.starts_with(HEADING) { Some("") } else { Some(rest.split_once(&end).map_or(rest, |(part, _)| part)) }
}

/// How often a stage is read, and how often in a row it must be the same.
const AGAIN: Duration = Duration::from_millis(400);
const SAME: u32 = 3;

/// What is read on each host: its heading, the script, and whether its lines have no order of their own. Numbers of links, handles
/// and counters are not asked for. Neighbours that the kernel resolves come and go, so those that are written alone count.
const ON_HOST: [(&str, &str, bool); 13] = [
    ("links", r"ip -d link | sed -E 's/^[0-9]+: //'", false),
    ("addresses", r"ip -o address | sed -E 's/^[0-9]+: //'", false),
    (
        "sysctls",
        "cd /proc/sys/net; grep -rs . ipv4/ip_forward ipv4/conf ipv6/conf | grep -vE '/veth|stable_secret'",
        true,
    ),
    ("rules", "ip -4 rule; ip -6 rule", false),
    ("routes", "ip -4 route show table all", true),
    ("routes of IPv6", "ip -6 route show table all", true),
    ("nexthops", "ip nexthop", true),
    (
        "neighbours",
        "ip -4 neighbour show nud permanent; ip -6 neighbour show nud permanent; ip neighbour show proxy",
        true,
    ),
    ("fdb", "bridge fdb show | grep -w permanent || true", true),
    ("nftables", "nft -s list ruleset", false),
    ("iptables", "iptables-save | grep -v '^#' | sed 's/ \\[[0-9:]*\\]$//'", false),
    ("ip6tables", "ip6tables-save | grep -v '^#' | sed 's/ \\[[0-9:]*\\]$//'", false),
    // Ports from 32768 on are those that the kernel gives.
    ("udp sockets", "ss -lnuH | awk '{print $4}' | sed -E 's/:(3[3-9]|32[7-9]|[4-6][0-9])[0-9]*$/:PORT/'", true),
];

/// Reads the stage until it does not change any more.
///
/// # Errors
/// Where something on it cannot be read, or changes for ever.
pub(crate) fn settled(stage: &Stage) -> Result<String> {
    for site in &stage.sites {
        eventually(SOON, || kept(site))?;
    }
    let start = Instant::now();
    let (mut last, mut same) = (read(stage)?, 1);
    while same < SAME {
        thread::sleep(AGAIN);
        let now = read(stage)?;
        // The kernel asks for a second or two whether an address of its own is nobody else's (RFC 4862 §5.4).
        let asking = now.contains(" tentative ");
        same = if now == last && !asking { same + 1 } else { 1 };
        check(same > 1 || start.elapsed() < SOON * 2, || {
            let changed = now.lines().filter(|line| !last.lines().any(|former| former == *line));
            format!("it changes for ever:\n{}", changed.collect::<Vec<_>>().join("\n"))
        })?;
        last = now;
    }
    Ok(last)
}

/// Checks that the disk has what the agent knows of its peers: it is written some seconds after a change.
fn kept(site: &Site) -> Result {
    // Where none runs, nothing is written any more; one that waits knows nothing.
    let Ok(status) = site.agent.status() else { return Ok(()) };
    if status.phase == "waiting" {
        return Ok(());
    }
    let kept = kept_keys(&site.agent.state_dir())?;
    let peers = site.agent.peers()?.peers;
    let subnet = |subnet: &Option<String>| subnet.as_deref().unwrap_or_default().replace('/', "-");
    let is_kept = |key: &String, v4: &str, v6: &str| key.contains(v4) && key.contains(v6);
    let has_all = peers.iter().all(|peer| {
        let (v4, v6) = (subnet(&peer.subnet), subnet(&peer.subnet_v6));
        kept.iter().any(|key| is_kept(key, &v4, &v6))
    });
    check(has_all && kept.len() == peers.len(), || format!("{peers:?} are not kept: {kept:?}"))
}

/// The keys of the leases on the disk: those in the base, and then the changes in the journal, which older agents do not have.
fn kept_keys(folder: &Path) -> Result<BTreeSet<String>> {
    let file = folder.join("network.json");
    let base = fs::read_to_string(&file).map_err(LabError::io(format!("cannot read {}", file.display())))?;
    let journal = fs::read_to_string(folder.join("network.journal")).unwrap_or_default();
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let key = |lease: &Value| lease["key"].as_str().unwrap_or_default().to_owned();
    let mut keys: BTreeSet<String> = list(&json(&base), "leases").iter().map(key).collect();
    for line in journal.lines() {
        let changes = json(line.split_once(' ').unwrap_or_default().1);
        keys.retain(|key| !list(&changes, "removed").contains(&Value::from(key.as_str())));
        keys.extend(list(&changes, "put").iter().map(key));
    }
    Ok(keys)
}

/// One reading.
fn read(stage: &Stage) -> Result<String> {
    let run = stage.lab.run();
    let mut record = Record {
        text: String::new(),
        words: Words::new(vec![(run.dir().display().to_string(), "DIR"), (format!("wirelab-{}", run.id()), "RUN")]),
    };
    record.part("ends and commands", &stage.said.concat(), false);
    for site in &stage.sites {
        record.host(&site.host)?;
        record.agent(site, stage)?;
    }
    let keys = if stage.etcd_runs { stage.etcd.list("/")?.iter().map(key).collect() } else { "away\n".to_owned() };
    record.part("etcd", &keys, false);
    Ok(record.text)
}

struct Record {
    text: String,
    words: Words,
}

impl Record {
    fn part(&mut self, heading: &str, text: &str, unordered: bool) {
        let text = self.words.replace(text);
        let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        if unordered {
            lines.sort_unstable();
        }
        self.text.push_str(&format!("{HEADING}{heading}\n"));
        for line in lines {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    fn host(&mut self, host: &Host) -> Result {
        // One shell for all: programs that are started are most of what a reading costs.
        let scripts = ON_HOST.map(|(heading, script, _)| format!("echo '{HEADING}{heading}'\n{script}"));
        let text = host.namespace().sh(&scripts.join("\n"))?;
        for (heading, _, unordered) in ON_HOST {
            let text = part_of(&text, heading).unwrap_or_default();
            self.part(&format!("{} {heading}", host.name()), text, unordered);
        }
        Ok(())
    }

    fn agent(&mut self, site: &Site, stage: &Stage) -> Result {
        let name = site.host.name().to_owned();
        let endpoints = format!("--etcd-endpoints={}", stage.etcd.endpoints());
        let mut commands = vec![vec!["status", "--json"], vec!["peers", "--json"]];
        if stage.etcd_runs {
            commands.push(vec!["config", "get", "--json", &endpoints]);
        }
        for words in commands {
            let output = site.agent.ask(&words)?;
            self.part(&format!("{name} {}", words[..words.len().min(3)].join(" ")), &shown("exit", &output), false);
        }
        let mut files = String::new();
        list(site.agent.dir(), &mut files)?;
        self.part(&format!("{name} files"), &files, false);
        Ok(())
    }
}

/// A key of etcd, its value, and whether it ends with a lease.
fn key(stored: &Stored) -> String {
    let lease = if stored.lease == 0 { "no lease".to_owned() } else { format!("lease {}", stored.lease) };
    format!("{} ({lease})\n    {}\n", stored.key(), cut(&stored.value()))
}

/// The beginning of a long text.
fn cut(text: &str) -> String {
    const LONG: usize = 4096;
    let beginning: String = text.chars().take(LONG).collect();
    if text.len() > LONG { format!("{beginning}… ({} bytes)", text.len()) } else { beginning }
}

/// What lies in a folder, by name: kind, mode and contents. The log and what the lab itself puts there do not count.
fn list(dir: &Path, files: &mut String) -> Result {
    let what = || LabError::io(format!("cannot read {}", dir.display()));
    let entries = fs::read_dir(dir).map_err(what())?.collect::<std::io::Result<Vec<_>>>().map_err(what())?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| !["log", "notify"].iter().any(|name| path.ends_with(name))) {
        let meta = fs::symlink_metadata(path).map_err(what())?;
        let kind = match meta.file_type() {
            kind if kind.is_dir() => "folder",
            kind if kind.is_file() => "file",
            kind if kind.is_socket() => "socket",
            _ => "other",
        };
        files.push_str(&format!("{} {kind} {:o}\n", path.display(), meta.permissions().mode() & 0o7777));
        if kind == "folder" {
            list(path, files)?;
        } else if kind == "file" {
            let text = String::from_utf8_lossy(&fs::read(path).map_err(what())?).into_owned();
            text.lines().for_each(|line| files.push_str(&format!("    {line}\n")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_at_the_next_heading_and_not_at_what_looks_like_one() {
        let text = "== a\n== b\nmark == 1\nx\n== c\nlast\n";
        assert_eq!(part_of(text, "a"), Some(""));
        assert_eq!(part_of(text, "b"), Some("mark == 1\nx"));
        assert_eq!(part_of(text, "c"), Some("last\n"));
        assert_eq!(part_of(text, "d"), None);
    }
}
