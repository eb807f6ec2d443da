//! Networks by name: what operators do with them while faults happen. `checks` has what must hold.

mod acts;
mod checks;
mod commands;
mod document;
mod end;
mod records;
mod ways;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;
use wire_agent::WishError;
use wire_lease::named::{NetworkError, NetworkRecord};
use wire_net::{KeyPrefix, NetworkName, Vni};
use wire_store::Random;

use crate::world::{Broken, HELD, START, World};

/// The names of the networks of a world.
const NAMES: [&str; 3] = ["app", "db", "web"];
/// The time for which hosts keep entries while the store may have lost it, and the time in which they learn of the rest.
const KEPT: Duration = HELD.saturating_add(Duration::from_secs(5));
/// The time in which all hosts follow a change of a record.
const FOLLOWED: Duration = Duration::from_secs(4);

/// The acts of operators on networks by name, and the answers.
pub(crate) struct Networks {
    /// Of its own, so that worlds draw the same faults with and without networks.
    random: Random,
    is_used: bool,
    /// The wishes of operators, by host.
    wishes: BTreeMap<(usize, NetworkName), Wish>,
    /// The commands to a host that were not answered yet.
    asked: BTreeSet<(usize, NetworkName)>,
    answers: Answers,
    /// VNIs of networks that were removed: they rest.
    resting: BTreeSet<Vni>,
    /// True if two networks may have had one name, VNI or subnet, since the store has lost something or one was removed that a host has a part in.
    may_clash: bool,
    last_change: (i64, Instant),
    lenient_until: Instant,
    /// Commands that were carried out, for the record of a run.
    carried_out: u32,
}

/// The wish of an operator for a host and a network, as the agent has acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Exposed,
    Hidden,
    /// A command was not answered, or not carried out.
    Open,
}

/// The answers of commands, as they come.
#[derive(Clone, Default)]
struct Answers(Rc<RefCell<Vec<Answer>>>);

/// The answer of a command.
#[derive(Debug)]
enum Answer {
    Wished(usize, NetworkName, Wish, Result<(), WishError>),
    Created(NetworkName, Result<NetworkRecord, NetworkError>),
    Updated(Result<(), NetworkError>),
    Removed(NetworkName, Option<Vni>, Result<(), NetworkError>),
}

impl Answers {
    fn add(&self, answer: Answer) {
        self.0.borrow_mut().push(answer);
    }

    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

impl Networks {
    /// Each other world has networks by name.
    pub(crate) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            random: Random::seeded(seed.wrapping_add(1 << 32)),
            is_used: seed.is_multiple_of(2),
            wishes: BTreeMap::new(),
            asked: BTreeSet::new(),
            answers: Answers::default(),
            resting: BTreeSet::new(),
            may_clash: false,
            last_change: (0, now),
            lenient_until: now,
            carried_out: 0,
        }
    }

    pub(crate) const fn are_used(&self) -> bool {
        self.is_used
    }

    /// The field of the network config.
    pub(crate) fn config() -> &'static str {
        r#""Networks":{"IPv4Pool":"11.128.0.0/12","IPv6Pool":"fd57:5::/48"}"#
    }

    fn be_lenient(&mut self, time: Duration) {
        self.lenient_until = self.lenient_until.max(Instant::now() + time);
    }

    /// The store has lost something, or may have.
    pub(crate) fn forget_what_the_store_lost(&mut self) {
        self.may_clash = true;
        self.resting.clear();
        self.be_lenient(KEPT + START);
    }

    /// A machine has got a copy of the disk of another.
    pub(crate) fn copy_wishes(&mut self, from: usize, to: usize) {
        let of_original = self.wishes.iter().filter(|((host, _), _)| *host == from);
        let copies: Vec<_> = of_original.map(|((_, name), wish)| ((to, name.clone()), *wish)).collect();
        for ((to, name), wish) in copies {
            let is_asked = self.asked.contains(&(from, name.clone()));
            // What the original was leaving, the copy has no part in.
            let wish = if is_asked || wish != Wish::Exposed { Wish::Open } else { wish };
            self.wishes.insert((to, name), wish);
        }
    }

    fn is_wished_anywhere(&self, name: &NetworkName) -> bool {
        self.wishes.iter().any(|((_, wished), wish)| wished == name && *wish != Wish::Hidden)
    }
}

impl World {
    /// Takes the answers of commands, and notes changes of records.
    ///
    /// # Errors
    /// When an answer breaks a promise.
    pub(crate) fn look_at_networks(&mut self) -> Result<(), Broken> {
        if !self.networks.is_used {
            return Ok(());
        }
        for answer in self.networks.answers.take() {
            self.record.note(format_args!("{answer:?}"));
            self.networks.take(answer)?;
        }
        let listing = self.store.listing(format!("{}/wire/", KeyPrefix::DEFAULT).as_bytes());
        let last = listing.entries.iter().map(|entry| entry.mod_revision.0).max().unwrap_or_default();
        let state = last * 100_000 + i64::try_from(listing.entries.len()).unwrap_or_default();
        if state != self.networks.last_change.0 {
            self.networks.last_change = (state, Instant::now());
        }
        Ok(())
    }

    /// A fault of this host, or of its way to the store, may keep its part in networks away for a while.
    pub(crate) fn networks_may_be_wrong(&mut self) {
        self.networks.be_lenient(KEPT);
    }
}

impl Networks {
    fn take(&mut self, answer: Answer) -> Result<(), Broken> {
        match answer {
            Answer::Wished(host, name, wish, result) => {
                self.asked.remove(&(host, name.clone()));
                let wish = match result {
                    Ok(()) => wish,
                    Err(_) => Wish::Open,
                };
                self.carried_out += u32::from(wish != Wish::Open);
                self.wishes.insert((host, name), wish);
            }
            Answer::Created(name, Ok(record)) => {
                self.carried_out += 1;
                if self.resting.contains(&record.vni) {
                    return Err(Broken(format!("{name} has the VNI {} of a network that was removed", record.vni)));
                }
            }
            Answer::Removed(name, vni, Ok(())) => {
                self.carried_out += 1;
                self.may_clash |= self.is_wished_anywhere(&name);
                self.resting.extend(vni.filter(|_| !self.may_clash));
            }
            Answer::Updated(result) => self.carried_out += u32::from(result.is_ok()),
            Answer::Created(_, Err(_)) | Answer::Removed(_, _, Err(_)) => {}
        }
        Ok(())
    }
}
