//! etcd's own JSON gateway over one kept connection: for many keys at once, and for calls that are timed.
//!
//! `etcdctl` costs a process for each call. This costs one write and one read, so the time of a call is etcd's.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{LabError, Namespace, Result, base64::encode};

/// A connection to one member's gateway.
#[derive(Debug)]
pub struct Gateway {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Gateway {
    /// Connects from within the member's own namespace, so that no fault of the underlay is in the way.
    pub(crate) fn connect(member: &Namespace) -> Result<Self> {
        let addresses = member.ip("-j -4 address show dev eth0")?;
        let addresses: Value = serde_json::from_str(&addresses).map_err(LabError::answer("ip"))?;
        let address = addresses[0]["addr_info"][0]["local"].as_str().unwrap_or_default();
        let host = format!("{address}:2379");
        let what = || LabError::io(format!("cannot reach etcd's gateway at {host}"));
        let stream = member.inside(|| TcpStream::connect(&host))?.map_err(what())?;
        stream.set_nodelay(true).map_err(what())?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(what())?;
        Ok(Self { stream: BufReader::new(stream), host })
    }

    /// Puts one key of any bytes.
    ///
    /// # Errors
    /// What etcd answers.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result {
        self.call("kv/put", &json!({ "key": encode(key), "value": encode(value) })).map(drop)
    }

    /// Deletes one key.
    ///
    /// # Errors
    /// What etcd answers.
    pub fn delete(&mut self, key: &[u8]) -> Result {
        self.call("kv/deleterange", &json!({ "key": encode(key) })).map(drop)
    }

    /// Grants an etcd lease.
    ///
    /// # Errors
    /// What etcd answers.
    pub fn grant(&mut self, ttl_seconds: i64) -> Result<i64> {
        let answer = self.call("lease/grant", &json!({ "TTL": ttl_seconds }))?;
        let id = answer["ID"].as_str().and_then(|id| id.parse().ok());
        id.ok_or_else(|| LabError::Answer { what: "etcd".to_owned(), rule: format!("no ID in {answer}") })
    }

    /// Puts up to 128 keys in one transaction, bound to an etcd lease, or to none where it is 0.
    ///
    /// # Errors
    /// What etcd answers.
    pub fn put_all(&mut self, entries: &[(Vec<u8>, Vec<u8>)], lease: i64) -> Result {
        let put = |(key, value): &(Vec<u8>, Vec<u8>)| json!({ "requestPut": { "key": encode(key), "value": encode(value), "lease": lease.to_string() } });
        self.call("kv/txn", &json!({ "success": entries.iter().map(put).collect::<Vec<_>>() })).map(drop)
    }

    /// Deletes up to 128 keys in one transaction.
    ///
    /// # Errors
    /// What etcd answers.
    pub fn delete_all<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result {
        let ops: Vec<_> = keys.map(|key| json!({ "requestDeleteRange": { "key": encode(key) } })).collect();
        self.call("kv/txn", &json!({ "success": ops })).map(drop)
    }

    fn call(&mut self, path: &str, body: &Value) -> Result<Value> {
        let what = || LabError::io(format!("etcd's gateway at {} broke off", self.host));
        let body = body.to_string();
        let host = &self.host;
        let request =
            format!("POST /v3/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.stream.get_mut().write_all(request.as_bytes()).map_err(what())?;
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status).map_err(what())?;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).map_err(what())?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(LabError::answer("etcd's gateway"))?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).map_err(what())?;
        if !status.contains(" 200 ") {
            let rule = format!("{} {}", status.trim(), String::from_utf8_lossy(&answer));
            return Err(LabError::Answer { what: format!("etcd's gateway at {path}"), rule });
        }
        serde_json::from_slice(&answer).map_err(LabError::answer("etcd's gateway"))
    }
}
