//! Measures what the project promises in figures, on a lab of its own: a table for people, then one line of JSON.
//!
//! Times move by a quarter from run to run on shared cores, so nothing here passes or fails by a figure; the exit status says only
//! whether all could be measured. Run it on a release build: `make bench`.

mod iproute2;
mod marks;
mod report;

use std::process::ExitCode;

use report::Report;
use wire_tests::{Etcd, Lab, Result};

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            report.print();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Report> {
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build: the figures mean nothing");
    }
    let lab = Lab::new()?;
    let mut report = Report::default();

    eprintln!("bench: starts with a fresh lease");
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(marks::CONFIG)?;
    marks::start_to_files(&lab, &etcd, &mut report)?;

    eprintln!("bench: leases added one by one");
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(marks::CONFIG)?;
    marks::one_lease(&lab, &etcd, &mut report)?;

    eprintln!("bench: {} leases at start, then a restart", marks::MANY);
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(marks::CONFIG)?;
    marks::many_leases(&lab, &etcd, &mut report)?;

    eprintln!("bench: the same in turns with iproute2");
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(marks::CONFIG)?;
    iproute2::turns(&lab, &etcd, &mut report)?;

    eprintln!("bench: etcd is away");
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(marks::CONFIG)?;
    marks::etcd_away(&lab, &mut etcd, &mut report)?;
    Ok(report)
}
