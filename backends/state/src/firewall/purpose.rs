//! The purposes of those rules of our nftables table that decide whether a packet of the overlay arrives.
//!
//! The kernel holds a rule's purpose in its mark, so what a rule does is known without its text.

mod segment;

use std::fmt;

use wire_net::Family;

pub use self::segment::SegmentPurpose;

use super::ObservedRule;

/// The purpose of a rule that decides whether a packet arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Drops decapsulated packets whose outer packet no rule has let in.
    LetInByNoRule(Family),
    /// Drops decapsulated packets with a source that is not routed back through the overlay device.
    SourcesOutsideLeases(Family),
    /// Drops packets without encapsulation that have a source in our own subnet.
    DirectOwn(Family),
    /// Drops packets without encapsulation that have a source in the overlay that is leased to no peer.
    DirectOutsideLeases(Family),
    /// Lets in encapsulated packets from a peer with an inner source in a subnet of the usual length that it leases.
    Usual(Family),
    /// Lets in encapsulated packets from peers, as far as the sets of leases say so.
    Peers(Family),
    /// Drops encapsulated packets from peers with an inner source that is not theirs.
    OtherLeases(Family),
    /// Drops encapsulated packets from hosts without a lease.
    Strangers(Family),
    /// Lets in encapsulated packets from anyone.
    AllOthers(Family),
    /// Drops encapsulated packets that containers send.
    Containers,
    /// Accepts packets that are not encapsulated, or not for this host.
    NotEncapsulated,
    /// Lets the rules about what comes out of overlay devices decide first.
    FromOverlays,
}

impl Purpose {
    const ALL: [Self; 21] = {
        use Family::{V4, V6};
        [
            Self::LetInByNoRule(V4),
            Self::LetInByNoRule(V6),
            Self::SourcesOutsideLeases(V4),
            Self::SourcesOutsideLeases(V6),
            Self::DirectOwn(V4),
            Self::DirectOwn(V6),
            Self::DirectOutsideLeases(V4),
            Self::DirectOutsideLeases(V6),
            Self::Usual(V4),
            Self::Usual(V6),
            Self::Peers(V4),
            Self::Peers(V6),
            Self::OtherLeases(V4),
            Self::OtherLeases(V6),
            Self::Strangers(V4),
            Self::Strangers(V6),
            Self::AllOthers(V4),
            Self::AllOthers(V6),
            Self::Containers,
            Self::NotEncapsulated,
            Self::FromOverlays,
        ]
    };

    /// The words with which the rule's mark begins. They are in the kernel of running hosts.
    #[must_use]
    pub const fn words(self) -> &'static str {
        use Family::{V4, V6};
        match self {
            Self::LetInByNoRule(V4) => "let in by no rule v4",
            Self::LetInByNoRule(V6) => "let in by no rule v6",
            Self::SourcesOutsideLeases(V4) => "sources outside leases v4",
            Self::SourcesOutsideLeases(V6) => "sources outside leases v6",
            Self::DirectOwn(V4) => "own sources from outside v4",
            Self::DirectOwn(V6) => "own sources from outside v6",
            Self::DirectOutsideLeases(V4) => "direct sources outside leases v4",
            Self::DirectOutsideLeases(V6) => "direct sources outside leases v6",
            Self::Usual(V4) => "usual v4",
            Self::Usual(V6) => "usual v6",
            Self::Peers(V4) => "peers v4",
            Self::Peers(V6) => "peers v6",
            Self::OtherLeases(V4) => "sources of other leases v4",
            Self::OtherLeases(V6) => "sources of other leases v6",
            Self::Strangers(V4) => "strangers v4",
            Self::Strangers(V6) => "strangers v6",
            Self::AllOthers(V4) => "all others v4",
            Self::AllOthers(V6) => "all others v6",
            Self::Containers => "containers",
            Self::NotEncapsulated => "not encapsulated",
            Self::FromOverlays => "from overlays",
        }
    }

    /// The purpose of a rule that was read; `None` for a rule that decides nothing, or is not as we wrote it.
    #[must_use]
    pub fn of(rule: &ObservedRule) -> Option<Self> {
        let words = words_of(rule)?;
        Self::ALL.into_iter().find(|purpose| purpose.words() == words)
    }
}

/// The words of a rule's mark; `None` for a rule that is not as we wrote it.
fn words_of(rule: &ObservedRule) -> Option<&str> {
    let ObservedRule::Marked(mark) = rule else { return None };
    mark.rsplit_once(' ').map(|(words, _checksum)| words)
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rule;

    #[test]
    fn the_purpose_of_a_rule_is_read_from_its_mark() {
        for purpose in Purpose::ALL {
            let rule = ObservedRule::Marked(Rule::new(purpose.words(), "drop".to_owned()).mark);
            assert_eq!(Purpose::of(&rule), Some(purpose));
        }
    }

    #[test]
    fn the_purpose_of_a_rule_about_networks_over_several_hosts_is_read_from_its_mark() {
        for purpose in SegmentPurpose::ALL {
            let rule = ObservedRule::Marked(Rule::new(purpose.words(), "drop".to_owned()).mark);
            assert_eq!(SegmentPurpose::of(&rule), Some(purpose));
            assert_eq!(SegmentPurpose::of(&ObservedRule::Altered), None);
        }
    }

    #[test]
    fn a_rule_that_is_not_as_we_wrote_it_has_no_purpose() {
        let other = ObservedRule::Marked("something else 0123456789abcdef".to_owned());
        for rule in [ObservedRule::Altered, ObservedRule::Unmarked, other] {
            assert_eq!(Purpose::of(&rule), None, "{rule:?}");
        }
    }
}
