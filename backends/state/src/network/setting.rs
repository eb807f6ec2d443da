//! Settings in `/proc/sys/net` that traffic of the overlay needs (ip-sysctl.rst of the kernel's documentation).

use std::{fmt, path::PathBuf};

use wire_net::{Family, LinkName};

/// One setting. Settings are written in the order of the variants: `accept_ra` comes before forwarding, since a link with `accept_ra` 1
/// loses the routes from router advertisements when the host starts to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// `accept_ra`: with 1, a link accepts routes and addresses from router advertisements while it does not forward; with 2, always.
    RouterAdvertisements(LinkName),
    /// `disable_ipv6`: with 1, a link has no IPv6 addresses.
    DisableIpv6(LinkName),
    /// `forwarding` of the host: whether it forwards packets of that family at all.
    Forwarding(Family),
    /// `forwarding` of a link. For IPv4: whether packets that arrive on this link are forwarded. For IPv6: only whether the host acts as
    /// a router there; [`Setting::Forwarding`] alone decides whether packets are forwarded.
    LinkForwarding(Family, LinkName),
}

impl Setting {
    /// The link that the setting is of; `None` for the host's.
    #[must_use]
    pub const fn link(&self) -> Option<LinkName> {
        match self {
            Self::RouterAdvertisements(link) | Self::DisableIpv6(link) | Self::LinkForwarding(_, link) => Some(*link),
            Self::Forwarding(_) => None,
        }
    }

    /// The family that the setting is about.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::RouterAdvertisements(_) | Self::DisableIpv6(_) => Family::V6,
            Self::Forwarding(family) | Self::LinkForwarding(family, _) => *family,
        }
    }

    /// The path of its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.parts().join("/"))
    }

    fn parts(&self) -> Vec<String> {
        let (folder, link, name) = match self {
            Self::RouterAdvertisements(link) => ("ipv6", link.to_string(), "accept_ra"),
            Self::DisableIpv6(link) => ("ipv6", link.to_string(), "disable_ipv6"),
            // The same setting as conf/all/forwarding, by its better known name.
            Self::Forwarding(Family::V4) => return vec!["net".to_owned(), "ipv4".to_owned(), "ip_forward".to_owned()],
            Self::Forwarding(Family::V6) => ("ipv6", "all".to_owned(), "forwarding"),
            Self::LinkForwarding(Family::V4, link) => ("ipv4", link.to_string(), "forwarding"),
            Self::LinkForwarding(Family::V6, link) => ("ipv6", link.to_string(), "forwarding"),
        };
        vec!["net".to_owned(), folder.to_owned(), "conf".to_owned(), link, name.to_owned()]
    }
}

/// The name of the setting for sysctl(8), in which a slash stands for a dot in a link's name.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts().iter().map(|part| part.replace('.', "/")).collect();
        f.write_str(&parts.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_its_name_of_sysctl_and_its_path_in_proc() {
        let flannel = "flannel-v6.1".parse().unwrap();
        let cases = [
            (Setting::Forwarding(Family::V4), "net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            (Setting::Forwarding(Family::V6), "net.ipv6.conf.all.forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"),
            (
                Setting::DisableIpv6(flannel),
                "net.ipv6.conf.flannel-v6/1.disable_ipv6",
                "/proc/sys/net/ipv6/conf/flannel-v6.1/disable_ipv6",
            ),
            (
                Setting::LinkForwarding(Family::V4, flannel),
                "net.ipv4.conf.flannel-v6/1.forwarding",
                "/proc/sys/net/ipv4/conf/flannel-v6.1/forwarding",
            ),
        ];
        for (setting, name, path) in cases {
            assert_eq!(setting.to_string().as_str(), name);
            assert_eq!(setting.path().to_str().unwrap(), path);
        }
    }
}
