//! One table: the links with their addresses, the network's families, the flags, the earlier choice, and the expected
//! choice.

use std::collections::BTreeMap;

use wire_kernel::ResolvedRoute;
use wire_lease::NetworkConfig;
use wire_net::{LocalAddress, Mtu};

use super::*;

/// A host, a link a line: name, kind (`-` where it has none) and addresses, each with its state after a comma. A `*` before the
/// name says that IPv4's default route leads there, a `+` IPv6's; the first line with it has the preferred one.
const PLAIN: &str = "
    lo - 127.0.0.1/8 ::1/128
    *+eth0 - 192.168.64.2/24 fd99::a/64 fe80::2/64
    eth1 - 172.20.0.2/24
    docker0 bridge 10.5.50.1/24
    flannel.1 vxlan 10.5.50.0/32";

/// Docker with bridges of its own, and machines on others.
const BRIDGES: &str = "
    lo - 127.0.0.1/8 10.7.7.7/32
    docker0 bridge 172.17.0.1/16
    br-0123456789ab bridge 172.18.0.1/16
    br-lan bridge 172.19.0.2/16
    flannel0 tun 10.5.50.0/32
    flannel-v6.1 tun fd00:5:0:50::/128
    tun0 tun 10.8.0.2/24
    cni0 bridge 10.5.60.1/24
    eth0 - 10.1.0.2/24";

const NAMES: &str = "
    lo - 127.0.0.1/8
    *eth0 - 192.168.64.2/24
    ens192 bridge 10.99.0.1/24 fd99::2/64";

const TWO: &str = "
    lo - 127.0.0.1/8
    *eth0 - 10.1.0.2/24 10.1.0.3/24
    *eth1 - 10.2.0.2/24";

const V4: &str = r#"{"Network":"10.5.0.0/16"}"#;
const V6: &str = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;
/// flannel's documented example: hosts may lie inside the network, beside the range.
const BOUNDED: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}"#;

fn host(lines: &str) -> HostNetwork {
    let mut host = HostNetwork {
        default_routes: DualStack { v4: Some(Vec::new()), v6: Some(Vec::new()) },
        ..HostNetwork::default()
    };
    for (index, line) in (1u32..).zip(lines.lines().map(str::trim).filter(|line| !line.is_empty())) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        for (mark, routes) in [('*', &mut host.default_routes.v4), ('+', &mut host.default_routes.v6)] {
            if name.starts_with(|letter| "*+".contains(letter)) && name.contains(mark) {
                routes.as_mut().unwrap().push(index);
            }
        }
        let name = name.trim_start_matches(['*', '+']);
        let kind = words.next().unwrap().trim_matches('-').to_owned();
        let addresses = words.map(address).collect();
        let (is_loopback, name) = (name == "lo", name.parse().unwrap());
        host.links.push(HostLink { name, index, kind, is_loopback, mtu: Mtu(1500), mac: None, addresses });
    }
    host
}

fn address(word: &str) -> HostAddress {
    let (address, standing) = word.split_once(',').unwrap_or((word, "lasting"));
    let (address, len) = address.split_once('/').unwrap();
    let standing = match standing {
        "lasting" => AddressState::Stable,
        "temporary" => AddressState::Temporary,
        "deprecated" => AddressState::Deprecated,
        "duplicate" => AddressState::Duplicate,
        other => panic!("{other}"),
    };
    let local = LocalAddress::new(address.parse().unwrap(), len.parse().unwrap()).unwrap();
    HostAddress { local, state: standing }
}

/// Flags as on the command line, in their order of precedence, and routes of `--iface-can-reach` as `target>link,source`.
fn asked(flags: &str, host: &mut HostNetwork) -> (Vec<UnderlayWish>, DualStack<IpAddr>) {
    let (mut wishes, mut public, mut ways) = (Vec::new(), DualStack::default(), BTreeMap::new());
    for flag in flags.split_whitespace() {
        let (name, value) = flag.split_once('=').unwrap();
        match name {
            "iface" => wishes.push(UnderlayWish::Interface(value.to_owned())),
            "regex" => wishes.push(UnderlayWish::Pattern(Regex::new(value).unwrap())),
            "reach" => {
                let (target, way) = value.split_once('>').unwrap();
                let (link, source) = way.split_once(',').unwrap();
                let link = host.link(link.parse().unwrap()).unwrap().index;
                ways.insert(target.parse().unwrap(), Ok(ResolvedRoute { link, source: source.parse().ok() }));
                wishes.push(UnderlayWish::CanReach(target.parse().unwrap()));
            }
            "public" => {
                let address: IpAddr = value.parse().unwrap();
                public.set(Family::of(address), Some(address));
            }
            other => panic!("{other}"),
        }
    }
    host.resolved = ways;
    (wishes, public)
}

/// Parses an earlier choice: a link, with its index if it is known, and its addresses. Other addresses of the link
/// follow after a `|`.
fn held(text: &str) -> (Option<Held>, Vec<LocalAddress>) {
    let (held, beside) = text.split_once('|').unwrap_or((text, ""));
    let known = beside.split_whitespace().map(|word| address(word).local).collect();
    let mut words = held.split_whitespace();
    let Some(link) = words.next() else { return (None, known) };
    let (link, index) = link.split_once('#').unwrap_or((link, ""));
    let mut addresses = DualStack::default();
    for address in words.map(|word| word.parse::<IpAddr>().unwrap()) {
        addresses.set(Family::of(address), Some(address));
    }
    let link = link.parse().unwrap();
    (Some(Held { index: index.parse().ok(), link, formerly: None, addresses }), known)
}

/// The choice as text, with the name that it was found by where it has another; `waits` where the link that was held may come back, and the reason where there is none.
fn outcome(lines: &str, config: &str, flags: &str, before: &str) -> String {
    let mut host = host(lines);
    let (wishes, public) = asked(flags, &mut host);
    let pools = NetworkConfig::from_json(config.as_bytes()).unwrap().pools;
    let (before, known) = held(before);
    let chosen = match choose(&host, &Wanted { wishes: &wishes, public, pools: &pools, held: before }) {
        Ok(chosen) => chosen,
        Err(reason) => return format!("none: {reason}"),
    };
    if before.is_some_and(|before| before.awaited(&host, &chosen, &known).is_some()) {
        return "waits".to_owned();
    }
    let addresses = chosen.addresses.iter().map(|(_, address)| format!(" {address}"));
    let formerly = chosen.formerly.map(|name| format!(" formerly {name}"));
    std::iter::once(chosen.link.name.to_string()).chain(addresses).chain(formerly).collect()
}

/// The same host with one line changed.
fn with(lines: &str, from: &str, to: &str) -> String {
    assert!(lines.contains(from), "{from}");
    lines.replace(from, to)
}

#[test]
fn the_interface_is_chosen_by_flannels_rules_and_kept_for_as_long_as_it_can_be() {
    let second6 = with(PLAIN, "fd99::a/64", "fd99::100/128 fd99::a/64");
    let deprecated6 = with(PLAIN, "fd99::a/64", "fd99::100/128 fd99::a/64,deprecated");
    let gone6 = with(PLAIN, "fd99::a/64", "fd99::100/128");
    let vip6 = with(PLAIN, "fd99::a/64", "fd99::100/128,deprecated fd99::a/64");
    let privacy = with(PLAIN, "fd99::a/64", "fd99::77/64,temporary fd99::a/64");
    let duplicate = with(PLAIN, "fd99::a/64", "fd99::a/64,duplicate");
    let v4_only = with(PLAIN, " fd99::a/64", "");
    let no_default = with(PLAIN, "*+eth0", "eth0");
    let away = with(PLAIN, " 192.168.64.2/24 fd99::a/64", "");
    let link_local = with(PLAIN, "192.168.64.2/24", "169.254.3.3/16");
    let both = with(PLAIN, "192.168.64.2/24", "169.254.3.3/16 192.168.64.2/24");
    let moved = with(PLAIN, "eth1", "*eth1");
    let without_second = with(PLAIN, " 172.20.0.2/24", "");
    let only_eth1 = with(&no_default, "eth1", "*eth1");
    let no_eth0 = with(BRIDGES, "eth0 - 10.1.0.2/24", "eth0 -");
    let by_docker = with(BRIDGES, "docker0", "*docker0");
    let first_away = with(TWO, "*eth0 - 10.1.0.2/24 10.1.0.3/24", "eth0 -");
    let first_gone = with(TWO, "*eth0 - 10.1.0.2/24 10.1.0.3/24", "");
    let other_default = with(TWO, "*eth0", "eth0");
    let newest_first = with(TWO, "10.1.0.2/24 10.1.0.3/24", "10.1.0.3/24 10.1.0.2/24");
    let held_gone = with(TWO, " 10.1.0.2/24", "");
    let replaced = with(TWO, "10.1.0.2/24 10.1.0.3/24", "10.1.0.9/24");
    let replaced_for_a_day = with(TWO, "10.1.0.2/24 10.1.0.3/24", "10.1.0.9/24,temporary");
    let under_a_bridge = with(TWO, "*eth0 - 10.1.0.2/24 10.1.0.3/24", "eth0 -\n *br0 bridge 10.1.0.2/24");
    let renamed = with(TWO, "eth0", "ens3");
    let swapped = "lo - 127.0.0.1/8\n *eth1 - 10.1.0.2/24\n *eth0 - 10.2.0.2/24";
    let bridged_host = "*br0 bridge 10.240.0.2/24\n docker0 bridge 10.13.0.1/20\n flannel.1 vxlan 10.13.0.0/32";
    let dual_by_link = "a0 - 10.1.0.2/24 fd98::1/64\n b0 - 10.1.0.3/24 fd10::1/64\n c0 - 10.3.0.1/24 fd10::2/64";
    let v6_only = "+eth0 - fe80::1/64 fd99::a/64\n *eth1 - 192.168.64.2/24";

    let rows: &[(&str, &str, &str, &str, &str)] = &[
        // The default route decides.
        (PLAIN, V4, "", "", "eth0 192.168.64.2"),
        (PLAIN, DUAL, "", "", "eth0 192.168.64.2 fd99::a"),
        (PLAIN, V6, "", "", "eth0 fd99::a"),
        (&no_default, V4, "", "", "none: no default route"),
        (&v4_only, DUAL, "", "", "none: eth0 has no IPv6 address"),
        (v6_only, V4, "", "", "eth1 192.168.64.2"),
        (v6_only, V6, "", "", "eth0 fd99::a"),
        (&by_docker, V4, "", "", "none: no default route"),
        (&away, V4, "", "", "none: eth0 has no IPv4 address"),
        (bridged_host, BOUNDED, "", "", "br0 10.240.0.2"),
        // Addresses: one that others reach, one that stays, the kernel's first.
        (&link_local, V4, "", "", "eth0 169.254.3.3"),
        (&both, V4, "", "", "eth0 192.168.64.2"),
        (&both, V4, "", "eth0 169.254.3.3", "eth0 192.168.64.2"),
        (&second6, DUAL, "", "", "eth0 192.168.64.2 fd99::100"),
        (&vip6, DUAL, "", "", "eth0 192.168.64.2 fd99::a"),
        (&privacy, DUAL, "", "", "eth0 192.168.64.2 fd99::a"),
        (&duplicate, DUAL, "", "", "none: eth0 has no IPv6 address"),
        (TWO, V4, "", "", "eth0 10.1.0.2"),
        // What was held is kept while it is valid.
        (&second6, DUAL, "", "eth0 192.168.64.2 fd99::a", "eth0 192.168.64.2 fd99::a"),
        (&deprecated6, DUAL, "", "eth0 192.168.64.2 fd99::a", "eth0 192.168.64.2 fd99::100"),
        (&gone6, DUAL, "", "eth0 192.168.64.2 fd99::a", "eth0 192.168.64.2 fd99::100"),
        (&privacy, DUAL, "", "eth0 192.168.64.2 fd99::77", "eth0 192.168.64.2 fd99::77"),
        (&second6, V4, "", "eth0 192.168.64.2", "eth0 192.168.64.2"),
        (&newest_first, V4, "", "eth0 10.1.0.2", "eth0 10.1.0.2"),
        (TWO, V4, "", "eth0 10.1.0.3", "eth0 10.1.0.3"),
        (&moved, V4, "", "eth1 172.20.0.2", "eth1 172.20.0.2"),
        (&only_eth1, V4, "", "eth0 192.168.64.2", "eth1 172.20.0.2"),
        (&other_default, V4, "", "eth0 10.1.0.2", "eth1 10.2.0.2"),
        // An address, or a link, that is away for a moment is not another underlay.
        (&away, V4, "", "eth0 192.168.64.2", "none: eth0 has no IPv4 address"),
        (&first_away, V4, "", "eth0 10.1.0.2", "waits"),
        (&first_away, V4, "regex=^10\\.", "eth0 10.1.0.2", "waits"),
        (&first_gone, V4, "iface=eth0 iface=eth1", "eth0 10.1.0.2", "waits"),
        (TWO, V4, "iface=10.1.0.9 iface=eth1", "eth0 10.1.0.9", "waits"),
        (&no_eth0, V4, "regex=^10\\.1", "eth0 10.1.0.2", "none: matches ^10"),
        // So does another address that was beside it, or that is none to stay; one that has come in its place does not.
        (&gone6, DUAL, "", "eth0 192.168.64.2 fd99::a | fd99::100/128", "waits"),
        (&held_gone, V4, "", "eth0 10.1.0.2 | 10.1.0.3/24", "waits"),
        (&held_gone, V4, "regex=^10", "eth0 10.1.0.2 | 10.1.0.3/24", "waits"),
        (&replaced, V4, "", "eth0 10.1.0.2 | 10.1.0.3/24", "eth0 10.1.0.9"),
        (&replaced_for_a_day, V4, "", "eth0 10.1.0.2", "waits"),
        (&link_local, V4, "", "eth0 192.168.64.2", "waits"),
        // The same addresses on another link are no less this host's.
        (&under_a_bridge, V4, "", "eth0#2 10.1.0.2 | 10.1.0.3/24", "br0 10.1.0.2"),
        // A link that is renamed is the same, for as long as its number is known; one that was made anew has its name.
        (&renamed, V4, "", "eth0#2 10.1.0.3", "ens3 10.1.0.3"),
        (&renamed, V4, "iface=eth0", "eth0#2 10.1.0.3", "ens3 10.1.0.3 formerly eth0"),
        (&renamed, V4, "regex=^eth0", "eth0#2 10.1.0.3", "ens3 10.1.0.3 formerly eth0"),
        (&renamed, V4, "regex=^eth", "eth0#2 10.1.0.3", "ens3 10.1.0.3 formerly eth0"),
        (&renamed, V4, "iface=eth0", "eth0 10.1.0.3", "none: no link eth0"),
        (&renamed, V4, "iface=eth9", "eth0#2 10.1.0.3", "none: no link eth9"),
        (&renamed, V4, "iface=eth1", "eth0#2 10.1.0.3", "eth1 10.2.0.2"),
        (swapped, V4, "iface=eth0", "eth0#2 10.1.0.2", "eth0 10.2.0.2"),
        (swapped, V4, "", "eth1#3 10.2.0.2", "eth0 10.2.0.2"),
        (TWO, V4, "", "eth1#9 10.2.0.2", "eth1 10.2.0.2"),
        // A name, or an address.
        (PLAIN, V4, "iface=eth1", "", "eth1 172.20.0.2"),
        (PLAIN, DUAL, "iface=eth1", "", "none: eth1 has no IPv6 address"),
        (PLAIN, DUAL, "iface=eth1 iface=eth0", "", "eth0 192.168.64.2 fd99::a"),
        (PLAIN, V4, "iface=eth9", "", "none: no link eth9; it has lo"),
        (PLAIN, V4, "iface=eth9 iface=172.20.0.2", "", "eth1 172.20.0.2"),
        (TWO, V4, "iface=10.1.0.3", "", "eth0 10.1.0.3"),
        (TWO, V4, "iface=10.1.0.3", "eth0 10.1.0.2", "eth0 10.1.0.3"),
        (PLAIN, V4, "iface=10.9.9.9", "", "none: no link of this host has the address 10.9.9.9"),
        (PLAIN, V4, "iface=fd99::a", "", "none: the network has no IPv6"),
        (PLAIN, V6, "iface=192.168.64.2", "", "none: the network has no IPv4"),
        (PLAIN, DUAL, "iface=fd99::a", "", "eth0 192.168.64.2 fd99::a"),
        (TWO, V4, "iface=eth0 iface=eth1", "eth1 10.2.0.2", "eth0 10.1.0.2"),
        // Nothing that leads to containers, and not the loopback device.
        (PLAIN, V4, "iface=lo", "", "none: lo, the loopback device"),
        (BRIDGES, V4, "iface=10.7.7.7", "", "none: --public-ip"),
        (PLAIN, V4, "iface=flannel.1", "", "none: flannel.1, a device of an overlay"),
        (PLAIN, V4, "iface=10.5.50.0", "", "none: flannel.1, a device of an overlay"),
        (PLAIN, V4, "iface=docker0", "", "none: docker0, a bridge of Docker's"),
        (BRIDGES, V4, "iface=cni0", "", "none: cni0, whose address is inside the overlay"),
        (BRIDGES, V4, "iface=br-0123456789ab", "", "none: a bridge of Docker's"),
        (BRIDGES, V4, "iface=br-lan", "", "br-lan 172.19.0.2"),
        (BRIDGES, V4, "iface=tun0", "", "tun0 10.8.0.2"),
        (BRIDGES, V4, "iface=flannel0 iface=eth0", "", "eth0 10.1.0.2"),
        (BRIDGES, V6, "iface=flannel-v6.1", "", "none: a device of an overlay"),
        (bridged_host, BOUNDED, "regex=^10\\.", "", "br0 10.240.0.2"),
        // A pattern: addresses of the families that are on in order of links, then names.
        (NAMES, V4, "regex=192", "", "eth0 192.168.64.2"),
        (NAMES, V4, "regex=^fd", "", "none: matches ^fd"),
        (NAMES, V4, "regex=^1", "", "eth0 192.168.64.2"),
        (NAMES, V4, "regex=lo", "", "none: matches lo"),
        (NAMES, V4, "regex=lo|eth", "", "eth0 192.168.64.2"),
        (NAMES, V4, "regex=^ens", "", "ens192 10.99.0.1"),
        (NAMES, V6, "regex=^fd", "", "ens192 fd99::2"),
        (NAMES, V6, "regex=^10", "", "none: matches ^10"),
        (PLAIN, V4, "regex=1$", "", "eth1 172.20.0.2"),
        (PLAIN, V6, "regex=^fe80", "", "none: matches ^fe80"),
        (&no_eth0, V4, "regex=^10\\.", "", "tun0 10.8.0.2"),
        (BRIDGES, V4, "regex=^172\\.", "", "br-lan 172.19.0.2"),
        (BRIDGES, V4, "regex=^10\\.1", "", "eth0 10.1.0.2"),
        (TWO, V4, "regex=3$", "", "eth0 10.1.0.3"),
        (TWO, V4, "regex=^10", "eth0 10.1.0.3", "eth0 10.1.0.3"),
        (TWO, V4, "regex=3$", "eth0 10.1.0.2", "eth0 10.1.0.3"),
        (TWO, V4, "regex=^10", "eth1 10.2.0.2", "eth1 10.2.0.2"),
        (TWO, V4, "regex=^9 regex=^10\\.2", "", "eth1 10.2.0.2"),
        (TWO, V4, "iface=eth1 regex=^10", "", "eth1 10.2.0.2"),
        (dual_by_link, DUAL, "regex=10", "", "b0 10.1.0.3 fd10::1"),
        (dual_by_link, DUAL, "regex=^10\\.3|^a0", "", "a0 10.1.0.2 fd98::1"),
        (dual_by_link, DUAL, "regex=^10\\.3", "", "c0 10.3.0.1 fd10::2"),
        // The route to an address.
        (PLAIN, V4, "reach=8.8.8.8>eth1,172.20.0.2", "", "eth1 172.20.0.2"),
        (TWO, V4, "reach=8.8.8.8>eth0,10.1.0.3", "", "eth0 10.1.0.3"),
        (TWO, V4, "reach=8.8.8.8>eth0,10.1.0.3", "eth0 10.1.0.2", "eth0 10.1.0.2"),
        (PLAIN, V4, "reach=10.5.9.1>flannel.1,10.5.50.0", "", "none: the route to 10.5.9.1 leads to flannel.1"),
        (PLAIN, V4, "reach=192.168.64.2>lo,192.168.64.2", "", "none: leads to lo"),
        (PLAIN, DUAL, "reach=8.8.8.8>eth0,192.168.64.2", "", "eth0 192.168.64.2 fd99::a"),
        // A public address alone says which link; one of another host, or of the loopback device, does not.
        (PLAIN, V4, "public=172.20.0.2", "", "eth1 172.20.0.2"),
        (&no_default, V4, "public=172.20.0.2", "", "eth1 172.20.0.2"),
        (PLAIN, V4, "public=172.20.0.2 iface=eth0", "", "eth0 192.168.64.2"),
        (PLAIN, V4, "public=203.0.113.9", "", "eth0 192.168.64.2"),
        (&without_second, V4, "public=172.20.0.2", "eth1 172.20.0.2", "waits"),
        (&without_second, V4, "public=172.20.0.2", "", "eth0 192.168.64.2"),
        (&no_default, V4, "public=203.0.113.9", "", "none: no default route"),
        (PLAIN, V4, "public=127.0.0.1", "", "eth0 192.168.64.2"),
        (TWO, V4, "public=10.1.0.3", "", "eth0 10.1.0.3"),
        (&no_default, V6, "public=fd99::a", "", "eth0 fd99::a"),
        (PLAIN, V4, "public=fd99::a", "", "eth0 192.168.64.2"),
        (&second6, DUAL, "public=fd99::a", "", "eth0 192.168.64.2 fd99::a"),
        (PLAIN, DUAL, "public=203.0.113.9 public=fd99::a", "", "eth0 192.168.64.2 fd99::a"),
        (PLAIN, V4, "public=10.5.50.1", "", "eth0 192.168.64.2"),
    ];
    assert!(rows.len() >= 40);
    let wrong = rows.iter().filter_map(|(lines, config, flags, before, expected)| {
        let found = outcome(lines, config, flags, before);
        let fits = match expected.strip_prefix("none: ") {
            Some(reason) => found.starts_with("none: ") && found.contains(reason),
            None => found == *expected,
        };
        (!fits).then(|| format!("{flags:?} held {before:?} on{lines}\n  {config}\n  is {found:?}, not {expected:?}"))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
