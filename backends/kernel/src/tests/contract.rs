//! The checks that the real kernel and its double both pass. Each runs on both, and where they differ the real kernel is right.

mod cases;
mod changes;
mod double;
mod entries;
mod real;
mod refusals;
mod segment;
mod stage;

use wire_state::{Driver, Network, ObservedNet, Scope};

use self::changes::Change;
use crate::{Changes, HostNetwork};

/// A host with the link `wb-up`, which has a default route: in a network namespace, or in memory.
trait Host: Sized {
    type Kernel: Driver<Resource = Network>;
    type Monitor;

    /// Runs a check on a new host.
    fn on_new(check: impl FnOnce(Self) + Send + 'static);

    /// The links and addresses of the host itself.
    fn facts(&self) -> HostNetwork;

    /// The driver of an agent.
    fn kernel(&self) -> Self::Kernel;

    /// A monitor, which hears of all later changes.
    fn monitor(&self, scope: Scope) -> Self::Monitor;

    /// Has a monitor report changes in another scope.
    fn set_scope(monitor: &mut Self::Monitor, scope: Scope);

    /// Makes a change as another program would.
    fn change(&self, change: Change);

    /// The monitor's report of the changes until now.
    fn heard(monitor: &mut Self::Monitor, cached: &ObservedNet) -> Changes;
}

/// Runs each check on both.
macro_rules! contract {
    ($($module:ident::$check:ident,)+) => {
        mod the_kernel {
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
    cases::all_entries_of_the_peers_are_there_after_one_round,
    cases::what_was_put_is_read_back_and_a_second_plan_is_empty,
    cases::a_host_with_another_port_has_it_in_its_entry_and_loses_it_again,
    cases::our_own_writes_are_not_reported,
    cases::devices_that_we_made_are_reported,
    cases::devices_that_we_make_later_are_not_reported,
    cases::devices_that_we_removed_are_no_news_but_for_the_underlay,
    cases::another_scope_is_read_for_what_was_added_to_it,
    cases::a_link_with_a_name_that_was_added_to_the_scope_is_reported,
    cases::a_drained_host_keeps_foreign_entries_alone,
    cases::a_round_repairs_each_change_by_others,
    cases::a_route_is_deleted_only_if_it_is_as_it_was_read,
    cases::a_route_that_is_replaced_is_ours,
    cases::the_last_address_of_ipv4_takes_routes_and_neighbours,
    cases::the_last_address_of_ipv6_takes_nothing,
    cases::a_neighbour_is_taken_on_a_link_that_is_down,
    cases::a_device_that_is_set_up_again_has_what_it_kept_while_down,
    changes::each_change_by_others_is_reported_and_read_back,
    segment::a_segment_is_whole_after_one_round_and_a_second_plan_is_empty,
    segment::each_change_of_a_segment_by_others_is_reported_and_read_back,
    segment::a_round_repairs_each_change_of_a_segment_by_others,
    segment::entries_of_a_segment_that_we_change_are_not_reported,
    segment::a_bridge_keeps_its_mtu_when_its_ports_change,
    segment::ipv6_that_is_not_wanted_is_off_on_links_that_have_none,
    segment::an_entry_of_a_bridge_is_removed_only_if_it_leads_to_the_port,
    segment::a_drained_host_has_nothing_of_a_segment,
    refusals::each_operation_that_is_refused_fails_with_its_kind,
    refusals::what_is_there_or_gone_already_counts_as_done,
];
