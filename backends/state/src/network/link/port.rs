//! Ports of bridges.

use std::fmt;

/// Something that a port of a bridge does, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortFlag {
    /// It learns from packets which MACs are behind it.
    Learning,
    /// Frames for MACs that the bridge does not know are sent to it.
    Flood,
    /// Multicast is sent to it.
    MulticastFlood,
    /// Broadcasts are sent to it.
    BroadcastFlood,
    /// Questions for neighbours that the host knows are answered by the bridge, and not sent to it.
    NeighbourSuppression,
    /// It exchanges no frames with other isolated ports.
    Isolated,
    /// Frames that come by it to the groups of a link (01:80:c2:00:00:00 to 0f, IEEE 802.1D) take the way of all others, through the packet
    /// filter. At a port of the kernel's they pass no rule: the bridge learns their sources, and the host takes them as its own.
    GroupForwarding,
}

/// The flags that are on at a port of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortFlags(u8);

impl PortFlag {
    /// All flags, with iproute2's names for them.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Learning, "learning"),
        (Self::Flood, "flood"),
        (Self::MulticastFlood, "mcast_flood"),
        (Self::BroadcastFlood, "bcast_flood"),
        (Self::NeighbourSuppression, "neigh_suppress"),
        (Self::Isolated, "isolated"),
        (Self::GroupForwarding, "group_fwd_mask"),
    ];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl PortFlags {
    /// The flags of a port as the kernel makes it (`BR_LEARNING | BR_FLOOD | BR_MCAST_FLOOD | BR_BCAST_FLOOD` in `new_nbp` of net/bridge).
    pub const NEW_PORT: Self = Self::none()
        .with(PortFlag::Learning, true)
        .with(PortFlag::Flood, true)
        .with(PortFlag::MulticastFlood, true)
        .with(PortFlag::BroadcastFlood, true);

    /// No flag is on.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// The same but for one flag.
    #[must_use]
    pub const fn with(self, flag: PortFlag, on: bool) -> Self {
        Self(if on { self.0 | flag.bit() } else { self.0 & !flag.bit() })
    }

    /// True if a flag is on.
    #[must_use]
    pub const fn has(self, flag: PortFlag) -> bool {
        self.0 & flag.bit() != 0
    }
}

impl fmt::Display for PortFlags {
    /// The flags that differ from a new port's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, name) in PortFlag::ALL.iter().filter(|(flag, _)| self.has(*flag) != Self::NEW_PORT.has(*flag)) {
            write!(f, " {name} {}", if self.has(*flag) { "on" } else { "off" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for PortFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = PortFlag::ALL.iter().filter(|(flag, _)| self.has(*flag));
        f.debug_set().entries(on.map(|(_, name)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_set_and_shown_alone() {
        for (flag, name) in PortFlag::ALL {
            let changed = PortFlags::NEW_PORT.with(flag, !PortFlags::NEW_PORT.has(flag));
            assert_eq!(changed.has(flag), !PortFlags::NEW_PORT.has(flag), "{name}");
            let shown = changed.to_string();
            assert!(shown == format!(" {name} on") || shown == format!(" {name} off"), "{shown}");
            assert_eq!(changed.with(flag, PortFlags::NEW_PORT.has(flag)), PortFlags::NEW_PORT, "{name}");
        }
        assert_eq!(PortFlags::NEW_PORT.to_string(), "");
    }
}
