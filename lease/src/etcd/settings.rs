//! How etcd is reached: endpoints, certificates, a user.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use etcd_client::{Certificate, Identity, TlsOptions};
use futures::future::join_all;

use super::names;

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// The members, each `http://host:port`, `https://host:port` or `host:port`.
    pub endpoints: Vec<String>,
    /// Certificates, all of them optional.
    pub tls: TlsFiles,
    /// The user, where etcd asks for one.
    pub user: Option<Credentials>,
    /// The limit of every call.
    pub timeout: Duration,
}

/// The files of a TLS connection, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs etcd's certificates. Without one, the system's authorities do.
    pub ca: Option<PathBuf>,
    /// This host's certificate.
    pub cert: Option<PathBuf>,
    /// The key of this host's certificate.
    pub key: Option<PathBuf>,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub name: String,
    /// The password, which no output ever shows.
    pub password: String,
}

/// Why etcd cannot be reached as asked.
#[derive(Debug, thiserror::Error)]
pub enum EtcdSettingsError {
    /// None at all.
    #[error("no etcd endpoint is given, for example http://127.0.0.1:2379")]
    NoEndpoint,
    /// One that is no address.
    #[error("the etcd endpoint {endpoint:?} {rule}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What it breaks.
        rule: &'static str,
    },
    /// A file that cannot be read.
    #[error("cannot read the {what} {}", .path.display())]
    File {
        /// What it is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is not PEM of the kind wanted.
    #[error("{} holds no {what} in PEM", .path.display())]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// A certificate without its key or a key without its certificate.
    #[error("a client certificate needs both a certificate and a key; the {missing} is missing")]
    HalfIdentity {
        /// What is missing.
        missing: &'static str,
    },
    /// The client does not take them together.
    #[error("etcd's client cannot be set up for {endpoints}")]
    Client {
        /// The endpoints.
        endpoints: String,
        /// What it says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Where systems keep the authorities they trust: Debian and Flatcar, then Fedora and its like.
const SYSTEM_CAS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

impl EtcdSettings {
    /// The limit of a call unless another is asked for.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Settings without certificates and user.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, tls: TlsFiles::default(), user: None, timeout: Self::TIMEOUT }
    }

    /// The endpoints with their scheme, and the certificates where any endpoint wants them.
    pub(super) fn check(&self) -> Result<(Vec<String>, Option<TlsOptions>), EtcdSettingsError> {
        let (endpoints, secure) = self.endpoints()?;
        Ok((endpoints, if secure { Some(self.tls.options()?) } else { None }))
    }

    /// The endpoints with their scheme, and whether it is https.
    fn endpoints(&self) -> Result<(Vec<String>, bool), EtcdSettingsError> {
        let given: Vec<&str> = self.endpoints.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
        let endpoints: Vec<String> =
            given.into_iter().map(|endpoint| self.endpoint(endpoint)).collect::<Result<_, _>>()?;
        let secure = endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
        if endpoints.is_empty() {
            return Err(EtcdSettingsError::NoEndpoint);
        }
        if secure == 0 {
            return Ok((endpoints, false));
        }
        if let Some(plain) = endpoints.iter().find(|endpoint| endpoint.starts_with("http://")) {
            let rule = "is http while others are https: name all of them one way";
            return Err(EtcdSettingsError::Endpoint { endpoint: plain.clone(), rule });
        }
        Ok((endpoints, true))
    }

    fn endpoint(&self, text: &str) -> Result<String, EtcdSettingsError> {
        // What stands before an @ may be a password.
        let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
        let refuse = |rule| EtcdSettingsError::Endpoint { endpoint: shown.to_owned(), rule };
        let scheme = if self.tls == TlsFiles::default() { "http" } else { "https" };
        let (scheme, rest) = text.split_once("://").unwrap_or((scheme, text));
        if scheme != "http" && scheme != "https" {
            return Err(refuse("must begin with http:// or https://"));
        }
        let host = rest.trim_end_matches('/');
        if host.is_empty() || host.starts_with(':') {
            return Err(refuse("names no host"));
        }
        if host.contains(['/', '?', '#', '@']) || host.contains(char::is_whitespace) {
            return Err(refuse("must be a host and a port and nothing else; a user is given apart"));
        }
        if host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(refuse("has no port, for example :2379"));
        }
        Ok(format!("{scheme}://{host}"))
    }
}

/// The addresses of all members, as far as their names can be resolved now. For protecting the way to etcd.
pub async fn endpoint_addresses(settings: &EtcdSettings) -> BTreeSet<IpAddr> {
    let Ok((endpoints, _)) = settings.endpoints() else { return BTreeSet::new() };
    let hosts: Vec<&str> =
        endpoints.iter().filter_map(|endpoint| host_and_port(endpoint)).map(|(host, _)| host).collect();
    let found = join_all(hosts.into_iter().map(|host| names::resolve(host, 0))).await;
    found.into_iter().flatten().flatten().map(|address| address.ip()).collect()
}

/// The host, an IPv6 address without its brackets, and the port of an endpoint.
fn host_and_port(endpoint: &str) -> Option<(&str, u16)> {
    let (_, host) = endpoint.split_once("://")?;
    let (host, port) = host.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

impl TlsFiles {
    fn options(&self) -> Result<TlsOptions, EtcdSettingsError> {
        let mut options = TlsOptions::new();
        let system = || SYSTEM_CAS.iter().map(PathBuf::from).find(|path| path.exists());
        if let Some(path) = self.ca.clone().or_else(system) {
            options = options.ca_certificate(Certificate::from_pem(read("CA certificate", "CERTIFICATE", &path)?));
        }
        match (&self.cert, &self.key) {
            (None, None) => Ok(options),
            (Some(cert), Some(key)) => {
                let cert = read("client certificate", "CERTIFICATE", cert)?;
                Ok(options.identity(Identity::from_pem(cert, read("client key", "PRIVATE KEY", key)?)))
            }
            (Some(_), None) => Err(EtcdSettingsError::HalfIdentity { missing: "key" }),
            (None, Some(_)) => Err(EtcdSettingsError::HalfIdentity { missing: "certificate" }),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

fn read(what: &'static str, label: &str, path: &Path) -> Result<String, EtcdSettingsError> {
    let pem = std::fs::read(path).map_err(|source| EtcdSettingsError::File { what, path: path.to_owned(), source })?;
    let is_pem = |text: &String| text.contains("-----BEGIN ") && text.contains(&format!("{label}-----"));
    String::from_utf8(pem).ok().filter(is_pem).ok_or(EtcdSettingsError::Pem { what, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_addresses_of_all_endpoints_are_told_whatever_their_form() {
        let of = async |endpoints: &[&str]| {
            let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
            endpoint_addresses(&EtcdSettings::new(endpoints)).await
        };
        let found =
            of(&["http://192.0.2.1:2379", "192.0.2.2:2379/", "[fd00::1]:2379", "http://[fe80::1%lo]:2379"]).await;
        let expected = ["192.0.2.1", "192.0.2.2", "fd00::1", "fe80::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(found, BTreeSet::from(expected));
        assert!(of(&["http://localhost:2379"]).await.contains(&IpAddr::from([127, 0, 0, 1])));
        assert!(of(&["nonsense"]).await.is_empty());
    }
}
