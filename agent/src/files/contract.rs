//! The checks that the files of a real disk and their double both pass. Where they differ the real disk is right.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use wire_state::{
    DesiredFile, Driver, ErrorKind, FileOp, Files, ObservedFile, Reconciler, Resource as _, Writing, sim::SimFiles,
};

use super::{FileDriver, RealDisk};
use crate::ports::Disk as _;

/// The files of a host: in a folder of the disk, or in memory.
trait Host {
    type Driver: Driver<Resource = Files>;

    fn new() -> Self;

    /// The path of a file of this host.
    fn path(&self, name: &str) -> PathBuf;

    fn driver(&self) -> Self::Driver;

    /// Writes a file as another program would.
    fn write(&self, path: &Path, content: &[u8]);

    fn modified(&self, path: &Path) -> io::Result<SystemTime>;

    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn append(&self, path: &Path, len: usize, bytes: &[u8]) -> io::Result<()>;

    fn touch(&self, path: &Path);

    /// Lets a moment pass, so that a later change has another time.
    fn wait(&self);
}

struct Real(tempfile::TempDir);

impl Host for Real {
    type Driver = FileDriver<RealDisk>;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn driver(&self) -> FileDriver<RealDisk> {
        FileDriver(RealDisk)
    }

    fn write(&self, path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        RealDisk.modified(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn append(&self, path: &Path, len: usize, bytes: &[u8]) -> io::Result<()> {
        RealDisk.append(path, len.try_into().unwrap(), bytes).map_err(|error| error.source)
    }

    fn touch(&self, path: &Path) {
        RealDisk.touch(path);
    }

    fn wait(&self) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Double(SimFiles);

impl Host for Double {
    type Driver = SimFiles;

    fn new() -> Self {
        Self(SimFiles::new(SystemTime::now))
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/var/lib").join(name)
    }

    fn driver(&self) -> SimFiles {
        self.0.clone()
    }

    fn write(&self, path: &Path, content: &[u8]) {
        self.0.put(path, content, Writing::Plain).unwrap();
    }

    fn modified(&self, path: &Path) -> io::Result<SystemTime> {
        self.0.modified(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read_at_most(path, usize::MAX)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn append(&self, path: &Path, len: usize, bytes: &[u8]) -> io::Result<()> {
        self.0.append(path, len, bytes)
    }

    fn touch(&self, path: &Path) {
        let _ = self.0.touch(path);
    }

    fn wait(&self) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs each check on both.
macro_rules! contract {
    ($($check:ident,)+) => {
        mod the_disk {
            $(#[test] fn $check() { super::$check(&<super::Real as super::Host>::new()); })+
        }
        mod the_double {
            $(#[test] fn $check() { super::$check(&<super::Double as super::Host>::new()); })+
        }
    };
}

contract![
    what_was_written_is_read_back_and_a_second_plan_is_empty,
    a_file_that_holds_the_content_keeps_its_time,
    a_file_of_another_program_is_written_again_though_it_holds_the_content,
    a_file_that_is_not_there_is_not_observed,
    a_file_that_is_not_there_cannot_be_removed,
    a_file_that_cannot_be_read_as_text_is_unknown,
    a_folder_is_no_file,
    no_file_is_written_below_a_file,
    what_is_no_longer_desired_is_removed,
    a_change_by_others_is_put_right,
    a_renamed_file_replaces_the_other,
    a_file_is_renamed_into_no_new_folder,
    what_is_appended_follows_what_was_not_cut_off,
    nothing_is_appended_to_a_shorter_file,
    nothing_is_appended_where_there_is_no_folder_or_no_file,
    a_touched_file_has_a_new_time,
    a_file_that_is_not_there_has_no_time_and_no_content,
];

const WRITINGS: [Writing; 3] = [Writing::Plain, Writing::Durable, Writing::InPlace];

fn write_op(path: &Path, content: &str, writing: Writing) -> FileOp {
    FileOp::Write(path.to_owned(), DesiredFile { content: content.to_owned(), writing })
}

fn apply<H: Host>(host: &H, op: FileOp) -> Result<(), ErrorKind> {
    host.driver().apply(&[op]).pop().unwrap().map_err(|error| error.kind)
}

fn observe<H: Host>(host: &H, path: &Path) -> Option<ObservedFile> {
    host.driver().read(&[path.to_owned()].into()).unwrap().remove(path)
}

fn content(text: &str) -> Option<ObservedFile> {
    Some(ObservedFile::Content(text.to_owned()))
}

fn what_was_written_is_read_back_and_a_second_plan_is_empty<H: Host>(host: &H) {
    let path = |number| host.path(&format!("new/folder/{number}"));
    let file = |(number, writing)| (path(number), DesiredFile { content: "X=1\n".to_owned(), writing });
    let want: BTreeMap<_, _> = WRITINGS.into_iter().enumerate().map(file).collect();
    let scope = want.keys().cloned().collect();
    let mut reconciler = Reconciler::new(host.driver(), scope);
    assert!(reconciler.round(&want).converged);
    for path in want.keys() {
        assert_eq!(observe(host, path), content("X=1\n"), "{}", path.display());
    }
    reconciler.invalidate();
    assert_eq!(reconciler.preview(&want).unwrap().ops, []);
}

fn a_file_that_holds_the_content_keeps_its_time<H: Host>(host: &H) {
    for (name, writing) in [("plain", Writing::Plain), ("durable", Writing::Durable)] {
        let path = host.path(name);
        assert_eq!(apply(host, write_op(&path, "X=1\n", writing)), Ok(()), "{writing:?}");
        let before = host.modified(&path).unwrap();
        host.wait();
        assert_eq!(apply(host, write_op(&path, "X=1\n", writing)), Ok(()), "{writing:?} again");
        assert_eq!(host.modified(&path).unwrap(), before, "{writing:?} unchanged");
        assert_eq!(apply(host, write_op(&path, "X=2\n", writing)), Ok(()), "{writing:?} changed");
        assert!(host.modified(&path).unwrap() > before, "{writing:?} changed");
    }
}

fn a_file_of_another_program_is_written_again_though_it_holds_the_content<H: Host>(host: &H) {
    let path = host.path("daemon.json");
    host.write(&path, b"{}");
    let before = host.modified(&path).unwrap();
    host.wait();
    assert_eq!(apply(host, write_op(&path, "{}", Writing::InPlace)), Ok(()));
    assert!(host.modified(&path).unwrap() > before);
}

fn a_file_that_is_not_there_is_not_observed<H: Host>(host: &H) {
    assert_eq!(observe(host, &host.path("none")), None);
    assert_eq!(observe(host, &host.path("no/folder/none")), None);
}

fn a_file_that_is_not_there_cannot_be_removed<H: Host>(host: &H) {
    assert_eq!(apply(host, FileOp::Remove(host.path("none"))), Err(ErrorKind::Absent));
}

fn a_file_that_cannot_be_read_as_text_is_unknown<H: Host>(host: &H) {
    let unknown = |text: &str| Some(ObservedFile::Unknown(text.to_owned()));
    let path = host.path("file");
    host.write(&path, &[0xff, 0xfe]);
    assert_eq!(observe(host, &path), unknown("it is not UTF-8"));
    host.write(&path, &vec![b'x'; (1 << 20) + 1]);
    assert_eq!(observe(host, &path), unknown("it is larger than 1024 KiB"));
    host.write(&path, &vec![b'x'; 1 << 20]);
    assert!(matches!(observe(host, &path), Some(ObservedFile::Content(_))));
    assert_eq!(apply(host, write_op(&path, "X=1\n", Writing::Plain)), Ok(()));
    assert_eq!(observe(host, &path), content("X=1\n"));
}

fn a_folder_is_no_file<H: Host>(host: &H) {
    let folder = host.path("folder");
    host.write(&folder.join("file"), b"");
    assert_eq!(observe(host, &folder), Some(ObservedFile::Unknown("it is not a regular file".to_owned())));
    for writing in WRITINGS {
        assert_eq!(apply(host, write_op(&folder, "X=1\n", writing)), Err(ErrorKind::Other), "{writing:?}");
    }
    assert_eq!(apply(host, FileOp::Remove(folder)), Err(ErrorKind::Other));
}

fn no_file_is_written_below_a_file<H: Host>(host: &H) {
    let file = host.path("file");
    host.write(&file, b"");
    for writing in WRITINGS {
        let below = apply(host, write_op(&file.join("below"), "X=1\n", writing));
        assert_eq!(below, Err(ErrorKind::Exists), "{writing:?}");
        let far_below = apply(host, write_op(&file.join("far/below"), "X=1\n", writing));
        assert_eq!(far_below, Err(ErrorKind::Other), "{writing:?} far below");
    }
    assert!(matches!(observe(host, &file.join("below")), Some(ObservedFile::Unknown(_))));
}

fn what_is_no_longer_desired_is_removed<H: Host>(host: &H) {
    let path = host.path("file");
    host.write(&path, b"X=1\n");
    let mut reconciler = Reconciler::new(host.driver(), [path.clone()].into());
    assert!(reconciler.round(&BTreeMap::new()).converged);
    assert_eq!(observe(host, &path), None);
}

fn a_change_by_others_is_put_right<H: Host>(host: &H) {
    let path = host.path("file");
    let file = DesiredFile { content: "X=1\n".to_owned(), writing: Writing::Plain };
    let want: BTreeMap<_, _> = [(path.clone(), file)].into();
    let mut reconciler = Reconciler::new(host.driver(), [path.clone()].into());
    assert!(reconciler.round(&want).converged);
    host.write(&path, b"X=2\n");
    let found = host.driver().read(&[path.clone()].into()).unwrap();
    assert_eq!(Files::plan(&found, &want).ops, [write_op(&path, "X=1\n", Writing::Plain)]);
    reconciler.invalidate();
    assert!(reconciler.round(&want).converged);
    assert_eq!(observe(host, &path), content("X=1\n"));
}

fn a_renamed_file_replaces_the_other<H: Host>(host: &H) {
    let (from, to) = (host.path("from"), host.path("to"));
    host.write(&from, b"new");
    host.write(&to, b"old");
    host.rename(&from, &to).unwrap();
    assert_eq!(observe(host, &from), None);
    assert_eq!(host.read(&to).unwrap(), b"new");
    assert_eq!(host.rename(&from, &to).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(host.read(&to).unwrap(), b"new", "a rename that failed changes nothing");
}

fn a_file_is_renamed_into_no_new_folder<H: Host>(host: &H) {
    let (from, to) = (host.path("from"), host.path("no/folder/to"));
    host.write(&from, b"new");
    assert_eq!(host.rename(&from, &to).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(host.read(&from).unwrap(), b"new");
}

fn what_is_appended_follows_what_was_not_cut_off<H: Host>(host: &H) {
    host.write(&host.path("other"), b"");
    let path = host.path("journal");
    host.append(&path, 0, b"one\n").unwrap();
    let before = host.modified(&path).unwrap();
    host.wait();
    host.append(&path, 4, b"two\n").unwrap();
    assert!(host.modified(&path).unwrap() > before);
    assert_eq!(host.read(&path).unwrap(), b"one\ntwo\n");
    host.append(&path, 5, b"o\n").unwrap();
    assert_eq!(host.read(&path).unwrap(), b"one\nto\n");
    host.append(&path, 0, b"new\n").unwrap();
    assert_eq!(host.read(&path).unwrap(), b"new\n");
}

fn nothing_is_appended_to_a_shorter_file<H: Host>(host: &H) {
    let path = host.path("journal");
    host.write(&path, b"one\n");
    assert_eq!(host.append(&path, 5, b"two\n").unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(host.read(&path).unwrap(), b"one\n");
}

fn nothing_is_appended_where_there_is_no_folder_or_no_file<H: Host>(host: &H) {
    let file = host.path("file");
    host.write(&file, b"");
    assert_eq!(host.append(&host.path("no/journal"), 0, b"one\n").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(host.append(&host.path("journal"), 1, b"one\n").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(host.append(&file.join("below"), 0, b"one\n").unwrap_err().kind(), io::ErrorKind::NotADirectory);
    host.write(&host.path("folder/file"), b"");
    assert_eq!(host.append(&host.path("folder"), 0, b"one\n").unwrap_err().kind(), io::ErrorKind::IsADirectory);
}

fn a_touched_file_has_a_new_time<H: Host>(host: &H) {
    let path = host.path("file");
    host.write(&path, b"X=1\n");
    let before = host.modified(&path).unwrap();
    host.wait();
    host.touch(&path);
    assert!(host.modified(&path).unwrap() > before);
    assert_eq!(host.read(&path).unwrap(), b"X=1\n");
    host.touch(&host.path("none"));
    assert_eq!(observe(host, &host.path("none")), None, "none is made");
}

fn a_file_that_is_not_there_has_no_time_and_no_content<H: Host>(host: &H) {
    let path = host.path("none");
    assert_eq!(host.modified(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(host.read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
}
