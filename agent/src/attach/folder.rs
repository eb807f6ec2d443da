//! The documents on this host's disk, a file each: what was answered for is there after a power cut, also while etcd is away.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{Attachment, Refused, check::MOST, document::AttachmentId};
use crate::files::{Durable, WriteError, read_small, write_if_changed};

/// The folder `attachments` in the state folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

/// A file as it was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) attachments: BTreeMap<AttachmentId, Attachment>,
    /// Files that are none, each with the reason. They stay, and stop no other.
    pub(crate) refused: Vec<(PathBuf, String)>,
}

/// A document is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("attachment {id} was changed meanwhile: it has generation {there}")]
    Older { id: AttachmentId, there: u64 },
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Folder {
    pub(crate) fn in_folder(state: &Path) -> Self {
        Self(state.join("attachments"))
    }

    /// Reads all documents. Each is checked as a new one is; of two that clash, the one with the higher id is refused.
    ///
    /// # Errors
    /// When there is a folder that cannot be read.
    pub(crate) fn load(&self) -> io::Result<Found> {
        let mut found = Found::default();
        let mut files = match fs::read_dir(&self.0) {
            Ok(entries) => {
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>()?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        // Drafts of a write that was cut off begin with a dot.
        files.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
        files.sort();
        for path in files {
            match read(&path, &found) {
                Ok(attachment) => drop(found.attachments.insert(attachment.id, attachment)),
                Err(why) => found.refused.push((path, why)),
            }
        }
        // Whoever can write here could fill the log with them.
        found.refused.truncate(MOST);
        Ok(found)
    }

    /// The files of all documents, valid or not.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        files
    }

    /// Writes a document, beside those that are there. It is on the disk when this returns. False if it was there already.
    ///
    /// # Errors
    /// [`KeepError`]; nothing is changed then.
    pub(crate) fn keep(&self, attachment: &Attachment, found: &mut Found) -> Result<bool, KeepError> {
        attachment.check()?;
        attachment.check_among(found.attachments.values())?;
        let id = attachment.id;
        match found.attachments.get(&id) {
            Some(there) if there == attachment => return Ok(false),
            Some(there) if there.generation >= attachment.generation => {
                return Err(KeepError::Older { id, there: there.generation });
            }
            Some(_) | None => {}
        }
        let text = serde_json::to_string_pretty(attachment).expect("a document has only text keys") + "\n";
        write_if_changed(&self.file(id), &text, Durable::Yes)?;
        self.sync()?;
        found.attachments.insert(id, attachment.clone());
        Ok(true)
    }

    /// Removes a document. False if there was none.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&self, id: AttachmentId, found: &mut Found) -> Result<bool, WriteError> {
        let path = self.file(id);
        let removed = match fs::remove_file(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(WriteError { path, source }),
        };
        if removed {
            self.sync()?;
        }
        found.attachments.remove(&id);
        Ok(removed)
    }

    fn file(&self, id: AttachmentId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// The name of a file is on the disk when its folder is.
    fn sync(&self) -> Result<(), WriteError> {
        let synced = File::open(&self.0).and_then(|folder| folder.sync_all());
        synced.map_err(|source| WriteError { path: self.0.clone(), source })
    }
}

fn read(path: &Path, found: &Found) -> Result<Attachment, String> {
    let text = read_small(path).map_err(|error| error.to_string())?;
    let attachment: Attachment = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if path.file_name().is_none_or(|name| name != format!("{}.json", attachment.id).as_str()) {
        return Err(format!("it holds attachment {}, whose file has another name", attachment.id));
    }
    let checked = attachment.check().and_then(|()| attachment.check_among(found.attachments.values()));
    checked.map_err(|refused| refused.to_string())?;
    Ok(attachment)
}

#[cfg(test)]
mod tests {
    use super::{super::check::tests::document, *};

    fn folder() -> (tempfile::TempDir, Folder) {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::in_folder(state.path());
        (state, folder)
    }

    #[test]
    fn what_is_kept_is_there_again_until_it_is_removed() {
        let (_state, folder) = folder();
        let mut found = folder.load().unwrap();
        assert!(found.attachments.is_empty() && found.refused.is_empty());
        let one = document("{}");
        let other = document(r#"{"id":"00000000000000bb","guest":"db","addresses":["network"],"gateway":"10.2.0.1"}"#);
        assert!(folder.keep(&one, &mut found).unwrap());
        assert!(folder.keep(&other, &mut found).unwrap());
        assert!(!folder.keep(&one, &mut found).unwrap(), "it is there already");
        let again = folder.load().unwrap();
        assert_eq!(again.attachments.values().collect::<Vec<_>>(), [&one, &other]);
        assert_eq!(again.attachments, found.attachments);
        assert!(folder.remove(one.id, &mut found).unwrap());
        assert!(!folder.remove(one.id, &mut found).unwrap());
        assert_eq!(folder.load().unwrap().attachments, found.attachments);
    }

    #[test]
    fn only_a_higher_generation_replaces_and_a_refused_document_changes_nothing() {
        let (_state, folder) = folder();
        let mut found = Found::default();
        folder.keep(&document(r#"{"generation":5}"#), &mut found).unwrap();
        for generation in [4, 5] {
            let older = document(&format!(r#"{{"generation":{generation},"addresses":[]}}"#));
            let error = folder.keep(&older, &mut found).unwrap_err().to_string();
            assert_eq!(error, "attachment 00000000000000aa was changed meanwhile: it has generation 5");
        }
        assert!(folder.keep(&document(r#"{"generation":6,"addresses":["10.1.1.0/24"]}"#), &mut found).is_err());
        assert!(folder.keep(&document(r#"{"id":"00000000000000bb"}"#), &mut found).is_err());
        assert_eq!(folder.load().unwrap().attachments[&document("{}").id].generation, 5);
        assert_eq!(folder.load().unwrap().attachments.len(), 1);
        assert!(folder.keep(&document(r#"{"generation":6,"addresses":[]}"#), &mut found).unwrap());
        assert!(folder.load().unwrap().attachments[&document("{}").id].addresses.is_empty());
    }

    #[test]
    fn a_file_that_is_no_document_is_named_and_stops_no_other() {
        let (state, folder) = folder();
        let mut found = Found::default();
        folder.keep(&document(r#"{"id":"00000000000000bb"}"#), &mut found).unwrap();
        let in_folder = |name: &str| state.path().join("attachments").join(name);
        let text = |fields| serde_json::to_string(&document(fields)).unwrap();
        let clash = text(r#"{"id":"00000000000000cc","addresses":[]}"#);
        for (name, content) in [
            ("0000000000000001.json", "not JSON".to_owned()),
            ("0000000000000002.json", text("{}")),
            ("0000000000000003.json", "x".repeat(100_000)),
            ("00000000000000aa.json", text(r#"{"addresses":["10.1.1.0/24"]}"#)),
            ("00000000000000cc.json", clash),
            ("00000000000000dd.json", text("{}").replace("\"cli\"", "\"nobody\"")),
            (".draft", "half of".to_owned()),
        ] {
            fs::write(in_folder(name), content).unwrap();
        }
        fs::create_dir(in_folder("00000000000000ee.json")).unwrap();
        nix::unistd::mkfifo(&in_folder("00000000000000ff.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = folder.load().unwrap();
        assert_eq!(found.attachments.len(), 1);
        let said: Vec<&str> = found.refused.iter().map(|(_, why)| why.as_str()).collect();
        let parts = [
            "expected ident",
            "whose file has another name",
            "larger than 64 KiB",
            "the network address",
            "makes eth1 in web already",
            "nobody",
            "not a regular file",
            "not a regular file",
        ];
        assert_eq!(said.len(), parts.len(), "{said:?}");
        for (said, part) in said.iter().zip(parts) {
            assert!(said.contains(part), "{said} does not say {part}");
        }
    }

    /// Fields of a later version are passed over.
    #[test]
    fn a_field_that_is_not_known_is_no_fault() {
        let (_state, folder) = folder();
        let more = document(r#"{"later":{"x":1}}"#);
        assert!(folder.keep(&more, &mut Found::default()).unwrap());
        assert_eq!(folder.load().unwrap().attachments[&more.id], document("{}"));
    }
}
