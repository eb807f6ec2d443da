//! What is read after a crash at any byte, and how much is written.

use std::{fs, io::Write, sync::atomic::Ordering};

use wire_lease::{Entry, Lease, LeaseTable, Origin};
use wire_net::Subnet;
use wire_state::{ErrorKind, sim::FaultRates};
use wire_store::Random;

use super::{super::save::State, limited::Limited, *};

/// The folder of a disk in memory.
const FOLDER: &str = "/var/lib/wire-agent";

fn new_file(folder: &Path) -> LastKnownFile {
    LastKnownFile::in_folder(folder, KeyPrefix::new(PREFIX))
}

fn subnet(number: u32) -> Subnet {
    let [_, _, high, low] = number.to_be_bytes();
    directory(CONFIGS[0])
        .subnet(&[&*directory(CONFIGS[0]), format!("10.{high}.{low}.0-24").as_bytes()].concat())
        .unwrap()
}

/// A lease of the host with that number; each version has another address.
fn entry(number: u32, version: u32) -> Arc<Entry> {
    let value = format!(r#"{{"PublicIP":"192.168.{}.{}","BackendType":"host-gw"}}"#, version % 250, number % 250);
    let lease = Lease::from_value(subnet(number), value.as_bytes()).unwrap();
    let create_revision = Revision((number + version / 3).into());
    let lease_id = (!number.is_multiple_of(4)).then_some(LeaseId(i64::from(number + version / 2)));
    Arc::new(Entry { lease, origin: Origin { create_revision, mod_revision: Revision(1_000_000), lease: lease_id } })
}

fn table_of(numbers: std::ops::Range<u32>) -> LeaseTable {
    let mut table = LeaseTable::default();
    numbers.for_each(|number| drop(table.peers.insert(subnet(number), entry(number, 0))));
    table
}

fn state(table: &LeaseTable) -> State {
    let joined = Arc::new(Joined { config: CONFIGS[0].to_owned(), endpoints: vec!["192.0.2.1".parse().unwrap()] });
    State { joined, table: Arc::new(table.clone()) }
}

/// What `load` has to return.
fn expected(State { joined, table }: &State) -> LastKnown {
    let kept = table.peers.values().map(|entry| KeptLease::of(&KeyPrefix::new(PREFIX), entry));
    let leases = kept.map(|kept| (kept.key.clone(), kept)).collect();
    LastKnown {
        config: joined.config.clone(),
        endpoints: joined.endpoints.clone(),
        records: table
            .peers
            .values()
            .filter_map(|entry| KeptLease::of(&KeyPrefix::new(PREFIX), entry).record())
            .collect(),
        listing: super::super::listing(leases),
    }
}

fn loaded(folder: &Path) -> Option<LastKnown> {
    loaded_from(&RealDisk, folder)
}

fn loaded_from(disk: &impl Disk, folder: &Path) -> Option<LastKnown> {
    new_file(folder).load(disk).unwrap().map(|(known, _)| known)
}

/// Tables as they follow each other: enough small changes for a second base, and one change of all leases.
fn history() -> Vec<State> {
    let mut table = table_of(1..8);
    let mut history = vec![state(&table)];
    for version in 1..13 {
        let number = version % 7 + 1;
        match version % 4 {
            0 => drop(table.peers.remove(&subnet(number))),
            1..=3 => drop(table.peers.insert(subnet(number), entry(number, version))),
            _ => unreachable!(),
        }
        history.push(state(&table));
    }
    history.push(state(&LeaseTable::default()));
    history.push(state(&table_of(3..6)));
    history
}

fn random() -> Random {
    Random::seeded(7)
}

#[test]
fn a_process_that_ends_at_any_byte_leaves_the_table_before_or_after() {
    let (history, folder) = (history(), Path::new(FOLDER));
    for left in 0.. {
        let (file, disk, random) = (new_file(folder), Limited::new(left), random());
        let saved = history.iter().take_while(|state| file.save(&disk, &random, state).is_ok()).count();
        let found = loaded_from(&disk, folder);
        let before = saved.checked_sub(1).map(|last| expected(&history[last]));
        assert!(found == before || found == history.get(saved).map(expected), "after {left} bytes: {found:?}");
        if saved == history.len() {
            assert!(left > 3000, "only {left} bytes were tried");
            break;
        }
        disk.left.store(u64::MAX, Ordering::Relaxed);
        let next = new_file(folder);
        for state in history[saved..].iter().take(3) {
            next.save(&disk, &random, state).unwrap();
            assert_eq!(loaded_from(&disk, folder), Some(expected(state)), "after {left} bytes");
        }
    }
}

#[test]
fn a_disk_that_is_full_at_any_byte_keeps_what_was_saved_and_takes_the_next() {
    let (history, folder) = (history(), Path::new(FOLDER));
    let mut last_full = None;
    for left in (0..).step_by(5) {
        let (file, disk, random) = (new_file(folder), Limited::new(left), random());
        let (mut last, mut full) = (None, None);
        for (state, step) in history.iter().zip(1..) {
            match file.save(&disk, &random, state) {
                Ok(()) => last = Some(expected(state)),
                Err(_) => full = Some(step),
            }
            if full == Some(step) {
                disk.left.store(u64::MAX, Ordering::Relaxed);
            }
            assert_eq!(loaded_from(&disk, folder), last, "full after {left} bytes, step {step}");
        }
        if full.is_none() {
            break;
        }
        last_full = full;
    }
    assert!(last_full.is_some_and(|step| step > 10), "{last_full:?}");
}

/// Saves the first tables, and returns how long the journal was after each.
fn lines(folder: &Path, history: &[State]) -> Vec<usize> {
    let file = new_file(folder);
    let mut ends = Vec::new();
    for state in history {
        file.save(&RealDisk, &random(), state).unwrap();
        ends.push(fs::read(&file.journal).map_or(0, |journal| journal.len()));
    }
    assert!(ends.is_sorted() && ends.len() > 3, "one base: {ends:?}");
    ends
}

#[test]
fn a_journal_that_is_cut_off_or_damaged_counts_up_to_the_line_before() {
    let history = &history()[..5];
    let folder = tempfile::tempdir().unwrap();
    let ends = lines(folder.path(), history);
    let path = new_file(folder.path()).journal;
    let whole = fs::read(&path).unwrap();
    for byte in 0..whole.len() {
        let until = ends.iter().filter(|end| **end <= byte).count() - 1;
        let before = expected(&history[until]);
        fs::write(&path, &whole[..byte]).unwrap();
        assert_eq!(loaded(folder.path()).unwrap(), before, "cut off at {byte}");
        let mut damaged = whole.clone();
        damaged[byte] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(loaded(folder.path()).unwrap(), before, "damaged at {byte}");
        damaged[byte..].fill(0);
        fs::write(&path, &damaged).unwrap();
        assert_eq!(loaded(folder.path()).unwrap(), before, "zeros from {byte} on");
    }
}

#[test]
fn a_journal_is_never_applied_to_another_base() {
    let history = &history()[..5];
    let folder = tempfile::tempdir().unwrap();
    lines(folder.path(), history);
    let file = new_file(folder.path());
    let base = fs::read_to_string(&file.base).unwrap();
    assert_eq!(loaded(folder.path()).unwrap(), expected(&history[4]));
    let mut older: serde_json::Value = serde_json::from_str(&base).unwrap();
    for id in [None, Some("0123456789abcdef")] {
        match id {
            None => drop(older.as_object_mut().unwrap().remove("id")),
            Some(id) => older["id"] = id.into(),
        }
        fs::write(&file.base, older.to_string()).unwrap();
        assert_eq!(loaded(folder.path()).unwrap(), expected(&history[0]), "{id:?}");
    }
    new_file(folder.path()).save(&RealDisk, &Random::seeded(8), &history[1]).unwrap();
    assert_eq!(loaded(folder.path()).unwrap(), expected(&history[1]), "the next base");
    assert!(!file.journal.exists());
}

#[test]
fn the_base_is_what_the_last_release_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = new_file(folder.path());
    file.save(&RealDisk, &random(), &state(&table_of(1..2))).unwrap();
    let base: serde_json::Value = serde_json::from_slice(&fs::read(&file.base).unwrap()).unwrap();
    let lease = serde_json::json!({
        "key": "/coreos.com/network/subnets/10.0.1.0-24",
        "value": r#"{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"host-gw"}"#,
        "create_revision": 1,
        "lease": 1,
    });
    let known = serde_json::json!({
        "id": base["id"],
        "prefix": PREFIX,
        "config": CONFIGS[0],
        "endpoints": ["192.0.2.1"],
        "leases": [lease],
    });
    assert_eq!(base, known);
}

#[test]
fn the_time_is_that_of_the_last_save_and_the_base_has_its_own() {
    let history = &history()[..2];
    let folder = tempfile::tempdir().unwrap();
    let file = new_file(folder.path());
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let age = |path: &Path| fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    let as_of = || file.load(&RealDisk).unwrap().unwrap().1;
    let save = |state| file.save(&RealDisk, &random(), state).unwrap();
    save(&history[0]);
    save(&history[1]);
    let base_time = RealDisk.modified(&file.base).unwrap();
    age(&file.journal);
    assert_eq!(as_of(), long_ago);
    save(&history[1]);
    assert!(as_of() > long_ago, "nothing has changed, but it is as of now");
    assert_eq!(RealDisk.modified(&file.base).unwrap(), base_time);
    age(&file.base);
    fs::OpenOptions::new().append(true).open(&file.journal).unwrap().write_all(b"x").unwrap();
    assert_eq!(as_of(), long_ago, "what is damaged may be older than its file");
}

/// Draws a number below `end`.
fn below(random: &Random, end: u32) -> u32 {
    u32::from_be_bytes(random.bytes()) % end
}

/// Changes some leases.
fn change(random: &Random, table: &mut LeaseTable) {
    for _ in 0..=below(random, 3).pow(2) {
        let number = below(random, 20);
        match below(random, 3) {
            0 => drop(table.peers.remove(&subnet(number))),
            1.. => drop(table.peers.insert(subnet(number), entry(number, below(random, 1000)))),
        }
    }
}

#[test]
fn whatever_happens_between_two_saves_what_was_saved_last_is_read() {
    let folder = Path::new(FOLDER);
    let faults = FaultRates { ops: 150, reads: 0 };
    for seed in 0..150 {
        let (random, disk) = (Random::seeded(seed), Limited::new(u64::MAX));
        let (mut file, mut table, mut failed) = (new_file(folder), table_of(0..10), 0);
        disk.files.fail_by_chance(faults, seed);
        for step in 0..40 {
            match below(&random, 14) {
                0 => file = new_file(folder),
                1 => file.fold(&disk, &random),
                2 => disk.files.edit(|files| drop(files.remove(&file.base))),
                3 => disk.files.edit(|files| drop(files.remove(&file.journal))),
                4.. => change(&random, &mut table),
            }
            let state = state(&table);
            match file.save(&disk, &random, &state) {
                Ok(()) => assert_eq!(loaded_from(&disk, folder), Some(expected(&state)), "seed {seed}, step {step}"),
                Err(_) => failed += 1,
            }
        }
        assert!(failed < 30, "seed {seed}");
        disk.files.fail_by_chance(FaultRates::default(), 0);
        file.save(&disk, &random, &state(&table)).unwrap();
        file.fold(&disk, &random);
        disk.files.edit(|files| drop(files.remove(&file.journal)));
        assert_eq!(loaded_from(&disk, folder), Some(expected(&state(&table))), "seed {seed}, the base at the end");
    }
}

#[test]
fn a_line_that_was_written_and_said_to_have_failed_is_taken_back() {
    let (history, folder) = (history(), Path::new(FOLDER));
    let (file, disk) = (new_file(folder), Limited::new(u64::MAX));
    let save = |state| file.save(&disk, &random(), state);
    save(&history[0]).unwrap();
    save(&history[1]).unwrap();
    disk.files.fail_next("append file", ErrorKind::Lost);
    disk.files.fail_next("write file", ErrorKind::NoBuffers);
    assert!(save(&history[2]).is_err());
    assert_eq!(loaded_from(&disk, folder), Some(expected(&history[2])));
    save(&history[1]).unwrap();
    assert_eq!(loaded_from(&disk, folder), Some(expected(&history[1])));
}

/// The bytes that are written for that many changes of one lease among others, without the first base.
fn written(leases: u32, changes: u32) -> u64 {
    let folder = Path::new(FOLDER);
    let (file, disk, random) = (new_file(folder), Limited::new(u64::MAX), random());
    let mut table = table_of(0..leases);
    file.save(&disk, &random, &state(&table)).unwrap();
    let base = disk.written.load(Ordering::Relaxed);
    for version in 1..=changes {
        table.peers.insert(subnet(version % leases), entry(version % leases, version));
        file.save(&disk, &random, &state(&table)).unwrap();
    }
    assert_eq!(loaded_from(&disk, folder), Some(expected(&state(&table))));
    disk.written.load(Ordering::Relaxed) - base
}

#[test]
fn the_bytes_of_a_change_are_bounded_on_average_whatever_the_number_of_leases() {
    /// Three times a line: itself, and at most two times its length for the base that replaces it.
    const OF_A_CHANGE: u64 = 3 * 250;
    for (leases, changes) in [(1, 50), (3, 100), (100, 400), (1500, 4000)] {
        let written = written(leases, changes);
        assert!(written <= OF_A_CHANGE * u64::from(changes), "{written} bytes for {changes} changes of {leases}");
    }
    // Until the journal is as long as the base, there is but the line.
    assert!(written(1500, 100) <= 250 * 100);
}
