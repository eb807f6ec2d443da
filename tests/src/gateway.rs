//! etcd's own JSON gateway over one kept connection: for many keys at once, and for calls that are timed.
//!
//! `etcdctl` costs a process for each call. This costs one write and one read, so the time of a call is etcd's.

use std::{
    io::{self, BufRead, BufReader, Write},
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
        let (body, host) = (body.to_string(), &self.host);
        let request =
            format!("POST /v3/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let broken = || LabError::io(format!("etcd's gateway at {host} broke off"));
        self.stream.get_mut().write_all(request.as_bytes()).map_err(broken())?;
        let (status, answer) = read_answer(&mut self.stream).map_err(broken())?;
        if !status.contains(" 200 ") {
            let rule = format!("{} {}", status.trim(), String::from_utf8_lossy(&answer));
            return Err(LabError::Answer { what: format!("etcd's gateway at {path}"), rule });
        }
        serde_json::from_slice(&answer).map_err(LabError::answer("etcd's gateway"))
    }
}

/// Reads one answer of HTTP/1.1 (RFC 9112): its first line, and its body by length or in chunks.
fn read_answer(stream: &mut impl BufRead) -> io::Result<(String, Vec<u8>)> {
    let status = read_line(stream)?;
    let (mut length, mut chunked) = (0, false);
    while let Some((name, value)) = read_line(stream)?.split_once(':') {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        read_more(stream, length, &mut body)?;
        return Ok((status, body));
    }
    loop {
        let size = usize::from_str_radix(read_line(stream)?.trim(), 16).map_err(io::Error::other)?;
        read_more(stream, size, &mut body)?;
        read_line(stream)?;
        if size == 0 {
            return Ok((status, body));
        }
    }
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line)
}

fn read_more(stream: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    let start = body.len();
    body.resize(start + length, 0);
    stream.read_exact(&mut body[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_length_or_in_chunks_and_no_byte_further() {
        let mut two: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}\
                               HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\nrest";
        assert_eq!(read_answer(&mut two).unwrap().1, b"{}");
        assert_eq!(read_answer(&mut two).unwrap().1, b"{\"a\":1}");
        assert_eq!(two, b"rest");
    }
}
