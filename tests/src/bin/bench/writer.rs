//! Writes to etcd over its own protocol, timed where they are made: on a thread in etcd's namespace.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};
use wire_store::{EtcdSettings, EtcdStore, LeaseId, LeaseStore, Random, TlsFiles, Txn, Write};
use wire_tests::{Etcd, LabError, Namespace, Result};

/// The most operations that etcd takes in one transaction.
pub(crate) const MOST: usize = 125;

/// A client of etcd. All it puts is bound to one etcd lease of a day.
pub(crate) struct Writer {
    requests: Sender<Vec<Write>>,
    answers: Receiver<Result<Written>>,
}

/// When a transaction was sent and answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
}

impl Writer {
    pub(crate) fn start(etcd: &Etcd) -> Self {
        let (requests, to_write) = channel();
        let (answer, answers) = channel();
        let (namespace, url) = (etcd.host(0).namespace().clone(), etcd.endpoints());
        thread::spawn(move || serve(&namespace, &url, to_write, &answer));
        Self { requests, answers }
    }

    /// Makes these writes in one transaction of up to [`MOST`].
    pub(crate) fn write(&self, writes: Vec<Write>) -> Result<Written> {
        let gone = || LabError::Wrong("the thread that writes to etcd has ended".to_owned());
        self.requests.send(writes).map_err(|_| gone())?;
        self.answers.recv().map_err(|_| gone())?
    }

    /// Makes any number of writes, and says when the last transaction was sent and answered.
    pub(crate) fn write_all(&self, writes: &[Write]) -> Result<Option<Written>> {
        let mut last = None;
        for chunk in writes.chunks(MOST) {
            last = Some(self.write(chunk.to_vec())?);
        }
        Ok(last)
    }
}

/// A store whose calls are made on the caller's thread, in its namespace.
pub(crate) fn open(url: &str) -> Result<(Runtime, EtcdStore)> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(LabError::io("cannot start tokio"))?;
    let settings = EtcdSettings {
        endpoints: vec![url.to_owned()],
        tls: TlsFiles::default(),
        user: None,
        timeout: Duration::from_secs(20),
        random: Random::of_system(),
    };
    let store = runtime.block_on(EtcdStore::open(settings)).map_err(wrong)?;
    Ok((runtime, store))
}

/// An error of the store as one of the lab.
pub(crate) fn wrong(error: impl std::error::Error) -> LabError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    LabError::Wrong(text)
}

fn serve(namespace: &Namespace, url: &str, requests: Receiver<Vec<Write>>, answers: &Sender<Result<Written>>) {
    let served = namespace.inside(|| serve_inside(url, requests, answers)).and_then(|served| served);
    if let Err(error) = served {
        let _ = answers.send(Err(error));
    }
}

fn serve_inside(url: &str, requests: Receiver<Vec<Write>>, answers: &Sender<Result<Written>>) -> Result {
    let (runtime, store) = open(url)?;
    let lease = runtime.block_on(store.grant(Duration::from_secs(86_400))).map_err(wrong)?;
    for writes in requests {
        let then = writes.into_iter().map(|write| bound(write, lease)).collect();
        let sent = Instant::now();
        let committed = runtime.block_on(store.commit(Txn { when: Vec::new(), then }));
        let answered = Instant::now();
        if answers.send(committed.map(|_| Written { sent, answered }).map_err(wrong)).is_err() {
            break;
        }
    }
    Ok(())
}

fn bound(write: Write, lease: LeaseId) -> Write {
    match write {
        Write::Put { key, value, .. } => Write::Put { key, value, lease: Some(lease) },
        Write::Delete(key) => Write::Delete(key),
    }
}
