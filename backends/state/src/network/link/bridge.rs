//! Bridges, IEEE 802.1D.

use std::fmt;

/// The settings of a bridge, desired or as they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// True if it sends multicast only to ports that asked for it, by IGMP and MLD (`IFLA_BR_MCAST_SNOOPING` of linux/if_link.h).
    pub snooping: bool,
    /// True if it takes part in the spanning tree protocol (`IFLA_BR_STP_STATE` of linux/if_link.h).
    pub spanning_tree: bool,
}

impl Default for Bridge {
    /// As the kernel makes one (`br_dev_setup` and `br_multicast_init` of net/bridge).
    fn default() -> Self {
        Self { snooping: true, spanning_tree: false }
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bridge")?;
        f.write_str(if self.snooping { "" } else { " mcast_snooping off" })?;
        f.write_str(if self.spanning_tree { " stp on" } else { "" })
    }
}
