//! TLS to other servers, blocking: for worker threads that call out. The authorities are those of the host.

use rustls::crypto::ring as provider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// Where distributions keep the authorities they trust, in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Names another file, as for OpenSSL and curl.
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// Whom a client believes; clones share it.
#[derive(Clone)]
pub struct ClientSettings(Arc<ClientConfig>);

impl ClientSettings {
    /// The authorities of this host. Blocks.
    ///
    /// # Errors
    /// There are none, in words.
    pub fn of_this_host() -> Result<Self, String> {
        let named = std::env::var_os(BUNDLE_VARIABLE).map(PathBuf::from);
        let bundles = named.into_iter().chain(BUNDLES.map(PathBuf::from));
        let bundle = bundles.into_iter().find(|path| path.is_file());
        let bundle = bundle.ok_or("this host has no list of trusted authorities: install ca-certificates")?;
        let failed = |e: rustls_pki_types::pem::Error| format!("{}: {e}", bundle.display());
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(&bundle).map_err(failed)?;
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        if roots.is_empty() {
            return Err(format!("{}: no certificate is in it", bundle.display()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

/// TLS to `host` over a socket that is connected. The handshake comes with the first write.
///
/// # Errors
/// That is no name a certificate can have.
pub fn client<S: Read + Write>(
    settings: &ClientSettings,
    host: &str,
    socket: S,
) -> Result<StreamOwned<ClientConnection, S>, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|e| format!("{host}: {e}"))?;
    let connection = ClientConnection::new(Arc::clone(&settings.0), name).map_err(|e| e.to_string())?;
    Ok(StreamOwned::new(connection, socket))
}
