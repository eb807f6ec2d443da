//! The list of current conditions, with the times since which they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use tracing::{error, info, warn};

use super::condition::{Condition, Kind, Log, Place};

/// A condition that holds now.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) condition: Condition,
    pub(crate) text: String,
    /// The beginning. A change of the text alone does not change it.
    pub(crate) since: SystemTime,
}

/// All that hold now, in the order in which they are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions(BTreeMap<Place, Vec<Current>>);

/// A change that the log may tell of.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A condition with a new text; `begins` if its place was empty before.
    New { condition: Condition, begins: bool },
    /// The place is empty now; the kind that was there.
    Ended(Kind),
}

impl Conditions {
    /// Ends the conditions of a place, without a line in the log.
    pub(super) fn end(&mut self, place: Place) {
        self.0.remove(&place);
    }

    /// Makes `now` the conditions of a place. `None` if nothing changes.
    pub(super) fn replace(&mut self, place: Place, now: Vec<Condition>, at: SystemTime) -> Option<Vec<Change>> {
        debug_assert!(now.iter().all(|condition| condition.kind().place == place), "{now:?}");
        let before = self.0.get(&place).map(Vec::as_slice).unwrap_or_default();
        // There may be thousands of conflicts: each text is made once, and looked up.
        let now: Vec<(Condition, String)> = now.into_iter().map(with_text).collect();
        let is_same = |(current, (condition, text)): (&Current, &(Condition, String))| {
            current.condition.name() == condition.name() && current.text == *text
        };
        if before.len() == now.len() && before.iter().zip(&now).all(is_same) {
            return None;
        }
        let texts: BTreeSet<&String> = before.iter().map(|current| &current.text).collect();
        let begins = before.is_empty();
        let new = now.iter().filter(|(_, text)| !texts.contains(text));
        let new = new.map(|(condition, _)| Change::New { condition: condition.clone(), begins });
        let ended = before.first().filter(|_| now.is_empty()).map(|last| Change::Ended(last.condition.kind()));
        let changes = new.chain(ended).collect();
        let since: BTreeMap<_, SystemTime> =
            before.iter().map(|current| (identity(&current.condition), current.since)).collect();
        let beginning = |condition: &Condition| since.get(&identity(condition)).copied().unwrap_or(at);
        let now = now.into_iter();
        let now: Vec<Current> =
            now.map(|(condition, text)| Current { since: beginning(&condition), condition, text }).collect();
        self.0.remove(&place);
        if !now.is_empty() {
            self.0.insert(place, now);
        }
        Some(changes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Current> {
        self.0.values().flatten()
    }

    /// The first one of this kind.
    pub(super) fn get(&self, kind: Kind) -> Option<&Condition> {
        let of_place = self.0.get(&kind.place)?;
        of_place.iter().map(|current| &current.condition).find(|condition| condition.kind() == kind)
    }
}

fn with_text(condition: Condition) -> (Condition, String) {
    let text = condition.text();
    (condition, text)
}

/// Conditions with the same identity are one and the same, whatever their texts.
fn identity(condition: &Condition) -> (&'static str, String) {
    (condition.name(), condition.instance())
}

impl Change {
    pub(super) fn log(&self) {
        match self {
            Self::New { condition, begins } => new(condition, *begins),
            Self::Ended(kind) => ended(*kind),
        }
    }
}

fn new(condition: &Condition, begins: bool) {
    let text = condition.text();
    match condition.kind().log {
        Log::Nothing => {}
        Log::Beginning if !begins => {}
        Log::Beginning | Log::Texts => warn!("{text}"),
        Log::TextsAfter(words) => warn!("{words}{text}"),
        Log::Lines | Log::LinesAndEnd => warn!("{}", condition.line()),
        Log::Error(line) => error!(fault = text, "{line}"),
        Log::Hangs => error!(part = condition.instance(), "a part of the agent hangs"),
    }
}

fn ended(kind: Kind) {
    match kind.log {
        Log::LinesAndEnd => info!("{}: as it should be again", kind.place.subject.unwrap_or(kind.name)),
        Log::Hangs => info!("all parts of the agent run again"),
        Log::Nothing | Log::Beginning | Log::Texts | Log::TextsAfter(_) | Log::Lines | Log::Error(_) => {}
    }
}
