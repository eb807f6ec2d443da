//! The last answers of etcd, saved on disk for a start while etcd is away (docs/adr/0008-start-without-etcd.md).
//!
//! The file is not a second format of the network: it holds keys and values as etcd has them, and the code that reads
//! etcd's answers reads it.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{task::JoinHandle, time::Instant};
use wire_lease::LeaseTable;
use wire_net::{KeyPrefix, chain};
use wire_state::{DesiredFile, Writing};
use wire_store::{KeyValue, LeaseId, Listing, Revision};

use crate::{
    files::WriteError,
    ports::{Disk, Ports},
    status::{AgentCondition, StatusWriter},
};

/// The content of `network.json` in the state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastKnown {
    /// The network's place in etcd.
    prefix: String,
    /// The network config that this host has joined with.
    pub(crate) config: String,
    /// The addresses at which etcd was reached: at a start without etcd its names may not resolve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoints: Vec<IpAddr>,
    /// The admitted leases of other hosts, in order of key.
    leases: Vec<KeptLease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptLease {
    key: String,
    value: String,
    /// The revision of the last write is not saved, since a renewal is no change.
    create_revision: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<i64>,
}

impl LastKnown {
    /// The leases as etcd would list them.
    pub(crate) fn listing(&self) -> Listing {
        let entries = self.leases.iter().map(|kept| KeyValue {
            key: kept.key.clone().into_bytes(),
            value: kept.value.clone().into_bytes(),
            create_revision: Revision(kept.create_revision),
            mod_revision: Revision(kept.create_revision),
            lease: kept.lease.map(LeaseId),
        });
        let revision = self.leases.iter().map(|kept| Revision(kept.create_revision)).max().unwrap_or_default();
        Listing { entries: entries.collect(), revision }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct LastKnownFile {
    path: PathBuf,
    prefix: KeyPrefix,
}

impl LastKnownFile {
    pub(crate) fn in_folder(folder: &Path, prefix: KeyPrefix) -> Self {
        Self { path: folder.join("network.json"), prefix }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, and the time when etcd gave these answers. `None` if there is no file.
    ///
    /// # Errors
    /// The reason why the file cannot be used, for people.
    pub(crate) fn load(&self, disk: &impl Disk) -> Result<Option<(LastKnown, SystemTime)>, String> {
        let useless = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        let text = match disk.read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(useless(&error)),
        };
        let as_of = disk.modified(&self.path).map_err(|error| useless(&error))?;
        let known: LastKnown = serde_json::from_slice(&text).map_err(|error| useless(&error))?;
        if known.prefix != self.prefix.to_string() {
            return Err(useless(&format!("it describes the network {}, not {}", known.prefix, self.prefix)));
        }
        Ok(Some((known, as_of)))
    }

    /// Saves it with the current time. If the file holds the same already, only its time changes.
    fn save(&self, disk: &impl Disk, known: &LastKnown) -> Result<(), WriteError> {
        let content = serde_json::to_string(known).expect("only text keys");
        // Not flushed: if a power cut damages the file, that is noticed, and the next start waits for etcd as without a
        // file.
        if !disk.put(&self.path, &DesiredFile { content, writing: Writing::Plain })? {
            // Only people read the time.
            disk.touch(&self.path);
        }
        Ok(())
    }
}

/// Saves the last answers: some seconds after a change, so that many changes cause one write, and when it is dropped.
#[derive(Debug)]
pub(crate) struct LastKnownWriter<P: Ports> {
    pub(crate) ports: P,
    pub(crate) file: LastKnownFile,
    /// The network config as it was read.
    pub(crate) config: String,
    pub(crate) status: StatusWriter,
    /// The addresses at which etcd is reached.
    pub(crate) endpoints: Vec<IpAddr>,
    /// The table that is not saved yet, and the time when it will be.
    pub(crate) pending: Option<(Arc<LeaseTable>, Instant)>,
    /// A write in another thread, since the disk may be slow. It returns the table if it failed.
    pub(crate) writing: Option<JoinHandle<Option<Arc<LeaseTable>>>>,
}

/// The time between the first change and the write.
const PAUSE: Duration = Duration::from_secs(5);

impl<P: Ports> LastKnownWriter<P> {
    /// Notes the table that etcd has just sent.
    pub(crate) fn note(&mut self, table: Arc<LeaseTable>) {
        let due = self.pending.take().map_or_else(|| Instant::now() + PAUSE, |(_, due)| due);
        self.pending = Some((table, due));
    }

    /// Waits until it is time for [`LastKnownWriter::keep`]. A table that could not be saved is pending again.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn due(&mut self) {
        if let Some(writing) = &mut self.writing {
            let unkept = writing.await.ok().flatten();
            self.writing = None;
            if let Some(table) = unkept.filter(|_| self.pending.is_none()) {
                self.note(table);
            }
        }
        match &self.pending {
            Some((_, due)) => tokio::time::sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    /// Starts a write of the pending table. One write runs at a time.
    pub(crate) fn keep(&mut self) {
        let Some((table, _)) = self.pending.take() else { return };
        let (disk, file, status) = (self.ports.disk().clone(), self.file.clone(), self.status.clone());
        let (config, endpoints) = (self.config.clone(), self.endpoints.clone());
        let keep = move || {
            let joined = Joined { config: &config, endpoints: &endpoints };
            (!file.keep(&disk, joined, &table, &status)).then_some(table)
        };
        self.writing = Some(self.ports.blocking(keep));
    }

    /// Saves a pending table and waits for the disk. Does nothing while an older write still runs, because that one would
    /// end last.
    fn keep_now(&mut self) {
        if self.writing.as_ref().is_none_or(JoinHandle::is_finished)
            && let Some((table, _)) = self.pending.take()
        {
            let joined = Joined { config: &self.config, endpoints: &self.endpoints };
            self.file.keep(self.ports.disk(), joined, &table, &self.status);
        }
    }
}

/// The network config, and the addresses of etcd, that this host has joined with.
struct Joined<'a> {
    config: &'a str,
    endpoints: &'a [IpAddr],
}

impl LastKnownFile {
    /// Saves it. True if that succeeded.
    fn keep(&self, disk: &impl Disk, joined: Joined<'_>, table: &LeaseTable, status: &StatusWriter) -> bool {
        let kept = self.save(disk, &self.known(joined, table));
        let failed = kept.as_ref().err().map(|error| AgentCondition::NetworkNotSaved(chain(error)));
        status.set(AgentCondition::NETWORK_NOT_SAVED, failed);
        kept.is_ok()
    }

    fn known(&self, Joined { config, endpoints }: Joined<'_>, table: &LeaseTable) -> LastKnown {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("our own keys and values are JSON or plainer");
        let leases = table.peers.values().map(|entry| KeptLease {
            key: text(self.prefix.lease(entry.lease.subnet)),
            value: text(entry.lease.to_value()),
            create_revision: entry.origin.create_revision.0,
            lease: entry.origin.lease.map(|lease| lease.0),
        });
        let mut leases: Vec<KeptLease> = leases.collect();
        leases.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        LastKnown { prefix: self.prefix.to_string(), config: config.to_owned(), endpoints: endpoints.to_vec(), leases }
    }
}

impl<P: Ports> Drop for LastKnownWriter<P> {
    fn drop(&mut self) {
        self.keep_now();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use wire_lease::{Admission, Entries, NetworkConfig};
    use wire_net::Directory;

    use super::*;
    use crate::{files::RealDisk, ports::System};

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
            config: config.to_owned(),
            status: StatusWriter::default(),
            endpoints: Vec::new(),
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
            let after = admit(config, &known.listing());
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
        let whole = fs::read(&file.path).unwrap();
        let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
        let others = [&b"[]"[..], b"{}", b"null", b"\xff\xfe", b"\0\0\0\0"].map(<[u8]>::to_vec);
        for bad in cut.chain(others) {
            fs::write(&file.path, &bad).unwrap();
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
        assert!(!keeper.file.path.exists());
        keeper.keep_now();
        fs::remove_file(&keeper.file.path).unwrap();
        keeper.note(table);
        let path = keeper.file.path.clone();
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
}
