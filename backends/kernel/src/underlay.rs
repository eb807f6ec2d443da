//! Derives the underlay from the host's links, and tells the links that cannot be one. Pure.

use std::net::IpAddr;

use wire_net::{DualStack, LinkName, Pool, Prefix};
use wire_state::Underlay;

use super::host::{HostLink, HostNetwork};

impl HostNetwork {
    /// The underlay on that link, which sends from `addresses`.
    #[must_use]
    pub fn underlay(&self, link: &HostLink, addresses: DualStack<IpAddr>, pools: &DualStack<Pool>) -> Underlay {
        let Self { links, .. } = self;
        let reached = links.iter().filter(|link| !link.is_overlay_device());
        let reached = reached.flat_map(|link| link.addresses.iter().map(move |address| (link, address.local.prefix)));
        let inside = |(other, prefix): &(&HostLink, Prefix)| {
            let is_attached = other.index != link.index && matches!(other.kind.as_str(), "bridge" | "vxlan");
            // If its prefix covers the whole overlay network, the overlay was chosen as a part of it on purpose.
            is_attached && pools.iter().any(|(_, pool)| pool.leases(*prefix) && !prefix.covers(pool.network))
        };
        let (attached, connected): (Vec<_>, Vec<_>) = reached.partition(inside);
        let routers = self.routers.iter().filter(|(index, _)| *index == link.index);
        let routers = routers.map(|(_, router)| Prefix::host(*router));
        Underlay {
            link: link.name,
            index: link.index,
            mtu: link.mtu,
            mac: link.mac,
            addresses,
            on_link: link.addresses.iter().map(|address| address.local.prefix).collect(),
            local: links.iter().flat_map(|link| &link.addresses).map(|address| address.local).collect(),
            connected: connected.into_iter().map(|(_, prefix)| prefix).chain(routers).collect(),
            attached: attached.into_iter().map(|(link, prefix)| (link.name, prefix)).collect(),
        }
    }
}

impl HostLink {
    /// Whether it has that address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.local.address == address)
    }

    /// The reason why the link can never be the underlay, even if the operator chooses it; `None` if it can.
    #[must_use]
    pub fn why_unusable(&self, pools: &DualStack<Pool>) -> Option<&'static str> {
        let addresses = || self.addresses.iter().map(|address| Prefix::host(address.local.address));
        let is_inside = || addresses().any(|address| pools.iter().any(|(_, pool)| pool.leases(address)));
        if self.is_loopback {
            Some("the loopback device, which leads to no other host")
        } else if self.is_overlay_device() {
            Some("a device of an overlay")
        } else if self.is_dockers() {
            Some("a bridge of Docker's")
        } else if matches!(self.kind.as_str(), "bridge" | "vxlan" | "tun") && is_inside() {
            Some("whose address is inside the overlay")
        } else {
            None
        }
    }

    fn is_overlay_device(&self) -> bool {
        is_overlay_device(self.name, &self.kind) || is_segment_device(self.name, &self.kind)
    }

    /// Whether it is a bridge of Docker's, by the names that Docker gives them.
    fn is_dockers(&self) -> bool {
        let is_id = |id: &str| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = self.name.as_str();
        self.kind == "bridge"
            && (matches!(name, "docker0" | "docker_gwbridge") || name.strip_prefix("br-").is_some_and(is_id))
    }
}

/// Whether a link is a device of an overlay, by the names that flannel and this agent give them. Any VNI counts, since an earlier network
/// config may have left devices with another.
pub(crate) fn is_overlay_device(name: LinkName, kind: &str) -> bool {
    let name = name.as_str();
    let vni = name.strip_prefix("flannel.").or_else(|| name.strip_prefix("flannel-v6."));
    let named = vni.is_some_and(is_number) || matches!(name, "flannel0" | "flannel-v60");
    let of_named = |start, of_kind| kind == of_kind && name.strip_prefix(start).is_some_and(is_number);
    named && matches!(kind, "vxlan" | "tun")
        || name == "flannel.ipip" && kind == "ipip"
        || of_named("wv.", "vxlan")
        || of_named("wb.", "bridge")
}

/// True if a link is the bridge or the VXLAN device of a network over several hosts, by the names that this agent gives them.
pub(crate) fn is_segment_device(name: LinkName, kind: &str) -> bool {
    let vni = match kind {
        "bridge" => name.as_str().strip_prefix("wb."),
        "vxlan" => name.as_str().strip_prefix("wv."),
        _ => None,
    };
    vni.is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_an_overlay_are_known_by_flannels_names_and_their_kind() {
        let is_one = |name: &str, kind| is_overlay_device(name.parse().unwrap(), kind);
        for (name, kind) in [
            ("flannel.1", "vxlan"),
            ("flannel-v6.7", "vxlan"),
            ("flannel.1", "tun"),
            ("flannel0", "tun"),
            ("flannel.ipip", "ipip"),
            ("wb.5000", "bridge"),
            ("wv.5000", "vxlan"),
        ] {
            assert!(is_one(name, kind), "{name} {kind}");
        }
        for (name, kind) in
            [("tunl0", "ipip"), ("flannel.ipip", "vxlan"), ("flannel.1", "ipip"), ("eth0", ""), ("wb.lan", "bridge")]
        {
            assert!(!is_one(name, kind), "{name} {kind}");
        }
    }
}
