//! Certificates for an etcd with TLS, made by `openssl`.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{LabError, Result, command::output, faketime};

/// A CA, a server's certificate for all members, and a client's.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes them, valid for two days; the server's certificate names `addresses`.
    pub(crate) fn new(dir: PathBuf, addresses: impl Iterator<Item = IpAddr>) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(LabError::io(format!("cannot create {}", dir.display())))?;
        let pki = Self { dir };
        pki.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=lab-ca -keyout ca.key -out ca.crt")?;
        let names: Vec<_> = addresses.map(|address| format!("IP:{address}")).collect();
        pki.issue("server", &names.join(","))?;
        pki.issue("client", "DNS:agent.lab")?;
        Ok(pki)
    }

    /// Issues a certificate `<name>.crt` with the key `<name>.key`. Again for the same name: a rotation.
    ///
    /// # Errors
    /// What `openssl` says.
    pub fn issue(&self, name: &str, subject_alternative_names: &str) -> Result {
        let extensions =
            format!("subjectAltName={subject_alternative_names}\nextendedKeyUsage=serverAuth,clientAuth\n");
        fs::write(self.dir.join("extensions"), extensions).map_err(LabError::io("cannot write extensions"))?;
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ))?;
        output(&mut self.sign(name)).map(drop)
    }

    /// Issues one that has ended a week ago.
    ///
    /// # Errors
    /// What `openssl` says, and where there is no libfaketime.
    pub fn issue_expired(&self, name: &str, subject_alternative_names: &str) -> Result {
        self.issue(name, subject_alternative_names)?;
        output(self.sign(name).env("LD_PRELOAD", faketime()?).env("FAKETIME", "-9d")).map(drop)
    }

    /// Signs what was asked for.
    fn sign(&self, name: &str) -> Command {
        let line = format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.crt"
        );
        let mut command = Command::new("openssl");
        command.args(line.split(' ')).current_dir(&self.dir);
        command
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.dir.join("server.crt")
    }

    /// The server's key.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// The client's certificate.
    #[must_use]
    pub fn client_certificate(&self) -> PathBuf {
        self.dir.join("client.crt")
    }

    /// The client's key.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.dir.join("client.key")
    }

    fn openssl(&self, line: &str) -> Result {
        output(Command::new("openssl").args(line.split(' ')).current_dir::<&Path>(&self.dir)).map(drop)
    }
}
