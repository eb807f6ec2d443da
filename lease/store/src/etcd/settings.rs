//! The settings of the connection to etcd: endpoints, certificates, a user.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use futures::future::join_all;

use super::{names, tls};
use crate::Random;

/// The settings of the connection to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// The members, each `http://host:port`, `https://host:port` or `host:port`.
    pub endpoints: Vec<String>,
    /// Certificates, all of them optional.
    pub tls: TlsFiles,
    /// The user, if etcd has authentication enabled.
    pub user: Option<Credentials>,
    /// The time limit of each call.
    pub timeout: Duration,
    /// Chooses the DNS server to ask first, where /etc/resolv.conf asks for that.
    pub random: Random,
}

/// A member's address, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The URL, for messages.
    pub(super) url: String,
    pub(super) secure: bool,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// The paths of the TLS files, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that sign etcd's certificates; `None` means those of the system.
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
    /// The password. Never shown in any output.
    pub password: Password,
}

/// A password, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password itself.
    Given(String),
    /// A file, read for each login. A newline at its end does not belong to the password.
    File(PathBuf),
}

/// The error of settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EtcdSettingsError {
    /// No endpoint at all.
    #[error("no etcd endpoint is given, for example http://127.0.0.1:2379")]
    NoEndpoint,
    /// An endpoint that cannot be parsed.
    #[error("the etcd endpoint {endpoint:?} {rule}")]
    Endpoint {
        /// The endpoint as configured.
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
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The password file is empty.
    #[error("the password file {} is empty: write the password into it, or remove --etcd-password-file if etcd asks \
             for no password", .0.display())]
    NoPassword(PathBuf),
    /// A file without PEM data of the wanted kind.
    #[error("{} holds no {what} in PEM", .path.display())]
    Pem {
        /// The kind of PEM data.
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
    /// A certificate and a key that do not match, or are of an unknown kind.
    #[error("the client certificate {} cannot be used with the key {}", .cert.display(), .key.display())]
    Identity {
        /// The certificate's path.
        cert: PathBuf,
        /// The key's path.
        key: PathBuf,
        /// The error of the TLS library.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// etcd_client cannot be set up.
    #[error("etcd's client cannot be set up")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No file of trusted authorities was found.
    #[error("no certificate authority is known that could verify etcd's certificates: give one with --etcd-cafile")]
    NoAuthority,
}

/// The system's trusted authorities: on Debian and Flatcar, then on Fedora and similar systems.
pub(super) const SYSTEM_CAS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

impl EtcdSettings {
    /// The default time limit of a call.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Settings without certificates and without a user.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, tls: TlsFiles::default(), user: None, timeout: Self::TIMEOUT, random: Random::of_system() }
    }

    /// Checks all that can be checked without etcd.
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
                let rule = "is http while others are https: use one of the two for all";
                Err(EtcdSettingsError::Endpoint { endpoint: plain.url.clone(), rule })
            }
            None => Ok(endpoints),
        }
    }

    fn endpoint(&self, text: &str) -> Result<Endpoint, EtcdSettingsError> {
        // The part before an @ may be a password.
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
            return Err(refuse("must be a host and a port and nothing else; give a user with --etcd-username"));
        }
        let port = host.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
        let Some((name, port)) = port else { return Err(refuse("has no port, for example :2379")) };
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        Ok(Endpoint { url: format!("{scheme}://{host}"), secure: scheme == "https", host: name.to_owned(), port })
    }
}

/// The addresses by which this host reaches etcd, so that no peer's lease takes over the route to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointAddresses {
    /// The addresses of all members resolved in time, and of the DNS servers needed to resolve their names.
    pub found: BTreeSet<IpAddr>,
    /// Whether the name of some member was not resolved.
    pub is_partial: bool,
}

/// Resolves all members in parallel, each for at most `timeout`, so that one name without an answer hides no other
/// member.
pub async fn endpoint_addresses(settings: &EtcdSettings, timeout: Duration) -> EndpointAddresses {
    let endpoints = settings.endpoints().unwrap_or_default();
    let mut all = resolve_within(
        timeout,
        endpoints.iter().map(|endpoint| names::resolve(&endpoint.host, endpoint.port, &settings.random)),
    )
    .await;
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
    /// Returns the password; a file is read anew.
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
