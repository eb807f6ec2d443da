//! What an attachment has on its network: for each of its containers an address of each family. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};
use wire_net::{DualStack, MacAddr};

use crate::guests::Place;

/// Addresses of one container. They are the attachment's for as long as it exists, whether the container runs or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Its number among those of the attachment, by which its port is named.
    pub(crate) slot: u16,
    /// Whose it is, or was last ([`Place::key`]); `None` if it was nobody's yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<String>,
    pub(crate) addresses: DualStack<IpAddr>,
    pub(crate) mac: MacAddr,
    /// Where it is attached; `None` before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attached: Option<Attached>,
}

/// A namespace with an endpoint in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attached {
    /// The namespace's cookie.
    pub(crate) namespace: u64,
    /// Since when, in UTC (RFC 3339).
    pub(crate) since: String,
}

/// Gives each place the endpoint that it had before, else one whose former holder is not among the places. Returns the places that have none, and
/// whether an endpoint has another holder now.
pub(crate) fn hold(endpoints: &mut [Endpoint], places: &BTreeSet<Place>) -> (Vec<Place>, bool) {
    let keys: BTreeSet<String> = places.iter().map(Place::key).collect();
    let is_held = |endpoint: &Endpoint| endpoint.holder.as_ref().is_some_and(|holder| keys.contains(holder));
    let mut lacking = Vec::new();
    let mut has_changed = false;
    for place in places {
        let key = place.key();
        if endpoints.iter().any(|endpoint| endpoint.holder.as_ref() == Some(&key)) {
            continue;
        }
        match endpoints.iter_mut().find(|endpoint| !is_held(endpoint)) {
            Some(endpoint) => {
                (endpoint.holder, endpoint.attached, has_changed) = (Some(key), None, true);
            }
            None => lacking.push(place.clone()),
        }
    }
    (lacking, has_changed)
}

/// The lowest number that none of them has.
pub(crate) fn free_slot(endpoints: &[Endpoint]) -> u16 {
    (0..u16::MAX).find(|slot| endpoints.iter().all(|endpoint| endpoint.slot != *slot)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(slot: u16, holder: Option<&str>) -> Endpoint {
        let addresses = DualStack { v4: Some([10, 128, 0, 9].into()), v6: None };
        let holder = holder.map(|letter| letter.repeat(64));
        Endpoint { slot, holder, addresses, mac: MacAddr::new([2, 0, 0, 0, 0, 1]), attached: None }
    }

    fn places(letters: &[&str]) -> BTreeSet<Place> {
        letters.iter().map(|letter| Place::Container(letter.repeat(64).parse().unwrap())).collect()
    }

    fn holders(endpoints: &[Endpoint]) -> String {
        endpoints.iter().map(|endpoint| endpoint.holder.as_deref().map_or("-", |holder| &holder[..1])).collect()
    }

    #[test]
    fn a_container_keeps_its_endpoint_and_one_in_its_place_takes_it_over() {
        let mut endpoints = vec![endpoint(0, None)];
        assert_eq!(hold(&mut endpoints, &places(&["a"])), (vec![], true));
        assert_eq!(hold(&mut endpoints, &places(&["a"])), (vec![], false));
        assert_eq!(hold(&mut endpoints, &places(&[])), (vec![], false), "it is still reserved for it");
        assert_eq!(holders(&endpoints), "a");
        assert_eq!(hold(&mut endpoints, &places(&["b"])), (vec![], true));
        assert_eq!(holders(&endpoints), "b");
    }

    #[test]
    fn no_container_takes_the_endpoint_of_one_that_runs() {
        let mut endpoints = vec![endpoint(0, Some("b")), endpoint(1, Some("c"))];
        let all = places(&["a", "b", "d", "e"]);
        let (lacking, changed) = hold(&mut endpoints, &all);
        assert_eq!((holders(&endpoints).as_str(), changed), ("ba", true));
        assert_eq!(lacking.into_iter().collect::<BTreeSet<_>>(), places(&["d", "e"]));
        assert_eq!((free_slot(&endpoints), free_slot(&[])), (2, 0));
    }
}
