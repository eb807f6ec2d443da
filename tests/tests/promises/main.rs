//! Keeps `tests/promises.toml`, the tests that it cites, and `docs/promises.md` in agreement, and so `tests/flannel-documents.toml`, with a
//! row for each flag of flannel that our command line knows. Needs no lab and no root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod existing;
mod flannel;
mod page;
mod promises;

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::Command};

use flannel::Documents;
use promises::{Promise, Promises};

/// With this variable set to 1, the pages are written instead of compared.
const WRITE: &str = "WIRE_TESTS_WRITE_PAGE";

/// The root of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn promises() -> Promises {
    Promises::parse(&fs::read_to_string(root().join("tests/promises.toml")).unwrap())
}

fn documents() -> Documents {
    Documents::parse(&fs::read_to_string(root().join("tests/flannel-documents.toml")).unwrap())
}

#[test]
fn each_test_that_is_cited_exists() {
    let (promises, existing) = (promises(), existing::tests(&root()));
    let unknown: Vec<&String> = promises.named_tests().filter(|test| !existing.contains(*test)).collect();
    assert!(unknown.is_empty(), "tests/promises.toml names tests that do not exist: {unknown:#?}");
}

#[test]
fn each_promise_has_a_test() {
    let promises = promises();
    let without: Vec<&String> = promises.promise.iter().filter(|one| one.tests.is_empty()).map(|one| &one.id).collect();
    assert!(without.is_empty(), "no test proves {without:#?}");
}

#[test]
fn each_test_on_the_lab_is_cited_by_a_promise_or_listed_beside_with_a_reason() {
    let promises = promises();
    let named: BTreeSet<&String> = promises.named_tests().collect();
    let existing = existing::tests(&root());
    let missing: Vec<&String> =
        existing.iter().filter(|test| existing::is_on_the_lab(test) && !named.contains(*test)).collect();
    assert!(missing.is_empty(), "say in tests/promises.toml which promise these tests prove: {missing:#?}");
}

#[test]
fn no_test_is_listed_both_beside_and_as_a_proof() {
    let promises = promises();
    let beside: BTreeSet<&String> = promises.beside.iter().flat_map(|group| &group.tests).collect();
    let both: Vec<&String> =
        promises.promise.iter().flat_map(|one| &one.tests).filter(|test| beside.contains(test)).collect();
    assert!(both.is_empty(), "{both:#?}");
}

#[test]
fn what_is_listed_beside_has_a_reason() {
    assert!(promises().beside.iter().all(|group| !group.reason.is_empty()));
}

#[test]
fn each_promise_has_an_id_of_its_own() {
    let mut seen = BTreeSet::new();
    let twice: Vec<String> =
        promises().promise.into_iter().map(|one| one.id).filter(|id| !seen.insert(id.clone())).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn an_id_is_lower_case_words_joined_by_hyphens() {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let odd: Vec<String> =
        promises().promise.into_iter().map(|one| one.id).filter(|id| !id.split('-').all(is_word)).collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[test]
fn the_promises_of_an_area_stand_together() {
    let promises = promises();
    let areas: Vec<&String> = promises.promise.iter().map(|one| &one.area).collect();
    let headings: Vec<&&String> = areas.chunk_by(PartialEq::eq).filter_map(<[_]>::first).collect();
    let different: BTreeSet<&&String> = headings.iter().copied().collect();
    assert_eq!(headings.len(), different.len(), "an area begins twice: {headings:?}");
}

#[test]
fn each_figure_of_a_promise_is_measured_by_a_lab_test_and_each_that_is_measured_has_a_promise() {
    let promised: BTreeSet<String> = promises().promise.into_iter().filter_map(|one: Promise| one.figure).collect();
    assert_eq!(promised, existing::figures(&root()));
}

/// Compares a page with the one that its file makes, or writes it.
#[track_caller]
fn keep(file: &str, page: &str) {
    let path = root().join(file);
    if env::var(WRITE).as_deref() == Ok("1") {
        fs::write(&path, page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{file} is out of date: run `make promises`");
}

#[test]
fn the_page_is_what_the_promises_make() {
    keep("docs/promises.md", &page::of(&promises()));
}

#[test]
fn the_page_about_flannels_documents_is_what_its_rows_make() {
    keep("docs/flannel-documents.md", &documents().page());
}

#[test]
fn each_test_that_a_row_about_flannels_documents_cites_exists() {
    let (documents, existing) = (documents(), existing::tests(&root()));
    let cited: BTreeSet<&String> = documents.row.iter().flat_map(|row| &row.tests).collect();
    let unknown: Vec<&&String> = cited.iter().filter(|test| !existing.contains(**test)).collect();
    assert!(unknown.is_empty(), "tests/flannel-documents.toml names tests that do not exist: {unknown:#?}");
}

#[test]
fn each_row_about_flannels_documents_has_an_answer_and_tests_or_a_reason() {
    let documents = documents();
    let empty: Vec<&String> =
        documents.row.iter().filter(|row| row.lacks_something()).map(|row| &row.subject).collect();
    assert!(empty.is_empty(), "{empty:#?}");
}

#[test]
fn the_rows_of_a_document_stand_together_and_each_has_a_subject_of_its_own() {
    let documents = documents();
    let chunks = documents.row.chunk_by(|one, next| one.document == next.document);
    let headings: Vec<&String> = chunks.map(|rows| &rows[0].document).collect();
    assert_eq!(headings.len(), headings.iter().collect::<BTreeSet<_>>().len(), "a document begins twice: {headings:?}");
    let subjects: BTreeSet<(&String, &String)> =
        documents.row.iter().map(|row| (&row.document, &row.subject)).collect();
    assert_eq!(subjects.len(), documents.row.len(), "a subject stands twice");
}

#[test]
fn each_flag_of_flannel_that_we_know_has_a_row() {
    let documents = documents();
    let missing: Vec<String> =
        flannel::known_flags(&root()).into_iter().filter(|flag| !documents.has_flag(flag)).collect();
    assert!(missing.is_empty(), "tests/flannel-documents.toml has no row for {missing:?}");
}

#[test]
fn a_test_binary_lists_the_tests_that_are_read_from_its_source() {
    let listed = Command::new(env::current_exe().unwrap()).args(["--list", "--format", "terse"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let listed: BTreeSet<String> =
        listed.lines().filter_map(|line| line.strip_suffix(": test")).map(|name| format!("promises::{name}")).collect();
    let read: BTreeSet<String> =
        existing::tests(&root()).into_iter().filter(|name| name.starts_with("promises::")).collect();
    assert_eq!(read, listed);
}
