//! TLS to a member: trusted authorities, our certificate, and the explanation when either is refused.
//!
//! The files are read for each connection, so that renewed certificates are used without a restart.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the errors of libraries get new variants, which are treated like all others"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::settings::{EtcdSettingsError, SYSTEM_CAS, TlsFiles};

/// Reads the files and makes a TLS configuration.
///
/// # Errors
/// Names the file that cannot be used.
pub(super) fn config(files: &TlsFiles) -> Result<Arc<ClientConfig>, EtcdSettingsError> {
    let provider = Arc::new(ring::default_provider());
    let system = || SYSTEM_CAS.iter().map(PathBuf::from).find(|path| path.exists());
    let ca = files.ca.clone().or_else(system).ok_or(EtcdSettingsError::NoAuthority)?;
    let trusted = certificates("CA certificate", &ca)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let by_chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let by_chain = by_chain.build().map_err(|_| EtcdSettingsError::Pem { what: "CA certificate", path: ca })?;
    let verifier = Arc::new(Verifier { by_chain, trusted });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the cipher suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&files.cert, &files.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let identity = (certificates("client certificate", cert)?, private_key(key)?);
            builder.with_client_auth_cert(identity.0, identity.1).map_err(|source| EtcdSettingsError::Identity {
                cert: cert.clone(),
                key: key.clone(),
                source: source.into(),
            })?
        }
        (Some(_), None) => return Err(EtcdSettingsError::HalfIdentity { missing: "key" }),
        (None, Some(_)) => return Err(EtcdSettingsError::HalfIdentity { missing: "certificate" }),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, EtcdSettingsError> {
    let pem = read(what, path)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if found.is_empty() { Err(EtcdSettingsError::Pem { what, path: path.to_owned() }) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, EtcdSettingsError> {
    let what = "client key";
    PrivateKeyDer::from_pem_slice(&read(what, path)?)
        .map_err(|_| EtcdSettingsError::Pem { what, path: path.to_owned() })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, EtcdSettingsError> {
    fs::read(path).map_err(|source| EtcdSettingsError::File { what, path: path.to_owned(), source })
}

/// Trusts what Go and OpenSSL trust: a chain to an authority, or a certificate that is itself in the trusted file.
#[derive(Debug)]
struct Verifier {
    by_chain: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.by_chain.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
            // A self-signed certificate usually claims to be an authority. Its validity period was checked before this
            // error.
            Err(error) if is_authority(&error) && self.trusted.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

/// Whether the error is that a server's certificate is an authority's (CA:TRUE).
fn is_authority(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.to_string().contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

/// Names the refused certificate, the reason and the remedy; `None` if no certificate is at fault.
pub(super) fn explain(error: &Error, endpoint: &str, files: &TlsFiles) -> Option<String> {
    match error {
        Error::InvalidCertificate(fault) => {
            let (cause, remedy) =
                if is_authority(error) { (AUTHORITY.to_owned(), ISSUE_ANOTHER) } else { server(fault, files) };
            Some(format!("the certificate of etcd at {endpoint} {cause}: {remedy}"))
        }
        Error::AlertReceived(alert) => client(*alert, endpoint, files),
        _ => None,
    }
}

const AUTHORITY: &str = "is a certificate authority's (CA:TRUE), and not trusted itself";
const ISSUE_ANOTHER: &str = "issue one with CA:FALSE, or add this certificate to --etcd-cafile";

fn server(fault: &CertificateError, files: &TlsFiles) -> (String, &'static str) {
    const RENEW: &str = "renew it, or correct this host's clock";
    let since = |from: UnixTime, to: UnixTime| duration(to.as_secs().saturating_sub(from.as_secs()));
    match fault {
        CertificateError::Expired => ("has expired".to_owned(), RENEW),
        CertificateError::ExpiredContext { time, not_after } => {
            (format!("has expired {} ago", since(*not_after, *time)), RENEW)
        }
        CertificateError::NotValidYet => ("is not valid yet".to_owned(), RENEW),
        CertificateError::NotValidYetContext { time, not_before } => {
            (format!("is not valid before {} from now", since(*time, *not_before)), RENEW)
        }
        CertificateError::NotValidForName => ("is not for that name".to_owned(), NAME),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented = if presented.is_empty() { "none".to_owned() } else { presented.join(", ") };
            (format!("is not for {}, its names are: {presented}", expected.to_str()), NAME)
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let trusted = match &files.ca {
                Some(ca) => format!("is not signed by an authority in {}", ca.display()),
                None => "is not signed by an authority that this host trusts".to_owned(),
            };
            (trusted, "give the authority's certificate with --etcd-cafile")
        }
        other => (format!("is refused, {other}"), "issue another one"),
    }
}

const NAME: &str = "give one of the certificate's names in --etcd-endpoints, or issue one with this name \
                    (subjectAltName)";

/// TLS alerts about a client's certificate, each with the reason it means.
const ALERTS: [(AlertDescription, &str); 8] = [
    (AlertDescription::CertificateRequired, "none was sent"),
    (AlertDescription::CertificateExpired, "it has expired"),
    (AlertDescription::UnknownCA, "etcd does not know the authority that signed it"),
    (AlertDescription::BadCertificate, OTHER),
    (AlertDescription::CertificateUnknown, OTHER),
    (AlertDescription::CertificateRevoked, "it was revoked"),
    (AlertDescription::UnsupportedCertificate, "it is not for clients"),
    (AlertDescription::AccessDenied, OTHER),
];
const OTHER: &str = "it has expired, is not for clients, or is not signed by the authority that etcd trusts";

/// Explains an alert about our own certificate.
fn client(alert: AlertDescription, endpoint: &str, files: &TlsFiles) -> Option<String> {
    let (_, cause) = ALERTS.iter().find(|(known, _)| *known == alert)?;
    Some(match &files.cert {
        None => format!(
            "etcd at {endpoint} asks for a client certificate: give one with --etcd-certfile and --etcd-keyfile"
        ),
        Some(cert) => format!(
            "etcd at {endpoint} refuses the client certificate {}, {cause}: issue one for clients (clientAuth), \
             signed by the authority in etcd's --trusted-ca-file",
            cert.display()
        ),
    })
}

/// Formats a time for people, rounded down.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}
