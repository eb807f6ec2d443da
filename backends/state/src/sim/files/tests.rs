use super::*;
use crate::{DesiredFiles, Reconciler};

fn disk() -> SimFiles {
    SimFiles::new(|| SystemTime::UNIX_EPOCH)
}

fn desired(files: &[(&str, &str, Writing)]) -> DesiredFiles {
    let file = |content: &str, writing| DesiredFile { content: content.to_owned(), writing };
    files.iter().map(|(path, content, writing)| (PathBuf::from(path), file(content, *writing))).collect()
}

fn round(disk: &SimFiles, want: &DesiredFiles) -> bool {
    Reconciler::new(disk.clone(), want.keys().cloned().collect()).round(want).converged
}

fn content(disk: &SimFiles, path: &str) -> Option<String> {
    disk.read_at_most(Path::new(path), 1000).ok().map(|content| String::from_utf8(content).unwrap())
}

const STATE: &str = "/var/lib/wire-agent/state.json";
const ENV: &str = "/run/flannel/subnet.env";

#[test]
fn a_power_cut_keeps_what_was_written_durably_and_a_reboot_all_but_run() {
    for (is_in_order, plain) in [(true, Some("new")), (false, None)] {
        let disk = disk();
        let want =
            desired(&[(STATE, "s", Writing::Durable), (ENV, "e", Writing::Plain), ("/etc/a", "new", Writing::Plain)]);
        assert!(round(&disk, &want));
        if is_in_order {
            disk.reboot();
        } else {
            disk.power_cut();
        }
        assert!(disk.has_crashed());
        assert_eq!(content(&disk, STATE).as_deref(), Some("s"));
        assert_eq!(content(&disk, ENV), None);
        assert_eq!(content(&disk, "/etc/a").as_deref(), plain);
        assert!(round(&disk.restarted(), &want));
    }
}

#[test]
fn a_disk_that_cannot_be_written_keeps_the_old_file() {
    for fault in [DiskFault::Full, DiskFault::ReadOnly] {
        let disk = disk();
        assert!(round(&disk, &desired(&[(STATE, "old", Writing::Durable)])));
        disk.set_fault(Some(fault));
        assert!(!round(&disk, &desired(&[(STATE, "new", Writing::Durable)])), "{fault:?}");
        assert_eq!(content(&disk, STATE).as_deref(), Some("old"), "{fault:?}");
        disk.set_fault(None);
        assert!(round(&disk, &desired(&[(STATE, "new", Writing::Durable)])), "{fault:?}");
    }
}

#[test]
fn an_append_that_fails_or_is_the_last_of_its_process_is_done_half() {
    let appended = |prepare: fn(&SimFiles)| {
        let disk = disk();
        disk.put(Path::new(STATE), b"12", Writing::Durable).unwrap();
        prepare(&disk);
        let outcome = disk.append(Path::new(STATE), 1, b"3456").map_err(|error| error.kind());
        (outcome, content(&disk, STATE).unwrap())
    };
    assert_eq!(appended(|_| ()), (Ok(()), "13456".to_owned()));
    let full = appended(|disk| disk.set_fault(Some(DiskFault::Full)));
    assert_eq!(full, (Err(io::ErrorKind::StorageFull), "134".to_owned()));
    let read_only = appended(|disk| disk.set_fault(Some(DiskFault::ReadOnly)));
    assert_eq!(read_only, (Err(io::ErrorKind::ReadOnlyFilesystem), "12".to_owned()));
    let (outcome, last) = appended(|disk| disk.crash_after(0));
    assert!(outcome.is_err() && last == "134", "{outcome:?}: {last}");
    let (outcome, after) = appended(SimFiles::crash);
    assert!(outcome.is_err() && after == "12", "{outcome:?}: {after}");
}

#[test]
fn a_process_that_ends_between_two_files_leaves_each_old_or_new() {
    let disk = disk();
    assert!(round(&disk, &desired(&[("/a", "1", Writing::Plain), ("/b", "1", Writing::Plain)])));
    disk.crash_after(1);
    assert!(!round(&disk, &desired(&[("/a", "2", Writing::Plain), ("/b", "2", Writing::Plain)])));
    assert_eq!(content(&disk, "/a").as_deref(), Some("2"));
    assert_eq!(content(&disk, "/b").as_deref(), Some("1"));
}

#[test]
fn a_file_is_renamed_in_one_step_and_touched_without_a_new_content() {
    let disk = disk();
    disk.put(Path::new("/a"), b"1", Writing::Plain).unwrap();
    disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
    disk.touch(Path::new("/b")).unwrap();
    assert_eq!(content(&disk, "/a"), None);
    assert_eq!(content(&disk, "/b").as_deref(), Some("1"));
    assert_eq!(disk.modified(Path::new("/b")).unwrap(), SystemTime::UNIX_EPOCH);
    assert!(disk.read_at_most(Path::new("/b"), 0).is_err(), "it is larger");
}
