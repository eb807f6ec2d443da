//! One of the two agents that are compared.

use std::{
    fs,
    path::{Path, PathBuf},
};

use wire_tests::{LabError, Result, binary, check};

use crate::{record, scenes::Scene, stage::Stage};

/// An agent, and where its records lie.
pub(crate) struct Side {
    name: String,
    binary: PathBuf,
    folder: PathBuf,
}

/// What an agent has made of a scene.
pub(crate) struct Played {
    /// Which agent.
    pub(crate) name: String,
    /// Its record; not there where the scene could not be played.
    pub(crate) file: PathBuf,
    /// Why there is no record, or what it lacks.
    pub(crate) fault: Option<String>,
}

impl Side {
    /// The agent of a commit, with its records beside it.
    ///
    /// # Errors
    /// Where it was not built.
    pub(crate) fn of_commit(commit: &str) -> Result<Self> {
        let folder = folder(commit);
        Self::new(commit, folder.join("wire-agent"), folder)
    }

    /// The second agent: that of a commit, or the one built beside this program.
    ///
    /// # Errors
    /// Where it was not built.
    pub(crate) fn today(commit: Option<&str>) -> Result<Self> {
        let binary = commit.map_or_else(binary, |commit| Ok(folder(commit).join("wire-agent")))?;
        Self::new("today", binary, folder("today"))
    }

    fn new(name: &str, binary: PathBuf, folder: PathBuf) -> Result<Self> {
        check(binary.is_file(), || format!("there is no {}", binary.display()))?;
        fs::create_dir_all(&folder).map_err(LabError::io(format!("cannot create {}", folder.display())))?;
        Ok(Self { name: name.to_owned(), binary, folder })
    }

    /// Plays a scene and writes its record.
    pub(crate) fn play(&self, scene: &Scene) -> Played {
        let file = self.folder.join(format!("{}.txt", scene.name));
        // None of an earlier run may be taken for this one's.
        let _ = fs::remove_file(&file);
        let fault = self.record(scene, &file).err().map(|error| format!("{error:?}"));
        Played { name: self.name.clone(), file, fault }
    }

    fn record(&self, scene: &Scene, file: &Path) -> Result {
        let mut stage = Stage::set(self.binary.clone(), scene.config)?;
        (scene.play)(&mut stage)?;
        let record = record::settled(&stage)?;
        fs::write(file, &record).map_err(LabError::io(format!("cannot write {}", file.display())))?;
        let faults = scene.faults(&record);
        check(faults.is_empty(), || format!("{}\n  in {}", faults.join("\n"), file.display()))
    }
}

/// Where the agent of a commit and its records lie.
fn folder(commit: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("compare").join(commit)
}
