//! `tests/flannel-documents.toml`, read, and `docs/flannel-documents.md`, made from it.

use std::{fmt::Write, fs, path::Path};

use serde::Deserialize;

use crate::page;

/// The flags of flannel that our command line knows, as the source names them.
const VARIABLES: &str = "agent/src/variables.rs";
const OLD_FLAGS: &str = "agent/src/old_flags.rs";

const HEAD: &str = "<!-- Made from tests/flannel-documents.toml by `make promises`: change that file. -->
# flannel's documents, row by row

Each option and each piece of advice in flannel's four documents for operators, what wire-agent does with it, and the tests that fail if it does not. The last part has the flags of flannel that none of the
four names. *No test:* says why none can show it. Where wire-agent does not do what the document says, the row says so. Names of tests are as in [promises.md](promises.md).
";

/// All rows, those of one document together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Documents {
    pub(crate) row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) document: String,
    /// The option or the advice; a flag stands in backticks, with both dashes.
    pub(crate) subject: String,
    pub(crate) answer: String,
    #[serde(default)]
    pub(crate) tests: Vec<String>,
    /// Why no test, or no more of it, can be shown.
    pub(crate) reason: Option<String>,
}

impl Row {
    /// True if it has no answer, or neither a test nor a reason why there is none.
    pub(crate) fn lacks_something(&self) -> bool {
        let has_reason = self.reason.as_ref().is_some_and(|reason| !reason.is_empty());
        self.answer.is_empty() || (self.tests.is_empty() && !has_reason)
    }
}

impl Documents {
    pub(crate) fn parse(text: &str) -> Self {
        toml::from_str(text).unwrap_or_else(|error| panic!("tests/flannel-documents.toml: {error}"))
    }

    /// The page of these rows.
    pub(crate) fn page(&self) -> String {
        let mut page = HEAD.to_owned();
        for rows in self.row.chunk_by(|one, next| one.document == next.document) {
            writeln!(page, "\n## {}\n\n| option or advice | wire-agent | tests |", rows[0].document).unwrap();
            page += "| --- | --- | --- |\n";
            rows.iter().for_each(|row| page += &line(row));
        }
        page
    }

    /// True if a row is about this flag.
    pub(crate) fn has_flag(&self, flag: &str) -> bool {
        self.row.iter().any(|row| row.subject.contains(&format!("`--{flag}`")))
    }
}

fn line(row: &Row) -> String {
    let reason = row.reason.iter().map(|reason| format!("*No test:* {reason}"));
    let proof: Vec<String> = page::quoted(&row.tests).into_iter().chain(reason).collect();
    let cells = [&row.subject, &row.answer, &proof.join("<br>")].map(|cell| cell.replace('|', "\\|"));
    format!("| {} |\n", cells.join(" | "))
}

/// The flags of flannel that our command line knows: those that a variable of flannel's may set, and those without an effect.
pub(crate) fn known_flags(root: &Path) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let flags: Vec<String> = of_variables(&read(VARIABLES)).into_iter().chain(of_arguments(&read(OLD_FLAGS))).collect();
    assert!(flags.len() > 50, "{VARIABLES} and {OLD_FLAGS} have another form: {flags:?}");
    flags
}

/// The texts of the list `FLANNEL`.
fn of_variables(source: &str) -> Vec<String> {
    let list = source.split("const FLANNEL").nth(1).and_then(|rest| rest.split("];").next()).unwrap_or_default();
    list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).map(str::to_owned).collect()
}

/// The flags that clap's attributes declare: by their name, or by that of the field.
fn of_arguments(source: &str) -> Vec<String> {
    source.split("#[arg(long").skip(1).filter_map(flag_of_argument).collect()
}

fn flag_of_argument(rest: &str) -> Option<String> {
    let named = rest.strip_prefix(" = \"").and_then(|rest| rest.split('"').next()).map(str::to_owned);
    let field = || rest.lines().nth(1)?.trim().split(':').next().map(|field| field.replace('_', "-"));
    named.or_else(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = r#"
        [[row]]
        document = "one.md"
        subject = "`--a`: a | b"
        answer = "It works."
        tests = ["scenarios::a", "wire-net::b"]

        [[row]]
        document = "two.md"
        subject = "`--a-b`"
        answer = "Kubernetes only."
        reason = "Kubernetes."
    "#;

    #[test]
    fn each_document_has_a_table_with_tests_or_the_reason() {
        let page = Documents::parse(ROWS).page();
        let one = "\n## one.md\n\n| option or advice | wire-agent | tests |\n| --- | --- | --- |\n| `--a`: a \\| b | It works. | `scenarios::a`<br>`wire-net::b` |\n";
        assert!(page.contains(one), "{page}");
        assert!(page.ends_with("| `--a-b` | Kubernetes only. | *No test:* Kubernetes. |\n"), "{page}");
    }

    #[test]
    fn a_flag_has_a_row_only_by_its_whole_name() {
        let rows = Documents::parse(ROWS);
        assert!(rows.has_flag("a") && rows.has_flag("a-b") && !rows.has_flag("b"));
    }

    #[test]
    fn flags_are_found_in_both_sources() {
        let list = "const FLANNEL: [&str; 2] = [\n    \"iface\",\n    // Ours.\n    \"log_dir\",\n];\nconst X: [&str; 1] = [\n    \"v\",\n];\n";
        assert_eq!(of_variables(list), ["iface", "log_dir"]);
        let arguments = "    #[arg(long = \"log_dir\", hide = true)]\n    log_dir: A,\n    #[arg(long, hide = true)]\n    kube_api_url: B,\n";
        assert_eq!(of_arguments(arguments), ["log_dir", "kube-api-url"]);
    }
}
