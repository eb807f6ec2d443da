//! `docs/promises.md`, made from the promises.

use std::fmt::Write;

use crate::promises::{Promise, Promises};

const HEAD: &str = "<!-- Made from tests/promises.toml by `make promises`: change that file. -->
# Promises

Each promise has a name that does not change, a sentence, and the tests that fail if it is broken. *Not proved* says which part of it no test shows. *Measured* names a time
that `make test` prints at its end. A test's name begins with its test binary or its crate: `scenarios`, `package`, `shipped` and `demo` run with `make test`, on real network namespaces, etcd and
dockerd; `system` with `make test-system`, on whole machines; the crates' own tests (`wire-…`) are pure, simulated with virtual time, or on the real kernel or etcd. Times are checked on two shared cores.
";

/// The page of these promises.
pub(crate) fn of(promises: &Promises) -> String {
    let mut page = HEAD.to_owned();
    for area in promises.promise.chunk_by(|one, next| one.area == next.area) {
        writeln!(page, "\n## {}\n", area[0].area).unwrap();
        area.iter().for_each(|promise| page += &entry(promise));
    }
    page
}

fn entry(promise: &Promise) -> String {
    let limits = promise.limits.iter().map(|limits| format!(" *Not proved:* {limits}"));
    let figure = promise.figure.iter().map(|figure| format!(" *Measured:* `{figure}`."));
    let beside: String = limits.chain(figure).collect();
    format!("- **{}**: {}{beside}\n  - {}\n", promise.id, promise.sentence, quoted(&promise.tests).join(", "))
}

/// Names of tests as code.
pub(crate) fn quoted(tests: &[String]) -> Vec<String> {
    tests.iter().map(|test| format!("`{test}`")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISES: &str = r#"
        [[promise]]
        id = "plain"
        area = "One"
        sentence = "It works."
        tests = ["scenarios::a", "wire-net::b"]

        [[promise]]
        id = "limited"
        area = "Two"
        sentence = "It is quick."
        tests = ["lab::c"]
        limits = "On a slow machine."
        figure = "quick"

        [[beside]]
        reason = "of the lab"
        tests = []
    "#;

    fn page() -> String {
        of(&Promises::parse(PROMISES))
    }

    #[test]
    fn a_promise_stands_under_its_area_with_its_tests() {
        assert!(
            page().contains("\n## One\n\n- **plain**: It works.\n  - `scenarios::a`, `wire-net::b`\n"),
            "{}",
            page()
        );
    }

    #[test]
    fn limits_and_figure_follow_the_sentence() {
        let expected =
            "- **limited**: It is quick. *Not proved:* On a slow machine. *Measured:* `quick`.\n  - `lab::c`\n";
        assert!(page().ends_with(expected), "{}", page());
    }
}
