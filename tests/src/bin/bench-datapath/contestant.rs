//! Who takes part.

use std::fmt;

/// A way to carry packets between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contestant {
    /// A route over the underlay: what the machine can do at all.
    Veth,
    /// Agents that set the kernel's VXLAN up.
    KernelVxlan,
    /// The `udp` backend's plainest forwarder.
    OnePacket,
    /// Agents that forward themselves, as the `udp` backend does.
    OursRaw,
    /// Agents that forward themselves, as VXLAN does.
    OursVxlan,
}

/// What the agents of a contestant are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The object `Backend` of the network config.
    pub(crate) backend: &'static str,
    /// A flag besides those that every agent has.
    pub(crate) flag: Option<&'static str>,
}

impl Contestant {
    /// All, in the order of their turns.
    pub(crate) const ALL: [Self; 5] = [Self::Veth, Self::KernelVxlan, Self::OnePacket, Self::OursRaw, Self::OursVxlan];

    /// Its name for people and programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::KernelVxlan => "kernel-vxlan",
            Self::OnePacket => "one-packet",
            Self::OursRaw => "ours-raw",
            Self::OursVxlan => "ours-vxlan",
        }
    }

    /// What its agents are given; `None` where it has none.
    pub(crate) const fn setting(self) -> Option<Setting> {
        match self {
            Self::Veth | Self::OnePacket => None,
            Self::KernelVxlan => Some(Setting { backend: r#"{"Type":"vxlan"}"#, flag: None }),
            Self::OursRaw => Some(Setting { backend: r#"{"Type":"udp","Port":8285}"#, flag: None }),
            Self::OursVxlan => Some(Setting { backend: r#"{"Type":"vxlan"}"#, flag: Some("--userspace-vxlan") }),
        }
    }

    /// The second byte of its network, 10.x.0.0/16.
    pub(crate) const fn network(self) -> u8 {
        match self {
            Self::Veth => 50,
            Self::KernelVxlan => 51,
            Self::OnePacket => 52,
            Self::OursRaw => 53,
            Self::OursVxlan => 54,
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
