//! Finds the processes that use a UDP port of this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The message to an operator for a port that another program uses. Names the processes if it can: without the right to see their open
/// files (ptrace(2)), they stay unknown.
#[must_use]
pub fn describe_holder(port: u16) -> String {
    let sockets = ["udp", "udp6"].map(|table| fs::read_to_string(Path::new("/proc/thread-self/net").join(table)));
    let inodes: BTreeSet<u64> = sockets.iter().flatten().flat_map(|table| inodes(table, port)).collect();
    let holders: Vec<String> =
        processes(&inodes).into_iter().map(|(pid, name)| format!("{name} (process {pid})")).collect();
    let (who, remedy) = match holders.is_empty() {
        true => (String::new(), "see ss -ulnp"),
        false => (format!(": {}", holders.join(", ")), "end it"),
    };
    format!("something else holds UDP port {port}{who}; {remedy}, or set another Backend.Port in the network config")
}

/// The inodes of the sockets on a port, from a table of /proc/net (proc_net_udp of the kernel's documentation). Inode 0 is a socket of the
/// kernel.
fn inodes(table: &str, port: u16) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let (_, local) = fields.nth(1)?.rsplit_once(':')?;
        (u16::from_str_radix(local, 16) == Ok(port)).then(|| fields.nth(7)?.parse().ok()).flatten()
    })
}

/// The processes that have one of these sockets, with their names.
fn processes(inodes: &BTreeSet<u64>) -> BTreeMap<u32, String> {
    let sockets: BTreeSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut found = BTreeMap::new();
    if sockets.is_empty() {
        return found;
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A child process has copies of our sockets until execve(2).
        if parent(&process.path()) == Some(std::process::id()) {
            continue;
        }
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let mut targets = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        if targets.any(|target| target.to_str().is_some_and(|target| sockets.contains(target))) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.insert(pid, name.trim().to_owned());
        }
    }
    // If another process has the port, our own sockets on it, of the other family or for other addresses, are not the reason.
    if found.len() > 1 {
        found.remove(&std::process::id());
    }
    found
}

/// The parent of a process: the second field after the name, which may contain any character (proc_pid_stat(5)).
fn parent(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_process_that_holds_a_port_is_named_with_what_to_do() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(address) else { continue };
            let port = socket.local_addr().unwrap().port();
            let said = describe_holder(port);
            let start = format!("something else holds UDP port {port}: wire_kernel");
            assert!(said.starts_with(&start), "{said}");
            assert!(said.contains(&format!("(process {})", std::process::id())), "{said}");
            assert!(said.ends_with("end it, or set another Backend.Port in the network config"), "{said}");
        }
    }

    #[test]
    fn a_port_is_found_in_the_kernels_table_and_no_other() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     \x20 123: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0\n\
                     \x20 124: 0100007F:0035 00000000:2118 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0\n";
        assert_eq!(inodes(table, 8472).collect::<Vec<_>>(), [4711]);
        assert_eq!(inodes(table, 53).collect::<Vec<_>>(), [4712]);
    }
}
