//! Rows of host-gw: a start among many peers on one link, and one lease.

use wire_tests::{Family, Result};

use crate::{
    leases::Way,
    one_lease::{self, among},
    options::Options,
    report::{Goal, Report, Yardstick, millis},
    stage::Stage,
};

/// The number of peers on the link.
const PEERS: u16 = 4_000;
/// The number of turns of each.
const TURNS: u8 = 5;

/// Starts of the agent and of the bare client in turns, each on a new host; then leases one by one.
pub(crate) fn all(options: &Options, report: &mut Report) -> Result {
    let stage = Stage::of(Way::HostGw, Family::V4, PEERS)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (agent, bare) = stage.start_in_turn(turn, |_| Ok(()))?;
        ours.push(millis(agent));
        theirs.push(millis(bare));
    }
    let yardstick = Yardstick { name: "listing and bare batches", times: &theirs };
    report.against(format!("start: to last route, {}", among(&stage)), &ours, &yardstick, Goal::ours("≤ 1.5 ×"));
    let [agent, bare] = stage.both()?;
    one_lease::entries(&stage, [&agent, &bare], options, report)
}
