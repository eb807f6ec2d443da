//! What our rules do to packets that they must let in, and to those that they must not.

use std::fmt;

use serde::Serialize;
use wire_tests::{Etcd, Family, LabError, Result, Underlay};

use crate::{
    contestant::Setting,
    pair::{Network, Pair, containers},
    scene::{Ends, Scene},
};

/// What the agents of the pair for IPv6 find: with a second family the pair that is measured would have more rules.
const BOTH: &str =
    r#"{"Network":"10.70.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:70::/32","Backend":{"Type":"vxlan"}}"#;

/// A packet, and what became of it.
#[derive(Serialize)]
pub(crate) struct Verdict {
    /// Of the inner and of the outer packet.
    pub(crate) family: String,
    /// Who sends it, and what is special about it.
    pub(crate) packet: String,
    /// What should become of it.
    pub(crate) expected: String,
    /// What did, or why it could not be sent.
    pub(crate) seen: String,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Whether a container has received it.
    pub(crate) delivered: bool,
    /// By how much each of the counters has grown.
    pub(crate) counted: [u64; 3],
}

/// Who sends a packet, and what is special about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// A member, with a source of its own lease. Without it the others say nothing.
    Honest,
    /// The same, where the outer packet comes in fragments.
    Fragments,
    /// A host without a lease, with a source of a member.
    Stranger,
    /// A member, with a source of another one.
    OtherLease,
    /// A member, with a source of no lease.
    NoLease,
    /// A member, with a source of its own lease behind a VLAN tag.
    Tagged,
    /// A container, to the other host.
    ContainerToOther,
    /// A container, to the host that it is on.
    ContainerToOwn,
}

impl Outcome {
    /// The counters of what our rules drop, as `nft` and `status` call them.
    pub(crate) const COUNTERS: [&str; 3] = ["strangers", "spoofed", "containers"];

    /// Dropped, and counted there once.
    fn dropped(counter: &str) -> Self {
        Self { delivered: false, counted: Self::COUNTERS.map(|name| u64::from(name == counter)) }
    }
}

impl Case {
    /// All, in the order in which they are sent.
    const ALL: [Self; 8] = [
        Self::Honest,
        Self::Fragments,
        Self::Stranger,
        Self::OtherLease,
        Self::NoLease,
        Self::Tagged,
        Self::ContainerToOther,
        Self::ContainerToOwn,
    ];

    /// For people and programs.
    const fn name(self) -> &'static str {
        match self {
            Self::Honest => "a member's packet with a source of its own",
            Self::Fragments => "a member's packet with a source of its own, in fragments",
            Self::Stranger => "a stranger's packet with a member's source",
            Self::OtherLease => "a member's packet with another member's source",
            Self::NoLease => "a member's packet with a source of no lease",
            Self::Tagged => "a member's packet behind a VLAN tag",
            Self::ContainerToOther => "a container's own VXLAN to the other host",
            Self::ContainerToOwn => "a container's own VXLAN to its own host",
        }
    }

    /// What must become of it.
    pub(crate) fn expected(self) -> Outcome {
        match self {
            Self::Honest | Self::Fragments => Outcome { delivered: true, counted: [0; 3] },
            Self::Stranger => Outcome::dropped("strangers"),
            Self::OtherLease | Self::NoLease | Self::Tagged => Outcome::dropped("spoofed"),
            Self::ContainerToOther | Self::ContainerToOwn => Outcome::dropped("containers"),
        }
    }
}

impl Verdict {
    /// Whether it is what it should be.
    pub(crate) fn right(&self) -> bool {
        self.seen == self.expected
    }

    fn new(family: Family, packet: &str, expected: impl fmt::Display, seen: Result<impl fmt::Display>) -> Self {
        let seen = seen.map_or_else(|error| format!("none: {error:?}"), |seen| seen.to_string());
        Self { family: family.to_string(), packet: packet.to_owned(), expected: expected.to_string(), seen }
    }
}

/// Sends each over IPv4 to the far host of a pair, and over IPv6 to a host that has both families. What cannot be sent is a wrong
/// verdict, so that the figures of the run are not lost with it.
pub(crate) fn of(underlay: &Underlay, etcd: &Etcd, pair: &Pair) -> Vec<Verdict> {
    let over_v4 = || {
        let network = Network::of(pair.contestant, Setting::CONTAINERS);
        let ends = Ends { hosts: [&pair.near, &pair.far], agents: &pair.agents, legs: &pair.legs };
        judge(underlay, etcd, &network, ends, Family::V4)
    };
    let over_v6 = || {
        let network = Network { prefix: "/bench/verdicts".to_owned(), config: BOTH.to_owned(), leases: 0 };
        let (near, far) = (underlay.host("verdicts-near")?, underlay.host("verdicts-far")?);
        let carriers = containers(etcd, &network, Setting::CONTAINERS, [&near, &far])?;
        let ends = Ends { hosts: [&near, &far], agents: &carriers.agents, legs: &carriers.legs };
        judge(underlay, etcd, &network, ends, Family::V6)
    };
    let failed = |family, error: LabError| vec![Verdict::new(family, "all", "sent", Err::<String, _>(error))];
    let mut verdicts = over_v4().unwrap_or_else(|error| failed(Family::V4, error));
    verdicts.extend(over_v6().unwrap_or_else(|error| failed(Family::V6, error)));
    verdicts
}

fn judge(underlay: &Underlay, etcd: &Etcd, network: &Network, ends: Ends<'_>, family: Family) -> Result<Vec<Verdict>> {
    eprintln!("bench-datapath: verdicts over {family}");
    let scene = Scene::set(underlay, etcd, network, ends, family)?;
    let sent = Case::ALL.map(|case| Verdict::new(family, case.name(), case.expected(), scene.send(case)));
    let told = scene.told().map(|()| "told");
    Ok(sent.into_iter().chain([Verdict::new(family, "all counts, by `status`", "told", told)]).collect())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.delivered { "delivered" } else { "dropped" })?;
        let counted = Self::COUNTERS.into_iter().zip(self.counted).filter(|(_, count)| *count > 0);
        counted.into_iter().try_for_each(|(name, count)| write!(f, ", {name} +{count}"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, packet, expected, seen } = self;
        write!(f, "over {family} the verdict on {packet} should be `{expected}` and is `{seen}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_right_where_packet_and_counters_went_as_they_should() {
        let verdict = |seen| Verdict::new(Family::V6, "a packet", Case::Tagged.expected(), seen);
        assert!(verdict(Ok(Outcome { delivered: false, counted: [0, 1, 0] })).right());
        for wrong in [
            Outcome { delivered: true, counted: [0, 1, 0] },
            Outcome { delivered: false, counted: [0, 0, 0] },
            Outcome { delivered: false, counted: [0, 2, 0] },
            Outcome { delivered: false, counted: [1, 1, 0] },
        ] {
            assert!(!verdict(Ok(wrong)).right(), "{wrong}");
        }
        let both = verdict(Ok(Outcome { delivered: true, counted: [0, 1, 2] })).to_string();
        let said = "over IPv6 the verdict on a packet should be `dropped, spoofed +1` and is ";
        assert_eq!(both, format!("{said}`delivered, spoofed +1, containers +2`"));
        let none = verdict(Err(LabError::Wrong("no socket".to_owned())));
        assert!(!none.right() && none.to_string() == format!("{said}`none: no socket`"));
    }
}
