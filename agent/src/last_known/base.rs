//! The base: all leases of one moment, as JSON that every release reads. It is written and read piece by piece, since
//! among 65 000 peers it has some 16 MB.

use std::{
    io::{self, BufReader, BufWriter, Read, Write},
    net::IpAddr,
    path::Path,
};

use serde::{Deserialize, Serialize, Serializer};
use wire_lease::LeaseTable;
use wire_net::KeyPrefix;

use super::KeptLease;
use crate::ports::Disk;

/// The content of the base as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Base {
    /// Drawn anew for each base: a journal belongs to one base. Releases without a journal write none.
    #[serde(default)]
    pub(super) id: Option<String>,
    /// The network's place in etcd.
    pub(super) prefix: String,
    pub(super) config: String,
    #[serde(default)]
    pub(super) endpoints: Vec<IpAddr>,
    pub(super) leases: Vec<KeptLease>,
}

impl Base {
    pub(super) fn read(disk: &impl Disk, path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_reader(BufReader::new(disk.open(path)?))?)
    }
}

/// The content of the base as it is written.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct NewBase<'a> {
    pub(super) id: &'a str,
    pub(super) prefix: &'a str,
    pub(super) config: &'a str,
    #[serde(skip_serializing_if = "<[IpAddr]>::is_empty")]
    pub(super) endpoints: &'a [IpAddr],
    pub(super) leases: Leases<'a>,
}

/// The leases of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leases<'a> {
    pub(super) prefix: &'a KeyPrefix,
    pub(super) table: &'a LeaseTable,
}

impl Serialize for Leases<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.table.peers.values().map(|entry| KeptLease::of(self.prefix, entry)))
    }
}

impl NewBase<'_> {
    pub(super) fn write(self, file: &mut dyn Write) -> io::Result<()> {
        Ok(serde_json::to_writer(file, &self)?)
    }

    /// The length of the file, if it has exactly this content.
    pub(super) fn len_if_held(self, file: impl Read) -> io::Result<Option<u64>> {
        let mut pages = BufWriter::new(Compared { file, len: 0 });
        self.write(&mut pages)?;
        let Compared { mut file, len } = pages.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((file.read(&mut [0])? == 0).then_some(len))
    }
}

/// The `id` of a base.
#[derive(Debug, Deserialize)]
struct Head {
    id: String,
}

/// Reads the `id` alone.
pub(super) fn read_id(file: impl Read) -> io::Result<String> {
    Ok(serde_json::from_reader::<_, Head>(BufReader::new(file))?.id)
}

/// Accepts only what the file has.
struct Compared<R> {
    file: R,
    len: u64,
}

impl<R: Read> Write for Compared<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut found = vec![0; bytes.len()];
        self.file.read_exact(&mut found)?;
        if found != bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
