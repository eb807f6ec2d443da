//! Certificates, etcd's and ours: who is let in, which are refused and why, and those that are renewed.

use std::{path::Path, time::Duration};

use tempfile::TempDir;
use wire_net::chain;
use wire_store::{EtcdSettings, LeaseStore, StoreError, TlsFiles};

use super::{open, openssl, put, write};
use crate::common::{TestEtcd, answers};

/// Certificates made by openssl: an authority, a server's for 127.0.0.1, a client's.
pub(super) fn certificates() -> TempDir {
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
    assert!(plain.contains("etcd may expect https://"), "{plain}");

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
        ("another", "etcd", ["is a certificate authority's (CA:TRUE)", "--etcd-cafile"]),
        ("elsewhere", "elsewhere", ["is not for 127.0.0.1, its names are: ", "etcd.example"]),
        ("old", "old", ["has expired", "renew it, or correct this host's clock"]),
        ("leaf", "etcd", ["is not signed by an authority in ", "give the authority's certificate with --etcd-cafile"]),
    ] {
        let told = told(&dir, name, ca).await.unwrap_or_default();
        assert!(told.contains("the certificate of etcd at https://127.0.0.1:"), "{name}: {told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{name}: {told}");
        assert!(!["password", "user", "role"].iter().any(|word| told.contains(word)), "{name}: {told}");
    }
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
    assert!(told.contains("is not signed by an authority in") && told.contains("ca.crt"), "{told}");
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
