//! `tests/promises.toml`, read.

use serde::Deserialize;

/// All that the product promises, and the lab tests that prove none of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promises {
    pub(crate) promise: Vec<Promise>,
    pub(crate) beside: Vec<Beside>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promise {
    /// Does not change once it is published.
    pub(crate) id: String,
    /// The heading that it stands under.
    pub(crate) area: String,
    pub(crate) sentence: String,
    /// The tests that fail if the promise is broken, with their crate or test binary in front.
    pub(crate) tests: Vec<String>,
    /// The part of the sentence that no test proves.
    pub(crate) limits: Option<String>,
    /// The name under which a test records the time that it measures.
    pub(crate) figure: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Beside {
    pub(crate) reason: String,
    pub(crate) tests: Vec<String>,
}

impl Promises {
    pub(crate) fn parse(text: &str) -> Self {
        toml::from_str(text).unwrap_or_else(|error| panic!("tests/promises.toml: {error}"))
    }

    pub(crate) fn named_tests(&self) -> impl Iterator<Item = &String> {
        let beside = self.beside.iter().flat_map(|group| &group.tests);
        self.promise.iter().flat_map(|one| &one.tests).chain(beside)
    }
}
