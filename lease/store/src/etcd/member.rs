//! One member of etcd: resolve its name, connect to any of its addresses, TLS, HTTP/2.

use std::{io, sync::Arc, time::Duration};

use http::{Request, Uri, uri};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls, rustls::pki_types::ServerName};
use tonic::body::Body;

use super::{
    last_word::{LastWord, Reason},
    names::{self, NameError},
    race::first_to_connect,
    settings::{Endpoint, EtcdSettingsError, TlsFiles},
    tls,
};
use crate::Random;

/// Between HTTP/2 pings. etcd closes a connection that is pinged more often than every 5 s. Together with the timeout
/// it is below 15 s, the time in which a path that drops all packets must be noticed.
const PING_EVERY: Duration = Duration::from_secs(8);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// For the TCP connection, and again for TLS and HTTP/2 on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A hint: an etcd with TLS closes plain connections, and etcd 2 closes HTTP/2.
const PLAIN: &str = " (if this always happens, etcd may expect https://, or be older than etcd 3)";

/// A member, the TLS files to connect with, and what chooses its DNS server.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    pub(super) files: TlsFiles,
    pub(super) random: Random,
}

/// The error of a connection to a member.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum MemberError {
    #[error("{endpoint} cannot be found")]
    Name {
        endpoint: String,
        #[source]
        source: Arc<NameError>,
    },
    #[error("cannot connect to {endpoint}")]
    Connect {
        endpoint: String,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{endpoint} cannot be reached by TLS")]
    Files {
        endpoint: String,
        #[source]
        source: Arc<EtcdSettingsError>,
    },
    /// A certificate is refused. `told` names the certificate, the reason and the remedy.
    #[error("{told}")]
    Certificate {
        told: String,
        #[source]
        source: Arc<rustls::Error>,
    },
    #[error("{endpoint} does not answer in TLS; is it http://?")]
    Tls {
        endpoint: String,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the connection to {endpoint} broke{}", if endpoint.starts_with("http://") { PLAIN } else { "" })]
    Broken {
        endpoint: String,
        #[source]
        source: Arc<hyper::Error>,
    },
}

impl MemberError {
    /// Whether a certificate or a file is at fault, so that a retry does not help.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Files { .. } | Self::Certificate { .. } => true,
            Self::Name { .. } | Self::Connect { .. } | Self::Tls { .. } | Self::Broken { .. } => false,
        }
    }

    /// Whether the call was never sent, so that it can be repeated on another connection.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::Broken { source, .. } => source.is_canceled() || source.is_closed(),
            Self::Files { .. }
            | Self::Certificate { .. }
            | Self::Name { .. }
            | Self::Connect { .. }
            | Self::Tls { .. } => false,
        }
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The future that runs a connection until it ends.
pub(super) type Driver = Connection<TokioIo<Box<dyn Stream>>, Body, TokioExecutor>;

/// An open connection.
pub(super) struct Open {
    pub(super) sender: SendRequest<Body>,
    pub(super) driver: Driver,
    /// The TLS error that closed the connection; empty while it is open.
    pub(super) reason: Reason,
}

impl Member {
    /// Opens a new connection. The name is resolved and the certificates are read anew.
    pub(super) async fn connect(&self) -> Result<Open, MemberError> {
        let url = || self.endpoint.url.clone();
        let found = names::resolve(&self.endpoint.host, self.endpoint.port, &self.random).await;
        let addresses = found.map_err(|error| MemberError::Name { endpoint: url(), source: Arc::new(error) })?;
        let refused = |error| MemberError::Connect { endpoint: url(), source: Arc::new(error) };
        let mute = |_| refused(io::ErrorKind::TimedOut.into());
        let tcp = timeout(CONNECT_TIMEOUT, first_to_connect(addresses)).await.map_err(mute)?.map_err(refused)?;
        tcp.set_nodelay(true).map_err(refused)?;
        timeout(CONNECT_TIMEOUT, self.handshake(tcp)).await.map_err(mute)?
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<Open, MemberError> {
        let reason = Reason::default();
        let stream: Box<dyn Stream> = if self.endpoint.secure {
            Box::new(LastWord::new(self.secure(tcp).await?, reason.clone()))
        } else {
            Box::new(tcp)
        };
        let mut http = Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT);
        // etcd closes a connection that is pinged while it has no stream.
        http.keep_alive_while_idle(false);
        match http.handshake(TokioIo::new(stream)).await {
            Ok((sender, driver)) => Ok(Open { sender, driver, reason }),
            Err(error) => Err(self.ended(error, &reason)),
        }
    }

    async fn secure(&self, tcp: TcpStream) -> Result<impl Stream + use<>, MemberError> {
        let endpoint = || self.endpoint.url.clone();
        let unusable = |error| MemberError::Files { endpoint: endpoint(), source: Arc::new(error) };
        let config = tls::config(&self.files).map_err(unusable)?;
        // The interface after % is for the kernel only, and no certificate has the trailing dot of a name.
        let host = self.endpoint.host.split('%').next().unwrap_or_default().trim_end_matches('.');
        let no_name = |error| MemberError::Tls { endpoint: endpoint(), source: Arc::new(io::Error::other(error)) };
        let name = ServerName::try_from(host.to_owned()).map_err(no_name)?;
        TlsConnector::from(config).connect(name, tcp).await.map_err(|error| match self.certificate_error(&error) {
            Some(error) => error,
            None if error.get_ref().is_some() => MemberError::Tls { endpoint: endpoint(), source: Arc::new(error) },
            None => MemberError::Connect { endpoint: endpoint(), source: Arc::new(error) },
        })
    }

    /// Finds out why a connection ended. etcd may refuse a client's certificate after the handshake.
    pub(super) fn ended(&self, error: hyper::Error, reason: &Reason) -> MemberError {
        let refused = reason.get().and_then(|source| self.certificate_fault(source.clone()));
        refused.unwrap_or_else(|| MemberError::Broken { endpoint: self.endpoint.url.clone(), source: Arc::new(error) })
    }

    fn certificate_error(&self, error: &io::Error) -> Option<MemberError> {
        let source = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        self.certificate_fault(source.clone())
    }

    fn certificate_fault(&self, source: rustls::Error) -> Option<MemberError> {
        let told = tls::explain(&source, &self.endpoint.url, &self.files)?;
        Some(MemberError::Certificate { told, source: Arc::new(source) })
    }

    /// Puts the member's name into the request's URI.
    pub(super) fn address(&self, mut request: Request<Body>) -> Request<Body> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        let host = self.endpoint.host.split('%').next().unwrap_or_default();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        parts.scheme = Some(if self.endpoint.secure { uri::Scheme::HTTPS } else { uri::Scheme::HTTP });
        parts.authority = format!("{host}:{}", self.endpoint.port).parse().ok();
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request
    }
}
