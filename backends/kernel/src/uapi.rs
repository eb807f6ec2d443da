//! Numbers of the kernel's interface, with the names that its headers give them.

/// Address families, `AF_*` of linux/socket.h.
pub(crate) mod af {
    pub(crate) const INET: u8 = 2;
    pub(crate) const BRIDGE: u8 = 7;
    pub(crate) const INET6: u8 = 10;
}

/// Flags of a link, `IFF_*` of linux/if.h.
pub(crate) mod iff {
    pub(crate) const UP: u32 = 1;
    pub(crate) const LOOPBACK: u32 = 1 << 3;
    pub(crate) const LOWER_UP: u32 = 1 << 16;
}

/// Attributes of a link message, `IFLA_*` of linux/if_link.h.
pub(crate) mod ifla {
    pub(crate) const ADDRESS: u16 = 1;
    pub(crate) const IFNAME: u16 = 3;
    pub(crate) const MTU: u16 = 4;
    pub(crate) const LINK: u16 = 5;
    pub(crate) const MASTER: u16 = 10;
    pub(crate) const PROTINFO: u16 = 12;
    pub(crate) const LINKINFO: u16 = 18;
    pub(crate) const IFALIAS: u16 = 20;
    pub(crate) const AF_SPEC: u16 = 26;
    pub(crate) const LINK_NETNSID: u16 = 37;
    pub(crate) const PERM_ADDRESS: u16 = 54;
    /// Inside of [`LINKINFO`].
    pub(crate) const INFO_KIND: u16 = 1;
    /// Inside of [`LINKINFO`].
    pub(crate) const INFO_DATA: u16 = 2;
    /// Inside of [`LINKINFO`].
    pub(crate) const INFO_SLAVE_KIND: u16 = 4;
    /// Inside of [`LINKINFO`].
    pub(crate) const INFO_SLAVE_DATA: u16 = 5;
}

/// Attributes of a VXLAN device, `IFLA_VXLAN_*` of linux/if_link.h.
pub(crate) mod ifla_vxlan {
    pub(crate) const ID: u16 = 1;
    pub(crate) const GROUP: u16 = 2;
    pub(crate) const LINK: u16 = 3;
    pub(crate) const LOCAL: u16 = 4;
    pub(crate) const LEARNING: u16 = 7;
    pub(crate) const RSC: u16 = 12;
    pub(crate) const L2MISS: u16 = 13;
    pub(crate) const PORT: u16 = 15;
    pub(crate) const GROUP6: u16 = 16;
    pub(crate) const LOCAL6: u16 = 17;
    pub(crate) const UDP_ZERO_CSUM6_RX: u16 = 20;
    pub(crate) const REMCSUM_RX: u16 = 22;
    pub(crate) const GBP: u16 = 23;
    pub(crate) const COLLECT_METADATA: u16 = 25;
    pub(crate) const GPE: u16 = 27;
}

/// Attributes of a bridge, `IFLA_BR_*` of linux/if_link.h.
pub(crate) mod ifla_br {
    pub(crate) const STP_STATE: u16 = 5;
    pub(crate) const MCAST_SNOOPING: u16 = 23;
}

/// Attributes of a port of a bridge, `IFLA_BRPORT_*` of linux/if_link.h.
pub(crate) mod ifla_brport {
    pub(crate) const LEARNING: u16 = 8;
    pub(crate) const UNICAST_FLOOD: u16 = 9;
    pub(crate) const MCAST_FLOOD: u16 = 27;
    pub(crate) const BCAST_FLOOD: u16 = 30;
    pub(crate) const GROUP_FWD_MASK: u16 = 31;
    pub(crate) const NEIGH_SUPPRESS: u16 = 32;
    pub(crate) const ISOLATED: u16 = 33;
    /// The value of `GROUP_FWD_MASK` with the bits of all groups but 01:80:c2:00:00:01: the kernel drops what is sent there, and takes no such
    /// bit (`BR_GROUPFWD_MACPAUSE` of net/bridge/br_private.h).
    pub(crate) const ALL_GROUPS: u16 = 0xfffd;
}

/// Attributes of a VLAN, `IFLA_VLAN_*` of linux/if_link.h.
pub(crate) mod ifla_vlan {
    pub(crate) const ID: u16 = 1;
    pub(crate) const PROTOCOL: u16 = 5;
}

/// Attributes of a macvlan, `IFLA_MACVLAN_*` of linux/if_link.h.
pub(crate) mod ifla_macvlan {
    pub(crate) const MODE: u16 = 1;
}

/// Attributes of an ipip device, `IFLA_IPTUN_*` of linux/if_tunnel.h.
pub(crate) mod ifla_iptun {
    pub(crate) const LINK: u16 = 1;
    pub(crate) const LOCAL: u16 = 2;
    pub(crate) const REMOTE: u16 = 3;
}

/// Attributes of a TUN device, `IFLA_TUN_*` of linux/if_link.h.
pub(crate) mod ifla_tun {
    pub(crate) const TYPE: u16 = 3;
    pub(crate) const PI: u16 = 4;
    pub(crate) const VNET_HDR: u16 = 5;
    pub(crate) const PERSIST: u16 = 6;
    pub(crate) const MULTI_QUEUE: u16 = 7;
    /// `IFF_TUN` of linux/if_tun.h, a value of [`TYPE`].
    pub(crate) const IFF_TUN: u8 = 1;
    /// `IFF_TAP` of the same.
    pub(crate) const IFF_TAP: u8 = 2;
}

/// Attributes and flags of an address message, `IFA_*` of linux/if_addr.h.
pub(crate) mod ifa {
    pub(crate) const ADDRESS: u16 = 1;
    pub(crate) const LOCAL: u16 = 2;
    pub(crate) const BROADCAST: u16 = 4;
    pub(crate) const FLAGS: u16 = 8;
    pub(crate) const F_TEMPORARY: u32 = 0x01;
    pub(crate) const F_DADFAILED: u32 = 0x08;
    pub(crate) const F_DEPRECATED: u32 = 0x20;
    pub(crate) const F_TENTATIVE: u32 = 0x40;
}

/// Attributes of a neighbour message, `NDA_*` of linux/neighbour.h, with its states (`NUD_*`) and flags (`NTF_*`).
pub(crate) mod nda {
    pub(crate) const DST: u16 = 1;
    pub(crate) const LLADDR: u16 = 2;
    pub(crate) const VLAN: u16 = 5;
    pub(crate) const PORT: u16 = 6;
    pub(crate) const VNI: u16 = 7;
    pub(crate) const IFINDEX: u16 = 8;
    pub(crate) const MASTER: u16 = 9;
    pub(crate) const NUD_NOARP: u16 = 0x40;
    pub(crate) const NUD_PERMANENT: u16 = 0x80;
    /// `NUD_VALID` of net/neighbour.h: the states in which the kernel uses the MAC.
    pub(crate) const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | NUD_NOARP | NUD_PERMANENT;
    pub(crate) const NTF_PROXY: u8 = 0x08;
}

/// Attributes of a route message, `RTA_*` of linux/rtnetlink.h.
pub(crate) mod rta {
    pub(crate) const DST: u16 = 1;
    pub(crate) const OIF: u16 = 4;
    pub(crate) const GATEWAY: u16 = 5;
    pub(crate) const PRIORITY: u16 = 6;
    pub(crate) const PREFSRC: u16 = 7;
    pub(crate) const MULTIPATH: u16 = 9;
    pub(crate) const TABLE: u16 = 15;
    pub(crate) const VIA: u16 = 18;
    pub(crate) const ENCAP: u16 = 22;
    pub(crate) const NH_ID: u16 = 30;
}

/// Types of a route, `RTN_*` of linux/rtnetlink.h.
pub(crate) mod rtn {
    pub(crate) const UNICAST: u8 = 1;
    pub(crate) const LOCAL: u8 = 2;
    pub(crate) const BROADCAST: u8 = 3;
    pub(crate) const ANYCAST: u8 = 4;
    pub(crate) const MULTICAST: u8 = 5;
    pub(crate) const BLACKHOLE: u8 = 6;
    pub(crate) const UNREACHABLE: u8 = 7;
    pub(crate) const PROHIBIT: u8 = 8;
    pub(crate) const THROW: u8 = 9;
}

/// Routing protocols, `RTPROT_*` of linux/rtnetlink.h.
pub(crate) mod rtprot {
    /// Routes that the kernel makes and removes itself.
    pub(crate) const KERNEL: u8 = 2;
    /// Routes from router advertisements.
    pub(crate) const RA: u8 = 9;
}

/// Flags of a route and of a nexthop, linux/rtnetlink.h.
pub(crate) mod rtm {
    /// `RTM_F_CLONED`: an entry of the route cache.
    pub(crate) const F_CLONED: u32 = 0x200;
    /// `RTNH_F_DEAD`: its link is down.
    pub(crate) const RTNH_F_DEAD: u32 = 1;
    /// `RTNH_F_ONLINK`: the gateway is on the link though no route leads to it.
    pub(crate) const RTNH_F_ONLINK: u32 = 4;
}

/// Attributes of a rule, `FRA_*` of linux/fib_rules.h.
pub(crate) mod fra {
    pub(crate) const DST: u16 = 1;
    pub(crate) const SRC: u16 = 2;
    pub(crate) const IIFNAME: u16 = 3;
    pub(crate) const GOTO: u16 = 4;
    pub(crate) const PRIORITY: u16 = 6;
    pub(crate) const FWMARK: u16 = 10;
    pub(crate) const SUPPRESS_IFGROUP: u16 = 13;
    pub(crate) const SUPPRESS_PREFIXLEN: u16 = 14;
    pub(crate) const TABLE: u16 = 15;
    pub(crate) const FWMASK: u16 = 16;
    pub(crate) const OIFNAME: u16 = 17;
    pub(crate) const PAD: u16 = 18;
    pub(crate) const PROTOCOL: u16 = 21;
}

/// Actions of a rule, `FR_ACT_*` of linux/fib_rules.h.
pub(crate) mod fr_act {
    pub(crate) const TO_TABLE: u8 = 1;
    pub(crate) const BLACKHOLE: u8 = 6;
    pub(crate) const UNREACHABLE: u8 = 7;
    pub(crate) const PROHIBIT: u8 = 8;
}

/// The table of a route message, `RT_TABLE_MAIN` of linux/rtnetlink.h. The number fits into the header's byte.
pub(crate) const RT_TABLE_MAIN: u8 = 254;
