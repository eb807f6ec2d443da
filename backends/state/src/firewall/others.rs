//! Rules of others that may decide about the same packets as ours.

use std::fmt;

use wire_net::Family;

/// Rules of others that may decide about the same packets as ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherRules {
    /// Other firewalls of this host.
    pub firewalls: OtherFirewalls,
    /// The rules by which operators drop packets in `DOCKER-USER`.
    pub operator_drops: Vec<OperatorDrop>,
}

/// Other firewalls of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherFirewalls {
    /// ufw's chains are there.
    pub ufw: bool,
    /// firewalld's table is there.
    pub firewalld: bool,
    /// Docker's chains of iptables are there.
    pub docker: bool,
}

/// A rule in `DOCKER-USER`, the chain that Docker leaves to operators, that drops or rejects packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorDrop {
    /// IPv4 for iptables, IPv6 for ip6tables.
    pub family: Family,
    /// As iptables-save writes it after `-A DOCKER-USER `.
    pub rule: String,
}

impl fmt::Display for OtherRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OtherFirewalls { ufw, firewalld, docker } = self.firewalls;
        for (is_there, name) in [(ufw, "ufw"), (firewalld, "firewalld"), (docker, "Docker")] {
            if is_there {
                writeln!(f, "rules of {name} are there too")?;
            }
        }
        for OperatorDrop { family, rule } in &self.operator_drops {
            writeln!(f, "an operator drops in DOCKER-USER ({family}): {rule}")?;
        }
        Ok(())
    }
}
