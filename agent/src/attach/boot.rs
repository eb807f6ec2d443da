//! The run of the kernel: times since its start and numbers of processes mean something in one alone.

use std::{fmt, fs, str::FromStr};

/// The kernel's file with it, proc_sys_kernel(5).
const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Identifies a run of the kernel: a random UUID, as the kernel writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootId(String);

impl BootId {
    /// That of this run; `None` if the kernel does not tell.
    pub(crate) fn of_kernel() -> Option<Self> {
        fs::read_to_string(FILE).ok()?.trim().parse().ok()
    }
}

/// It is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoBootId;

impl FromStr for BootId {
    type Err = NoBootId;

    fn from_str(text: &str) -> Result<Self, NoBootId> {
        let is_uuid = text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if is_uuid { Ok(Self(text.to_ascii_lowercase())) } else { Err(NoBootId) }
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
