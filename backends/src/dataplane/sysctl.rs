//! The few kernel settings we need, through /proc/sys of this thread's network namespace.

use std::{fs, io, path::PathBuf};

use wire_lease::Family;

use crate::LinkName;

/// Lets this host forward packets of that family (`ip_forward`, ip-sysctl.rst). True where it did not yet.
///
/// # Errors
/// When it is off and cannot be written.
pub fn forward_packets(family: Family) -> io::Result<bool> {
    let name = match family {
        Family::V4 => "ipv4/ip_forward",
        Family::V6 => "ipv6/conf/all/forwarding",
    };
    set(&PathBuf::from("/proc/sys/net").join(name), "1")
}

/// Lets the underlay's link go on to accept router advertisements when forwarding is switched on, which otherwise takes its
/// IPv6 default route away (`accept_ra`, ip-sysctl.rst: 2 accepts them even so). True where that had to be written.
///
/// # Errors
/// When it cannot be written.
pub fn keep_router_advertisements(link: LinkName) -> io::Result<bool> {
    let path = PathBuf::from("/proc/sys/net/ipv6/conf").join(link.as_str()).join("accept_ra");
    // Where nobody wants them, or the kernel has no IPv6, there is nothing to keep.
    if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") { set(&path, "2") } else { Ok(false) }
}

/// Keeps a device of ours from taking a default route out of the overlay. Best effort: without IPv6 there is nothing to keep.
pub fn accept_no_router_advertisements(device: LinkName) {
    let path = PathBuf::from("/proc/sys/net/ipv6/conf").join(device.as_str()).join("accept_ra");
    if let Err(error) = set(&path, "0") {
        tracing::debug!(%device, %error, "router advertisements stay accepted");
    }
}

fn set(path: &std::path::Path, value: &str) -> io::Result<bool> {
    if fs::read_to_string(path)?.trim() == value {
        return Ok(false);
    }
    fs::write(path, value)?;
    Ok(true)
}
