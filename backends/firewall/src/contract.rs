//! The checks that the real packet filter and its double both pass. Each runs on both, and where they differ the real one is right.

mod changes;
mod double;
mod real;
mod rounds;

use wire_state::{Driver, Firewall};

use self::changes::Change;

/// A host's packet filter: in a network namespace, or in memory.
trait Host: Sized {
    type Filter: Driver<Resource = Firewall>;
    type Monitor;

    /// Runs a check on a new host, whose packet filter is empty.
    fn on_new(check: impl FnOnce(Self) + Send + 'static);

    /// The driver of an agent.
    fn filter(&self) -> Self::Filter;

    /// True if the driver takes the packet filter for changed since its last read.
    fn has_changed(filter: &mut Self::Filter) -> bool;

    /// True if only this driver has written since its last read.
    fn has_own_writes_alone(filter: &mut Self::Filter) -> bool;

    /// A monitor, which hears of all later changes.
    fn monitor(&self) -> Self::Monitor;

    /// True if the monitor has heard of a change until now.
    fn has_heard(&self, monitor: &mut Self::Monitor) -> bool;

    /// Makes a change as another program would.
    fn change(&self, change: Change);
}

/// Runs each check on both.
macro_rules! contract {
    ($($module:ident::$check:ident,)+) => {
        mod the_packet_filter {
            use super::real::Real;
            $(#[test] fn $check() { super::$module::$check::<Real>(); })+
        }
        mod the_double {
            use super::double::Double;
            $(#[test] fn $check() { super::$module::$check::<Double>(); })+
        }
    };
}

contract![
    rounds::what_was_put_is_read_back_and_a_second_plan_is_empty,
    rounds::peers_that_change_change_the_sets_alone,
    rounds::our_own_writes_are_heard_and_are_no_change,
    rounds::rules_that_are_no_longer_desired_are_gone,
    rounds::a_change_of_sets_that_cannot_be_made_is_refused_as_a_whole,
    rounds::what_is_gone_already_can_be_deleted,
    changes::each_change_by_others_is_heard_and_read_again,
    changes::each_change_by_others_needs_its_repair,
];
