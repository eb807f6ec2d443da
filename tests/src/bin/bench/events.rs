//! One lease: from etcd's answer to the kernel's last notification.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use wire_tests::{Change, LabError, Monitor, Result};

use crate::{
    leases::{Lease, Side},
    report::millis_between,
    writer::Writer,
};

/// How long an event may take at most.
const LIMIT: Duration = Duration::from_secs(10);
/// How long nothing more comes for a lease once all was heard that it needs.
const SETTLED: Duration = Duration::from_millis(5);
/// How many leases one side has before the other has its turn.
const BLOCK: usize = 20;

/// What happens to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Added,
    /// Another host has the subnet: another public address and MAC.
    Changed,
    Removed,
}

/// Which notifications are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// FDB entry, neighbour and route, and the nexthop object where there is one.
    Entries,
    /// The route alone.
    Routes,
    /// The elements of the packet filter's sets.
    Elements,
}

/// The times of events of one side, in milliseconds.
#[derive(Default)]
pub(crate) struct Times {
    pub(crate) since_answer: Vec<f64>,
    pub(crate) since_sent: Vec<f64>,
}

/// Whose events are timed, and where they are heard.
pub(crate) struct Ear<'a> {
    pub(crate) side: Side,
    pub(crate) monitor: &'a Monitor,
    pub(crate) heard: Heard,
}

impl Kind {
    /// The notifications that a lease needs at least.
    fn needs(self, heard: Heard) -> &'static [(u16, usize)] {
        match (heard, self) {
            (Heard::Entries, Self::Added) => &[(Change::NEW_ROUTE, 1), (Change::NEW_NEIGHBOUR, 2)],
            (Heard::Entries, Self::Changed) => &[(Change::NEW_NEIGHBOUR, 2), (Change::DELETE_NEIGHBOUR, 1)],
            (Heard::Entries, Self::Removed) => &[(Change::DELETE_ROUTE, 1), (Change::DELETE_NEIGHBOUR, 2)],
            (Heard::Routes, Self::Added | Self::Changed) => &[(Change::NEW_ROUTE, 1)],
            (Heard::Routes, Self::Removed) => &[(Change::DELETE_ROUTE, 1)],
            (Heard::Elements, Self::Added) => &[(Change::NEW_SET_ELEMENT, 2)],
            (Heard::Elements, Self::Changed) => &[(Change::NEW_SET_ELEMENT, 2), (Change::DELETE_SET_ELEMENT, 2)],
            (Heard::Elements, Self::Removed) => &[(Change::DELETE_SET_ELEMENT, 2)],
        }
    }
}

/// The times of events by their kind, of both sides in turns: each has a block of leases, of which each in its turn is added,
/// changed and removed. So neither works while the other is timed, and both meet the same weather of the machine.
pub(crate) fn in_turns(writer: &Writer, ears: &[Ear<'_>; 2], spare: &[Lease], leases: usize) -> Result<[Series; 2]> {
    let mut series = [Series::default(), Series::default()];
    for block in 0..leases.div_ceil(BLOCK) {
        for (ear, series) in ears.iter().zip(&mut series) {
            for number in block * BLOCK..leases.min((block + 1) * BLOCK) {
                let lease = spare[number % spare.len()];
                for (kind, lease) in
                    [(Kind::Added, lease), (Kind::Changed, lease.next()), (Kind::Removed, lease.next())]
                {
                    series.time(writer, ear, kind, lease)?;
                }
            }
        }
    }
    Ok(series)
}

/// The times of many events.
#[derive(Default)]
pub(crate) struct Series(pub(crate) BTreeMap<Kind, Times>);

impl Series {
    /// Makes an event and times it. `lease` is as it is after the event, or was before its removal.
    pub(crate) fn time(&mut self, writer: &Writer, ear: &Ear<'_>, kind: Kind, lease: Lease) -> Result {
        ear.monitor.forget();
        let prefix = ear.side.prefix();
        let write = match kind {
            Kind::Added | Kind::Changed => lease.put(prefix),
            Kind::Removed => lease.delete(prefix),
        };
        let written = writer.write(vec![write])?;
        let last = wait_whole(ear, kind, lease)?;
        let times = self.0.entry(kind).or_default();
        // The watch may be quicker than the answer: then that is negative.
        times.since_answer.push(millis_between(written.answered, last));
        times.since_sent.push(millis_between(written.sent, last));
        Ok(())
    }
}

/// Waits until all that the event needs was heard and nothing more comes; gives the time of the last.
fn wait_whole(ear: &Ear<'_>, kind: Kind, lease: Lease) -> Result<Instant> {
    let needles = match ear.heard {
        Heard::Entries | Heard::Routes => lease.needles().to_vec(),
        Heard::Elements => lease.needles_of_elements().to_vec(),
    };
    let began = Instant::now();
    loop {
        let changes = ear.monitor.naming(&needles)?;
        let count = |kind: u16| changes.iter().filter(|change| change.kind == kind).count();
        let mut needs = kind.needs(ear.heard).iter();
        let whole = needs.all(|(kind, least)| count(*kind) >= *least);
        if let Some(last) = changes.last().filter(|last| whole && last.at.elapsed() > SETTLED) {
            return Ok(last.at);
        }
        if began.elapsed() > LIMIT {
            let heard: Vec<_> = changes.iter().map(|change| change.kind).collect();
            let last = format!("{:?}: {lease:?} {kind:?}: only messages {heard:?} were heard", ear.side);
            return Err(LabError::Late { after: LIMIT, last });
        }
        thread::sleep(Duration::from_millis(1));
    }
}
