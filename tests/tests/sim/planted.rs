//! The planted bugs: `tests/planted-bugs` shows that the simulation finds each of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the source.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn patches() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("tests/tests/sim/planted")).expect("the folder of the patches");
    let mut patches: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    patches.sort();
    patches
}

/// The reason why a patch does not apply; `None` if it does.
fn obstacle(patch: &Path) -> Option<String> {
    let mut git = Command::new("git");
    let check =
        git.current_dir(root()).args(["apply", "--check"]).arg(patch).output().expect("git, which applies patches");
    (!check.status.success()).then(|| format!("{}: {}", patch.display(), String::from_utf8_lossy(&check.stderr)))
}

#[test]
fn each_planted_bug_still_fits_the_source() {
    let obstacles: Vec<String> = patches().iter().filter_map(|patch| obstacle(patch)).collect();
    assert!(obstacles.is_empty(), "make these patches anew:\n{}", obstacles.join("\n"));
}

#[test]
fn fifteen_bugs_are_planted() {
    assert_eq!(patches().len(), 15);
}
