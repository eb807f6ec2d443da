//! The memory allocator: settings for a process whose memory is bounded by the size of its tables, and not by what a start needs for a moment.
#![expect(unsafe_code, reason = "mallopt has no safe form")]

/// Makes the allocator of glibc give back what large tables no longer need. It has two arenas instead of eight a processor, since memory that
/// one thread frees is used again only in its own arena; and its limit for allocations that go back to the kernel at once stays at 128 KiB,
/// where it would grow with each large one that is freed (mallopt(3)). Another allocator is left as it is.
pub(crate) fn keep_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, mallopt};
        for (setting, value) in [(M_ARENA_MAX, 2), (M_MMAP_THRESHOLD, 128 << 10)] {
            // SAFETY: mallopt changes settings of the allocator under its own lock. A setting that it refuses stays as it was.
            unsafe { mallopt(setting, value) };
        }
    }
}
