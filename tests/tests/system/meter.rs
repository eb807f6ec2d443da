//! Whether any packet is lost.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use wire_tests::{LabError, Machine, Result, check, eventually};

/// A ping every ten milliseconds, or what the clock makes of that, out of a machine's container.
pub(crate) struct Meter<'a> {
    machine: &'a Machine,
    /// Its own, since the journal keeps what earlier ones have said.
    unit: String,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(machine: &'a Machine, to: &str) -> Result<Self> {
        let pid = machine.sh("docker inspect -f '{{.State.Pid}}' web")?;
        let ping = format!("nsenter -t {} -n ping -q -i 0.01 {to}", pid.trim());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unit = format!("meter-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        machine.sh(&format!("systemd-run --quiet --unit={unit} {ping}"))?;
        thread::sleep(Duration::from_secs(1));
        Ok(Self { machine, unit })
    }

    pub(crate) fn lost_none(&self) -> Result {
        thread::sleep(Duration::from_secs(1));
        let unit = &self.unit;
        self.machine.sh(&format!("systemctl kill -s INT {unit}"))?;
        let counts = || {
            let log = self.machine.sh(&format!("journalctl --no-pager -o cat -u {unit}"))?;
            let line = log.lines().find(|line| line.contains("packets transmitted")).map(str::to_owned);
            line.ok_or(LabError::Wrong(log))
        };
        eventually(Duration::from_secs(5), || counts().map(drop))?;
        let line = counts()?;
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // The last one may still have been on its way.
        let fine = matches!(numbers[..], [sent, back, ..] if sent > 100 && sent - back <= 1);
        eprintln!("the meter: {line}");
        check(fine, || line.clone())
    }
}
