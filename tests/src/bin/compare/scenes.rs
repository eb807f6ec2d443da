//! The scenes, in the order in which they are played.

mod away;
mod docker;
mod ends;
mod flannel;
mod joins;
mod kinds;
mod put_right;

use wire_tests::{PeerLease, Result};

use crate::{record::part_of, stage::Stage};

/// A scene: what happens, and what its record must have so that it is a record of that.
pub(crate) struct Scene {
    /// How it is called, and its record.
    pub(crate) name: &'static str,
    /// What happens, in a line.
    pub(crate) about: &'static str,
    /// The network config it begins with.
    pub(crate) config: &'static str,
    /// Plays it. What is on the stage afterwards is recorded.
    pub(crate) play: fn(&mut Stage) -> Result,
    /// Parts of the record, and what each must have.
    pub(crate) has: &'static [(&'static str, &'static str)],
    /// Parts of the record, and what each must not have.
    pub(crate) lacks: &'static [(&'static str, &'static str)],
}

impl Scene {
    /// What the record lacks of what the scene is about, or has too much.
    pub(crate) fn faults(&self, record: &str) -> Vec<String> {
        let part = |heading: &str| part_of(record, heading).unwrap_or_default();
        let has = |(heading, text): &(&str, &str)| part(heading).contains(text);
        let missing = self.has.iter().filter(|wanted| !has(wanted));
        let surplus = self.lacks.iter().filter(|unwanted| part(unwanted.0).is_empty() || has(unwanted));
        missing
            .map(|(heading, text)| format!("there is no {text:?} in {heading:?}"))
            .chain(surplus.map(|(heading, text)| format!("{heading:?} is empty, or there is {text:?} in it")))
            .collect()
    }
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Scene> {
    let rooms: [&'static [Scene]; 7] =
        [joins::SCENES, ends::SCENES, away::SCENES, put_right::SCENES, docker::SCENES, kinds::SCENES, flannel::SCENES];
    rooms.into_iter().flatten()
}

/// A network with one subnet for agents, so that it is the same in each run; peers have others.
const V4: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0","Backend":{"Type":"vxlan"}}"#;
/// The same for both families.
const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0","EnableIPv6":true,
    "IPv6Network":"fd00:5::/32","IPv6SubnetMin":"fd00:5:0:1::","IPv6SubnetMax":"fd00:5:0:1::","Backend":{"Type":"vxlan"}}"#;

/// The nth peer that is only a lease: 10.5.100.0/24 and so on.
fn peer(number: u16) -> PeerLease {
    PeerLease::numbered(100 + number)
}

/// The first three of them.
fn peers() -> [PeerLease; 3] {
    [0, 1, 2].map(peer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_twenty_scenes_each_with_a_name_of_its_own_and_something_to_look_for() {
        let names: BTreeSet<_> = all().map(|scene| scene.name).collect();
        assert_eq!((names.len(), all().count()), (20, 20));
        assert!(all().all(|scene| scene.has.len() > 2));
    }

    #[test]
    fn an_empty_record_is_at_fault_in_each_scene() {
        for scene in all() {
            assert_eq!(scene.faults("").len(), scene.has.len() + scene.lacks.len(), "{}", scene.name);
        }
    }
}
