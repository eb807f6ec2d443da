//! How etcd is reached: endpoints, certificates, a user.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use futures::future::join_all;

use super::{names, tls};

/// The way to etcd.
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

/// Where a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As people write it.
    pub(super) url: String,
    pub(super) secure: bool,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
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
    pub password: Password,
}

/// Where a password is.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// Here.
    Given(String),
    /// In a file, which is read for each login. A line's end at its end is not part of it.
    File(PathBuf),
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
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A file that cannot be read.
    #[error("cannot read the {what} {}", .path.display())]
    File {
        /// Its purpose.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A password's file without a password.
    #[error("the file {} with the password is empty: write the password into it, or leave it out where etcd asks for none", .0.display())]
    NoPassword(PathBuf),
    /// A file that is not PEM of the kind wanted.
    #[error("{} holds no {what} in PEM", .path.display())]
    Pem {
        /// The content that is wanted.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// A certificate without its key or a key without its certificate.
    #[error("a client certificate needs both a certificate and a key; the {missing} is missing")]
    HalfIdentity {
        /// The missing half.
        missing: &'static str,
    },
    /// A certificate and a key that do not belong together, or are of no kind that is known.
    #[error("the client certificate {} cannot be used with the key {}", .cert.display(), .key.display())]
    Identity {
        /// The certificate's path.
        cert: PathBuf,
        /// The key's path.
        key: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client cannot be made.
    #[error("etcd's client cannot be set up")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody to trust.
    #[error("no authority is known that could have signed etcd's certificates: give one with --etcd-cafile")]
    NoAuthority,
}

/// Where systems keep the authorities they trust: Debian and Flatcar, then Fedora and its like.
pub(super) const SYSTEM_CAS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

impl EtcdSettings {
    /// The limit of a call unless another is asked for.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Settings without certificates and user.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, tls: TlsFiles::default(), user: None, timeout: Self::TIMEOUT }
    }

    /// All that can be checked without etcd.
    pub(super) fn check(&self) -> Result<Vec<Endpoint>, EtcdSettingsError> {
        let endpoints = self.endpoints()?;
        if endpoints.iter().any(|endpoint| endpoint.secure) {
            tls::config(&self.tls)?;
        }
        if let Some(user) = &self.user {
            user.password.read()?;
        }
        Ok(endpoints)
    }

    /// The user's name.
    pub(super) fn user_name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.name.as_str())
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, EtcdSettingsError> {
        let given = self.endpoints.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let endpoints: Vec<Endpoint> = given.map(|text| self.endpoint(text)).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(EtcdSettingsError::NoEndpoint);
        }
        let plain = endpoints.iter().find(|endpoint| !endpoint.secure);
        match plain.filter(|_| endpoints.iter().any(|endpoint| endpoint.secure)) {
            Some(plain) => {
                let rule = "is http while others are https: name all of them one way";
                Err(EtcdSettingsError::Endpoint { endpoint: plain.url.clone(), rule })
            }
            None => Ok(endpoints),
        }
    }

    fn endpoint(&self, text: &str) -> Result<Endpoint, EtcdSettingsError> {
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
        let port = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
        let Some((name, port)) = port else { return Err(refuse("has no port, for example :2379")) };
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        Ok(Endpoint { url: format!("{scheme}://{host}"), secure: scheme == "https", host: name.to_owned(), port })
    }
}

/// By which addresses etcd is reached. For protecting the way to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointAddresses {
    /// Those of the members that could be resolved in time, and of the DNS servers that resolve their names.
    pub found: BTreeSet<IpAddr>,
    /// Whether the name of some member could not be resolved.
    pub is_partial: bool,
}

/// Resolves all members at once, each for as long as `timeout`: a name that nobody answers for hides no other member.
pub async fn endpoint_addresses(settings: &EtcdSettings, timeout: Duration) -> EndpointAddresses {
    let endpoints = settings.endpoints().unwrap_or_default();
    let mut all =
        resolve_within(timeout, endpoints.iter().map(|endpoint| names::resolve(&endpoint.host, endpoint.port))).await;
    all.found.extend(endpoints.iter().flat_map(|endpoint| names::servers_for(&endpoint.host)));
    all
}

async fn resolve_within<E>(
    timeout: Duration,
    lookups: impl Iterator<Item = impl Future<Output = Result<Vec<SocketAddr>, E>>>,
) -> EndpointAddresses {
    let lookups = join_all(lookups.map(|lookup| tokio::time::timeout(timeout, lookup))).await;
    let is_partial = lookups.iter().any(|lookup| !matches!(lookup, Ok(Ok(_))));
    let found = lookups.into_iter().flatten().flatten().flatten().map(|address| address.ip()).collect();
    EndpointAddresses { found, is_partial }
}

impl Password {
    /// The password of now.
    pub(super) fn read(&self) -> Result<String, EtcdSettingsError> {
        match self {
            Self::Given(text) => Ok(text.clone()),
            Self::File(path) => {
                let file = |source| EtcdSettingsError::File { what: "password", path: path.clone(), source };
                let text = fs::read_to_string(path).map_err(file)?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                match text.strip_suffix('\r').unwrap_or(text) {
                    "" => Err(EtcdSettingsError::NoPassword(path.clone())),
                    password => Ok(password.to_owned()),
                }
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_addresses_of_all_endpoints_are_told_whatever_their_form() {
        let of = async |endpoints: &[&str]| {
            let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
            endpoint_addresses(&EtcdSettings::new(endpoints), Duration::from_secs(10)).await.found
        };
        let found =
            of(&["http://192.0.2.1:2379", "192.0.2.2:2379/", "[fd00::1]:2379", "http://[fe80::1%lo]:2379"]).await;
        let expected = ["192.0.2.1", "192.0.2.2", "fd00::1", "fe80::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(found, BTreeSet::from(expected));
        assert!(of(&["http://localhost:2379"]).await.contains(&IpAddr::from([127, 0, 0, 1])));
        assert!(of(&["nonsense"]).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_whose_name_nobody_resolves_hides_no_other() {
        let address = SocketAddr::from(([10, 9, 0, 5], 2379));
        let lookup = async |answers: bool| {
            if !answers {
                std::future::pending::<()>().await;
            }
            Ok::<_, names::NameError>(vec![address])
        };
        let found = BTreeSet::from([address.ip()]);
        for (lookups, is_partial) in [([true, true], false), ([false, true], true)] {
            let of = resolve_within(Duration::from_secs(2), lookups.into_iter().map(lookup)).await;
            assert_eq!(of, EndpointAddresses { found: found.clone(), is_partial });
        }
    }
}
