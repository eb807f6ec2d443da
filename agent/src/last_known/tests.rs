//! Saving and loading, and when the state is saved.

mod crash;
mod limited;

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use tokio::time::Instant;
use wire_lease::{Admission, Entries, LeaseTable, NetworkConfig};
use wire_net::Directory;

use super::{writer::PAUSE, *};
use crate::{
    files::RealDisk,
    ports::System,
    status::{AgentCondition, StatusWriter},
};

const PREFIX: &str = "/coreos.com/network";
const CONFIGS: [&str; 3] = [
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/32","Backend":{"Type":"udp"}}"#,
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/32","Backend":{"Type":"vxlan"}}"#,
];

fn directory(config: &str) -> Directory {
    KeyPrefix::new(PREFIX).leases(!config.contains(r#""EnableIPv4":false"#))
}

fn admit(config: &str, listing: &Listing) -> LeaseTable {
    let pools = NetworkConfig::from_json(config.as_bytes()).unwrap().pools;
    Entries::listed(directory(config), listing).admit(&Admission { pools, ..Admission::default() })
}

/// Leases of every kind, as etcd lists them; not all fit each config.
fn listing(config: &str) -> Listing {
    let (v4, v6) = (r#""PublicIP":"192.168.0.9""#, r#""PublicIPv6":"fd64::9""#);
    let vtep = |number| format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:{number:02x}"}}"#);
    let leases = [
        ("10.5.1.0-24", format!(r#"{{{v4},"PublicIPv6":null,"BackendType":"vxlan","BackendData":{}}}"#, vtep(1))),
        ("10.5.2.0-24", format!("{{{v4}}}")),
        ("10.5.3.0-24", format!(r#"{{{v4},"BackendType":"host-gw","Unknown":[1,2]}}"#)),
        ("10.5.4.0-24&fd00:5:4::-64", format!(r#"{{{v4},{v6}}}"#)),
        (
            "10.5.5.0-24&fd00:5:5::-64",
            format!(r#"{{{v4},{v6},"BackendType":"vxlan","BackendData":{},"BackendV6Data":{}}}"#, vtep(5), vtep(6)),
        ),
        (
            "fd00:5:7::-64",
            format!(r#"{{"PublicIP":"0.0.0.0",{v6},"BackendType":"vxlan","BackendV6Data":{}}}"#, vtep(7)),
        ),
        ("10.5.8.0-24", "{".to_owned()),
        ("10.5.9.0-24", r#"{"PublicIP":"127.0.0.1"}"#.to_owned()),
    ];
    let entries = leases.into_iter().zip(1..).map(|((name, value), number)| KeyValue {
        key: [&*directory(config), name.as_bytes()].concat(),
        value: value.into_bytes(),
        create_revision: Revision(100 - number),
        mod_revision: Revision(200 + number),
        lease: (number % 2 == 0).then_some(LeaseId(number)),
    });
    Listing { entries: entries.collect(), revision: Revision(300) }
}

fn keeper(folder: &Path, config: &str) -> LastKnownWriter<System> {
    let file = LastKnownFile::in_folder(folder, KeyPrefix::new(PREFIX));
    LastKnownWriter {
        ports: System::default(),
        file,
        joined: Arc::new(Joined { config: config.to_owned(), endpoints: Vec::new() }),
        status: StatusWriter::default(),
        pending: None,
        writing: None,
    }
}

fn keep(folder: &Path, config: &str) -> LeaseTable {
    let table = admit(config, &listing(config));
    let mut keeper = keeper(folder, config);
    keeper.pending = Some((Arc::new(table.clone()), Instant::now()));
    keeper.keep_now();
    table
}

#[test]
fn what_was_let_in_is_read_again_as_it_was() {
    for config in CONFIGS {
        let folder = tempfile::tempdir().unwrap();
        let before = keep(folder.path(), config);
        let file = LastKnownFile::in_folder(folder.path(), KeyPrefix::new(PREFIX));
        let (known, as_of) = file.load(&RealDisk).unwrap().unwrap();
        assert_eq!(known.config, config);
        assert!(as_of.elapsed().unwrap() < Duration::from_secs(60));
        let after = admit(config, &known.listing);
        assert!(!before.peers.is_empty() && after.refused.is_empty(), "{after:?}");
        assert_eq!(before.peers.len(), after.peers.len());
        for (subnet, entry) in &before.peers {
            assert_eq!(entry.lease, after.peers[subnet].lease);
            assert_eq!(entry.origin.create_revision, after.peers[subnet].origin.create_revision);
            assert_eq!(entry.origin.lease, after.peers[subnet].origin.lease);
            assert!(after.peers[subnet].origin.mod_revision <= after.revision, "it can be called programmed");
        }
    }
}

#[test]
fn what_is_kept_already_is_not_written_again_but_is_as_of_now() {
    let folder = tempfile::tempdir().unwrap();
    keep(folder.path(), CONFIGS[0]);
    let path = folder.path().join("network.json");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    keep(folder.path(), CONFIGS[0]);
    let after = fs::metadata(&path).unwrap();
    assert_eq!(after.ino(), inode);
    assert!(after.modified().unwrap() > long_ago);
}

#[test]
fn what_makes_no_sense_is_named_wherever_it_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let file = LastKnownFile::in_folder(folder.path(), KeyPrefix::new(PREFIX));
    assert_eq!(file.load(&RealDisk).unwrap(), None, "there is no file yet");
    keep(folder.path(), CONFIGS[0]);
    let whole = fs::read(&file.base).unwrap();
    let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
    let others = [&b"[]"[..], b"{}", b"null", b"\xff\xfe", b"\0\0\0\0"].map(<[u8]>::to_vec);
    for bad in cut.chain(others) {
        fs::write(&file.base, &bad).unwrap();
        let reason = file.load(&RealDisk).unwrap_err();
        assert!(reason.contains("network.json"), "{reason}");
    }
}

#[test]
fn another_network_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    keep(folder.path(), CONFIGS[0]);
    let reason = LastKnownFile::in_folder(folder.path(), KeyPrefix::new("/other")).load(&RealDisk).unwrap_err();
    assert!(reason.contains(PREFIX) && reason.contains("/other"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn many_changes_in_a_row_are_kept_once_and_the_last_ones_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let table = Arc::new(admit(CONFIGS[0], &listing(CONFIGS[0])));
    let mut keeper = keeper(folder.path(), CONFIGS[0]);
    let begun = Instant::now();
    for _ in 0..4 {
        keeper.note(table.clone());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    keeper.due().await;
    assert_eq!(begun.elapsed().as_secs(), PAUSE.as_secs(), "changes do not put it off");
    assert!(!keeper.file.base.exists());
    keeper.keep_now();
    fs::remove_file(&keeper.file.base).unwrap();
    keeper.note(table);
    let path = keeper.file.base.clone();
    drop(keeper);
    assert!(path.exists());
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_a_fault_until_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.json");
    fs::create_dir_all(path.join("full")).unwrap();
    let table = Arc::new(LeaseTable::default());
    let mut keeper = keeper(folder.path(), CONFIGS[0]);
    let faulty =
        |keeper: &LastKnownWriter<System>| keeper.status.look(|seen| seen.has(AgentCondition::NETWORK_NOT_SAVED));
    keeper.note(table.clone());
    keeper.keep_now();
    assert!(faulty(&keeper));
    fs::remove_dir_all(&path).unwrap();
    keeper.note(table);
    keeper.keep_now();
    assert!(!faulty(&keeper));
}
