//! Whether any packet is lost between two containers.

use std::{path::PathBuf, thread, time::Duration};

use wire_tests::{Encapsulation, Host, Lab, LabError, Loss, LossMeter, Machine, Path, Result, control_run_inside};

use crate::containers::container_address;

/// From one machine's container to another's.
pub(crate) struct Line<'a> {
    pub(crate) underlay: &'a Lab,
    pub(crate) from: (&'a Host, &'a Machine),
    pub(crate) to: (&'a Host, &'a Machine),
    pub(crate) encapsulation: Encapsulation,
}

impl Line<'_> {
    /// A meter that loses all while the line is cut, or it would be worth nothing.
    pub(crate) fn control_run(&self) -> Result<Loss> {
        control_run_inside(&self.sandbox()?, &self.path()?)
    }

    pub(crate) fn meter(&self) -> Result<Meter> {
        let meter = LossMeter::start_inside(&self.sandbox()?, &self.path()?)?;
        thread::sleep(Duration::from_secs(1));
        Ok(Meter(meter))
    }

    /// The network namespace of the container that asks.
    fn sandbox(&self) -> Result<PathBuf> {
        let machine = self.from.1;
        let path = machine.sh("readlink -f $(docker inspect -f '{{.NetworkSettings.SandboxKey}}' web)")?;
        machine.file(path.trim())
    }

    fn path(&self) -> Result<Path<'_>> {
        let address = |machine| {
            let text = container_address(machine)?;
            text.parse().map_err(|_| LabError::Wrong(format!("{text:?} is no address")))
        };
        let (from, to) = ((self.from.0, address(self.from.1)?), (self.to.0, address(self.to.1)?));
        Ok(Path { underlay: self.underlay, from, to, encapsulation: self.encapsulation })
    }
}

/// A hundred pings a second.
pub(crate) struct Meter(LossMeter);

impl Meter {
    pub(crate) fn lost_none(self) -> Result {
        thread::sleep(Duration::from_secs(1));
        let loss = self.0.stop_without_loss()?;
        eprintln!("the meter: {} pings, {} of them seen encapsulated, none lost", loss.sent, loss.encapsulated);
        Ok(())
    }
}
