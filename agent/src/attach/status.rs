//! How far each attachment is, by what was found. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use wire_net::{LinkName, NetworkName};
use wire_state::Namespace;

use super::{Attachment, BootId, document::AttachmentId, ended::ended_process};
use crate::guests::{ContainerId, Guest, Place};

/// The state of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// None of its containers is there, or one of them does not have its interface yet.
    Waiting,
    /// It is in all of these.
    Attached(BTreeSet<Namespace>),
    /// It cannot be made, for this reason. If it is for several containers, perhaps in one of them alone.
    Blocked(String),
}

/// The helper's answer when it was asked to open the namespace of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its namespace, the attachments that this agent made in it, and why it could not make others.
    Reached { namespace: Namespace, made: BTreeSet<AttachmentId>, faults: BTreeMap<AttachmentId, String> },
    /// It has ended meanwhile.
    Gone,
    /// It cannot be entered, for this reason.
    Barred(String),
}

/// Which attachments are wanted in which places, and the reasons why some are in none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) wanted: BTreeMap<Place, Vec<AttachmentId>>,
    pub(crate) blocked: BTreeMap<AttachmentId, String>,
}

/// Where an attachment gives way to an earlier one, with the reasons.
pub(crate) type Clashes = BTreeMap<AttachmentId, BTreeMap<Place, String>>;

impl Placement {
    /// The places of these attachments, by the containers that run, in this run of the kernel. One of a process that has ended for sure is in none,
    /// also as long as its document cannot be removed.
    pub(crate) fn new(
        attachments: &BTreeMap<AttachmentId, Attachment>,
        guests: &BTreeMap<ContainerId, Guest>,
        boot: Option<&BootId>,
    ) -> Self {
        let mut placement = Self::default();
        for (id, attachment) in attachments.iter().filter(|(_, one)| ended_process(&one.guest, boot).is_none()) {
            match attachment.guest.places(guests) {
                Ok(places) => places.into_iter().for_each(|place| placement.want(place, *id)),
                Err(ambiguous) => drop(placement.blocked.insert(*id, ambiguous.to_string())),
            }
        }
        placement
    }

    fn want(&mut self, place: Place, id: AttachmentId) {
        self.wanted.entry(place).or_default().push(id);
    }

    /// The state of each attachment, by the answers for its places.
    pub(crate) fn statuses(
        &self,
        attachments: &BTreeMap<AttachmentId, Attachment>,
        arrivals: &BTreeMap<Place, Arrival>,
    ) -> BTreeMap<AttachmentId, Status> {
        let clashes = self.clashes(attachments, arrivals);
        attachments.keys().map(|id| (*id, self.status(*id, arrivals, &clashes))).collect()
    }

    fn status(&self, id: AttachmentId, arrivals: &BTreeMap<Place, Arrival>, clashes: &Clashes) -> Status {
        let clash = || clashes.get(&id).and_then(|at| at.values().next());
        if let Some(why) = self.blocked.get(&id).or_else(clash) {
            return Status::Blocked(why.clone());
        }
        let mut attached = BTreeSet::new();
        let mut is_missing = false;
        let places = self.wanted.iter().filter(|(_, wanted)| wanted.contains(&id)).map(|(place, _)| place);
        for place in places {
            match arrivals.get(place) {
                Some(Arrival::Barred(why)) => return Status::Blocked(format!("{place}: {why}")),
                Some(Arrival::Reached { namespace, made, faults }) => {
                    if let Some(why) = faults.get(&id) {
                        return Status::Blocked(format!("{place}: {why}"));
                    }
                    if made.contains(&id) {
                        attached.insert(*namespace);
                    } else {
                        is_missing = true;
                    }
                }
                Some(Arrival::Gone) | None => {}
            }
        }
        if attached.is_empty() || is_missing { Status::Waiting } else { Status::Attached(attached) }
    }

    /// The attachments whose interface, or network, an earlier one has in the same namespace by a different selector: the later document gives way.
    pub(crate) fn clashes(
        &self,
        attachments: &BTreeMap<AttachmentId, Attachment>,
        arrivals: &BTreeMap<Place, Arrival>,
    ) -> Clashes {
        let mut wanted: BTreeSet<(u64, AttachmentId, Namespace, &Place)> = BTreeSet::new();
        for (place, ids) in &self.wanted {
            if let Some(Arrival::Reached { namespace, .. }) = arrivals.get(place) {
                let ages = ids.iter().filter_map(|id| attachments.get(id)).map(Attachment::age);
                wanted.extend(ages.map(|(number, id)| (number, id, *namespace, place)));
            }
        }
        let mut networks: BTreeMap<(Namespace, &NetworkName), &Attachment> = BTreeMap::new();
        let mut interfaces: BTreeMap<(Namespace, LinkName), &Attachment> = BTreeMap::new();
        let mut clashes = Clashes::new();
        for (_, id, namespace, place) in wanted {
            let Some(attachment) = attachments.get(&id) else { continue };
            let interface = attachment.interface;
            let (network, named) = ((namespace, attachment.network()), (namespace, interface));
            let is_other = |first: &&&Attachment| first.id != id;
            let why = if let Some(first) = networks.get(&network).filter(is_other) {
                Some(format!("{}; detach one of them", second_interface(place, first)))
            } else {
                let first = interfaces.get(&named).filter(is_other);
                first.map(|first| format!("attachment {} makes {interface} in {place} already", first.id))
            };
            match why {
                Some(why) => drop(clashes.entry(id).or_default().insert(place.clone(), why)),
                None => {
                    networks.entry(network).or_insert(attachment);
                    interfaces.entry(named).or_insert(attachment);
                }
            }
        }
        clashes
    }
}

/// The reason why a guest, which is `named` so, cannot have another interface in the network of an attachment: it would answer by its first one, with
/// an address that is not the second one's, and such packets are dropped.
pub(crate) fn second_interface(named: &impl fmt::Display, first: &Attachment) -> String {
    let Attachment { id, guest, interface, .. } = first;
    format!(
        "{named} is on {} already, by attachment {id} of {guest} ({interface}): a second interface in one network would get no answers",
        first.network()
    )
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting"),
            Self::Attached(_) => f.write_str("attached"),
            Self::Blocked(why) => write!(f, "blocked: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            check::tests::document,
            selector::tests::{by_id, guest},
        },
        *,
    };

    fn documents(all: &[&str]) -> BTreeMap<AttachmentId, Attachment> {
        all.iter().map(|fields| document(fields)).map(|one| (one.id, one)).collect()
    }

    fn placed(attachments: &BTreeMap<AttachmentId, Attachment>, guests: &BTreeMap<ContainerId, Guest>) -> Placement {
        Placement::new(attachments, guests, None)
    }

    /// A place that was reached, in which these were made.
    fn reached(number: u64, made: &[AttachmentId]) -> Arrival {
        let made = made.iter().copied().collect();
        Arrival::Reached { namespace: Namespace::Guest(number), made, faults: BTreeMap::new() }
    }

    fn said(statuses: &BTreeMap<AttachmentId, Status>) -> Vec<String> {
        statuses.values().map(ToString::to_string).collect()
    }

    #[test]
    fn an_attachment_waits_for_its_container_is_attached_and_waits_again() {
        let attachments = documents(&["{}"]);
        let id = document("{}").id;
        let web = guest("aaaa", "web", &[]);
        let nobody = placed(&attachments, &BTreeMap::new());
        assert!(nobody.wanted.is_empty());
        assert_eq!(said(&nobody.statuses(&attachments, &BTreeMap::new())), ["waiting"]);
        let placement = placed(&attachments, &by_id([web.clone()]));
        let place = Place::Container(web.id.clone());
        assert_eq!(placement.wanted, [(place.clone(), vec![id])].into());
        for (arrival, status) in [
            (Arrival::Gone, "waiting"),
            (reached(7, &[]), "waiting"),
            (reached(7, &[id]), "attached"),
            (Arrival::Barred("it is this host".to_owned()), "blocked: container aaaa00000000: it is this host"),
        ] {
            assert_eq!(said(&placement.statuses(&attachments, &[(place.clone(), arrival)].into())), [status]);
        }
        let faults = [(id, "eth1 is there, and is not ours".to_owned())].into();
        let taken = Arrival::Reached { namespace: Namespace::Guest(7), made: BTreeSet::new(), faults };
        let statuses = placement.statuses(&attachments, &[(place, taken)].into());
        assert_eq!(said(&statuses), ["blocked: container aaaa00000000: eth1 is there, and is not ours"]);
    }

    #[test]
    fn of_several_containers_each_is_wanted_and_one_that_misses_it_is_waited_for() {
        let attachments = documents(&[r#"{"guest":"label:tier=web","addresses":["network"]}"#]);
        let id = document("{}").id;
        let guests = [guest("aaaa", "a", &[("tier", "web")]), guest("bbbb", "b", &[("tier", "web")])];
        let placement = placed(&attachments, &by_id(guests.clone()));
        let [one, other] = guests.map(|guest| Place::Container(guest.id));
        assert_eq!(placement.wanted, [(one.clone(), vec![id]), (other.clone(), vec![id])].into());
        let half = [(one.clone(), reached(7, &[id])), (other.clone(), reached(8, &[]))].into();
        assert_eq!(said(&placement.statuses(&attachments, &half)), ["waiting"]);
        let all = [(one, reached(7, &[id])), (other, reached(8, &[id]))].into();
        let in_both = Status::Attached([Namespace::Guest(7), Namespace::Guest(8)].into());
        assert_eq!(placement.statuses(&attachments, &all), [(id, in_both)].into());
    }

    #[test]
    fn a_selector_that_means_two_blocks_its_attachment_and_no_other() {
        let attachments =
            documents(&[r#"{"guest":"id:aaaaaaaaaaaa"}"#, r#"{"id":"00000000000000bb","guest":"web","addresses":[]}"#]);
        let guests = [guest("aaaaaaaaaaaa1", "web", &[]), guest("aaaaaaaaaaaa2", "db", &[])];
        let placement = placed(&attachments, &by_id(guests));
        let statuses = said(&placement.statuses(&attachments, &BTreeMap::new()));
        assert!(statuses[0].starts_with("blocked: id:aaaaaaaaaaaa means both web"), "{statuses:?}");
        assert_eq!(statuses[1], "waiting");
        assert_eq!(placement.wanted.len(), 1);
    }

    /// Containers that share a namespace (`--network container:`) have one key, and so do a name and a path.
    #[test]
    fn two_selectors_that_lead_to_one_namespace_do_not_both_make_an_interface() {
        let other =
            r#"{"id":"00000000000000bb","guest":"/run/netns/web","link":{"network":{"name":"red"}},"addresses":[]}"#;
        let attachments = documents(&["{}", other]);
        let web = guest("aaaa", "web", &[]);
        let placement = placed(&attachments, &by_id([web.clone()]));
        let arrivals: BTreeMap<Place, Arrival> = [
            (Place::Container(web.id), reached(7, &[document("{}").id])),
            (Place::File("/run/netns/web".into()), reached(7, &[])),
        ]
        .into();
        let statuses = said(&placement.statuses(&attachments, &arrivals));
        assert_eq!(statuses, ["attached", "blocked: attachment 00000000000000aa makes eth1 in /run/netns/web already"]);
    }

    #[test]
    fn of_two_selectors_that_lead_to_one_container_in_one_network_the_older_document_holds_until_it_is_detached() {
        let labelled =
            r#"{"id":"00000000000000aa","number":2,"guest":"label:tier=web","interface":"eth2","addresses":[]}"#;
        let named = r#"{"id":"00000000000000bb","number":1,"guest":"name:web","addresses":[]}"#;
        // It has the name that the one which gives way would have, in another network.
        let third = r#"{"id":"00000000000000cc","number":3,"guest":"name:web","interface":"eth2","link":{"network":{"name":"red"}},"addresses":[]}"#;
        let mut attachments = documents(&[labelled, named, third]);
        let [label, name, other] = [labelled, named, third].map(|fields| document(fields).id);
        let guests = [guest("aaaa", "web", &[("tier", "web")]), guest("bbbb", "other", &[("tier", "web")])];
        let places = guests.clone().map(|guest| Place::Container(guest.id));
        let arrivals: BTreeMap<Place, Arrival> =
            [(places[0].clone(), reached(7, &[name, other])), (places[1].clone(), reached(8, &[label]))].into();
        let placement = placed(&attachments, &by_id(guests.clone()));
        let clashes = placement.clashes(&attachments, &arrivals);
        assert_eq!(clashes.keys().collect::<Vec<_>>(), [&label]);
        assert_eq!(clashes[&label].keys().collect::<Vec<_>>(), [&places[0]], "it stays in the other container");
        let statuses = said(&placement.statuses(&attachments, &arrivals));
        let blocked = "blocked: container aaaa00000000 is on blue already, by attachment 00000000000000bb of name:web (eth1): a second interface \
                       in one network would get no answers; detach one of them";
        assert_eq!(statuses, [blocked, "attached", "attached"]);
        attachments.remove(&name);
        attachments.remove(&other);
        let placement = placed(&attachments, &by_id(guests));
        assert!(placement.clashes(&attachments, &arrivals).is_empty());
    }

    #[test]
    fn a_process_of_another_run_of_the_kernel_is_nowhere_though_its_document_is_there() {
        let boots = ["00000000-0000-4000-8000-000000000000", "4ad8d9f2-54ab-4fe1-93cb-8f4ef4cb2c2b"];
        let attachments = documents(&[&format!(r#"{{"guest":"pid:7@100@{}"}}"#, boots[0])]);
        let places = |boot: &str| {
            let placement = Placement::new(&attachments, &BTreeMap::new(), boot.parse().ok().as_ref());
            placement.wanted.into_keys().collect::<Vec<Place>>()
        };
        assert_eq!(places(boots[0]), [Place::Process { pid: 7, started: Some(100) }]);
        assert_eq!(places(boots[1]), []);
    }
}
