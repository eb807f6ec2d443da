//! The condition that two networks of this host want one key with different values.

use wire_state::Clash;

use crate::observed::Board;

/// The subjects of the condition, by resource.
pub(crate) const IN_KERNEL: &str = "clash in the kernel";
pub(crate) const IN_FIREWALL: &str = "clash in the firewall";
pub(crate) const IN_FILES: &str = "clash of files";

/// Reports the clashes of one resource.
pub(crate) fn report(board: &Board, subject: &'static str, clashes: &[Clash]) {
    let all: Vec<String> = clashes.iter().map(ToString::to_string).collect();
    board.alarm(subject, (!all.is_empty()).then(|| all.join("; ")));
}
