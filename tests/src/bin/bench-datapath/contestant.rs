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
    /// Agents that forward themselves, as the `udp` backend does, between containers, with all rules of ours.
    UdpRules,
    /// The same as VXLAN does.
    UserspaceVxlanRules,
    /// host-gw between containers, with routes and nothing else, while connections are tracked.
    HostGwTracking,
    /// The same with all rules of ours, by running agents.
    HostGwRules,
    /// A network by name: the bridges and the kernel's VXLAN that agents set up for it, while connections are tracked, and no rules else.
    NamedTracking,
    /// The same with all rules of ours, by running agents.
    NamedRules,
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
    /// Bridges of a network by name between containers that are attached to it, with these rules.
    Named(Setting, Rules),
}

/// What the agents of a contestant are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The object `Backend` of the network config.
    pub(crate) backend: &'static str,
    /// Flags besides those that every agent has.
    pub(crate) flags: &'static [&'static str],
    /// The device they must make, and its kind: that what is measured is what it is called.
    pub(crate) device: (&'static str, &'static str),
}

impl Setting {
    /// The kernel's VXLAN.
    const KERNEL_VXLAN: Self = Self { backend: r#"{"Type":"vxlan"}"#, flags: &[], device: ("flannel.1", "vxlan") };
    /// Routes by the underlay's link alone.
    const HOST_GW: Self = Self { backend: r#"{"Type":"host-gw"}"#, flags: &["--ip-masq"], device: ("eth0", "veth") };
    /// Our forwarding, as VXLAN does.
    const USERSPACE_VXLAN: Self =
        Self { flags: &["--userspace-vxlan"], device: ("flannel.1", "tun"), ..Self::KERNEL_VXLAN };
    /// Our forwarding, as the `udp` backend does.
    const UDP: Self = Self { backend: r#"{"Type":"udp","Port":8285}"#, flags: &[], device: ("flannel0", "tun") };
    /// The kernel's VXLAN between containers.
    pub(crate) const CONTAINERS: Self = Self { flags: &["--ip-masq"], ..Self::KERNEL_VXLAN };
}

impl Contestant {
    /// Ways to move packets, in the order of their turns.
    pub(crate) const PATHS: [Self; 5] =
        [Self::Veth, Self::KernelVxlan, Self::OnePacket, Self::OursRaw, Self::OursVxlan];
    /// Rules of the packet filter, in the order of their turns.
    pub(crate) const RULES: [Self; 5] =
        [Self::Tracking, Self::TrackingAgain, Self::FlannelRules, Self::OurRules, Self::OurRules20000];
    /// Our rules where agents forward themselves: only those that are named take part.
    pub(crate) const USERSPACE_RULES: [Self; 2] = [Self::UdpRules, Self::UserspaceVxlanRules];

    /// The rules for packets without encapsulation: only those that are named take part.
    pub(crate) const DIRECT_RULES: [Self; 2] = [Self::HostGwTracking, Self::HostGwRules];
    /// The rules of a network by name: only those that are named take part.
    pub(crate) const NAMED_RULES: [Self; 2] = [Self::NamedTracking, Self::NamedRules];

    /// Whether what is compared by it is rules.
    pub(crate) fn is_of_rules(self) -> bool {
        [Self::RULES.as_slice(), &Self::USERSPACE_RULES, &Self::DIRECT_RULES, &Self::NAMED_RULES]
            .concat()
            .contains(&self)
    }

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
            Self::UdpRules => "udp-rules",
            Self::UserspaceVxlanRules => "userspace-vxlan-rules",
            Self::HostGwTracking => "host-gw-tracking",
            Self::HostGwRules => "host-gw-rules",
            Self::NamedTracking => "named-tracking",
            Self::NamedRules => "named-rules",
        }
    }

    /// What carries its packets.
    pub(crate) fn carrier(self) -> Carrier {
        let containers = |rules| Carrier::Containers(Setting::CONTAINERS, rules);
        match self {
            Self::Veth => Carrier::Route,
            Self::OnePacket => Carrier::OnePacket,
            Self::KernelVxlan => Carrier::Agents(Setting::KERNEL_VXLAN),
            Self::OursRaw => Carrier::Agents(Setting::UDP),
            Self::OursVxlan => Carrier::Agents(Setting::USERSPACE_VXLAN),
            Self::Tracking | Self::TrackingAgain => containers(Rules::Tracking),
            Self::FlannelRules => containers(Rules::Flannel),
            Self::OurRules | Self::OurRules20000 => containers(Rules::Ours),
            Self::HostGwTracking => Carrier::Containers(Setting::HOST_GW, Rules::Tracking),
            Self::HostGwRules => Carrier::Containers(Setting::HOST_GW, Rules::Ours),
            Self::NamedTracking => Carrier::Named(Setting::CONTAINERS, Rules::Tracking),
            Self::NamedRules => Carrier::Named(Setting::CONTAINERS, Rules::Ours),
            Self::UdpRules => Carrier::Containers(Setting { flags: &["--ip-masq"], ..Setting::UDP }, Rules::Ours),
            Self::UserspaceVxlanRules => {
                let flags = &["--userspace-vxlan", "--ip-masq"];
                Carrier::Containers(Setting { flags, ..Setting::USERSPACE_VXLAN }, Rules::Ours)
            }
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
