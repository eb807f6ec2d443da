use std::fs;

use super::*;
use crate::{
    files::RealDisk,
    named::samples::{app, host, kept},
};

fn document() -> Document {
    let mut kept = kept(1);
    kept.rooms.push(Room::Address([10, 128, 9, 9].into(), MacAddr::of_container([10, 128, 9, 9].into())));
    let dropped = ["wp000000aa".parse().unwrap()].into();
    let joined = Entry { is_exposed: true, held: Some(kept), dropped, ..Entry::default() };
    let waiting = Entry { is_exposed: true, held: None, ..Entry::default() };
    Document { host: Some(host(1)), networks: [(app(), joined), ("later".parse().unwrap(), waiting)].into() }
}

fn text(document: &Document) -> Option<String> {
    Lines::default().text(document.host, document.networks.iter())
}

#[test]
fn what_is_saved_is_loaded_again_and_without_networks_there_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = DocumentFile::in_folder(folder.path());
    assert_eq!(file.load(&RealDisk).unwrap(), Document::default());
    file.save(&RealDisk, text(&document())).unwrap();
    assert_eq!(file.load(&RealDisk).unwrap(), document());
    assert_eq!(file.peek(&RealDisk).unwrap(), document());
    file.save(&RealDisk, text(&Document { networks: BTreeMap::new(), ..document() })).unwrap();
    assert!(!file.path().exists());
    file.save(&RealDisk, None).unwrap();
}

#[test]
fn a_file_that_makes_no_sense_is_put_aside_and_a_look_leaves_it() {
    for bad in [&b"{"[..], b"[]", b"\xff", b"{}"] {
        let folder = tempfile::tempdir().unwrap();
        let file = DocumentFile::in_folder(folder.path());
        fs::write(file.path(), bad).unwrap();
        assert_eq!(file.peek(&RealDisk).unwrap(), Document::default());
        assert!(file.path().exists());
        assert_eq!(file.load(&RealDisk).unwrap(), Document::default());
        assert_eq!(fs::read(folder.path().join("named.json.bad")).unwrap(), bad);
    }
}

/// As earlier agents wrote it.
#[test]
fn a_file_of_several_lines_for_each_network_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = DocumentFile::in_folder(folder.path());
    let value: Value = serde_json::from_str(&text(&document()).unwrap()).unwrap();
    fs::write(file.path(), serde_json::to_string_pretty(&value).unwrap()).unwrap();
    assert_eq!(file.load(&RealDisk).unwrap(), document());
}

#[test]
fn an_entry_that_makes_no_sense_joins_anew_and_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = DocumentFile::in_folder(folder.path());
    file.save(&RealDisk, text(&document())).unwrap();
    let text = fs::read_to_string(file.path()).unwrap();
    for (from, to) in [("\"VNI\":5000", "\"VNI\":1"), ("app/10.128.1.32-27", "other/10.128.1.32-27"), ("8472", "0")] {
        assert!(text.contains(from), "{text}");
        fs::write(file.path(), text.replace(from, to)).unwrap();
        let loaded = file.load(&RealDisk).unwrap();
        assert_eq!(loaded.networks[&app()], Entry { held: None, ..document().networks[&app()].clone() });
        assert_eq!(loaded.networks.len(), 2);
    }
}

#[test]
fn a_clone_holds_nothing_of_what_its_original_holds() {
    let mut own = document();
    own.belong_to(host(1));
    assert_eq!(own, document());
    assert_eq!(own.ports().map(|port| port.to_string()).collect::<Vec<_>>(), ["wp000000aa"]);
    own.networks.insert("gone".parse().unwrap(), Entry { held: Some(kept(1)), ..Entry::default() });
    own.belong_to(host(2));
    assert_eq!(own.holder(), Some(host(2)));
    assert!(own.networks.len() == 2 && own.networks.values().all(|entry| entry.held.is_none()), "{own:?}");
}

#[test]
fn what_was_kept_for_networks_that_no_document_has_is_nobodys() {
    let folder = tempfile::tempdir().unwrap();
    let file = DocumentFile::in_folder(folder.path());
    file.save(&RealDisk, text(&document())).unwrap();
    let awaited = |file: &DocumentFile| {
        let is_awaited = file.devices(&RealDisk);
        ["flannel.1", "wv.5000", "wv.5001"].map(|name| is_awaited(name.parse().unwrap()))
    };
    assert_eq!(awaited(&file), [true, true, false]);
    fs::remove_file(file.path()).unwrap();
    assert_eq!(awaited(&file), [true, false, false]);
    fs::create_dir(file.path()).unwrap();
    assert_eq!(awaited(&file), [true; 3], "nothing is known");
}
