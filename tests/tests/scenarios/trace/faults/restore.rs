//! A host as it was before a fault.

use std::{fs, path::PathBuf};

use wire_tests::{Family, Host, Kernel, LabError, Leg, Result};

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
        let mut links = vec!["link set eth0 up".to_owned(), "link set leg0 up".to_owned()];
        let (mut entries, mut fdb) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let device = device(family);
            links.push(format!("link set {device} address {} up", mac(host.kernel(), device)?));
            for link in ["eth0", "leg0", device] {
                links.extend(addresses_of(host, link, family)?);
            }
            entries.extend(routes_of(host, family)?);
            entries.extend(neighbours_of(host, device, family)?);
            entries.push(permanent(other.on_underlay(family), &mac(other.kernel(), "eth0")?, "eth0"));
            entries.push(permanent(leg.address(family)?, &mac(leg.kernel(), "eth0")?, "leg0"));
            let listed = host.namespace().bridge(&format!("fdb show dev {device}"))?;
            fdb.extend(listed.lines().filter_map(|line| fdb_line(line, device)));
            leg.namespace().ip(&permanent(gateway_of(leg, family)?, &mac(host.kernel(), "leg0")?, "eth0"))?;
        }
        links.extend(entries);
        let filter = host.exec("nft list table inet wire-agent")?;
        Ok(Self {
            links: written(host, "links", &(links.join("\n") + "\n"))?,
            fdb: written(host, "fdb", &(fdb.join("\n") + "\n"))?,
            filter: written(host, "filter", &format!("table inet wire-agent\ndelete table inet wire-agent\n{filter}"))?,
        })
    }

    /// Puts back whatever is missing.
    pub(crate) fn restore(&self, host: &Host, with_filter: bool) -> Result {
        let filter = if with_filter { format!("nft -f {}\n", self.filter.display()) } else { String::new() };
        let script = format!("{filter}ip -batch {}\nbridge -batch {}", self.links.display(), self.fdb.display());
        host.namespace().sh(&script).map(drop)
    }
}

fn written(host: &Host, name: &str, text: &str) -> Result<PathBuf> {
    let path = host.dir().join(name);
    fs::write(&path, text).map_err(LabError::io("cannot save a host"))?;
    Ok(path)
}

fn mac(kernel: Kernel<'_>, link: &str) -> Result<String> {
    let found = kernel.link(link)?.ok_or_else(|| LabError::Wrong(format!("no {link}")))?;
    Ok(found.address)
}

fn permanent(address: impl std::fmt::Display, mac: &str, link: &str) -> String {
    format!("neigh replace {address} lladdr {mac} dev {link} nud permanent")
}

fn addresses_of(host: &Host, link: &str, family: Family) -> Result<Vec<String>> {
    let nodad = if family == Family::V6 { " nodad" } else { "" };
    let addresses = host.kernel().addresses(link)?;
    let kept = addresses.iter().filter(|address| Family::of(address.local) == family && address.scope == "global");
    Ok(kept.map(|address| format!("address replace {}/{} dev {link}{nodad}", address.local, address.len)).collect())
}

const fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// The routes of the main table, without those of link-local addresses.
fn routes_of(host: &Host, family: Family) -> Result<Vec<String>> {
    let listed = host.namespace().ip(&format!("{} -N route show table main", flag(family)))?;
    let kept = listed.lines().filter(|line| !line.starts_with("fe80:") && !line.starts_with("ff00:"));
    Ok(kept.map(|line| format!("route replace {}", line.replace(" pref medium", "").trim())).collect())
}

fn neighbours_of(host: &Host, device: &str, family: Family) -> Result<Vec<String>> {
    let listed = host.namespace().ip(&format!("{} neigh show dev {device} nud permanent", flag(family)))?;
    let pairs = listed.lines().filter_map(|line| line.split_once(" lladdr "));
    let macs = pairs.map(|(address, rest)| (address, rest.split_whitespace().next().unwrap_or_default()));
    Ok(macs.map(|(address, mac)| permanent(address, mac, device)).collect())
}

fn fdb_line(line: &str, device: &str) -> Option<String> {
    let mac = line.split_whitespace().next()?;
    let host = line.split(" dst ").nth(1)?.split_whitespace().next()?;
    Some(format!("fdb replace {mac} dev {device} dst {host} self permanent"))
}

fn gateway_of(leg: &Leg, family: Family) -> Result<String> {
    let routes = leg.namespace().ip(&format!("{} route show default", flag(family)))?;
    let gateway = routes.split_whitespace().skip_while(|word| *word != "via").nth(1).map(str::to_owned);
    gateway.ok_or(LabError::Wrong(routes))
}
