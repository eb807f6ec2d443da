//! Whatever is missing, altered or too much on a host whose agent has ended, `wire-agent verify` names it, and nothing else.

use wire_tests::{Lab, LabError, Result, lab};

use crate::{
    cluster::{Node, START},
    verify::{expect_lines, expect_silence, settled},
};

/// One thing that is damaged.
pub(crate) struct Case {
    /// A shell script.
    damage: &'static str,
    /// A part of each line that must be said; there may be no others.
    lines: &'static [&'static str],
    /// A shell script that undoes the damage; empty: a start of the agent does.
    mending: &'static str,
}

pub(crate) const fn case(damage: &'static str, lines: &'static [&'static str], mending: &'static str) -> Case {
    Case { damage, lines, mending }
}

/// The words of the cases and their meaning: our device, then the first peer, then the second.
const WORDS_V4: [(&str, &str); 17] = [
    ("$family", "4"),
    ("$dev", "flannel.1"),
    ("$mtu", "1450"),
    ("$entries", "8 entries"),
    ("$own", "10.5."),
    ("$sysctl", "net.ipv4.conf.flannel/1.forwarding"),
    ("$forwarding", "net.ipv4.ip_forward"),
    ("$iptables", "iptables"),
    ("$network", "10.5.0.0/16"),
    ("$subnet", "10.5.100.0/24"),
    ("$gateway", "10.5.100.0"),
    ("$host", "172.20.0.101"),
    ("$mac", "02:aa:00:00:00:64"),
    ("$other_gateway", "10.5.101.0"),
    ("$other_host", "172.20.0.102"),
    ("$extra", "192.0.2.7"),
    ("$longest", "32"),
];
const WORDS_V6: [(&str, &str); 17] = [
    ("$family", "6"),
    ("$dev", "flannel-v6.1"),
    ("$mtu", "1430"),
    ("$entries", "9 entries"),
    ("$own", "fd00:5:0:"),
    ("$sysctl", "net.ipv6.conf.flannel-v6/1.forwarding"),
    ("$forwarding", "net.ipv6.conf.all.forwarding"),
    ("$iptables", "ip6tables"),
    ("$network", "fd00:5::/32"),
    ("$subnet", "fd00:5:564::/64"),
    ("$gateway", "fd00:5:564::"),
    ("$host", "fd20::564"),
    ("$mac", "02:aa:06:00:00:64"),
    ("$other_gateway", "fd00:5:565::"),
    ("$other_host", "fd20::565"),
    ("$extra", "fd77::7"),
    ("$longest", "128"),
];

/// With them in front of each script, `handle WORDS` prints the handle of the first rule of our table that has these words.
const SHELL: &str = r#"handle() { nft -a list table inet wire-agent | sed -n "/$*/s/.*# handle //p" | head -1; }; "#;

const DEVICE: [Case; 5] = [
    case("ip link delete $dev", &["network: device $dev is missing, and $entries on it: no host can be reached"], ""),
    case(
        "ip link set $dev mtu 1400",
        &["network: device $dev has MTU 1400, and should have $mtu"],
        "ip link set $dev mtu $mtu",
    ),
    case(
        "ip address add $extra dev $dev",
        &["network: address $extra/$longest on $dev should not be there"],
        "ip address delete $extra dev $dev",
    ),
    case("sysctl -qw $sysctl=0", &["network: sysctl $sysctl is 0, and should be 1"], "sysctl -qw $sysctl=1"),
    // With it the kernel sets that of each device.
    case(
        "sysctl -qw $forwarding=0",
        &[
            "network: sysctl $forwarding is 0, and should be 1: the host forwards no IPv$family packets",
            "sysctl $sysctl is 0",
        ],
        "sysctl -qw $forwarding=1",
    ),
];

const ENTRIES: [Case; 10] = [
    case(
        "bridge fdb delete $mac dev $dev dst $host",
        &["network: FDB entry $mac on $dev is missing: host $host cannot be reached"],
        "bridge fdb add $mac dev $dev dst $host",
    ),
    case(
        "bridge fdb replace $mac dev $dev dst $other_host",
        &[
            "network: FDB entry $mac on $dev leads to $other_host, and should lead to $host: host $host cannot be reached",
        ],
        "bridge fdb replace $mac dev $dev dst $host",
    ),
    case(
        "bridge fdb add 02:de:ad:00:00:01 dev $dev dst $host",
        &["network: FDB entry 02:de:ad:00:00:01 on $dev should not be there"],
        "bridge fdb delete 02:de:ad:00:00:01 dev $dev dst $host",
    ),
    case(
        "bridge fdb append 00:00:00:00:00:00 dev $dev dst $host",
        &["network: flood entry 00:00:00:00:00:00 to $host on $dev should not be there"],
        "bridge fdb delete 00:00:00:00:00:00 dev $dev dst $host",
    ),
    case(
        "ip neigh delete $gateway dev $dev",
        &["network: neighbour $gateway on $dev is missing: host $host cannot be reached"],
        "ip neigh add $gateway dev $dev lladdr $mac nud permanent",
    ),
    case(
        "ip neigh replace $gateway dev $dev lladdr 02:de:ad:00:00:01 nud permanent",
        &["network: neighbour $gateway on $dev has MAC 02:de:ad:00:00:01, and should have $mac: host $host cannot"],
        "ip neigh replace $gateway dev $dev lladdr $mac nud permanent",
    ),
    case(
        "ip neigh add $extra dev $dev lladdr 02:de:ad:00:00:01 nud permanent",
        &["network: neighbour $extra on $dev should not be there"],
        "ip neigh delete $extra dev $dev",
    ),
    case(
        "ip route delete $subnet dev $dev",
        &["network: route $subnet is missing: host $host cannot be reached"],
        "ip route add $subnet via $gateway dev $dev onlink proto 91",
    ),
    case(
        "ip -$family route replace $subnet via $other_gateway dev $dev onlink proto 91",
        &[
            "network: route $subnet leads to $other_gateway on $dev, and should lead to $gateway on $dev: host $host cannot",
        ],
        "ip -$family route replace $subnet via $gateway dev $dev onlink proto 91",
    ),
    case(
        "ip route add $extra via $gateway dev $dev onlink proto 91",
        &["network: route $extra/$longest should not be there"],
        "ip route delete $extra dev $dev",
    ),
];

/// What the kernel takes along with a device that goes down or loses its only address.
const TAKEN_ALONG_V4: [Case; 2] = [
    case(
        "ip link set $dev down",
        &[
            "network: device $dev is down, and should be up: no host can be reached through it",
            "neighbour $gateway on $dev is missing",
            "neighbour $other_gateway on $dev is missing",
            "route $subnet is missing",
            "route 10.5.101.0/24 is missing",
        ],
        "",
    ),
    case(
        "ip -4 address flush dev $dev",
        &[
            "network: address $own",
            "neighbour $gateway on $dev is missing",
            "neighbour $other_gateway on $dev is missing",
            "route $subnet is missing",
            "route 10.5.101.0/24 is missing",
        ],
        "",
    ),
];
const TAKEN_ALONG_V6: [Case; 3] = [
    case(
        "ip link set $dev down",
        &[
            "network: device $dev is down, and should be up: no host can be reached through it",
            "address $own",
            "neighbour $gateway on $dev is missing",
            "neighbour $other_gateway on $dev is missing",
            "route $subnet is missing",
            "route fd00:5:565::/64 is missing",
        ],
        "",
    ),
    case("ip -6 address flush dev $dev scope global", &["network: address $own"], ""),
    case(
        "sysctl -qw net.ipv6.conf.flannel-v6/1.disable_ipv6=1",
        &[
            "network: sysctl net.ipv6.conf.flannel-v6/1.disable_ipv6 is 1, and should be 0: $dev has no IPv6 addresses",
            "address $own",
            "neighbour $gateway on $dev is missing",
            "neighbour $other_gateway on $dev is missing",
            "route $subnet is missing",
            "route fd00:5:565::/64 is missing",
        ],
        "",
    ),
];

const IPTABLES: [Case; 9] = [
    case(
        "nft delete element inet wire-agent peers-v$family { $host }",
        &["firewall: element $host in set peers-v$family is missing"],
        "nft add element inet wire-agent peers-v$family { $host }",
    ),
    case(
        "nft add element inet wire-agent peers-v$family { $extra }",
        &["firewall: element $extra in set peers-v$family should not be there"],
        "nft delete element inet wire-agent peers-v$family { $extra }",
    ),
    case("$iptables -F WIRE-FORWARD", &["firewall: chain WIRE-FORWARD of $iptables filter lacks the rule"], ""),
    case(
        "$iptables -D WIRE-POLICY -s $network -j ACCEPT",
        &["firewall: chain WIRE-POLICY of $iptables filter lacks the rule \"-s $network -j ACCEPT\""],
        "$iptables -I WIRE-POLICY 2 -s $network -j ACCEPT",
    ),
    case(
        "$iptables -A WIRE-POLICY -s $extra -j DROP",
        &[
            "firewall: chain WIRE-POLICY of $iptables filter has the rule \"-s $extra/$longest -j DROP\", and should not",
        ],
        "$iptables -D WIRE-POLICY -s $extra -j DROP",
    ),
    case(
        "$iptables -D FORWARD -j WIRE-FORWARD",
        &["firewall: chain WIRE-FORWARD of $iptables filter is not called from FORWARD, and should be"],
        "$iptables -I FORWARD -j WIRE-FORWARD",
    ),
    case(
        "$iptables -I FORWARD -s $extra -j DROP",
        &["firewall: chain WIRE-FORWARD of $iptables filter is called from FORWARD behind other rules"],
        "$iptables -D FORWARD -s $extra -j DROP",
    ),
    case(
        "$iptables -D FORWARD -j WIRE-POLICY; $iptables -F WIRE-POLICY; $iptables -X WIRE-POLICY",
        &["firewall: chain WIRE-POLICY of $iptables filter is missing"],
        "",
    ),
    // Rules in the other variant's tables may need connections to be tracked, so a rule of ours has to be another one. These tables stay.
    case(
        "$iptables-legacy -N WIRE-FORWARD",
        &[
            "chain WIRE-FORWARD of $iptables filter was left in the variant of iptables that is not in use",
            "(usual v$family) is of another version",
        ],
        "",
    ),
];

const NFTABLES: [Case; 8] = [
    case("nft delete table inet wire-agent", &["firewall: table inet wire-agent is missing"], ""),
    case(
        "nft delete rule inet wire-agent sources handle $(handle marked for others)",
        &["firewall: rule 1 of chain sources (marked for others) is missing"],
        "",
    ),
    case(
        "nft flush chain inet wire-agent encapsulated-out",
        &[
            "rule 1 of chain encapsulated-out",
            "rule 2 of chain encapsulated-out",
            "rule 3 of chain encapsulated-out",
            "rule 4 of chain encapsulated-out",
            "rule 5 of chain encapsulated-out",
            "rule 6 of chain encapsulated-out",
            "rule 7 of chain encapsulated-out",
        ],
        "",
    ),
    case(
        "nft insert rule inet wire-agent arriving ip saddr 192.0.2.7 drop",
        &["firewall: rule found as number 1 in chain arriving was put there by somebody else, and should not be there"],
        "nft delete rule inet wire-agent arriving handle $(handle 192.0.2.7)",
    ),
    case(
        "nft add chain inet wire-agent sources '{ policy drop; }'",
        &["firewall: chain sources of inet wire-agent has the policy drop, and should have accept"],
        "nft add chain inet wire-agent sources '{ policy accept; }'",
    ),
    case(
        "nft add table inet wire-agent '{ flags dormant; }'",
        &["firewall: table inet wire-agent is dormant, and should not be: none of its rules has an effect"],
        "nft add table inet wire-agent",
    ),
    case(
        "nft add set inet wire-agent other '{ type ipv4_addr; }'",
        &["firewall: set other of inet wire-agent should not be there"],
        "nft delete set inet wire-agent other",
    ),
    case(
        "nft add table ip flannel-ipv4",
        &["firewall: table ip flannel-ipv4 was left by flanneld, and should not be there"],
        "nft delete table ip flannel-ipv4",
    ),
];

const FILE: [Case; 3] = [
    case("mv $file $file.away", &["files: file $file is missing"], "mv $file.away $file"),
    case(
        "cp $file $file.away; sed -i '1s/.*/x=1/' $file",
        &["files: file $file has line 1: \"x=1\", and should have"],
        "mv $file.away $file",
    ),
    case(
        "mv $file $file.away; mkdir $file",
        &["files: file $file cannot be compared: it is not a regular file"],
        "rmdir $file; mv $file.away $file",
    ),
];

#[test]
fn each_thing_of_the_ipv4_overlay_that_is_damaged_is_named() -> Result {
    overlay(&lab!(), &WORDS_V4, &TAKEN_ALONG_V4)
}

#[test]
fn each_thing_of_the_ipv6_overlay_that_is_damaged_is_named() -> Result {
    overlay(&lab!(), &WORDS_V6, &TAKEN_ALONG_V6)
}

fn overlay(lab: &Lab, words: &[(&str, &str)], taken_along: &[Case]) -> Result {
    let (_etcd, mut node) = settled(lab)?;
    node.agent.terminate()?;
    for cases in [&DEVICE, &ENTRIES, taken_along] as [&[Case]; 3] {
        cases.iter().try_for_each(|case| expect_named(&mut node, &["verify", "--offline"], words, case))?;
    }
    Ok(())
}

#[test]
fn each_rule_that_is_damaged_is_named() -> Result {
    let lab = lab!();
    let (_etcd, mut node) = settled(&lab)?;
    node.agent.terminate()?;
    for (cases, words) in [(&NFTABLES, &WORDS_V4), (&IPTABLES, &WORDS_V4), (&IPTABLES, &WORDS_V6)] as [(&[Case], _); 3]
    {
        cases.iter().try_for_each(|case| expect_named(&mut node, &["verify", "--offline"], words, case))?;
    }
    Ok(())
}

#[test]
fn each_file_that_is_damaged_is_named() -> Result {
    let lab = lab!();
    let (_etcd, mut node) = settled(&lab)?;
    node.agent.terminate()?;
    let state = node.agent.state_dir().join("state.json");
    // Without a readable state file it is not known what the host holds: that is no difference.
    let all = [(node.agent.subnet_file(), &FILE[..]), (node.agent.docker_opts_file(), &FILE), (state, &FILE[..2])];
    for (file, cases) in all {
        let words = [("$file", file.to_str().unwrap_or_default())];
        cases.iter().try_for_each(|case| expect_named(&mut node, &["verify"], &words, case))?;
    }
    Ok(())
}

/// Damages a host, checks that this is what differs and nothing else, and mends it.
fn expect_named(node: &mut Node, command: &[&str], words: &[(&str, &str)], case: &Case) -> Result {
    expect_named_and(started_again, node, (command, words), case)
}

/// A start of the agent mends all.
fn started_again(node: &mut Node) -> Result {
    node.agent.restart()?;
    node.agent.wait_ready(START).map(drop)
}

/// The same with another way to mend what no script does: `start` starts the agent, and waits until all is there.
pub(crate) fn expect_named_and(
    start: fn(&mut Node) -> Result,
    node: &mut Node,
    (command, words): (&[&str], &[(&str, &str)]),
    case: &Case,
) -> Result {
    let fill = |text: &str| words.iter().fold(text.to_owned(), |text, (word, meaning)| text.replace(word, meaning));
    let name = |error: LabError| LabError::Wrong(format!("{}: {error:?}", fill(case.damage)));
    node.host.namespace().sh(&format!("{SHELL}{}", fill(case.damage)))?;
    let lines: Vec<String> = case.lines.iter().map(|line| fill(line)).collect();
    expect_lines(&node.agent.compare(command)?, &lines).map_err(name)?;
    if case.mending.is_empty() {
        start(node)?;
        node.agent.terminate()?;
    } else {
        node.host.namespace().sh(&format!("{SHELL}{}", fill(case.mending)))?;
    }
    expect_silence(node, &["verify"]).map_err(name)
}
