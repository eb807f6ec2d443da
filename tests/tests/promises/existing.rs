//! The tests that exist, read from the source: asking cargo would build all of it, and wait for the cargo that runs this.
//!
//! rustfmt keeps the form that is relied on: a module inside a file ends with a bracket as far to the left as it begins.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The crate whose test binaries stand without a crate in front.
const LAB: &str = "wire-tests";

/// The names of all tests: the crate, or the test binary of the lab's crate, then the path that cargo lists.
pub(crate) fn tests(root: &Path) -> BTreeSet<String> {
    members(root).iter().flat_map(|folder| tests_of_crate(&root.join(folder))).collect()
}

/// Whether a test is one of the lab's crate that is no unit test.
pub(crate) fn is_on_the_lab(test: &str) -> bool {
    !test.starts_with("wire-") && !test.starts_with("promises::")
}

/// The names of all figures that tests measure.
pub(crate) fn figures(root: &Path) -> BTreeSet<String> {
    let texts = sources(&root.join("tests/tests")).into_iter().map(|file| fs::read_to_string(file).unwrap());
    texts.flat_map(|text| figures_in(&text)).collect()
}

fn figures_in(text: &str) -> Vec<String> {
    let calls = text.split("measured(\"").skip(1);
    calls.filter_map(|call| call.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}

/// The folders of the workspace's crates.
fn members(root: &Path) -> Vec<String> {
    let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| member.as_str().unwrap().to_owned()).collect()
}

fn tests_of_crate(folder: &Path) -> Vec<String> {
    let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
    let name = manifest["package"]["name"].as_str().unwrap();
    let unit = sources(&folder.join("src")).into_iter().map(|file| (folder.join("src"), file, vec![name]));
    let in_front = if name == LAB { vec![] } else { vec![name] };
    let binaries =
        sources(&folder.join("tests")).into_iter().map(|file| (folder.join("tests"), file, in_front.clone()));
    let files = unit.chain(binaries).filter(|(base, file, _)| is_of_this_crate(base, file));
    files.flat_map(|(base, file, in_front)| tests_of_file(&base, &file, &in_front)).collect()
}

/// Whether no folder between is a crate of its own, as `lease/net` is in `lease`.
fn is_of_this_crate(base: &Path, file: &Path) -> bool {
    file.ancestors().take_while(|folder| *folder != base).all(|folder| !folder.join("Cargo.toml").exists())
}

fn tests_of_file(base: &Path, file: &Path, in_front: &[&str]) -> Vec<String> {
    let path = file.strip_prefix(base).unwrap().with_extension("");
    let parts = path.iter().filter_map(OsStr::to_str).filter(|part| !["main", "lib", "bin"].contains(part));
    let modules: Vec<&str> = in_front.iter().copied().chain(parts).collect();
    tests_in(&fs::read_to_string(file).unwrap()).iter().map(|test| format!("{}::{test}", modules.join("::"))).collect()
}

/// All Rust files below a folder; none where there is no folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension() == Some(OsStr::new("rs")))
        .collect()
}

/// A module that is open where a line stands, and how far to the left it began.
struct Module<'a> {
    name: &'a str,
    indent: usize,
}

/// The tests of one file, each with the modules inside the file that it stands in.
fn tests_in(text: &str) -> Vec<String> {
    let (mut found, mut open, mut marked) = (vec![], Vec::<Module<'_>>::new(), false);
    for line in text.lines() {
        let (code, indent) = (line.trim(), line.len() - line.trim_start().len());
        if code == "}" && open.last().is_some_and(|module| module.indent == indent) {
            open.pop();
        } else if let Some(name) = code.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            open.push(Module { name, indent });
        } else if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(name) = function(code).filter(|_| marked) {
            let path: Vec<&str> = open.iter().map(|module| module.name).chain([name]).collect();
            found.push(path.join("::"));
            marked = false;
        }
    }
    found
}

/// The name of the function that a line declares.
fn function(code: &str) -> Option<&str> {
    let declared = code.strip_prefix("async fn ").or_else(|| code.strip_prefix("fn "))?;
    declared.split_once('(').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_whatever_attributes_stand_between() {
        let text = "#[test]\n#[ignore = \"it takes long\"]\nfn a() {\n}\n\n#[tokio::test(start_paused = true)]\nasync fn b() {\n}\n";
        assert_eq!(tests_in(text), ["a", "b"]);
    }

    #[test]
    fn a_function_without_the_attribute_is_no_test() {
        assert!(tests_in("fn a() {}\n#[cfg(test)]\nfn b() {}\n").is_empty());
    }

    #[test]
    fn a_test_has_the_modules_around_it_in_front_and_no_others() {
        let text = "mod a {\n    mod b {\n        #[test]\n        fn one() {\n        }\n    }\n\n    #[test]\n    fn two() {}\n}\n\n#[test]\nfn three() {}\n";
        assert_eq!(tests_in(text), ["a::b::one", "a::two", "three"]);
    }

    #[test]
    fn a_test_in_a_macro_is_found() {
        assert_eq!(tests_in("proptest! {\n    #[test]\n    fn any(bytes in any()) {\n    }\n}\n"), ["any"]);
    }

    #[test]
    fn a_figure_is_found_where_it_is_measured() {
        assert_eq!(figures_in("    measured(\"back-after\", took);\n    other(\"x\")"), ["back-after"]);
    }
}
