//! Users, passwords, tokens and roles of a real etcd.

use std::{path::Path, process::Command, time::Duration};

use tempfile::TempDir;
use wire_net::chain;
use wire_store::{Credentials, EtcdSettings, EtcdStore, LeaseStore, Password, Revision, StoreError, WatchStream};

use super::{open, openssl, put, write};
use crate::common::TestEtcd;

fn etcdctl(endpoint: &str, arguments: &str) {
    let mut etcdctl = Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoint}")).args(arguments.split(' '));
    let done = etcdctl.output().unwrap();
    assert!(done.status.success(), "etcdctl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Authentication: user root with the password rootpw, and host with the password secret, who may use /net/.
fn add_users(etcd: &TestEtcd) {
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
}

/// An etcd with these users.
async fn with_users(arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<TestEtcd> {
    let etcd = TestEtcd::start_with(arguments)?;
    etcd.ready().await;
    add_users(&etcd);
    Some(etcd)
}

async fn as_host(etcd: &TestEtcd, password: Password) -> EtcdStore {
    let user = Credentials { name: "host".to_owned(), password };
    open(EtcdSettings { user: Some(user), ..EtcdSettings::new(vec![etcd.endpoint.clone()]) }).await
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
    add_users(&etcd);
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
