//! VLANs, IEEE 802.1Q.

use std::fmt;

/// A link whose frames travel on another link with a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan<P> {
    /// The link that carries the tagged frames.
    pub parent: P,
    /// The VLAN ID, 1 to 4094.
    pub id: u16,
}

impl<P> fmt::Display for Vlan<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vlan id {}", self.id)
    }
}
