//! What it was measured on, without the machine's name.

use std::{collections::BTreeMap, fs, thread};

use serde::Serialize;
use wire_tests::{LabError, Result};

/// The machine.
#[derive(Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processors: usize,
    model: String,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub(crate) fn this() -> Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|source| LabError::Io { what: format!("cannot read {path}"), source })
        };
        let cpuinfo = read("/proc/cpuinfo")?;
        let model: BTreeMap<&str, &str> =
            cpuinfo.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect();
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processors: thread::available_parallelism().map_or(1, usize::from),
            model: (*model.get("model name").unwrap_or(&"unknown")).to_owned(),
        })
    }
}
