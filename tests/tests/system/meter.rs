//! Whether any packet is lost.

use std::{thread, time::Duration};

use wire_tests::{LabError, Machine, Pings, Result, check};

/// A hundred pings a second out of a machine's container.
pub(crate) struct Meter(Pings);

impl Meter {
    pub(crate) fn start(machine: &Machine, to: &str) -> Result<Self> {
        let target = to.parse().map_err(|_| LabError::Wrong(format!("{to:?} is no address")))?;
        let namespace = machine.sh("readlink -f $(docker inspect -f '{{.NetworkSettings.SandboxKey}}' web)")?;
        let pings = Pings::start(&machine.file(namespace.trim())?, None, target)?;
        pings.wait_answered()?;
        thread::sleep(Duration::from_secs(1));
        Ok(Self(pings))
    }

    pub(crate) fn lost_none(self) -> Result {
        thread::sleep(Duration::from_secs(1));
        let seen = self.0.stop()?;
        let lost = seen.lost();
        eprintln!("the meter: {} pings, {} lost", seen.sent, lost.len());
        check(seen.sent > 100 && lost.is_empty(), || format!("lost {} of {} pings: {lost:?}", lost.len(), seen.sent))
    }
}
