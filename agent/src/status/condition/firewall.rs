//! Conditions of the packet filter.

use wire_firewall::{ACCEPT_MARK, Carrier, Nftables};
use wire_net::{Family, LinkName};
use wire_state::{Clash, OperatorDrop, OtherFirewalls};

use super::{Kind, Log, Message, kinds};

#[derive(Clone, Debug)]
pub(crate) enum FirewallCondition {
    /// Rules could not be written: the failures.
    NotAsDesired(String),
    /// Another wire-agent in this network namespace undoes our rules.
    OtherAgent,
    /// Something on this host drops encapsulated packets that we let in.
    Blocked(Blocked),
    /// nftables cannot hold all of our table: the part that it can hold, and the error.
    NftablesLacks { nftables: Nftables, error: String },
    /// The kernel refuses our flowtable: the error.
    NoFlowtable(String),
    /// No device of the network can be in a flowtable.
    FlowtableUnused,
    /// Our chains could not be removed from the variant of iptables that is not in use: the error.
    OtherIptables(String),
    /// Docker's chains may be in iptables-legacy, which only root can read. There may be none: its module is loaded on
    /// many hosts.
    DockersChainsHidden,
    /// Drops of an operator in Docker's chain have no effect: the first, and the number of the others.
    DropsOverruled { first: OperatorDrop, more: usize },
    /// Docker's own nftables rules drop packets that lack a mark.
    DockerUnmarked,
    /// Bridges whose names nft does not take literally.
    UnnamedBridges(Vec<LinkName>),
    /// Some of the rules about networks by name are not there.
    NamedUnchecked(Unchecked),
    /// Several networks of this host want the same rules.
    Clashes(Vec<Clash>),
}

/// The checks that networks by name lack.
#[derive(Clone, Debug)]
pub(crate) enum Unchecked {
    /// Nothing is: there is no nftables.
    All,
    /// The inner sources of members.
    Sources,
    /// Who sends at the ports of bridges: the error.
    Ports(String),
}

/// The encapsulated packets that are dropped, and who may drop them.
#[derive(Clone, Debug)]
pub(crate) struct Blocked {
    pub(crate) others: OtherFirewalls,
    /// Their form.
    pub(crate) carrier: Carrier,
    /// Empty if the network has only one.
    pub(crate) families: Vec<Family>,
    /// The links that a firewall must trust.
    pub(crate) links: Vec<LinkName>,
}

impl FirewallCondition {
    kinds! {
        NOT_AS_DESIRED =
            Kind::fault("firewall-not-as-desired", "firewall").logged(Log::Error("the firewall is not in its desired state"));
        OTHER_AGENT = Kind::fault("other-agent", "another wire-agent").logged(Log::LinesAndEnd);
        BLOCKED = Kind::fault("encapsulation-blocked", "encapsulation").logged(Log::LinesAndEnd);
        NFTABLES = Kind::warning("nftables-lacks", "nftables");
        FLOWTABLE = Kind::warning("no-flowtable", "flowtable").logged(Log::Beginning);
        OTHER_IPTABLES = Kind::warning("other-iptables", "iptables");
        DOCKERS_CHAINS = Kind::warning("docker-chains-hidden", "Docker's chains");
        OVERRULED = Kind::warning("docker-user-overruled", "DOCKER-USER").logged(Log::Lines);
        DOCKER_UNMARKED = Kind::fault("docker-unmarked", "docker");
        NAMED = Kind::warning("networks-unchecked", "networks by name");
        CLASH = Kind::fault("clash-in-firewall", "clash in the firewall").logged(Log::LinesAndEnd);
        BRIDGE_NAME = Kind::warning("bridge-name", "bridge's name").logged(Log::Texts);
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::NotAsDesired(_) => Self::NOT_AS_DESIRED,
            Self::OtherAgent => Self::OTHER_AGENT,
            Self::Blocked(_) => Self::BLOCKED,
            Self::NftablesLacks { .. } => Self::NFTABLES,
            Self::NoFlowtable(_) | Self::FlowtableUnused => Self::FLOWTABLE,
            Self::OtherIptables(_) => Self::OTHER_IPTABLES,
            Self::DockersChainsHidden => Self::DOCKERS_CHAINS,
            Self::DropsOverruled { .. } => Self::OVERRULED,
            Self::DockerUnmarked => Self::DOCKER_UNMARKED,
            Self::UnnamedBridges(_) => Self::BRIDGE_NAME,
            Self::NamedUnchecked(_) => Self::NAMED,
            Self::Clashes(_) => Self::CLASH,
        }
    }

    pub(crate) fn message(&self) -> Message {
        match self {
            Self::NotAsDesired(failures) => Message::plain(failures),
            Self::OtherAgent => {
                Message::plain("it runs in this network namespace too, and each undoes the other's firewall rules")
                    .remedy(
                        ": ",
                        "stop one of them, or give it a network of its own (--network) or a namespace of its own",
                    )
            }
            Self::Blocked(blocked) => blocked.message(),
            Self::NftablesLacks { nftables, error } => lacks(*nftables, error),
            Self::NoFlowtable(error) => Message::plain(format!(
                "--flowtable has no effect, so established connections go through all forwarding rules: the kernel \
                 needs NF_FLOW_TABLE_INET and NFT_FLOW_OFFLOAD, which Debian's kernels have (check with modprobe -a \
                 nf_flow_table_inet nft_flow_offload); the agent tries again once a minute ({error})"
            )),
            Self::FlowtableUnused => Message::plain(
                "--flowtable has no effect: only the kernel's VXLAN devices can be in a flowtable, and this network has none on this host",
            )
            .remedy("; ", "leave the flag out, or use the vxlan backend"),
            Self::OtherIptables(error) => Message::plain(format!(
                "wire-agent's chains could not be removed from the variant of iptables that is not in use: {error}"
            )),
            Self::DockersChainsHidden => Message::plain(
                "Docker runs, but iptables-nft shows no chains of Docker: if they are in iptables-legacy, which only \
                 root can read, Docker may drop packets from peers to its containers",
            )
            .remedy(
                "; ",
                "run wire-agent as root, or make Docker use iptables-nft and restart it (a Docker with iptables \
                 switched off has no chains)",
            ),
            Self::DropsOverruled { first, more } => overruled(first, *more),
            Self::DockerUnmarked => Message::plain("its rules in nftables drop the overlay's packets to containers")
                .remedy(
                    ": ",
                    format!(
                        "start it with --bridge-accept-fwmark={ACCEPT_MARK:#x}/{ACCEPT_MARK:#x}, or \
                         \"bridge-accept-fwmark\" in daemon.json"
                    ),
                ),
            Self::UnnamedBridges(bridges) => unnamed(bridges),
            Self::NamedUnchecked(unchecked) => unchecked.message(),
            Self::Clashes(clashes) => Message::of_clashes(clashes),
        }
    }
}

impl Unchecked {
    fn message(&self) -> Message {
        match self {
            Self::All => Message::plain(
                "nothing checks who sends to them or where their packets go, and they lead to the outside only where others masquerade",
            )
            .remedy(": ", "install nftables"),
            Self::Sources => {
                Message::plain("a member may send packets with another member's source").remedy(": ", "install nftables 1.0.6 or newer")
            }
            Self::Ports(error) => Message::plain(format!(
                "a container may send with the MAC and the addresses of others of its network, since nftables or the kernel takes no table for \
                 bridges ({error})"
            ))
            .remedy("; ", "the kernel needs NF_TABLES_BRIDGE, which Debian's kernels have; the agent tries again once a minute"),
        }
    }
}

fn lacks(nftables: Nftables, error: &str) -> Message {
    let missed = match nftables {
        Nftables::Whole | Nftables::Simple => "a peer may send packets with another peer's source",
        Nftables::Absent => {
            "iptables masquerades, but any host, and any container, may send encapsulated packets to this host"
        }
    };
    Message::plain(format!("{error}; until then {missed}"))
}

fn overruled(OperatorDrop { family, rule }: &OperatorDrop, more: usize) -> Message {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    Message::plain(format!(
        "its rule {rule:?}{more} does not drop traffic of the overlay, because wire-agent's rules accept that first"
    ))
    .remedy(": ", format!("to drop it, put the rule into another table ({program} -t mangle -A FORWARD)"))
}

fn unnamed(bridges: &[LinkName]) -> Message {
    let names: Vec<&str> = bridges.iter().map(LinkName::as_str).collect();
    Message::plain(format!(
        "no nftables rule can name {}: encapsulated packets that its containers send with forged sources are not dropped",
        names.join(" ")
    ))
    .remedy(
        "; ",
        "give the bridge a name of ASCII letters, digits and -_. only (-o com.docker.network.bridge.name=)",
    )
}

impl Blocked {
    fn message(&self) -> Message {
        let Self { others, carrier, families, links } = self;
        let (who, remedy) = match (others.ufw, others.firewalld) {
            (true, false) => ("ufw drops", by_ufw(*carrier)),
            (false, true) => {
                // What is forwarded it drops too, unless both ends are trusted.
                let links: Vec<String> = links.iter().map(|link| format!(" --add-interface={link}")).collect();
                let permanent = "firewall-cmd --permanent";
                let opened = by_firewalld(*carrier);
                let open = format!("{permanent} {opened} && {permanent} --zone=trusted{}", links.concat());
                ("firewalld drops", format!("{open} && firewall-cmd --reload"))
            }
            (false, false) | (true, true) => {
                let see = "see nft list ruleset, iptables -S INPUT, ip6tables -S INPUT and sysctl \
                           net.ipv4.conf.all.rp_filter";
                ("a rule of this host drops", see.to_owned())
            }
        };
        let families = families.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let over = if families.is_empty() { String::new() } else { format!(" over {families}") };
        Message::plain(format!("{who} what peers send{over} {}", sent_as(*carrier))).remedy(": ", remedy)
    }
}

/// The form of packets, in a sentence.
fn sent_as(carrier: Carrier) -> String {
    match carrier {
        Carrier::Udp { .. } => format!("to {carrier}"),
        Carrier::Ipip => format!("by {carrier}"),
    }
}

fn by_ufw(carrier: Carrier) -> String {
    match carrier {
        Carrier::Udp { port } => format!("ufw allow {port}/udp"),
        // ufw's own command does not know the protocol.
        Carrier::Ipip => {
            "add -A ufw-before-input -p 4 -j ACCEPT to /etc/ufw/before.rules, before COMMIT, and call ufw reload"
                .to_owned()
        }
    }
}

fn by_firewalld(carrier: Carrier) -> String {
    match carrier {
        Carrier::Udp { port } => format!("--add-port={port}/udp"),
        // The name that /etc/protocols has for 4.
        Carrier::Ipip => "--add-protocol=ipencap".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_drops_what_peers_send_is_named_with_the_remedy() {
        let links = || ["flannel.1", "docker0"].map(|name| name.parse().unwrap()).into();
        let said = |ufw, firewalld, families: &[Family]| {
            let others = OtherFirewalls { ufw, firewalld, docker: false };
            let carrier = Carrier::Udp { port: 8472 };
            Blocked { others, carrier, families: families.into(), links: links() }.message().to_string()
        };
        assert_eq!(said(true, false, &[]), "ufw drops what peers send to UDP port 8472: ufw allow 8472/udp");
        let trusted = "firewall-cmd --permanent --zone=trusted --add-interface=flannel.1 --add-interface=docker0";
        let opened = format!("firewall-cmd --permanent --add-port=8472/udp && {trusted} && ");
        assert!(said(false, true, &[]).contains(&opened));
        assert!(said(false, false, &[]).starts_with("a rule of this host drops"));
        let both = said(false, false, &Family::ALL);
        assert!(
            both.starts_with("a rule of this host drops what peers send over IPv4 and IPv6 to UDP port 8472"),
            "{both}"
        );
        for (ufw, expected) in [
            (true, "ufw drops what peers send by IP protocol 4 (IPIP): add -A ufw-before-input -p 4 "),
            (false, "--permanent --add-protocol=ipencap && "),
        ] {
            let others = OtherFirewalls { ufw, firewalld: !ufw, docker: false };
            let blocked = Blocked { others, carrier: Carrier::Ipip, families: Vec::new(), links: links() };
            assert!(blocked.message().to_string().contains(expected), "{expected}");
        }
    }
}
