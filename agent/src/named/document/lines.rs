//! The text of the document: a line for each network. Lines of networks that have not changed are not made anew.

use std::collections::BTreeMap;

use serde::Serialize;
use wire_net::{HostId, NetworkName};

use super::{Entry, StoredEntry};

/// The lines as they were made last, each with what it says.
#[derive(Debug, Default)]
pub(in crate::named) struct Lines(BTreeMap<NetworkName, Line>);

#[derive(Debug)]
struct Line {
    entry: Entry,
    text: String,
}

impl Lines {
    /// The text of a document; `None` without networks. Takes the time of a look at each network, and of a line for each that differs from the last
    /// text.
    pub(in crate::named) fn text<'a>(
        &mut self,
        host: Option<HostId>,
        networks: impl Iterator<Item = (&'a NetworkName, &'a Entry)>,
    ) -> Option<String> {
        let mut last = std::mem::take(&mut self.0);
        let line = |(name, entry): (&NetworkName, &Entry)| {
            let same = last.remove_entry(name).filter(|(_, line)| line.entry == *entry);
            same.unwrap_or_else(|| (name.clone(), Line::of(name, entry)))
        };
        self.0 = networks.map(line).collect();
        let lines: Vec<&str> = self.0.values().map(|line| line.text.as_str()).collect();
        let text = || format!("{{\"host\":{},\"networks\":{{\n{}\n}}}}\n", json(&host), lines.join(",\n"));
        (!lines.is_empty()).then(text)
    }
}

impl Line {
    fn of(name: &NetworkName, entry: &Entry) -> Self {
        let text = format!("{}:{}", json(&name.to_string()), json(&StoredEntry::of(name, entry)));
        Self { entry: entry.clone(), text }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it has only text keys")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        files::RealDisk,
        named::{
            document::{Document, DocumentFile},
            samples::{host, kept},
        },
    };

    /// The documents that one host may have had, one after the other: some of four networks, each exposed, left or joined.
    fn any_documents() -> impl Strategy<Value = Vec<BTreeMap<NetworkName, Entry>>> {
        let entry = (any::<bool>(), prop::option::of(1u8..3)).prop_map(|(is_exposed, held)| Entry {
            is_exposed,
            held: held.map(kept),
            ..Entry::default()
        });
        let name = (0usize..4).prop_map(|number| format!("n{number}").parse().unwrap());
        prop::collection::vec(prop::collection::btree_map(name, entry, 0..5), 1..6)
    }

    proptest! {
        #[test]
        fn the_text_is_that_of_the_document_whatever_was_written_before(documents in any_documents()) {
            let folder = tempfile::tempdir().unwrap();
            let (file, mut lines) = (DocumentFile::in_folder(folder.path()), Lines::default());
            for networks in documents {
                let text = lines.text(Some(host(1)), networks.iter());
                prop_assert_eq!(&text, &Lines::default().text(Some(host(1)), networks.iter()));
                file.save(&RealDisk, text).unwrap();
                let loaded = file.load(&RealDisk).unwrap();
                prop_assert_eq!(loaded.networks, networks);
            }
        }
    }

    #[test]
    fn the_host_is_in_the_text() {
        let networks: BTreeMap<NetworkName, Entry> = [("app".parse().unwrap(), Entry::default())].into();
        let text = Lines::default().text(Some(host(1)), networks.iter()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = DocumentFile::in_folder(folder.path());
        file.save(&RealDisk, Some(text)).unwrap();
        assert_eq!(file.load(&RealDisk).unwrap(), Document { host: Some(host(1)), networks });
    }
}
