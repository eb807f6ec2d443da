//! Reads and writes single settings, through /proc/sys/net: the kernel shows a thread that of its own network namespace, or the folders
//! that were opened in another.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use wire_net::{Family, LinkName};
use wire_state::{OpError, Setting};

/// Where the settings of a network namespace are.
#[derive(Debug)]
pub(crate) enum Settings {
    /// Those of the calling thread's namespace.
    Own,
    /// Those of the namespace in which these folders, `/proc/sys/net/ipv4` and `ipv6`, were opened. (Not `/proc/sys/net`: what is in it
    /// depends on who looks.) Without a folder there are no settings of that family.
    Opened { v4: OwnedFd, v6: Option<OwnedFd> },
}

/// Reads a setting of the calling thread's namespace; `None` if the kernel does not have it, or its value is not a number.
pub(crate) fn get(setting: Setting) -> Option<u32> {
    Settings::Own.get(setting)
}

/// True if a link that is made now in the calling thread's namespace accepts router advertisements while that does not forward.
pub(crate) fn new_links_listen() -> bool {
    Settings::Own.new_links_listen()
}

impl Settings {
    pub(crate) fn get(&self, setting: Setting) -> Option<u32> {
        fs::read_to_string(self.place(&setting.path())?).ok()?.trim().parse().ok()
    }

    pub(crate) fn new_links_listen(&self) -> bool {
        let path = self.place(Path::new("/proc/sys/net/ipv6/conf/default/accept_ra"));
        path.and_then(|path| fs::read_to_string(path).ok()).is_some_and(|value| value.trim() == "1")
    }

    /// Writes a setting if its value differs.
    ///
    /// # Errors
    /// When the file cannot be read or written. The detail says what to do, if that is known.
    pub(crate) fn set(&self, setting: Setting, value: u32) -> Result<(), OpError> {
        self.write(&setting.path(), &value.to_string()).map_err(|error| {
            let remedy = remedy(setting, &error);
            OpError::new(error, remedy)
        })
    }

    /// Keeps a device of ours from accepting a default route from inside the overlay. A failure is only logged: without IPv6 there is no
    /// such setting.
    pub(crate) fn accept_no_router_advertisements(&self, device: LinkName) {
        if let Err(error) = self.write(&Setting::RouterAdvertisements(device).path(), "0") {
            tracing::debug!(%device, %error, "router advertisements stay accepted");
        }
    }

    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        let path = self.place(path).ok_or(io::ErrorKind::NotFound)?;
        if fs::read_to_string(&path)?.trim() == value { Ok(()) } else { fs::write(path, value) }
    }

    /// The path by which a file is found that the namespace's own threads find by `path`.
    fn place(&self, path: &Path) -> Option<PathBuf> {
        let Self::Opened { v4, v6 } = self else { return Some(path.to_owned()) };
        below(v4, "ipv4", path).or_else(|| below(v6.as_ref()?, "ipv6", path))
    }
}

/// The path of a setting of `/proc/sys/net/NAME` in an open folder.
fn below(folder: &OwnedFd, name: &str, path: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(Path::new("/proc/sys/net").join(name)).ok()?;
    Some(Path::new("/proc/thread-self/fd").join(folder.as_raw_fd().to_string()).join(rest))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "most kinds of io::Error are treated alike")]
fn remedy(setting: Setting, error: &io::Error) -> Option<String> {
    let remedy = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "/proc/sys cannot be written here: set it on the host, outside of the container"
        }
        io::ErrorKind::NotFound if setting.family() == Family::V6 => {
            "is IPv6 switched off in this kernel (ipv6.disable=1)?"
        }
        _ => return None,
    };
    Some(remedy.to_owned())
}
