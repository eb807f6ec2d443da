//! The purposes of the rules about networks over several hosts that decide whether a packet arrives.

use std::fmt;

use wire_net::Family;

use crate::ObservedRule;

/// The purpose of a rule about networks over several hosts that decides whether a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentPurpose {
    /// Lets the rules about what members send decide first.
    ToSegments,
    /// Drops encapsulated packets of members with an inner source of this family that is not theirs.
    ForgedInside(Family),
    /// Lets in encapsulated packets of members with an inner source of this family that is theirs.
    Inside(Family),
    /// Lets in encapsulated packets of members, whatever is inside.
    Members,
    /// Accepts encapsulated packets that are not for this host.
    OnlyPassing,
    /// Drops encapsulated packets of hosts that are no members.
    NoMembers,
    /// Drops what comes in at a port of a container that is not known.
    UnknownContainers,
    /// Drops what comes out of the VXLAN device of a network that is not known.
    UnknownHosts,
    /// Accepts what comes in at a port that is not checked.
    NotChecked,
    /// Accepts what comes out of VXLAN devices, since only what members may send gets there.
    JudgedBefore,
    /// Accepts frames with a MAC and a source of this family that may send at their port.
    Senders(Family),
    /// Drops frames of other hosts without a source.
    NoSource(Family),
    /// Drops all other frames.
    Forged,
    /// Accepts packets that stay within a network.
    Within,
    /// Drops packets from one network to another.
    Between,
    /// Drops packets out of a network from which nothing leads out.
    OutOfInternal,
    /// Drops packets into such a network.
    IntoInternal,
    /// Drops packets to containers of flat networks on this host.
    ToFlat,
    /// Drops packets from them.
    FromFlat,
    /// Drops packets to flat networks on other hosts.
    ToFlatElsewhere,
    /// Drops packets from them.
    FromFlatElsewhere,
    /// Gives packets that leave a network this host's address.
    Masquerade,
}

impl SegmentPurpose {
    /// All of them.
    pub const ALL: [Self; 26] = {
        use Family::{V4, V6};
        [
            Self::ToSegments,
            Self::ForgedInside(V4),
            Self::ForgedInside(V6),
            Self::Inside(V4),
            Self::Inside(V6),
            Self::Members,
            Self::OnlyPassing,
            Self::NoMembers,
            Self::UnknownContainers,
            Self::UnknownHosts,
            Self::NotChecked,
            Self::JudgedBefore,
            Self::Senders(V4),
            Self::Senders(V6),
            Self::NoSource(V4),
            Self::NoSource(V6),
            Self::Forged,
            Self::Within,
            Self::Between,
            Self::OutOfInternal,
            Self::IntoInternal,
            Self::ToFlat,
            Self::FromFlat,
            Self::ToFlatElsewhere,
            Self::FromFlatElsewhere,
            Self::Masquerade,
        ]
    };

    /// The words with which the rule's mark begins. They are in the kernel of running hosts.
    #[must_use]
    pub const fn words(self) -> &'static str {
        use Family::{V4, V6};
        match self {
            Self::ToSegments => "to segments",
            Self::ForgedInside(V4) => "forged v4",
            Self::ForgedInside(V6) => "forged v6",
            Self::Inside(V4) => "inside v4",
            Self::Inside(V6) => "inside v6",
            Self::Members => "members",
            Self::OnlyPassing => "only passing",
            Self::NoMembers => "no members",
            Self::UnknownContainers => "containers not known",
            Self::UnknownHosts => "hosts not known",
            Self::NotChecked => "not checked",
            Self::JudgedBefore => "judged before",
            Self::Senders(V4) => "senders v4",
            Self::Senders(V6) => "senders v6",
            Self::NoSource(V4) => "no source v4",
            Self::NoSource(V6) => "no source v6",
            Self::Forged => "forged",
            Self::Within => "within a network",
            Self::Between => "between networks",
            Self::OutOfInternal => "out of an internal network",
            Self::IntoInternal => "into an internal network",
            Self::ToFlat => "to a flat network",
            Self::FromFlat => "from a flat network",
            Self::ToFlatElsewhere => "to a flat network elsewhere",
            Self::FromFlatElsewhere => "from a flat network elsewhere",
            Self::Masquerade => "masquerade",
        }
    }

    /// The purpose of a rule that was read; `None` for a rule that decides nothing about packets that are followed, or is not as we wrote it.
    #[must_use]
    pub fn of(rule: &ObservedRule) -> Option<Self> {
        let words = super::words_of(rule)?;
        Self::ALL.into_iter().find(|purpose| purpose.words() == words)
    }
}

impl fmt::Display for SegmentPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}
