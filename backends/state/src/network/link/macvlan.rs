//! Links with a MAC of their own on another link.

use std::fmt;

/// A link with a MAC of its own on another link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macvlan<P> {
    /// The other link.
    pub parent: P,
    /// Who reaches whom.
    pub mode: MacvlanMode,
}

/// Who reaches whom among the links on one parent (`enum macvlan_mode` of linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Nobody, whatever the switch sends back.
    Private,
    /// All, through a switch that sends frames back where they came from (IEEE 802.1Qbg).
    Vepa,
    /// All, directly.
    Bridge,
    /// There is only one, and it takes the parent's place.
    Passthru,
    /// Those with listed source addresses.
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
