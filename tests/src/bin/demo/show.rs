//! The tables.

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use wire_tests::Stored;

use crate::stage::{Pair, Stage};

/// The leases as etcd holds them.
pub(crate) fn leases(leases: &[Stored]) {
    let mut table = Table::new();
    table.set_header(["key", "value"]);
    for lease in leases {
        table.add_row([lease.key(), lease.value()]);
    }
    print("The leases in etcd", &mut table);
}

/// What a command of the agent said, as it said it.
pub(crate) fn said(command: &str, text: &str) {
    println!("\n{command}\n{}", text.trim_end());
}

/// Who reaches whom.
pub(crate) fn pings(stage: &Stage, pairs: &[Pair]) {
    let cell = |from, to| match pairs.iter().find(|pair| (pair.from, pair.to) == (from, to)) {
        Some(pair) if pair.answered => "answered".to_owned(),
        Some(_) => "NO ANSWER".to_owned(),
        None => String::new(),
    };
    matrix("Pings between the containers, by their addresses on docker0", stage, cell);
}

/// How many encapsulated packets went from each host to each other one.
pub(crate) fn packets(stage: &Stage, packets: &[Vec<u64>]) {
    let cell = |from: usize, to: usize| if from == to { String::new() } else { packets[from][to].to_string() };
    matrix("VXLAN packets on the underlay meanwhile (UDP port 8472)", stage, cell);
}

/// One row for each host that sends, one column for each that receives.
fn matrix(title: &str, stage: &Stage, cell: impl Fn(usize, usize) -> String) {
    let label = |site: usize| {
        let address = stage.sites[site].address().map_or_else(|_| "?".to_owned(), |address| address.to_string());
        format!("{} {address}", stage.sites[site].host.name())
    };
    let sites = || 0..stage.sites.len();
    let mut table = Table::new();
    table.set_header(std::iter::once("from \\ to".to_owned()).chain(sites().map(label)));
    for from in sites() {
        table.add_row(std::iter::once(label(from)).chain(sites().map(|to| cell(from, to))));
    }
    print(title, &mut table);
}

fn print(title: &str, table: &mut Table) {
    table.load_style(UTF8_FULL_CONDENSED);
    println!("\n{title}\n{table}");
}
