//! The faults, as scripts.

use wire_tests::Family;

use super::{Direction, Place};

/// A fault on one host.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) host: usize,
    pub(crate) script: String,
    /// Takes back what [`super::restore::Saved`] does not put right.
    pub(crate) undo: String,
    pub(crate) touches_filter: bool,
}

/// All faults of a direction.
pub(crate) fn kinds(direction: &Direction<'_>) -> Vec<Fault> {
    [sending(direction), receiving(direction), filters(direction)].into_iter().flatten().collect()
}

fn fault(name: &'static str, host: usize, script: String, undo: impl Into<String>) -> Fault {
    Fault { name, host, script, undo: undo.into(), touches_filter: false }
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

fn forwarding(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    }
}

/// Faults of the host that sends.
fn sending(Direction { family, from, to }: &Direction<'_>) -> Vec<Fault> {
    let (host, device, flag) = (from.host, from.device, flag(*family));
    let (subnet, vtep, mac, public, container) = (&to.subnet, to.vtep, &to.mac, to.public, to.container);
    let nobody = match family {
        Family::V4 => "192.168.64.77",
        Family::V6 => "fd64::77",
    };
    let nothing = String::new;
    let forwarding = forwarding(*family);
    vec![
        fault("nothing", host, nothing(), nothing()),
        fault("route removed", host, format!("ip {flag} route del {subnet}"), nothing()),
        fault("neighbour removed", host, format!("ip neigh del {vtep} dev {device}"), nothing()),
        fault("FDB entry removed", host, format!("bridge fdb del {mac} dev {device} dst {public} self"), nothing()),
        fault("device down", host, format!("ip link set {device} down"), nothing()),
        fault(
            "foreign blackhole",
            host,
            format!("ip {flag} route replace blackhole {container}"),
            format!("ip {flag} route del blackhole {container}"),
        ),
        fault(
            "foreign unreachable",
            host,
            format!("ip {flag} route replace unreachable {container}"),
            format!("ip {flag} route del unreachable {container}"),
        ),
        fault("forwarding off", host, format!("sysctl -qw {forwarding}=0"), format!("sysctl -qw {forwarding}=1")),
        fault(
            "wrong MAC",
            host,
            format!("ip neigh replace {vtep} lladdr 02:00:00:00:00:99 dev {device} nud permanent"),
            nothing(),
        ),
        fault(
            "wrong host in the FDB",
            host,
            format!("bridge fdb replace {mac} dev {device} dst {nobody} self permanent"),
            nothing(),
        ),
        fault("container's link down", host, "ip link set leg0 down".to_owned(), nothing()),
        fault("underlay down", host, "ip link set eth0 down".to_owned(), nothing()),
        fault(
            "blackhole on the underlay",
            host,
            format!("ip {flag} route replace blackhole {public}"),
            format!("ip {flag} route del blackhole {public}"),
        ),
        fault(
            "rule that drops",
            host,
            format!("ip {flag} rule add to {subnet} blackhole priority 100"),
            format!("ip {flag} rule del priority 100"),
        ),
        fault(
            "second table that drops",
            host,
            format!(
                "ip {flag} rule add from {} lookup 77 priority 101; ip {flag} route replace blackhole {container} table 77",
                from.subnet
            ),
            format!("ip {flag} rule del priority 101; ip {flag} route flush table 77"),
        ),
        fault(
            "second table with the same way",
            host,
            format!(
                "ip {flag} rule add from {} lookup 78 priority 102; ip {flag} route replace {subnet} via {vtep} dev {device} onlink table 78",
                from.subnet
            ),
            format!("ip {flag} rule del priority 102; ip {flag} route flush table 78"),
        ),
        fault(
            "foreign route with the same way",
            host,
            format!("ip {flag} route replace {container} via {vtep} dev {device} onlink"),
            format!("ip {flag} route del {container} dev {device}"),
        ),
    ]
}

/// Faults of the host that receives.
fn receiving(Direction { family, from, to }: &Direction<'_>) -> Vec<Fault> {
    let (host, device, flag) = (to.host, to.device, flag(*family));
    let (subnet, container) = (&to.subnet, to.container);
    let nothing = String::new;
    let forwarding = forwarding(*family);
    vec![
        fault("another MAC", host, format!("ip link set {device} address 02:00:00:00:00:98"), nothing()),
        fault("another VNI", host, remade(to, 7), remade(to, 1)),
        fault("receiving device down", host, format!("ip link set {device} down"), nothing()),
        fault("receiving underlay down", host, "ip link set eth0 down".to_owned(), nothing()),
        fault("container's link down there", host, "ip link set leg0 down".to_owned(), nothing()),
        fault("no route to the containers", host, format!("ip {flag} route del {subnet} dev leg0"), nothing()),
        fault("no way back", host, format!("ip {flag} route del {}", from.subnet), nothing()),
        fault(
            "receiving blackhole",
            host,
            format!("ip {flag} route replace blackhole {container}"),
            format!("ip {flag} route del blackhole {container}"),
        ),
        fault(
            "receiver does not forward",
            host,
            format!("sysctl -qw {forwarding}=0"),
            format!("sysctl -qw {forwarding}=1"),
        ),
        fault("no neighbour of the sender there", host, format!("ip neigh del {} dev {device}", from.vtep), nothing()),
    ]
}

/// Faults of the receiver's filter.
fn filters(Direction { family, to, .. }: &Direction<'_>) -> Vec<Fault> {
    let (name, len) = match family {
        Family::V4 => ("v4", 24),
        Family::V6 => ("v6", 64),
    };
    let sender = format!("nft flush set inet wire-agent subnets-{name}-{len}\n");
    let stranger = format!("{sender}nft flush set inet wire-agent peers-{name}\n");
    let kinds = [
        ("lease of the sender removed", sender.clone()),
        ("sender removed", stranger.clone()),
        ("first rule removed", without_rule("usual", name)),
        ("rule about strangers removed", without_rule("strangers", name)),
        ("sender removed, and the rule about strangers", format!("{stranger}{}", without_rule("strangers", name))),
        (
            "lease removed, and the rule about other leases",
            format!("{sender}{}", without_rule("sources of other leases", name)),
        ),
        ("rule about packets that none let in removed", without_rule("let in by no rule", name)),
        ("chain flushed", "nft flush chain inet wire-agent arriving".to_owned()),
        ("policy that drops", "nft chain inet wire-agent arriving '{ policy drop; }'".to_owned()),
        ("sender removed, table deleted", format!("{stranger}nft delete table inet wire-agent")),
    ];
    let of_filter = |(name, script)| Fault { name, host: to.host, script, undo: String::new(), touches_filter: true };
    kinds.map(of_filter).into()
}

/// Makes the device of a host anew with this VNI, and with nothing on it.
fn remade(Place { device, public, mac, .. }: &Place, vni: u32) -> String {
    format!(
        "ip link del {device}; ip link add {device} type vxlan id {vni} dev eth0 local {public} dstport 8472 nolearning
         ip link set {device} address {mac} up"
    )
}

/// Deletes the first rule with this purpose, if there is one.
fn without_rule(purpose: &str, family: &str) -> String {
    format!(
        "for chain in arriving decapsulated; do
         handle=$(nft -a list chain inet wire-agent $chain |
             sed -n '/comment \"{purpose} {family} /s/.*# handle //p' | head -1)
         test -z \"$handle\" || nft delete rule inet wire-agent $chain handle $handle
         done\n"
    )
}
