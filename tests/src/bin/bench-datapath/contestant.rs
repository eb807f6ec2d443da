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
    /// The same in a network of as many leases as [`MANY`] more.
    OurRules20000,
}

/// How many leases a large network has.
pub(crate) const MANY: u16 = 20_000;

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
    pub(crate) const RULES: [Self; 5] =
        [Self::Tracking, Self::TrackingAgain, Self::FlannelRules, Self::OurRules, Self::OurRules20000];

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
            Self::OurRules20000 => "our-rules-20000",
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
            Self::OurRules | Self::OurRules20000 => containers(Rules::Ours),
        }
    }

    /// How many leases its network has beside those of its two hosts.
    pub(crate) const fn leases(self) -> u16 {
        if matches!(self, Self::OurRules20000) { MANY } else { 0 }
    }

    /// Its network: 10.x.0.0/16, which holds two hundred and some leases, or all of 10.0.0.0/8.
    pub(crate) fn network(self) -> String {
        if self.leases() > 0 { "10.0.0.0/8".to_owned() } else { format!("10.{}.0.0/16", self.second_byte()) }
    }

    /// The second byte of its network, 10.x.0.0/16.
    pub(crate) const fn second_byte(self) -> u8 {
        50 + self as u8
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
