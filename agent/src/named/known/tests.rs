use std::fs;

use super::*;
use crate::{
    files::RealDisk,
    named::samples::{app, host, kept, records},
};

fn files(folder: &Path) -> KnownFiles {
    KnownFiles::in_folder(folder, KeyPrefix::new("/n"))
}

fn loaded(files: &KnownFiles) -> NamedRecords {
    let mut loaded = NamedRecords::default();
    files.load(&RealDisk, &app(), &kept(1), &mut loaded, host(1));
    loaded
}

#[test]
fn what_is_saved_is_loaded_again_and_a_network_alone_is_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let mut all = records(&[1, 2, 3]);
    let own = all.clone();
    let other: NetworkName = "apple".parse().unwrap();
    all.members.insert(MemberKey { network: other.clone(), host: host(9) }, stored(kept(1).member));
    files.save(&RealDisk, &app(), &all).unwrap();
    let again = loaded(&files);
    assert_eq!((again.networks, again.members, again.blocks), (own.networks, own.members, own.blocks));
    assert_eq!(loaded(&KnownFiles::in_folder(folder.path(), KeyPrefix::new("/other"))).members.len(), 1);
    files.remove(&RealDisk, &app());
    files.remove(&RealDisk, &app());
    assert!(!files.path(&app()).exists());
}

#[test]
fn without_a_file_that_can_be_read_this_hosts_own_part_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    fs::create_dir_all(files.path(&app()).parent().unwrap()).unwrap();
    let hostile = r#"{"prefix":"/n","entries":[{"key":"/n/wire/members/other/00000000000000000000000000000009","value":"{}","create_revision":1},
                       {"key":"/n/subnets/10.5.1.0-24","value":"{}","create_revision":1},{"key":"","value":"","create_revision":-1}]}"#;
    for content in [None, Some("{"), Some("[]"), Some(hostile)] {
        if let Some(content) = content {
            fs::write(files.path(&app()), content).unwrap();
        }
        let known = loaded(&files);
        assert_eq!((known.networks.len(), known.members.len(), known.blocks.len()), (1, 1, 1), "{content:?}");
    }
}
