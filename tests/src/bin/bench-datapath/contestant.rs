//! Who takes part.

use std::fmt;

use crate::rules::Rules;

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
    /// The kernel's VXLAN between containers, while connections are tracked.
    Tracking,
    /// The same once more: by how much it differs from itself.
    TrackingAgain,
    /// The kernel's VXLAN between containers, with flannel's rules.
    FlannelRules,
    /// The kernel's VXLAN between containers, with all rules of ours.
    OurRules,
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
    /// The same between containers, with these rules.
    Containers(Setting, Rules),
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

impl Setting {
    /// The kernel's VXLAN between containers.
    pub(crate) const CONTAINERS: Self =
        Self { backend: r#"{"Type":"vxlan"}"#, flag: Some("--ip-masq"), device: ("flannel.1", "vxlan") };
}

impl Contestant {
    /// Ways to move packets, in the order of their turns.
    pub(crate) const PATHS: [Self; 5] =
        [Self::Veth, Self::KernelVxlan, Self::OnePacket, Self::OursRaw, Self::OursVxlan];
    /// Rules of the packet filter, in the order of their turns.
    pub(crate) const RULES: [Self; 4] = [Self::Tracking, Self::TrackingAgain, Self::FlannelRules, Self::OurRules];

    /// Its name for people and programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::KernelVxlan => "kernel-vxlan",
            Self::OnePacket => "one-packet",
            Self::OursRaw => "ours-raw",
            Self::OursVxlan => "ours-vxlan",
            Self::Tracking => "tracking",
            Self::TrackingAgain => "tracking-again",
            Self::FlannelRules => "flannel-rules",
            Self::OurRules => "our-rules",
        }
    }

    /// What carries its packets.
    pub(crate) fn carrier(self) -> Carrier {
        let (vxlan, udp) = (r#"{"Type":"vxlan"}"#, r#"{"Type":"udp","Port":8285}"#);
        let agents = |backend, flag, device| Carrier::Agents(Setting { backend, flag, device });
        let containers = |rules| Carrier::Containers(Setting::CONTAINERS, rules);
        match self {
            Self::Veth => Carrier::Route,
            Self::OnePacket => Carrier::OnePacket,
            Self::KernelVxlan => agents(vxlan, None, ("flannel.1", "vxlan")),
            Self::OursRaw => agents(udp, None, ("flannel0", "tun")),
            Self::OursVxlan => agents(vxlan, Some("--userspace-vxlan"), ("flannel.1", "tun")),
            Self::Tracking | Self::TrackingAgain => containers(Rules::Tracking),
            Self::FlannelRules => containers(Rules::Flannel),
            Self::OurRules => containers(Rules::Ours),
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
            Self::Tracking => 55,
            Self::TrackingAgain => 56,
            Self::FlannelRules => 57,
            Self::OurRules => 58,
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
