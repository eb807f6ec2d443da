//! Macvlan devices, `macvlan` of ip-link(8).

use std::fmt;

/// A link on another link, with a MAC of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macvlan<P> {
    /// The link that it is on.
    pub parent: P,
    /// Which links on the same parent can reach each other.
    pub mode: MacvlanMode,
}

/// Which links on the same parent can reach each other (`enum macvlan_mode` of linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// None, even if the switch sends their frames back.
    Private,
    /// All, through a switch that sends frames back to the port that they came from (IEEE 802.1Qbg).
    Vepa,
    /// All, directly.
    Bridge,
    /// There is only one such link, and it gets all frames of the parent.
    Passthru,
    /// Each link gets the frames from a list of source MACs.
    Source,
}

impl MacvlanMode {
    /// All modes, with their numbers in the kernel's messages and their names in ip-link(8).
    pub const ALL: [(Self, u32, &'static str); 5] = [
        (Self::Private, 1, "private"),
        (Self::Vepa, 2, "vepa"),
        (Self::Bridge, 4, "bridge"),
        (Self::Passthru, 8, "passthru"),
        (Self::Source, 16, "source"),
    ];
}

impl<P> fmt::Display for Macvlan<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = MacvlanMode::ALL.iter().find(|(mode, ..)| *mode == self.mode);
        write!(f, "macvlan mode {}", named.map_or("unknown", |(.., name)| name))
    }
}
