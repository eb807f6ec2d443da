//! The demo says what is true, with its last line and with its exit status.

use std::process::{Command, Output};

use wire_tests::{LabError, Result, Share, check, lab};

fn demo(options: &[&str]) -> Result<Output> {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).args(options).output();
    output.map_err(|source| LabError::Io { what: "cannot run the demo".to_owned(), source })
}

fn ends_with(output: &Output, status: i32, last: &str) -> Result {
    let text = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy);
    let fits = output.status.code() == Some(status) && text[0].trim_end().lines().last() == Some(last);
    check(fits, || format!("{}, not {status} and {last:?}:\n{}\n{}", output.status, text[0], text[1]))
}

#[test]
fn the_demo_connects_all_pairs_and_says_so() -> Result {
    // Its own lab is another process's; this one keeps the seats free for it.
    let _lab = lab!(Share::Alone);
    ends_with(&demo(&[])?, 0, "demo: 3 hosts, 6 of 6 container pairs answered")
}

#[test]
fn the_demo_with_one_pair_cut_counts_four_of_six_and_fails() -> Result {
    let _lab = lab!(Share::Alone);
    ends_with(&demo(&["--cut", "1:2"])?, 1, "demo: 3 hosts, 4 of 6 container pairs answered")
}
