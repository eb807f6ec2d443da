//! The store on a real etcd: TLS, users, members that are away, large directories.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use wire_lease::{
    Credentials, EtcdSettings, EtcdSettingsError, EtcdStore, Lease, LeaseStore, Password, Revision, StoreError,
    TlsFiles, Txn, WatchStream, Write, chain,
};

use crate::common::{TestEtcd, answers, free_port};

async fn open(settings: EtcdSettings) -> EtcdStore {
    EtcdStore::open(settings).await.unwrap()
}

fn put(key: String, value: Vec<u8>) -> Write {
    Write::Put { key: key.into_bytes(), value, lease: None }
}

async fn write(store: &EtcdStore, then: Vec<Write>) {
    assert!(store.commit(Txn { when: vec![], then }).await.unwrap().succeeded);
}

/// Certificates made by openssl: an authority, a server's for 127.0.0.1, a client's.
fn certificates() -> TempDir {
    let dir = TempDir::new().unwrap();
    let sign = |name: &str, extension: &str| {
        std::fs::write(dir.path().join(format!("{name}.ext")), extension).unwrap();
        openssl(
            &dir,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        openssl(
            &dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.crt"
            ),
        );
    };
    openssl(
        &dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca",
    );
    openssl(
        &dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key -out other.crt -days 2 -subj /CN=other",
    );
    sign("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth");
    sign("client", "extendedKeyUsage=clientAuth");
    dir
}

fn openssl(dir: &TempDir, arguments: &str) {
    let mut made = Command::new("openssl");
    made.args(arguments.split(' ')).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(made.status().unwrap().success(), "openssl {arguments}");
}

fn secure(certificates: &Path, clients_too: bool) -> Option<TestEtcd> {
    let file = |name: &str| certificates.join(name).display().to_string();
    TestEtcd::start_with(|_| {
        let mut arguments =
            vec![format!("--cert-file={}", file("server.crt")), format!("--key-file={}", file("server.key"))];
        if clients_too {
            arguments.extend([format!("--trusted-ca-file={}", file("ca.crt")), "--client-cert-auth".to_owned()]);
        }
        arguments
    })
}

#[tokio::test]
async fn a_ca_alone_and_client_certificates_open_the_door_and_nothing_else_does() {
    let certificates = certificates();
    let file = |name: &str| Some(certificates.path().join(name));
    let ca = |name: &str| TlsFiles { ca: file(name), cert: None, key: None };
    let client = TlsFiles { ca: file("ca.crt"), cert: file("client.crt"), key: file("client.key") };
    let with = |etcd: &TestEtcd, tls: &TlsFiles| {
        // flannel's units leave the scheme away now and then.
        let endpoint = etcd.endpoint.strip_prefix("https://").unwrap().to_owned();
        EtcdSettings { tls: tls.clone(), ..EtcdSettings::new(vec![endpoint]) }
    };

    let Some(etcd) = secure(certificates.path(), false) else { return };
    answers(&open(with(&etcd, &ca("ca.crt"))).await).await;
    let stranger = open(with(&etcd, &ca("other.crt"))).await.get(b"a").await.unwrap_err();
    assert!(matches!(stranger, StoreError::Insecure { .. }), "{}", chain(&stranger));
    assert!(chain(&stranger).contains("UnknownIssuer"), "{}", chain(&stranger));

    let plain = EtcdSettings::new(vec![etcd.endpoint.replace("https://", "http://")]);
    let plain = chain(&open(plain).await.get(b"a").await.unwrap_err());
    assert!(plain.contains("etcd may want https://"), "{plain}");

    let Some(etcd) = secure(certificates.path(), true) else { return };
    let store = open(with(&etcd, &client)).await;
    answers(&store).await;
    write(&store, vec![put("/a".to_owned(), b"1".to_vec())]).await;
    let without = open(with(&etcd, &ca("ca.crt"))).await.get(b"a").await.unwrap_err();
    assert!(matches!(without, StoreError::Insecure { .. }), "{}", chain(&without));
    assert!(
        chain(&without).contains("asks for a client certificate: give one with --etcd-certfile"),
        "{}",
        chain(&without)
    );
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
        (&["http://127.0.0.1:2379", "https://127.0.0.1:2380"], "name all of them one way"),
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

fn etcdctl(endpoint: &str, arguments: &str) {
    let mut etcdctl = Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoint}")).args(arguments.split(' '));
    let done = etcdctl.output().unwrap();
    assert!(done.status.success(), "etcdctl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_user_is_let_in_by_password_and_survives_a_restart_of_etcd() {
    let Some(mut etcd) = TestEtcd::start().await else { return };
    let with = |password: &str| {
        let user = Credentials { name: "host".to_owned(), password: Password::Given(password.to_owned()) };
        EtcdSettings { user: Some(user), ..EtcdSettings::new(vec![etcd.endpoint.clone()]) }
    };
    assert!(!format!("{:?}", with("secret")).contains("secret"));
    // A user where etcd asks for none is no mistake.
    let early = open(with("secret")).await;
    early.get(b"/net/a").await.unwrap();
    for arguments in [
        "user add root:rootpw",
        "user grant-role root root",
        "user add host:secret",
        "role add host",
        "role grant-permission host --prefix=true readwrite /net/",
        "user grant-role host host",
        "auth enable",
    ] {
        etcdctl(&etcd.endpoint, arguments);
    }
    early.get(b"/net/a").await.unwrap();
    let right = open(with("secret")).await;
    write(&right, vec![put("/net/a".to_owned(), b"1".to_vec())]).await;
    let mut watch = right.watch(b"/net/", Revision(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 1);

    for (store, key) in [(open(with("wrong")).await, &b"/net/a"[..]), (right.clone(), b"/other")] {
        let error = store.get(key).await.unwrap_err();
        assert!(matches!(error, StoreError::Unauthorised { .. }), "{}", chain(&error));
        assert!(!chain(&error).contains("secret") && !chain(&error).contains("wrong"), "{}", chain(&error));
    }
    let anonymous = open(EtcdSettings::new(vec![etcd.endpoint.clone()])).await.get(b"/net/a").await.unwrap_err();
    assert!(matches!(anonymous, StoreError::Unauthorised { .. }), "{}", chain(&anonymous));
    let elsewhere = async {
        let mut watch = right.watch(b"/other/", Revision(1)).await?;
        watch.next().await.map(|_| ())
    };
    let refused = elsewhere.await.unwrap_err();
    assert!(chain(&refused).contains("permission denied"), "{}", chain(&refused));

    // Simple tokens do not survive a restart.
    etcd.kill();
    etcd.start_again();
    for _ in 0..200 {
        if right.get(b"/net/a").await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    right.get(b"/net/a").await.unwrap();
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
    let lease = wire_lease::LeaseId(1);
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
            assert!(error.contains("broke (where it always does, etcd may want https://, or be older"), "{error}");
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
    let cut = listing.entries.iter().filter(|kv| kv.value.len() == Lease::LONGEST + 1).count();
    assert_eq!(cut, 40, "no more is kept of them than tells that they are no leases");
    let mut watch = store.watch(b"/big/", Revision(1)).await.unwrap();
    let mut seen = 0;
    while seen < 10_040 {
        seen += watch.next().await.unwrap().events.len();
    }
}

/// A self-signed certificate for 127.0.0.1 with more extensions, as `<name>.crt` and `<name>.key`.
fn self_signed(dir: &TempDir, name: &str, more: &str) {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.crt -subj /CN={name} {more}"
        ),
    );
}

/// One that was valid in the year 2020.
fn expired(dir: &TempDir, name: &str) {
    let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\nx509_extensions=e\n\
                  [p]\ncommonName=supplied\n[e]\nbasicConstraints=critical,CA:TRUE\nsubjectAltName=IP:127.0.0.1\n";
    for (file, text) in [("config", config), ("index", ""), ("serial", "01\n")] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    openssl(
        dir,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ),
    );
    openssl(
        dir,
        &format!(
            "ca -batch -notext -selfsign -config config -keyfile {name}.key -in {name}.csr -out {name}.crt -startdate 20200101000000Z -enddate 20210101000000Z"
        ),
    );
}

const OF_LOOPBACK: &str = "-addext subjectAltName=IP:127.0.0.1";

/// What a client with this authority is told by an etcd with the certificate `name`; nothing where it is let in.
async fn told(dir: &TempDir, name: &str, ca: &str) -> Option<String> {
    let file = |name: String| dir.path().join(name);
    let etcd = TestEtcd::start_with(|_| {
        let argument = |flag: &str, end: &str| format!("--{flag}={}", file(format!("{name}.{end}")).display());
        vec![argument("cert-file", "crt"), argument("key-file", "key")]
    })?;
    let tls = TlsFiles { ca: Some(file(format!("{ca}.crt"))), ..TlsFiles::default() };
    let store = open(EtcdSettings { tls, ..EtcdSettings::new(vec![etcd.endpoint.clone()]) }).await;
    for _ in 0..400 {
        match store.get(b"a").await {
            Err(StoreError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(25)).await,
            Ok(_) => return None,
            Err(error) => return Some(chain(&error)),
        }
    }
    panic!("etcd does not answer");
}

#[tokio::test]
async fn a_self_signed_certificate_that_says_it_is_an_authority_works_where_it_is_the_cafile_and_nowhere_else() {
    if TestEtcd::start_with(|_| Vec::new()).is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    self_signed(&dir, "etcd", &format!("-days 2 {OF_LOOPBACK}"));
    self_signed(&dir, "another", &format!("-days 2 {OF_LOOPBACK}"));
    self_signed(&dir, "elsewhere", "-days 2 -addext subjectAltName=IP:192.0.2.1,DNS:etcd.example");
    self_signed(&dir, "leaf", &format!("-days 2 {OF_LOOPBACK} -addext basicConstraints=critical,CA:FALSE"));
    expired(&dir, "old");
    assert_eq!(told(&dir, "etcd", "etcd").await, None);
    assert_eq!(told(&dir, "leaf", "leaf").await, None);
    for (name, ca, parts) in [
        ("another", "etcd", ["is an authority's (CA:TRUE)", "--etcd-cafile"]),
        ("elsewhere", "elsewhere", ["is not for 127.0.0.1, its names are: ", "etcd.example"]),
        ("old", "old", ["has expired", "renew it, or put this host's clock right"]),
        ("leaf", "etcd", ["is signed by nobody in ", "give the certificate of its authority with --etcd-cafile"]),
    ] {
        let told = told(&dir, name, ca).await.unwrap_or_default();
        assert!(told.contains("the certificate of etcd at https://127.0.0.1:"), "{name}: {told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{name}: {told}");
        assert!(!["password", "user", "role"].iter().any(|word| told.contains(word)), "{name}: {told}");
    }
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

#[tokio::test]
async fn a_long_answer_is_waited_for_as_long_as_its_parts_come() {
    let Some(etcd) = TestEtcd::start().await else { return };
    let store = etcd.store().await;
    let parts = async |pause: Duration| {
        for _ in 0..10 {
            tokio::time::sleep(pause).await;
            store.get(b"a").await.unwrap();
        }
    };
    let (silence, limit) = (Duration::from_secs(1), Duration::from_secs(60));
    assert!(store.patiently(parts(Duration::from_millis(150)), silence, limit).await.is_some(), "1.5 s, never silent");
    assert!(store.patiently(std::future::pending::<()>(), silence, limit).await.is_none(), "silent");
    assert!(store.patiently(parts(Duration::from_millis(150)), silence, silence).await.is_none(), "too long");
}

/// An etcd with authentication: user root with the password rootpw, and host with the password secret, who may use /net/.
async fn with_users(arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<TestEtcd> {
    let etcd = TestEtcd::start_with(arguments)?;
    etcd.ready().await;
    for arguments in [
        "user add root:rootpw",
        "user grant-role root root",
        "user add host:secret",
        "role add host",
        "role grant-permission host --prefix=true readwrite /net/",
        "user grant-role host host",
        "auth enable",
    ] {
        etcdctl(&etcd.endpoint, arguments);
    }
    Some(etcd)
}

async fn as_host(etcd: &TestEtcd, password: Password) -> EtcdStore {
    let user = Credentials { name: "host".to_owned(), password };
    open(EtcdSettings { user: Some(user), ..EtcdSettings::new(vec![etcd.endpoint.clone()]) }).await
}

#[tokio::test]
async fn a_token_of_before_a_change_of_users_is_renewed_at_once() {
    let keys = TempDir::new().unwrap();
    openssl(&keys, "genrsa -out jwt.key 2048");
    openssl(&keys, "rsa -in jwt.key -pubout -out jwt.pub");
    let key = |name: &str| keys.path().join(name).display().to_string();
    let token = format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=10m", key("jwt.pub"), key("jwt.key"));
    let Some(etcd) = with_users(|_| vec![format!("--auth-token={token}")]).await else { return };
    let store = as_host(&etcd, Password::Given("secret".to_owned())).await;
    store.get(b"/net/a").await.unwrap();
    let root = |arguments: &str| etcdctl(&etcd.endpoint, &format!("--user=root:rootpw {arguments}"));
    root("user add another:x");
    store.list(b"/net/").await.unwrap();
    root("role add another");
    write(&store, vec![put("/net/a".to_owned(), b"1".to_vec())]).await;
    root("role grant-permission another read /x");
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    root("user grant-role another another");
    assert!(store.keep_alive(lease).await.unwrap().is_some());
    root("user delete another");
    // Many calls at the same time need one login.
    let calls = futures::future::join_all((0..20).map(|_| store.get(b"/net/a"))).await;
    assert!(calls.into_iter().all(|answer| answer.is_ok()));
}

#[tokio::test]
async fn an_etcd_that_asks_for_users_no_more_and_then_again_is_asked_on() {
    let Some(etcd) = with_users(|_| Vec::new()).await else { return };
    let store = as_host(&etcd, Password::Given("secret".to_owned())).await;
    store.get(b"/net/a").await.unwrap();
    etcdctl(&etcd.endpoint, "--user=root:rootpw auth disable");
    store.list(b"/net/").await.unwrap();
    write(&store, vec![put("/net/a".to_owned(), b"1".to_vec())]).await;
    etcdctl(&etcd.endpoint, "auth enable");
    store.list(b"/net/").await.unwrap();
}

#[tokio::test]
async fn a_password_that_was_changed_is_taken_from_its_file() {
    let Some(etcd) = with_users(|_| Vec::new()).await else { return };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let store = as_host(&etcd, Password::File(file.clone())).await;
    store.get(b"/net/a").await.unwrap();
    for arguments in ["user delete host", "user add host:newer", "user grant-role host host"] {
        etcdctl(&etcd.endpoint, &format!("--user=root:rootpw {arguments}"));
    }
    let error = store.get(b"/net/a").await.unwrap_err();
    assert!(matches!(error, StoreError::Unauthorised { .. }), "{}", chain(&error));
    assert!(chain(&error).contains("check the user host and its password"), "{}", chain(&error));
    assert!(!chain(&error).contains("secret"), "{}", chain(&error));
    std::fs::write(&file, "newer\r\n").unwrap();
    store.get(b"/net/a").await.unwrap();
    store.list(b"/net/").await.unwrap();
    std::fs::remove_file(&file).unwrap();
    store.get(b"/net/a").await.unwrap();
    etcdctl(&etcd.endpoint, "--user=root:rootpw user delete host");
    let error = chain(&store.get(b"/net/a").await.unwrap_err());
    assert!(error.contains("cannot read the password") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn what_a_role_lacks_is_told_by_key_and_works_once_it_is_granted() {
    let Some(etcd) = with_users(|_| Vec::new()).await else { return };
    let store = as_host(&etcd, Password::Given("secret".to_owned())).await;
    store.get(b"/net/a").await.unwrap();
    let guard = b"/coreos.com/network/wire/guards/10.5.3.0-24";
    let error = store.get(guard).await.unwrap_err();
    assert!(matches!(error, StoreError::Unauthorised { .. }), "{}", chain(&error));
    let needs = "the user host needs a role with readwrite on /coreos.com/network/wire/ (etcdctl role grant-permission ROLE --prefix=true readwrite /coreos.com/network/wire/)";
    assert!(chain(&error).contains(needs) && !chain(&error).contains("password"), "{}", chain(&error));
    let mut watch = store.watch(b"/coreos.com/network/config", Revision(1)).await.unwrap();
    let error = chain(&watch.next().await.unwrap_err());
    assert!(error.contains("needs a role with read on /coreos.com/network/config"), "{error}");
    etcdctl(
        &etcd.endpoint,
        "--user=root:rootpw role grant-permission host --prefix=true readwrite /coreos.com/network/wire/",
    );
    store.get(guard).await.unwrap();
    etcdctl(&etcd.endpoint, "--user=root:rootpw role revoke-permission host --prefix=true /coreos.com/network/wire/");
    assert!(matches!(store.get(guard).await, Err(StoreError::Unauthorised { .. })));
}

#[tokio::test]
async fn certificates_that_are_renewed_are_taken_without_a_restart() {
    let (before, after) = (certificates(), certificates());
    let (ours, etcds) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let give = |from: &TempDir, to: &TempDir| {
        for name in ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"] {
            std::fs::copy(from.path().join(name), to.path().join(name)).unwrap();
        }
    };
    give(&before, &ours);
    give(&before, &etcds);
    let Some(mut etcd) = secure(etcds.path(), true) else { return };
    let file = |name: &str| Some(ours.path().join(name));
    let tls = TlsFiles { ca: file("ca.crt"), cert: file("client.crt"), key: file("client.key") };
    let store = open(EtcdSettings { tls, ..EtcdSettings::new(vec![etcd.endpoint.clone()]) }).await;
    answers(&store).await;
    etcd.kill();
    give(&after, &etcds);
    etcd.start_again();
    let mut told = String::new();
    for _ in 0..400 {
        match store.get(b"a").await {
            Err(error @ StoreError::Insecure { .. }) => {
                told = chain(&error);
                break;
            }
            _ => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
    assert!(told.contains("is signed by nobody in") && told.contains("ca.crt"), "{told}");
    // One file after the other, as people do.
    std::fs::copy(after.path().join("ca.crt"), ours.path().join("ca.crt")).unwrap();
    let error = store.get(b"a").await.unwrap_err();
    assert!(matches!(error, StoreError::Insecure { .. }), "{}", chain(&error));
    assert!(
        chain(&error).contains("refuses the client certificate") && chain(&error).contains("client.crt"),
        "{}",
        chain(&error)
    );
    std::fs::copy(after.path().join("client.crt"), ours.path().join("client.crt")).unwrap();
    let error = chain(&store.get(b"a").await.unwrap_err());
    assert!(error.contains("cannot be used with the key"), "{error}");
    give(&after, &ours);
    store.get(b"a").await.unwrap();
}
