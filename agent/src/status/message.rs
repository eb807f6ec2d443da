//! The text of a condition: a sentence and, if there is one, the remedy. Pure.

use std::fmt;

use wire_state::Clash;

/// A sentence, and the remedy after it. `Display` writes both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) sentence: String,
    remedy: Option<Remedy>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Remedy {
    /// The punctuation between sentence and remedy.
    separator: &'static str,
    text: String,
}

impl Message {
    /// A sentence without a remedy.
    pub(crate) fn plain(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), remedy: None }
    }

    /// Adds a remedy.
    pub(crate) fn remedy(self, separator: &'static str, text: impl Into<String>) -> Self {
        Self { remedy: Some(Remedy { separator, text: text.into() }), ..self }
    }

    /// Splits a text from elsewhere where the remedy begins. `begins` holds the separators and first words of the
    /// remedies that the text may have.
    pub(crate) fn split(text: &str, begins: &[(&'static str, &str)]) -> Self {
        let found = begins.iter().find_map(|(separator, words)| {
            let at = text.rfind(&format!("{separator}{words}"))?;
            Some(Self::plain(&text[..at]).remedy(separator, &text[at + separator.len()..]))
        });
        found.unwrap_or_else(|| Self::plain(text))
    }

    /// Joins several texts. One alone keeps its remedy apart; of several, each remedy stays beside its own sentence.
    pub(crate) fn joined(all: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut all: Vec<Self> = all.into_iter().collect();
        if all.len() > 1 {
            return Some(Self::plain(all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")));
        }
        all.pop()
    }

    /// The keys of this host that several networks want.
    pub(crate) fn of_clashes(clashes: &[Clash]) -> Self {
        let all: Vec<String> = clashes.iter().map(ToString::to_string).collect();
        Self::plain(all.join("; ")).remedy("; ", "change the config of one of them")
    }

    /// The remedy alone.
    pub(crate) fn remedy_text(&self) -> Option<&str> {
        self.remedy.as_ref().map(|remedy| remedy.text.as_str())
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        match &self.remedy {
            Some(Remedy { separator, text }) => write!(f, "{separator}{text}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_elsewhere_is_split_at_its_last_remedy_and_stays_the_same_as_a_whole() {
        let text = "a is taken; b: c; remove it";
        let message = Message::split(text, &[(": ", "start"), ("; ", "remove it")]);
        assert_eq!(message.sentence, "a is taken; b: c");
        assert_eq!(message.remedy_text(), Some("remove it"));
        assert_eq!(message.to_string(), text);
        assert_eq!(Message::split(text, &[("; ", "rename it")]), Message::plain(text));
    }

    #[test]
    fn several_are_one_sentence() {
        let one = || Message::plain("a").remedy(": ", "b");
        assert_eq!(Message::joined([]), None);
        assert_eq!(Message::joined([one()]), Some(one()));
        assert_eq!(Message::joined([one(), one()]), Some(Message::plain("a: b; a: b")));
    }
}
