//! The messages about the packet filter, with remedies. Pure.

use wire_firewall::Nftables;
use wire_net::{Family, LinkName, chain};
use wire_state::{OpError, OperatorDrop, OtherFirewalls};

/// The subjects of faults and warnings.
pub(super) const BRIDGE: &str = "bridge";
pub(super) const BRIDGE_NAME: &str = "bridge's name";
pub(super) const BLOCKED: &str = "encapsulation";
pub(super) const NFTABLES: &str = "nftables";
pub(super) const FLOWTABLE: &str = "flowtable";
pub(super) const IPTABLES: &str = "iptables";
pub(super) const DOCKERS_CHAINS: &str = "Docker's chains";
pub(super) const DOCKER_USER: &str = "DOCKER-USER";

pub(super) const RIVAL: &str = "another wire-agent";
pub(super) const CONTESTED: &str = "it runs in this network namespace too, and each undoes the other's firewall \
                                    rules: stop one of them, or give it a namespace of its own";

/// The warning of bridges whose names nft does not take literally, with the remedy.
pub(super) fn unnamed<'a>(bridges: impl Iterator<Item = &'a LinkName>) -> Option<String> {
    let names: Vec<String> = bridges.map(ToString::to_string).collect();
    (!names.is_empty()).then(|| {
        format!(
            "no nftables rule can name {}: encapsulated packets that its containers send with forged sources are not \
             dropped; give the bridge a name of ASCII letters, digits and -_. only (-o \
             com.docker.network.bridge.name=)",
            names.join(" ")
        )
    })
}

/// The warning of chains of ours that stay in the variant of iptables that is not in use.
pub(super) fn abandoned(error: &str) -> String {
    format!("wire-agent's chains could not be removed from the variant of iptables that is not in use: {error}")
}

/// The warning of an operator's drops in Docker's chain that have no effect.
pub(super) fn overruled(drops: &[&OperatorDrop]) -> Option<String> {
    let [OperatorDrop { family, rule: first }, rest @ ..] = drops else { return None };
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
    Some(format!(
        "its rule {first:?}{more} does not drop traffic of the overlay, because wire-agent's rules accept that first: \
         to drop it, put the rule into another table ({program} -t mangle -A FORWARD)"
    ))
}

/// The warning of chains in iptables-legacy that only root could read. There may be none: its module is loaded on many
/// hosts.
pub(super) const HIDDEN: &str = "Docker runs, but iptables-nft shows no chains of Docker: if they are in \
                                 iptables-legacy, which only root can read, Docker may drop packets from peers to its \
                                 containers; run wire-agent as root, or make Docker use iptables-nft and restart it \
                                 (a Docker with iptables switched off has no chains)";

/// The warning of a table that is not whole: the reason, and the check that is missing.
pub(super) fn lacking(nftables: Nftables, error: &OpError) -> String {
    let missed = match nftables {
        Nftables::Whole | Nftables::Simple => "a peer may send packets with another peer's source",
        Nftables::Absent => {
            "iptables masquerades, but any host, and any container, may send encapsulated packets to this host"
        }
    };
    format!("{}; until then {missed}", chain(error))
}

/// The warning of a kernel that refuses our flowtable, with the remedy.
pub(super) fn no_flowtable(error: &OpError) -> String {
    format!(
        "--flowtable has no effect, so established connections go through all forwarding rules: the kernel needs \
         NF_FLOW_TABLE_INET and NFT_FLOW_OFFLOAD, which Debian's kernels have (check with modprobe -a \
         nf_flow_table_inet nft_flow_offload); the agent tries again once a minute ({})",
        chain(error)
    )
}

/// The fault of packets of peers that somebody else drops, with the remedy. `families` is empty if there is one only.
pub(super) fn blocked(
    others: OtherFirewalls,
    port: u16,
    families: &[Family],
    links: impl Iterator<Item = LinkName>,
) -> String {
    let (who, remedy) = match (others.ufw, others.firewalld) {
        (true, false) => ("ufw drops", format!("ufw allow {port}/udp")),
        (false, true) => {
            // What is forwarded it drops too, unless both ends are trusted.
            let links: Vec<String> = links.map(|link| format!(" --add-interface={link}")).collect();
            let permanent = "firewall-cmd --permanent";
            let open = format!("{permanent} --add-port={port}/udp && {permanent} --zone=trusted{}", links.concat());
            ("firewalld drops", format!("{open} && firewall-cmd --reload"))
        }
        (false, false) | (true, true) => {
            let see =
                "see nft list ruleset, iptables -S INPUT, ip6tables -S INPUT and sysctl net.ipv4.conf.all.rp_filter";
            ("a rule of this host drops", see.to_owned())
        }
    };
    let families = families.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let over = if families.is_empty() { String::new() } else { format!(" over {families}") };
    format!("{who} what peers send{over} to UDP port {port}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_drops_what_peers_send_is_named_with_the_remedy() {
        let links = || ["flannel.1", "docker0"].map(|name| name.parse().unwrap()).into_iter();
        let said = |ufw, firewalld| blocked(OtherFirewalls { ufw, firewalld, docker: false }, 8472, &[], links());
        assert_eq!(said(true, false), "ufw drops what peers send to UDP port 8472: ufw allow 8472/udp");
        let trusted = "firewall-cmd --permanent --zone=trusted --add-interface=flannel.1 --add-interface=docker0";
        assert!(said(false, true).contains(&format!("firewall-cmd --permanent --add-port=8472/udp && {trusted} && ")));
        assert!(said(false, false).starts_with("a rule of this host drops"));
        let both = blocked(OtherFirewalls::default(), 8472, &Family::ALL, links());
        assert!(
            both.starts_with("a rule of this host drops what peers send over IPv4 and IPv6 to UDP port 8472"),
            "{both}"
        );
    }
}
