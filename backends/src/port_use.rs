//! The UDP port of a network's encapsulated packets, and who takes the packets that come to it. Pure.

use std::{fmt, str::FromStr};

use wire_lease::{BackendConfig, NetworkConfig};

use crate::{VxlanBy, identify};

/// A UDP port, and who takes the packets that come to it. As text: `8472/kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortUse {
    /// The port.
    pub port: u16,
    /// Who takes the packets.
    pub taker: Taker,
}

/// Who takes encapsulated packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// The kernel's VXLAN.
    Kernel,
    /// The kernel's VXLAN with a group policy (`"GBP"`).
    KernelWithPolicy,
    /// The agent.
    Agent,
}

impl PortUse {
    /// The port of a network with this config; `None` if its packets are not in UDP. `vxlan` says who does VXLAN on this host.
    #[must_use]
    pub fn of(config: &NetworkConfig, vxlan: VxlanBy) -> Option<Self> {
        let port = identify(config).ok()?.port?;
        let taker = match &config.backend {
            BackendConfig::Vxlan(device) if vxlan == VxlanBy::Kernel && device.gbp => Taker::KernelWithPolicy,
            BackendConfig::Vxlan(_) if vxlan == VxlanBy::Kernel => Taker::Kernel,
            BackendConfig::Vxlan(_)
            | BackendConfig::Udp { .. }
            | BackendConfig::HostGw
            | BackendConfig::Ipip { .. }
            | BackendConfig::Wireguard
            | BackendConfig::Alloc
            | BackendConfig::Foreign(_) => Taker::Agent,
        };
        Some(Self { port, taker })
    }

    /// True if both can be on one host. The kernel's VXLAN devices share a socket if they take the same headers (`vxlan_find_sock` of
    /// drivers/net/vxlan); of two sockets of the agent with one port, each would get some packets of the other.
    #[must_use]
    pub fn goes_with(self, other: Self) -> bool {
        self.port != other.port || (self.taker == other.taker && self.taker != Taker::Agent)
    }
}

impl Taker {
    const ALL: [Self; 3] = [Self::Kernel, Self::KernelWithPolicy, Self::Agent];

    const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::KernelWithPolicy => "kernel-gbp",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for PortUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.taker.name())
    }
}

/// A text that is no [`PortUse`].
#[derive(Debug, thiserror::Error)]
#[error("it is not a port and who takes its packets, like 8472/kernel")]
pub struct PortUseError;

impl FromStr for PortUse {
    type Err = PortUseError;

    fn from_str(text: &str) -> Result<Self, PortUseError> {
        let (port, name) = text.split_once('/').ok_or(PortUseError)?;
        let taker = Taker::ALL.into_iter().find(|taker| taker.name() == name).ok_or(PortUseError)?;
        Ok(Self { port: port.parse().map_err(|_| PortUseError)?, taker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_of_the_kernel_that_take_the_same_share_a_port() {
        for (one, other) in Taker::ALL.into_iter().flat_map(|one| Taker::ALL.map(|other| (one, other))) {
            let on = |port, taker| PortUse { port, taker };
            assert_eq!(on(1, one).goes_with(on(1, other)), one == other && one != Taker::Agent, "{one:?} {other:?}");
            assert!(on(1, one).goes_with(on(2, other)));
        }
    }

    #[test]
    fn a_text_is_read_as_it_is_written() {
        for taker in Taker::ALL {
            let used = PortUse { port: 8472, taker };
            assert_eq!(used.to_string().parse::<PortUse>().unwrap(), used);
        }
        for wrong in ["", "8472", "8472/", "65536/kernel", "8472/nobody", "/agent"] {
            assert!(wrong.parse::<PortUse>().is_err(), "{wrong}");
        }
    }
}
