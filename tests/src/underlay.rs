//! The network the hosts share: a bridge in a namespace of its own, and the faults of that network.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use crate::{Host, Namespace, Result, command::output, run::Run};

/// The priority of chains that count: what a fault then takes away was sent all the same.
const COUNT_FIRST: i32 = -10;
/// The priority of chains that drop.
const FAULT: i32 = 0;

/// The bridge, and the table of faults behind it. IPv4 is 192.168.64.0/24, IPv6 is fd64::/64.
#[derive(Debug)]
pub struct Underlay {
    namespace: Namespace,
    hosts: AtomicU8,
    faults: AtomicU32,
}

impl Underlay {
    /// An underlay without hosts.
    ///
    /// # Errors
    /// What `ip` or `nft` says.
    pub fn new(run: &Arc<Run>) -> Result<Self> {
        let namespace = Namespace::new(run, "underlay")?;
        // A switch has no iptables: br_netfilter, where it is loaded, would take each frame through them.
        namespace.sh(
            "for call in /proc/sys/net/bridge/bridge-nf-call-*; do if [ -e $call ]; then echo 0 > $call; fi; done",
        )?;
        // With an address of its own, as a router has; else it would be that of a port, and another when that goes.
        namespace.ip("link add br0 address 02:00:00:00:00:fe type bridge mcast_snooping 0")?;
        namespace.ip("link set br0 up")?;
        namespace.ip("address add 192.168.64.254/24 dev br0")?;
        namespace.ip("address add fd64::fe/64 dev br0 nodad")?;
        namespace.exec("nft add table bridge faults")?;
        Ok(Self { namespace, hosts: AtomicU8::new(1), faults: AtomicU32::new(0) })
    }

    /// The namespace of the bridge.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Adds a host with the next free pair of addresses: the first is 192.168.64.2 and fd64::2.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn host(&self, name: &str) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let v4 = Ipv4Addr::new(192, 168, 64, number);
        let v6 = Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, number.into());
        Host::new(self, name, v4, v6)
    }

    /// How many hosts it was given so far.
    pub(crate) fn hosts_made(&self) -> u8 {
        self.hosts.load(Ordering::Relaxed) - 1
    }

    /// Hosts h1, h2, … as many as the caller binds.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn hosts<const N: usize>(&self) -> Result<[Host; N]> {
        let hosts = (1..=N).map(|number| self.host(&format!("h{number}"))).collect::<Result<Vec<_>>>()?;
        Ok(hosts.try_into().expect("as many as were made"))
    }

    /// Nothing passes between two hosts, either way.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn partition(&self, a: &Host, b: &Host) -> Result<Fault> {
        self.between(a, b, "counter drop")
    }

    /// A share of what passes between two hosts is lost, either way.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, percent: u8, a: &Host, b: &Host) -> Result<Fault> {
        self.between(a, b, &format!("numgen random mod 100 < {percent} counter drop"))
    }

    /// A UDP port is dead between two hosts, either way.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn drop_udp_between(&self, port: u16, a: &Host, b: &Host) -> Result<Fault> {
        self.between(a, b, &format!("udp dport {port} counter drop"))
    }

    /// A UDP port is dead everywhere.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn drop_udp(&self, port: u16) -> Result<Fault> {
        self.rules(&[format!("udp dport {port} counter drop")])
    }

    /// Nothing passes to or from a host.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn isolate(&self, host: &Host) -> Result<Fault> {
        let port = host.port();
        self.rules(&[format!("iifname {port} counter drop"), format!("oifname {port} counter drop")])
    }

    /// Counts the packets that match an nft expression and lets them pass, before any fault has its way with them.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn count(&self, matching: &str) -> Result<Fault> {
        self.chain(COUNT_FIRST, &[format!("{matching} counter")])
    }

    /// What an nft rule says is done to the packets that it matches.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn change(&self, rule: &str) -> Result<Fault> {
        self.rules(&[rule.to_owned()])
    }

    fn between(&self, a: &Host, b: &Host, rest: &str) -> Result<Fault> {
        let rule = |from: &Host, to: &Host| format!("iifname {} oifname {} {rest}", from.port(), to.port());
        self.rules(&[rule(a, b), rule(b, a)])
    }

    fn rules(&self, rules: &[String]) -> Result<Fault> {
        self.chain(FAULT, rules)
    }

    fn chain(&self, priority: i32, rules: &[String]) -> Result<Fault> {
        let chain = format!("f{}", self.faults.fetch_add(1, Ordering::Relaxed));
        let mut script =
            format!("add chain bridge faults {chain} {{ type filter hook forward priority {priority}; }}\n");
        for rule in rules {
            script.push_str(&format!("add rule bridge faults {chain} {rule}\n"));
        }
        output(self.namespace.command("nft").arg(script))?;
        Ok(Fault { chain, namespace: self.namespace.clone() })
    }
}

/// A fault that lasts until it is dropped.
#[derive(Debug)]
#[must_use = "a fault ends when it is dropped"]
pub struct Fault {
    chain: String,
    namespace: Namespace,
}

impl Fault {
    /// How many packets its rules have met so far.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn packets(&self) -> Result<u64> {
        let text = self.namespace.exec(&format!("nft list chain bridge faults {}", self.chain))?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let counts =
            words.windows(2).filter(|pair| pair[0] == "packets").filter_map(|pair| pair[1].parse::<u64>().ok());
        Ok(counts.sum())
    }

    /// Ends it now; the same as dropping it, for readers.
    pub fn heal(self) {}
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !self.namespace.run().is_kept()
            && self.namespace.path().exists()
            && let Err(error) = self.namespace.exec(&format!("nft delete chain bridge faults {}", self.chain))
        {
            eprintln!("lab: a fault stays: {error}");
        }
    }
}
