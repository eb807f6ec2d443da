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

/// What carries the packets of a contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// The underlay itself.
    Route,
    /// The tests' own forwarders.
    OnePacket,
    /// Agents, or what they set up.
    Agents(Setting),
}

/// What the agents of a contestant are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The object `Backend` of the network config.
    pub(crate) backend: &'static str,
    /// A flag besides those that every agent has.
    pub(crate) flag: Option<&'static str>,
    /// The device they must make, and its kind: that what is measured is what it is called.
    pub(crate) device: (&'static str, &'static str),
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

    /// What carries its packets.
    pub(crate) fn carrier(self) -> Carrier {
        let (vxlan, udp) = (r#"{"Type":"vxlan"}"#, r#"{"Type":"udp","Port":8285}"#);
        let agents = |backend, flag, device| Carrier::Agents(Setting { backend, flag, device });
        match self {
            Self::Veth => Carrier::Route,
            Self::OnePacket => Carrier::OnePacket,
            Self::KernelVxlan => agents(vxlan, None, ("flannel.1", "vxlan")),
            Self::OursRaw => agents(udp, None, ("flannel0", "tun")),
            Self::OursVxlan => agents(vxlan, Some("--userspace-vxlan"), ("flannel.1", "tun")),
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
