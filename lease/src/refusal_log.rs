//! Limits which refused entries are named in the log. Pure.
//!
//! Each entry is named once, for as long as it is refused. If many are written, or one again and again, the log gets a
//! few lines and then one line a minute.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{Refusal, table::Refused};

/// The number of entries named at once.
const AT_ONCE: u32 = 20;
/// After those, one more each time this has passed.
const ONE_MORE: Duration = Duration::from_secs(60);
/// The time between lines with the number of unnamed entries.
const OTHERS_EVERY: Duration = Duration::from_secs(10 * 60);

#[derive(Debug)]
pub(crate) struct RefusalLog {
    named: BTreeSet<String>,
    /// The number of entries that may still be named now.
    left: u32,
    /// The time at which `left` was computed.
    counted: Instant,
    others_told: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogLines<'a> {
    pub(crate) named: Vec<(&'a str, &'a Refusal)>,
    /// The number of refused entries that are not named.
    pub(crate) others: Option<usize>,
}

impl RefusalLog {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { named: BTreeSet::new(), left: AT_ONCE, counted: now, others_told: None }
    }

    /// Takes the entries refused now and returns the lines to log.
    pub(crate) fn update<'a>(&mut self, refused: &'a Refused, now: Instant) -> LogLines<'a> {
        while self.left < AT_ONCE && now >= self.counted + ONE_MORE {
            self.left += 1;
            self.counted += ONE_MORE;
        }
        if self.left == AT_ONCE {
            self.counted = now;
        }
        self.named.retain(|key| refused.contains_key(key));
        let mut named = Vec::new();
        for (key, refusal) in refused.iter().filter(|(key, _)| !self.named.contains(*key)) {
            let Some(left) = self.left.checked_sub(1) else { break };
            self.left = left;
            named.push((key.as_str(), refusal));
        }
        self.named.extend(named.iter().map(|(key, _)| (*key).to_owned()));
        let others = refused.total() - self.named.len();
        let tell = others > 0 && self.others_told.is_none_or(|told| now >= told + OTHERS_EVERY);
        if tell {
            self.others_told = Some(now);
        }
        LogLines { named, others: tell.then_some(others) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RefusalKind;

    fn refused(keys: impl IntoIterator<Item = u32>) -> Refused {
        let mut refused = Refused::default();
        let refusal = Refusal { kind: RefusalKind::Key, reason: "no".to_owned() };
        keys.into_iter().for_each(|key| refused.add(format!("/n/subnets/j{key:06}").as_bytes(), &refusal));
        refused
    }

    fn lines(log: &mut RefusalLog, refused: &Refused, now: Instant) -> usize {
        let LogLines { named, others } = log.update(refused, now);
        named.len() + usize::from(others.is_some())
    }

    #[test]
    fn a_hundred_thousand_refused_entries_are_twenty_lines_and_a_number() {
        let (now, many) = (Instant::now(), refused(0..100_000));
        assert_eq!((many.len(), many.total()), (Refused::NAMED, 100_000), "few are kept");
        let mut log = RefusalLog::new(now);
        let LogLines { named, others } = log.update(&many, now);
        assert_eq!((named.len(), others), (20, Some(99_980)));
        assert_eq!(lines(&mut log, &many, now + Duration::from_secs(59)), 0);
    }

    #[test]
    fn an_entry_is_named_once_for_as_long_as_it_is_refused() {
        let (start, few) = (Instant::now(), refused(0..3));
        let mut log = RefusalLog::new(start);
        let days: usize = (0..48).map(|hour| lines(&mut log, &few, start + ONE_MORE * 60 * hour)).sum();
        assert_eq!(days, 3);
        assert_eq!(lines(&mut log, &refused([]), start), 0);
        assert_eq!(lines(&mut log, &few, start), 3, "made again, named again");
    }

    #[test]
    fn one_that_comes_and_goes_is_named_once_a_minute_at_most() {
        let start = Instant::now();
        let mut log = RefusalLog::new(start);
        let toggled = |second: u32| refused(second.is_multiple_of(2).then_some(7));
        let hour = |log: &mut RefusalLog, from: u32| -> usize {
            (from..from + 3600)
                .map(|second| lines(log, &toggled(second), start + Duration::from_secs(second.into())))
                .sum()
        };
        assert!((70..100).contains(&hour(&mut log, 0)));
        assert!((50..70).contains(&hour(&mut log, 3600)));
    }
}
