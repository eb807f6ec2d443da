//! Reads and writes single settings, through /proc/sys of this thread's network namespace.

use std::{fs, io, path::Path};

use wire_net::{Family, LinkName};
use wire_state::{OpError, Setting};

/// Reads a setting; `None` if the kernel does not have it, or its value is not a number.
pub(crate) fn get(setting: Setting) -> Option<u32> {
    fs::read_to_string(setting.path()).ok()?.trim().parse().ok()
}

/// Whether a link that is made now accepts router advertisements while the host does not forward.
pub(crate) fn new_links_listen() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/default/accept_ra").is_ok_and(|value| value.trim() == "1")
}

/// Writes a setting if its value differs.
///
/// # Errors
/// When the file cannot be read or written. The detail says what to do, if that is known.
pub(crate) fn set(setting: Setting, value: u32) -> Result<(), OpError> {
    write(&setting.path(), &value.to_string()).map_err(|error| {
        let remedy = remedy(setting, &error);
        OpError::new(error, remedy)
    })
}

#[allow(clippy::wildcard_enum_match_arm, reason = "most kinds of io::Error are treated alike")]
fn remedy(setting: Setting, error: &io::Error) -> Option<String> {
    let of_ipv6 = match setting {
        Setting::Forwarding(Family::V6)
        | Setting::LinkForwarding(Family::V6, _)
        | Setting::RouterAdvertisements(_)
        | Setting::DisableIpv6(_) => true,
        Setting::Forwarding(Family::V4) | Setting::LinkForwarding(Family::V4, _) => false,
    };
    let remedy = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "/proc/sys cannot be written here: set it on the host, outside of the container"
        }
        io::ErrorKind::NotFound if of_ipv6 => "is IPv6 switched off in this kernel (ipv6.disable=1)?",
        _ => return None,
    };
    Some(remedy.to_owned())
}

/// Keeps a device of ours from accepting a default route from inside the overlay. A failure is only logged: without IPv6 there is no such
/// setting.
pub(crate) fn accept_no_router_advertisements(device: LinkName) {
    if let Err(error) = write(&Setting::RouterAdvertisements(device).path(), "0") {
        tracing::debug!(%device, %error, "router advertisements stay accepted");
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() == value { Ok(()) } else { fs::write(path, value) }
}
