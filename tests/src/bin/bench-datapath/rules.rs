//! What the packet filters of two hosts hold, beside which ours is measured.

use wire_tests::{Host, Result};

/// Whose rules they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// One rule of NAT that keeps the source: it makes the kernel track connections, and nothing else. An empty chain does not.
    Tracking,
    /// flannel's, with `--ip-masq` and `--iptables-forward-rules`, as iptables puts them.
    Flannel,
    /// Ours, all of them, by a running agent.
    Ours,
}

impl Rules {
    /// Puts them on a host in the place of all others.
    ///
    /// # Errors
    /// What `nft` or `iptables-restore` says.
    pub(crate) fn put(self, host: &Host, [network, own]: [&str; 2]) -> Result {
        let script = match self {
            Self::Ours => return Ok(()),
            Self::Tracking => format!(
                "nft add table ip bench
                 nft add chain ip bench post '{{ type nat hook postrouting priority 99; }}'
                 nft add rule ip bench post ip saddr {network} ip daddr {network} snat to ip saddr"
            ),
            Self::Flannel => format!("iptables-restore <<'END'\n{}END", flannel(network, own)),
        };
        host.namespace().sh(&format!("nft flush ruleset; sysctl -qw net.ipv4.ip_forward=1; {script}")).map(drop)
    }
}

/// The text in which `nft` shows a set of our table.
///
/// # Errors
/// Where there is no such set.
pub(crate) fn set(host: &Host, name: &str) -> Result<String> {
    host.exec(&format!("nft list set inet wire-agent {name}"))
}

/// How many elements such a text has, each a pair.
pub(crate) fn elements(set: &str) -> usize {
    set.split_once("elements = {").map_or(0, |(_, elements)| elements.matches(" . ").count())
}

/// As flanneld 0.20 puts them (its pkg/ip/iptables.go and network/iptables.go).
fn flannel(network: &str, own: &str) -> String {
    let masq = "-m comment --comment \"flanneld masq\"";
    let forward = "-m comment --comment \"flanneld forward\"";
    format!(
        "*nat\n:FLANNEL-POSTRTG - [0:0]\n-A POSTROUTING {masq} -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {own} -d {network} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {network} -d {own} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {network} -d {own} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {network} ! -d 224.0.0.0/4 {masq} -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s {network} -d {network} {masq} -j MASQUERADE --random-fully\nCOMMIT\n\
         *filter\n:FLANNEL-FWD - [0:0]\n-A FORWARD {forward} -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {network} {forward} -j ACCEPT\n-A FLANNEL-FWD -d {network} {forward} -j ACCEPT\nCOMMIT\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_that_a_set_is_of_is_none_of_its_elements() {
        let set = |elements: &str| format!("set subnets-v4-24 {{ typeof ip saddr . @th,336,24 {elements} }}");
        assert_eq!(elements(&set("")), 0);
        assert_eq!(elements(&set("elements = { 172.20.0.2 . 0xa0501,\n 172.20.0.3 . 0xa0502 }")), 2);
    }
}
