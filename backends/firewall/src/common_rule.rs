//! Rules that nftables and iptables can both express, as values. Pure.
//!
//! A condition or verdict that only one of the two knows has no place here, so each rendering
//! ([`super::render`]) is complete.

use std::fmt;

use wire_net::{Family, LinkName};

use super::{
    address_range::AddressRange,
    rule::{Action, Addresses, Is, Links, Match, Rule, SourcePort},
};

/// A rule of either packet filter: packets that meet all conditions get the verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommonRule {
    /// Its purpose in a few words, which is part of its mark in nftables. In iptables a comment would cost a call per
    /// packet.
    pub(super) purpose: &'static str,
    pub(super) conditions: Conditions,
    pub(super) verdict: Verdict,
}

/// Conditions on a packet, one at most for each of its properties.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conditions {
    /// All of these bits of its mark are set.
    pub(super) mark: Option<u32>,
    pub(super) source: Option<RangeMatch>,
    pub(super) destination: Option<RangeMatch>,
    pub(super) incoming: Option<LinkMatch>,
    pub(super) outgoing: Option<LinkMatch>,
}

/// A condition on a link.
#[derive(Clone, Copy, Debug)]
pub(super) enum LinkMatch {
    Is(LinkName),
    /// Its name begins so.
    Like(&'static str),
}

/// A condition on an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum RangeMatch {
    Inside(AddressRange),
    Outside(AddressRange),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Accept,
    /// Leaves the chain.
    Return,
    /// Keeps the source, in a chain of NAT. In iptables an accept does so. In nftables an accept ends one chain only,
    /// and the next may still masquerade: the source is translated to itself.
    KeepSource(Family),
    /// Gives the packet this host's address, in a chain of NAT.
    Masquerade(SourcePort),
}

impl RangeMatch {
    pub(super) fn inside(range: impl Into<AddressRange>) -> Option<Self> {
        Some(Self::Inside(range.into()))
    }

    pub(super) fn outside(range: impl Into<AddressRange>) -> Option<Self> {
        Some(Self::Outside(range.into()))
    }

    pub(super) const fn range(self) -> AddressRange {
        match self {
            Self::Inside(range) | Self::Outside(range) => range,
        }
    }
}

impl From<LinkName> for LinkMatch {
    fn from(link: LinkName) -> Self {
        Self::Is(link)
    }
}

/// As iptables has it.
impl fmt::Display for LinkMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(link) => link.fmt(f),
            Self::Like(start) => write!(f, "{start}+"),
        }
    }
}

impl From<RangeMatch> for Addresses {
    fn from(addresses: RangeMatch) -> Self {
        match addresses {
            RangeMatch::Inside(range) => Self::In(range),
            RangeMatch::Outside(range) => Self::NotIn(range),
        }
    }
}

impl From<CommonRule> for Rule {
    fn from(rule: CommonRule) -> Self {
        let Conditions { mark, source, destination, incoming, outgoing } = rule.conditions;
        let source = source.map(|source| Match::Source(source.range().family(), source.into()));
        let destination =
            destination.map(|destination| Match::Destination(destination.range().family(), destination.into()));
        let incoming = incoming.map(|link| match link {
            LinkMatch::Is(link) => Match::From(Links::Is(link)),
            LinkMatch::Like(start) => Match::FromLike(start),
        });
        let outgoing = outgoing.map(|link| match link {
            LinkMatch::Is(link) => Match::To(link),
            LinkMatch::Like(start) => Match::ToLike(Is::So, start),
        });
        let matches = [mark.map(Match::Mark), source, destination, incoming, outgoing];
        let action = match rule.verdict {
            Verdict::Accept => Action::Accept,
            Verdict::Return => Action::Return,
            Verdict::KeepSource(family) => Action::KeepSource(family),
            Verdict::Masquerade(port) => Action::Masquerade(port),
        };
        Self::new(rule.purpose, matches.into_iter().flatten().collect::<Vec<_>>(), [action])
    }
}
