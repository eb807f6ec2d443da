//! The store on a real etcd: settings, members that are away or hang up, large directories; certificates and users.

mod certificates;
mod users;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use wire_net::chain;
use wire_store::{
    Credentials, EtcdSettings, EtcdSettingsError, EtcdStore, KeySink, KeyValue, LeaseStore, Password, Revision,
    StoreError, TlsFiles, Txn, WatchStream, Write,
};

use self::certificates::certificates;
use crate::common::{TestEtcd, free_port};

async fn open(settings: EtcdSettings) -> EtcdStore {
    EtcdStore::open(settings).await.unwrap()
}

fn put(key: String, value: Vec<u8>) -> Write {
    Write::Put { key: key.into_bytes(), value, lease: None }
}

async fn write(store: &EtcdStore, then: Vec<Write>) {
    assert!(store.commit(Txn { when: vec![], then }).await.unwrap().succeeded);
}

fn openssl(dir: &TempDir, arguments: &str) {
    let mut made = Command::new("openssl");
    made.args(arguments.split(' ')).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(made.status().unwrap().success(), "openssl {arguments}");
}

#[tokio::test]
async fn what_cannot_be_a_way_to_etcd_is_refused_by_name() {
    let certificates = certificates();
    let file = |name: &str| Some(certificates.path().join(name));
    let refusal = async |endpoints: &[&str], tls: TlsFiles| {
        let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        let settings = EtcdSettings { tls, ..EtcdSettings::new(endpoints) };
        chain(&EtcdStore::open(settings).await.err().unwrap())
    };
    let none = TlsFiles::default;
    for (endpoints, part) in [
        (&[][..], "no etcd endpoint"),
        (&["", " "], "no etcd endpoint"),
        (&["ftp://127.0.0.1:2379"], r#""ftp://127.0.0.1:2379" must begin with http://"#),
        (&["http://"], "names no host"),
        (&["http://:2379"], "names no host"),
        (&["http://127.0.0.1"], "has no port"),
        (&["http://127.0.0.1:x"], "has no port"),
        (&["http://a b:2379"], "a host and a port and nothing else"),
        (&["http://user@host:2379"], "a host and a port and nothing else"),
        (&["http://127.0.0.1:2379/v2"], "a host and a port and nothing else"),
        (&["http://127.0.0.1:2379", "https://127.0.0.1:2380"], "use one of the two for all"),
    ] {
        let text = refusal(endpoints, none()).await;
        assert!(text.contains(part), "{endpoints:?}: {text}");
    }
    let secure = ["https://127.0.0.1:2379"];
    let missing = TlsFiles { ca: Some(PathBuf::from("/nowhere/ca.crt")), ..none() };
    assert!(refusal(&secure, missing).await.contains("cannot read the CA certificate /nowhere/ca.crt: No such file"));
    let no_pem = TlsFiles { ca: file("server.ext"), ..none() };
    assert!(refusal(&secure, no_pem).await.contains("server.ext holds no CA certificate in PEM"));
    let swapped = TlsFiles { cert: file("client.key"), key: file("client.crt"), ..none() };
    assert!(refusal(&secure, swapped).await.contains("client.key holds no client certificate in PEM"));
    let half = TlsFiles { cert: file("client.crt"), ..none() };
    assert!(refusal(&secure, half).await.contains("the key is missing"));
    let mixed = TlsFiles { cert: file("client.crt"), key: file("ca.key"), ..none() };
    let text = refusal(&secure, mixed).await;
    assert!(text.contains("client.crt cannot be used with the key") && text.contains("ca.key"), "{text}");
    let unused = TlsFiles { ca: Some(PathBuf::from("/nowhere/ca.crt")), ..none() };
    let plain = EtcdSettings { tls: unused, ..EtcdSettings::new(vec!["http://127.0.0.1:1".to_owned()]) };
    assert!(
        !matches!(EtcdStore::open(plain).await, Err(EtcdSettingsError::File { .. })),
        "as flannel: http uses no certificate"
    );
}

#[tokio::test]
async fn an_etcd_that_is_away_is_no_reason_not_to_start() {
    let port = free_port();
    let user = Credentials { name: "host".to_owned(), password: Password::Given("secret".to_owned()) };
    let settings = EtcdSettings { user: Some(user), ..EtcdSettings::new(vec![format!("http://127.0.0.1:{port}")]) };
    let store = open(settings).await;
    let started = Instant::now();
    let error = store.get(b"a").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{}", chain(&error));
    assert!(chain(&error).contains("onnection refused"), "{}", chain(&error));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_member_that_is_away_is_noticed_by_nobody() {
    let Some(etcd) = TestEtcd::start().await else { return };
    // flannel's default: port 4001 has been dead for ten years.
    let dead = format!("http://127.0.0.1:{}", free_port());
    let store = open(EtcdSettings::new(vec![dead, etcd.endpoint.clone()])).await;
    let mut failed = 0;
    let started = Instant::now();
    for _ in 0..200 {
        failed += u32::from(store.get(b"a").await.is_err());
    }
    println!("{failed} of 200 calls failed with one of two members dead, {:?} a call", started.elapsed() / 200);
    assert!(failed <= 2, "{failed} of 200 calls failed");
}

#[tokio::test]
async fn a_silent_etcd_costs_no_more_than_the_time_limit() {
    // Accepts connections and says nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let store = open(EtcdSettings { timeout: Duration::from_millis(300), ..EtcdSettings::new(vec![endpoint]) }).await;
    let started = Instant::now();
    let lease = wire_store::LeaseId(1);
    let (get, list, keep, watch) =
        tokio::join!(store.get(b"a"), store.list(b"a"), store.keep_alive(lease), store.watch(b"a", Revision(1)));
    assert!(matches!(get, Err(StoreError::Unavailable { .. })));
    assert!(list.is_err() && keep.is_err() && watch.is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

/// So does one that refuses a client's certificate when the client has taken the connection for open; and etcd 2.
#[tokio::test]
async fn a_member_that_ends_each_connection_at_once_is_told_and_not_dialled_without_end() {
    for answer in ["", "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"] {
        let (endpoint, dialled) = hangs_up(answer);
        let store = open(EtcdSettings::new(vec![endpoint])).await;
        for calls in 1..=20 {
            let error = chain(&store.get(b"a").await.unwrap_err());
            assert!(error.contains("broke (if this always happens, etcd may expect https://, or be older"), "{error}");
            let dialled = dialled.load(Ordering::Relaxed);
            assert!(dialled <= 2 * calls, "{dialled} connections for {calls} calls");
        }
    }
}

/// A listener that answers each connection and closes it, and how many there were.
fn hangs_up(answer: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let dialled = Arc::new(AtomicUsize::new(0));
    let counter = dialled.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            counter.fetch_add(1, Ordering::Relaxed);
            let _sent = std::io::Write::write_all(&mut connection.unwrap(), answer.as_bytes());
        }
    });
    (endpoint, dialled)
}

#[tokio::test]
async fn large_directories_are_read_page_by_page_whatever_they_hold() {
    let Some(etcd) = TestEtcd::start().await else { return };
    let store = etcd.store().await;
    for batch in 0..100 {
        let writes = (0..100).map(|number| put(format!("/big/{batch:03}{number:03}"), vec![b'x'; 300])).collect();
        write(&store, writes).await;
    }
    let started = Instant::now();
    let listing = store.list(b"/big/").await.unwrap();
    println!("listed 10 000 keys in {:?}", started.elapsed());
    assert_eq!(listing.entries.len(), 10_000);
    assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key));
    // 40 values of 1.4 MB between small ones: more than one answer may hold.
    for number in 0..40 {
        write(&store, vec![put(format!("/big/{number:03}000x"), vec![b'x'; 1_400_000])]).await;
    }
    let listing = store.list(b"/big/").await.unwrap();
    assert_eq!(listing.entries.len(), 10_040);
    assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key), "none is listed twice");
    let cut = listing.entries.iter().filter(|kv| kv.value.len() == KeyValue::LONGEST_VALUE + 1).count();
    assert_eq!(cut, 40, "no more is kept of them than tells that they are no leases");
    let mut watch = store.watch(b"/big/", Revision(1)).await.unwrap();
    let mut seen = 0;
    while seen < 10_040 {
        seen += watch.next().await.unwrap().events.len();
    }
}

/// Compacts the history between the first page of a listing and the second.
struct Compacts<'a> {
    endpoint: &'a str,
    listed: Revision,
    begun: u32,
    keys: Vec<KeyValue>,
}

impl Compacts<'_> {
    fn etcdctl(&self, arguments: [&str; 2], value: Option<&str>) {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", self.endpoint]).args(arguments).args(value);
        assert!(etcdctl.stdout(Stdio::null()).status().unwrap().success(), "{arguments:?}");
    }
}

impl KeySink for Compacts<'_> {
    fn clear(&mut self) {
        self.begun += 1;
        self.keys.clear();
    }

    fn push(&mut self, kv: KeyValue) {
        if self.begun == 1 && self.keys.is_empty() {
            self.etcdctl(["put", "/other"], Some("x"));
            self.etcdctl(["compact", &(self.listed.0 + 1).to_string()], None);
        }
        self.keys.push(kv);
    }
}

#[tokio::test]
async fn a_listing_whose_revision_is_compacted_between_two_pages_begins_again() {
    let Some(etcd) = TestEtcd::start().await else { return };
    let store = etcd.store().await;
    write(&store, (0..100).map(|number| put(format!("/pages/{number:03}"), b"x".to_vec())).collect()).await;
    let before = store.list(b"/pages/").await.unwrap();
    let mut sink = Compacts { endpoint: &etcd.endpoint, listed: before.revision, begun: 0, keys: Vec::new() };
    let revision = store.list_into(b"/pages/", &mut sink).await.unwrap();
    assert_eq!((sink.begun, revision), (2, Revision(before.revision.0 + 1)));
    assert_eq!(sink.keys, before.entries);
}

/// 420 MB of values, and keys as long as values; listed by a process of its own, whose memory nobody else uses.
#[tokio::test]
async fn what_strangers_write_takes_little_memory() {
    const LISTS: &str = "WIRE_TESTS_LISTS";
    if let Ok(endpoint) = std::env::var(LISTS) {
        let store = open(EtcdSettings::new(vec![endpoint])).await;
        for _ in 0..2 {
            assert_eq!(store.list(b"/junk/").await.unwrap().entries.len(), 320);
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
        return;
    }
    let Some(etcd) = TestEtcd::start().await else { return };
    let store = etcd.store().await;
    for number in 0..300 {
        write(&store, vec![put(format!("/junk/{number:03}"), vec![b'x'; 1_400_000])]).await;
    }
    for number in 0..20 {
        write(&store, vec![put(format!("/junk/{number:03}{}", "k".repeat(1_400_000)), Vec::new())]).await;
    }
    let name = "etcd::what_strangers_write_takes_little_memory";
    let mut lists = Command::new(std::env::current_exe().unwrap());
    let listed = lists.args([name, "--exact", "--nocapture"]).env(LISTS, &etcd.endpoint).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout);
    let peak =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u32>().ok());
    assert!(listed.status.success() && peak.is_some_and(|kilobytes| kilobytes < 80_000), "{peak:?}: {text}");
}
