//! Other agents in this network namespace: each would undo the other's firewall. They are known by sockets with abstract names, which
//! are the namespace's own (unix(7)), and which nobody has to remove.

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::LazyLock,
};

/// What the names begin with, behind the zero that makes them abstract.
const PREFIX: &str = "wire-agent/firewall/";

/// The process's own, however often it joins anew. Without one the others still see our rules, and we see them.
static OWN: LazyLock<Option<(String, UnixDatagram)>> = LazyLock::new(|| announced().ok());

fn announced() -> io::Result<(String, UnixDatagram)> {
    let name = format!("{PREFIX}{:016x}", rand::random::<u64>());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    Ok((name, socket))
}

/// Says to others that this one is there.
pub(crate) fn announce() {
    LazyLock::force(&OWN);
}

/// Whether there are others.
pub(crate) fn are_there() -> bool {
    let own = OWN.as_ref().map(|(name, _)| name.as_str());
    // Others may have called theirs by any bytes.
    let sockets = fs::read("/proc/self/net/unix").unwrap_or_default();
    let sockets = String::from_utf8_lossy(&sockets);
    let mut names = sockets.lines().filter_map(|line| line.split_once(" @").map(|(_, name)| name));
    names.any(|name| name.starts_with(PREFIX) && Some(name) != own)
}
