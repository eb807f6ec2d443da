//! The parts of our table that this host supports, learned from the attempts to write it. Pure.
//!
//! [`SupportProbe::support`] tells what to ask for, [`FirewallPolicy::desired`](crate::FirewallPolicy::desired) asks for no
//! more, and [`SupportProbe::learn`] takes the outcome. A part that was refused is asked for again after a minute: nft may
//! have been installed since, or a module loaded.

use std::time::Duration;

use tokio::time::Instant;
use wire_state::{DesiredFirewall, ErrorKind, Failure, Firewall, FirewallOp, OpError, OurTable, Report};

/// The pause before a part that was refused is asked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// The parts of our table that this host supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// The part that nftables can hold.
    pub nftables: Nftables,
    /// The kernel has flowtables.
    pub flowtables: bool,
    /// The kernel has tables for bridges.
    pub bridges: bool,
}

/// The part of our table that nftables can hold, from less to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nftables {
    /// Nothing: there is no nft, or the kernel is before 5.6.
    Absent,
    /// Everything except the check of inner sources: nft before 1.0.6.
    Simple,
    /// Everything.
    Whole,
}

/// Learns from each attempt to write our table what this host supports.
#[derive(Debug)]
pub struct SupportProbe {
    nftables: Nftables,
    /// The last refusal of more than `nftables`.
    refused: Option<Refusal>,
    flowtable_refused: Option<Refusal>,
    bridges_refused: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    at: Instant,
    error: OpError,
}

/// The consequence of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Learned {
    /// Nothing that was asked for was refused.
    Nothing,
    /// The table was refused: less has to be asked for.
    Less,
}

impl Default for Support {
    /// Everything is asked for until it is refused.
    fn default() -> Self {
        Self { nftables: Nftables::Whole, flowtables: true, bridges: true }
    }
}

impl Nftables {
    const fn less(self) -> Self {
        match self {
            Self::Whole => Self::Simple,
            Self::Simple | Self::Absent => Self::Absent,
        }
    }
}

impl Default for SupportProbe {
    fn default() -> Self {
        Self { nftables: Nftables::Whole, refused: None, flowtable_refused: None, bridges_refused: None }
    }
}

impl SupportProbe {
    /// The parts to ask for now.
    #[must_use]
    pub fn support(&self, now: Instant) -> Support {
        let nftables = if is_recent(self.refused.as_ref(), now) { self.nftables } else { Nftables::Whole };
        Support {
            nftables,
            flowtables: !is_recent(self.flowtable_refused.as_ref(), now),
            bridges: !is_recent(self.bridges_refused.as_ref(), now),
        }
    }

    /// Takes the outcome of a round that has asked for `asked` by `desired`.
    pub fn learn(
        &mut self,
        asked: Support,
        desired: &DesiredFirewall,
        report: &Report<Firewall>,
        now: Instant,
    ) -> Learned {
        let of_bridges = self.learn_bridges(desired, report, now);
        match self.learn_packets(asked, desired, report, now) {
            Learned::Less => Learned::Less,
            Learned::Nothing => of_bridges,
        }
    }

    fn learn_bridges(&mut self, desired: &DesiredFirewall, report: &Report<Firewall>, now: Instant) -> Learned {
        let Some(table) = &desired.bridge else { return Learned::Nothing };
        match Outcome::of(report, &table.name) {
            // Without nft, the other table is refused too.
            Outcome::Refused(error) if error.kind == ErrorKind::NoProgram => Learned::Nothing,
            Outcome::Refused(error) => {
                self.bridges_refused = Some(Refusal { at: now, error: error.again() });
                Learned::Less
            }
            Outcome::InPlace => {
                self.bridges_refused = None;
                Learned::Nothing
            }
            Outcome::Unknown => Learned::Nothing,
        }
    }

    fn learn_packets(
        &mut self,
        asked: Support,
        desired: &DesiredFirewall,
        report: &Report<Firewall>,
        now: Instant,
    ) -> Learned {
        let Some(table) = &desired.table else { return Learned::Nothing };
        let has_flowtable = !table.flowtables.is_empty();
        match Outcome::of(report, &table.name) {
            Outcome::Unknown => Learned::Nothing,
            Outcome::InPlace => {
                self.nftables = asked.nftables;
                if asked.nftables == Nftables::Whole {
                    self.refused = None;
                }
                if has_flowtable {
                    self.flowtable_refused = None;
                }
                Learned::Nothing
            }
            Outcome::Refused(error) => {
                let refusal = Refusal { at: now, error: error.again() };
                // Without nft, the table is refused with and without a flowtable.
                if has_flowtable && error.kind != ErrorKind::NoProgram {
                    self.flowtable_refused = Some(refusal);
                } else {
                    self.nftables = asked.nftables.less();
                    self.refused = Some(refusal);
                }
                Learned::Less
            }
        }
    }

    /// The reason why nftables holds less than our whole table.
    #[must_use]
    pub fn nftables_error(&self) -> Option<&OpError> {
        self.refused.as_ref().map(|refusal| &refusal.error)
    }

    /// The reason why the kernel holds no table of ours for bridges.
    #[must_use]
    pub fn bridges_error(&self) -> Option<&OpError> {
        self.bridges_refused.as_ref().map(|refusal| &refusal.error)
    }

    /// The reason why the kernel holds no flowtable of ours.
    #[must_use]
    pub fn flowtable_error(&self) -> Option<&OpError> {
        self.flowtable_refused.as_ref().map(|refusal| &refusal.error)
    }
}

fn is_recent(refusal: Option<&Refusal>, now: Instant) -> bool {
    refusal.is_some_and(|refusal| now.duration_since(refusal.at) <= RETRY_PAUSE)
}

/// The outcome of a round for our table.
enum Outcome<'a> {
    /// It is there as desired, written now or before.
    InPlace,
    Refused(&'a OpError),
    /// The packet filter could not be read.
    Unknown,
}

impl<'a> Outcome<'a> {
    fn of(report: &'a Report<Firewall>, name: &OurTable) -> Self {
        for failure in &report.failures {
            match failure {
                Failure::Read(_) => return Self::Unknown,
                Failure::Op { op: FirewallOp::PutTable(table), error, .. } if table.name == *name => {
                    return Self::Refused(error);
                }
                Failure::Op { .. } => {}
            }
        }
        Self::InPlace
    }
}

#[cfg(test)]
mod tests {
    use wire_state::{DesiredTable, Flowtable};

    use super::*;

    const WHOLE: Support = Support { nftables: Nftables::Whole, flowtables: true, bridges: true };

    fn desired(has_flowtable: bool) -> DesiredFirewall {
        let flowtables = has_flowtable.then(|| ("overlay".to_owned(), Flowtable::default())).into_iter().collect();
        DesiredFirewall { table: Some(DesiredTable { flowtables, ..DesiredTable::default() }), ..Default::default() }
    }

    fn refused(kind: ErrorKind) -> Report<Firewall> {
        let error = OpError::program(kind, "a test".to_owned(), std::io::ErrorKind::Other.into());
        let failure = Failure::Op { op: FirewallOp::PutTable(DesiredTable::default()), error, more: 0 };
        Report { failures: vec![failure], ..Report::default() }
    }

    /// Rounds until nothing is refused; `accepts` is the host.
    fn settle(probe: &mut SupportProbe, now: Instant, accepts: impl Fn(Support) -> Result<(), ErrorKind>) -> usize {
        for round in 1.. {
            let asked = probe.support(now);
            let is_table = asked.nftables != Nftables::Absent;
            let desired = if is_table { desired(asked.flowtables) } else { DesiredFirewall::default() };
            let report = match accepts(asked) {
                Err(kind) if is_table => refused(kind),
                Ok(()) | Err(_) => Report::default(),
            };
            if probe.learn(asked, &desired, &report, now) == Learned::Nothing {
                return round;
            }
        }
        unreachable!()
    }

    #[test]
    fn the_table_is_asked_for_in_smaller_parts_until_one_is_taken() {
        let (mut probe, now) = (SupportProbe::default(), Instant::now());
        let rounds = settle(&mut probe, now, |asked| match asked {
            Support { nftables: Nftables::Whole, .. } | Support { flowtables: true, .. } => Err(ErrorKind::Program),
            Support { nftables: Nftables::Simple | Nftables::Absent, flowtables: false, .. } => Ok(()),
        });
        assert_eq!(rounds, 3);
        assert_eq!(probe.support(now), Support { nftables: Nftables::Simple, flowtables: false, ..WHOLE });
        assert!(probe.nftables_error().is_some() && probe.flowtable_error().is_some());
    }

    #[test]
    fn without_nft_nothing_is_asked_of_it_and_the_flowtable_is_not_to_blame() {
        let (mut probe, now) = (SupportProbe::default(), Instant::now());
        assert_eq!(settle(&mut probe, now, |_| Err(ErrorKind::NoProgram)), 3);
        assert_eq!(probe.support(now), Support { nftables: Nftables::Absent, ..WHOLE });
        assert!(probe.flowtable_error().is_none());
    }

    #[test]
    fn what_was_refused_is_asked_for_again_after_a_minute_and_an_error_goes_once_it_is_taken() {
        let (mut probe, now) = (SupportProbe::default(), Instant::now());
        settle(&mut probe, now, |asked| if asked == WHOLE { Err(ErrorKind::Program) } else { Ok(()) });
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(probe.support(at(60)), Support { flowtables: false, ..WHOLE });
        assert_eq!(probe.support(at(61)), WHOLE);
        assert!(probe.flowtable_error().is_some());
        assert_eq!(settle(&mut probe, at(61), |_| Ok(())), 1);
        assert!(probe.flowtable_error().is_none());
    }

    #[test]
    fn a_kernel_without_tables_for_bridges_is_asked_for_all_else_and_for_them_again_after_a_minute() {
        let (mut probe, now) = (SupportProbe::default(), Instant::now());
        let name = OurTable { family: wire_state::TableFamily::Bridge, ..OurTable::default() };
        let bridge = DesiredTable { name, ..DesiredTable::default() };
        let wanted = DesiredFirewall { bridge: Some(bridge.clone()), ..desired(true) };
        let error = OpError::program(ErrorKind::Program, "a test".to_owned(), std::io::ErrorKind::Other.into());
        let failure = Failure::Op { op: FirewallOp::PutTable(bridge), error, more: 0 };
        let report = Report { failures: vec![failure], ..Report::default() };
        assert_eq!(probe.learn(WHOLE, &wanted, &report, now), Learned::Less);
        assert_eq!(probe.support(now), Support { bridges: false, ..WHOLE });
        assert!(probe.bridges_error().is_some() && probe.nftables_error().is_none());
        let later = now + RETRY_PAUSE + Duration::from_secs(1);
        assert_eq!(probe.support(later), WHOLE);
        assert_eq!(probe.learn(WHOLE, &wanted, &Report::default(), later), Learned::Nothing);
        assert!(probe.bridges_error().is_none());
    }

    #[test]
    fn a_failure_of_other_rules_says_nothing_of_the_table() {
        let chains = wire_state::ChainTable { family: wire_net::Family::V4, kind: wire_state::ChainTableKind::Raw };
        let name = OurTable { family: wire_state::TableFamily::Bridge, ..OurTable::default() };
        let bridge = DesiredTable { name, ..DesiredTable::default() };
        for op in [FirewallOp::PutChains(chains, Vec::new()), FirewallOp::PutTable(bridge)] {
            let (mut probe, error) = (SupportProbe::default(), OpError::unsupported("a test"));
            let report = Report { failures: vec![Failure::Op { op, error, more: 0 }], ..Report::default() };
            assert_eq!(probe.learn(WHOLE, &desired(true), &report, Instant::now()), Learned::Nothing);
            assert_eq!(probe.support(Instant::now()), WHOLE);
        }
    }
}
