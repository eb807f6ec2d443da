//! A host as it was before a fault.

use std::{fs, path::PathBuf};

use wire_tests::{Family, Host, LabError, Leg, Result};

use crate::cluster::device;

/// All entries of a host, as scripts that put back whatever is missing.
pub(crate) struct Saved {
    links: PathBuf,
    fdb: PathBuf,
    filter: PathBuf,
}

impl Saved {
    /// Saves a host. Its neighbours on the underlay and in its container become permanent, so that nobody is asked for them.
    pub(crate) fn of(host: &Host, other: &Host, leg: &Leg) -> Result<Self> {
        let mut lines = vec!["link set eth0 up".to_owned(), "link set leg0 up".to_owned()];
        let (mut routes, mut fdb) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let device = device(family);
            let link = host.kernel().link(device)?.ok_or_else(|| LabError::Wrong(format!("no {device}")))?;
            lines.push(format!("link set {device} address {} up", link.address));
            for link in ["eth0", "leg0", device] {
                let addresses = host.kernel().addresses(link)?;
                let kept =
                    addresses.iter().filter(|address| Family::of(address.local) == family && address.scope == "global");
                for address in kept {
                    let nodad = if family == Family::V6 { " nodad" } else { "" };
                    lines.push(format!("address replace {}/{} dev {link}{nodad}", address.local, address.len));
                }
            }
            routes.extend(routes_of(host, family)?);
            let flag = if family == Family::V6 { "-6" } else { "-4" };
            let neighbours = host.namespace().ip(&format!("{flag} neigh show dev {device} nud permanent"))?;
            let words = neighbours.lines().filter_map(|line| line.split_once(" lladdr "));
            for (address, rest) in words {
                let mac = rest.split_whitespace().next().unwrap_or_default();
                routes.push(format!("neigh replace {address} lladdr {mac} dev {device} nud permanent"));
            }
            let uplink = other.kernel().link("eth0")?.ok_or_else(|| LabError::Wrong("no eth0".to_owned()))?;
            let public = other.on_underlay(family);
            routes.push(format!("neigh replace {public} lladdr {} dev eth0 nud permanent", uplink.address));
            let inside = leg.kernel().link("eth0")?.ok_or_else(|| LabError::Wrong("no eth0".to_owned()))?;
            let container = leg.address(family)?;
            routes.push(format!("neigh replace {container} lladdr {} dev leg0 nud permanent", inside.address));
            let entries = host.namespace().bridge(&format!("fdb show dev {device}"))?;
            fdb.extend(entries.lines().filter_map(|line| fdb_line(line, device)));
            let outside = host.kernel().link("leg0")?.ok_or_else(|| LabError::Wrong("no leg0".to_owned()))?;
            let gateway = gateway_of(leg, family)?;
            leg.namespace()
                .ip(&format!("neigh replace {gateway} lladdr {} dev eth0 nud permanent", outside.address))?;
        }
        lines.extend(routes);
        let write = |name: &str, text: String| {
            let path = host.dir().join(name);
            fs::write(&path, text).map_err(LabError::io("cannot save a host")).map(|()| path)
        };
        let filter = host.exec("nft list table inet wire-agent")?;
        Ok(Self {
            links: write("links", lines.join("\n") + "\n")?,
            fdb: write("fdb", fdb.join("\n") + "\n")?,
            filter: write("filter", format!("table inet wire-agent\ndelete table inet wire-agent\n{filter}"))?,
        })
    }

    /// Puts back whatever is missing.
    pub(crate) fn restore(&self, host: &Host, with_filter: bool) -> Result {
        let filter = if with_filter { format!("nft -f {}\n", self.filter.display()) } else { String::new() };
        let script = format!("{filter}ip -batch {}\nbridge -batch {}", self.links.display(), self.fdb.display());
        host.namespace().sh(&script).map(drop)
    }
}

/// The routes of the main table that the kernel does not put there itself, and those of the containers' link.
fn routes_of(host: &Host, family: Family) -> Result<Vec<String>> {
    let flag = if family == Family::V6 { "-6" } else { "-4" };
    let listed = host.namespace().ip(&format!("{flag} -N route show table main"))?;
    let is_kept = |line: &&str| !line.starts_with("fe80:") && !line.starts_with("ff00:");
    let drop_flags = |line: &str| line.replace(" linkdown", "").replace(" pref medium", "").trim().to_owned();
    Ok(listed
        .lines()
        .filter(is_kept)
        .map(|line| format!("{flag} route replace {}", drop_flags(line)))
        .map(|line| line.replace("-4 ", "").replace("-6 ", ""))
        .collect())
}

fn fdb_line(line: &str, device: &str) -> Option<String> {
    let mac = line.split_whitespace().next()?;
    let host = line.split(" dst ").nth(1)?.split_whitespace().next()?;
    Some(format!("fdb replace {mac} dev {device} dst {host} self permanent"))
}

fn gateway_of(leg: &Leg, family: Family) -> Result<String> {
    let flag = if family == Family::V6 { "-6" } else { "-4" };
    let routes = leg.namespace().ip(&format!("{flag} route show default"))?;
    let gateway = routes.split_whitespace().skip_while(|word| *word != "via").nth(1);
    gateway.map(str::to_owned).ok_or_else(|| LabError::Wrong(routes))
}
