//! A file of ours that grows.

use std::{
    fs, io,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Cuts the file off after `len` bytes, so that a write that ended half is gone, and appends `bytes`.
///
/// # Errors
/// When the file is shorter, a link or no regular file, or cannot be written.
pub(super) fn append(path: &Path, len: u64, bytes: &[u8]) -> io::Result<()> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
    let file = fs::OpenOptions::new().write(true).create(len == 0).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() < len {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not the file that was written"));
    }
    file.set_len(len)?;
    if len == 0 {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    file.write_all_at(bytes, len)
}
