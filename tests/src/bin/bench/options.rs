//! Its command line.

use std::time::Duration;

use wire_tests::Family;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: bench [--only ROW,…] [--peers N,…] [--events N] [--quick] [--list]

  --only ROWS   the groups of rows to measure, all of them by default
  --peers N,…   the numbers of peers, 3,4000,20000,64000 by default; 64000 at most
  --events N    how many leases are added, changed and removed one by one, by the agent and by the bare client each; 400 by default
  --quick       30 events, and seconds instead of minutes: shows that it works, and no more
  --list        say which groups there are

Progress is told on standard error; a table and one line of JSON come in the end.";

/// A group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Fresh,
    Away,
    Start,
    OneLease,
    Step,
    HostGw,
    NamedCreate,
    NamedMany,
    NamedLarge,
    Sets,
    Burst,
    Compare,
    Rate,
    Restart,
}

impl Group {
    pub(crate) const ALL: [Self; 14] = [
        Self::Fresh,
        Self::Away,
        Self::Step,
        Self::HostGw,
        Self::NamedCreate,
        Self::NamedMany,
        Self::NamedLarge,
        Self::Start,
        Self::OneLease,
        Self::Sets,
        Self::Burst,
        Self::Compare,
        Self::Rate,
        Self::Restart,
    ];

    /// Its name for `--only`, and what it measures.
    pub(crate) const fn words(self) -> [&'static str; 2] {
        match self {
            Self::Fresh => ["fresh", "a start with a fresh lease: to subnet.env, to READY=1"],
            Self::Away => ["away", "the share of a processor while etcd is away"],
            Self::Start => ["start", "a start among N leases: time, CPU, memory; beside the bare client and iproute2"],
            Self::OneLease => {
                ["one-lease", "one lease added, changed, removed among N, IPv4 and IPv6; beside the bare client"]
            }
            Self::Step => ["step", "one lease added from 400 to 700 peers, where routes get nexthop objects"],
            Self::HostGw => ["host-gw", "a start and one lease among 4 000 peers of host-gw; beside the bare client"],
            Self::NamedCreate => {
                ["named-create", "a network by name: from create's answer to the last entry on three hosts"]
            }
            Self::NamedMany => {
                ["named-many", "one network by name more beside 500 on a host; beside its messages sent bare"]
            }
            Self::NamedLarge => [
                "named-large",
                "a network by name of 1 000 members and 32 000 addresses: to the last entry; beside bare batches",
            ],
            Self::Sets => ["sets", "one lease in the packet filter's sets among N; beside a bare transaction"],
            Self::Burst => ["burst", "1 000 leases changed at once among the most peers"],
            Self::Compare => {
                ["compare", "a comparison with nothing to do, and events while all is compared; from 20 000 peers"]
            }
            Self::Rate => ["rate", "one change a second among the most peers: the share of a processor"],
            Self::Restart => ["restart", "a restart in place among N: READY=1, changes and writes"],
        }
    }

    /// Whether it is measured among so many peers, of those that were asked for.
    pub(crate) fn takes(self, family: Family, peers: u16, all: &[u16]) -> bool {
        // The same few leases changed again and again would be seen as fewer changes.
        let most = all.iter().max() == Some(&peers) && peers >= 100;
        match self {
            Self::Fresh
            | Self::Away
            | Self::Step
            | Self::HostGw
            | Self::NamedCreate
            | Self::NamedMany
            | Self::NamedLarge => false,
            Self::OneLease => true,
            Self::Start | Self::Sets | Self::Restart => family == Family::V4,
            Self::Burst | Self::Rate => family == Family::V4 && most,
            Self::Compare => family == Family::V4 && (most || peers >= 20_000),
        }
    }
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Help,
    List,
    Run(Options),
}

/// What to measure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) groups: Vec<Group>,
    pub(crate) peers: Vec<u16>,
    /// How many leases are added, changed and removed one by one.
    pub(crate) events: usize,
    quick: bool,
}

impl Task {
    /// Reads the words after the program's name; the error is for the person who wrote them.
    pub(crate) fn from_arguments(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Options { groups: Vec::new(), peers: vec![3, 4_000, 20_000, 64_000], events: 400, quick: false };
        let mut words = words.flat_map(|word| word.splitn(2, '=').map(str::to_owned).collect::<Vec<_>>());
        while let Some(word) = words.next() {
            match word.as_str() {
                "-h" | "--help" => return Ok(Self::Help),
                "--list" => return Ok(Self::List),
                "--quick" => (options.events, options.quick) = (30, true),
                "--only" => options.only(&words.next().unwrap_or_default())?,
                "--peers" => options.peers = numbers(&words.next().unwrap_or_default())?,
                "--events" => {
                    let number = words.next().unwrap_or_default();
                    let number = number.parse().ok().filter(|number| *number > 0);
                    options.events = number.ok_or("--events wants a number")?;
                }
                other => return Err(format!("no option is called {other:?}")),
            }
        }
        if options.groups.is_empty() {
            options.groups = Group::ALL.to_vec();
        }
        Ok(Self::Run(options))
    }
}

impl Options {
    /// How long something goes on: shorter where all is to be quick.
    pub(crate) const fn for_seconds(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.quick { seconds.div_ceil(20) } else { seconds })
    }

    /// The number of networks or turns, of so many.
    pub(crate) const fn networks(&self, all: usize) -> usize {
        if self.quick { all.div_ceil(20) } else { all }
    }

    pub(crate) fn wants(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }

    /// The groups that were asked for and are measured among so many peers.
    pub(crate) fn groups_among(&self, family: Family, peers: u16) -> Vec<Group> {
        let takes = |group: &&Group| group.takes(family, peers, &self.peers);
        self.groups.iter().filter(takes).copied().collect()
    }

    fn only(&mut self, names: &str) -> Result<(), String> {
        for name in names.split(',') {
            let found = Group::ALL.into_iter().find(|group| group.words()[0] == name);
            self.groups.push(found.ok_or_else(|| format!("--only knows no {name:?}; --list says what there is"))?);
        }
        Ok(())
    }
}

fn numbers(text: &str) -> Result<Vec<u16>, String> {
    let number = |word: &str| word.parse().ok().filter(|number| (1..=64_000).contains(number));
    let wrong = |word: &str| format!("--peers wants numbers from 1 to 64000, not {word:?}");
    text.split(',').map(|word| number(word).ok_or_else(|| wrong(word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        match Task::from_arguments(line.split_whitespace().map(str::to_owned))? {
            Task::Run(options) => Ok(options),
            other @ (Task::Help | Task::List) => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn what_is_not_narrowed_is_taken_whole() {
        let all = options("").unwrap();
        assert_eq!((all.groups.as_slice(), all.peers.as_slice()), (&Group::ALL[..], &[3, 4_000, 20_000, 64_000][..]));
        let some = options("--only one-lease,start --peers=4000,64000 --events 1000").unwrap();
        assert_eq!(some.groups, [Group::OneLease, Group::Start]);
        assert_eq!((some.peers, some.events), (vec![4_000, 64_000], 1_000));
    }

    #[test]
    fn a_group_is_measured_where_it_says_something() {
        let all = options("").unwrap();
        assert_eq!(all.groups_among(Family::V6, 3), [Group::OneLease]);
        assert!(!all.groups_among(Family::V4, 4_000).contains(&Group::Compare));
        assert!(all.groups_among(Family::V4, 20_000).contains(&Group::Compare));
        assert!(!all.groups_among(Family::V4, 20_000).contains(&Group::Burst));
        // The most of those that were asked for, so that a small run can try everything.
        let small = options("--peers 100").unwrap();
        assert!(small.groups_among(Family::V4, 100).contains(&Group::Burst));
    }

    #[test]
    fn what_nobody_can_mean_is_refused() {
        for wrong in ["--only", "--only strat", "--peers 0", "--peers 64001", "--peers", "--events", "--fast", "start"]
        {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }
}
