//! All of rustls: a connection as memory in, memory out, and the settings with a certificate that can be swapped while running.
//!
//! TLS 1.2 and 1.3 with rustls' defaults on ring; resumption by tickets, whose keys outlive a certificate's reload.
//! This file does no socket calls of its own: it is given bytes, and writers.

use super::outbuf::OutBuf;
use rustls::crypto::ring as provider;
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Plaintext given to rustls at a time from a queue, so that a slow reader does not hold its whole response encrypted.
const SEAL_BYTES: usize = 64 * 1024;

/// The most plaintext of one record (RFC 8446 5.1).
pub const RECORD_BYTES: usize = 16 * 1024;

/// Why a certificate cannot be used; says which file and what to do.
#[derive(Debug)]
pub struct CertError {
    file: PathBuf,
    why: String,
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for CertError {}

/// The listener's settings; clones share them.
#[derive(Clone)]
pub struct TlsSettings {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
}

/// The certificate in use.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Makes ring the provider of whoever names none: minreq brings a second one, and rustls chooses none of two.
pub fn use_ring() {
    // It fails when there is one already, which is this one.
    let _ = provider::default_provider().install_default();
}

impl TlsSettings {
    /// Reads certificate chain and key. Blocks; for the start and for worker threads.
    ///
    /// # Errors
    /// A file that cannot be read, is not PEM, or a key that does not fit.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, CertError> {
        let current = Arc::new(Current(RwLock::new(Arc::new(read(cert, key)?))));
        let failed = |e: rustls::Error| CertError { file: cert.to_owned(), why: e.to_string() };
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = provider::Ticketer::new().map_err(failed)?;
        config.session_storage = ServerSessionMemoryCache::new(4096);
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), current })
    }

    /// Reads the files anew; connections made from now on get the new certificate. On an error the old one stays. Blocks.
    ///
    /// # Errors
    /// As [`TlsSettings::load`].
    pub fn reload(&self, cert: &Path, key: &Path) -> Result<(), CertError> {
        let new = Arc::new(read(cert, key)?);
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// A connection's side.
    ///
    /// # Errors
    /// None that settings which loaded can give.
    pub fn accept(&self) -> Result<Box<Tls>, rustls::Error> {
        let mut conn = ServerConnection::new(Arc::clone(&self.config))?;
        conn.set_buffer_limit(None);
        Ok(Box::new(Tls { conn, fresh: true }))
    }
}

fn read(cert: &Path, key: &Path) -> Result<CertifiedKey, CertError> {
    let failed = |file: &Path, why: String| CertError { file: file.to_owned(), why };
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|e| failed(cert, format!("no PEM certificate can be read from it ({e})")))?;
    if chain.is_empty() {
        return Err(failed(cert, "there is no certificate in it".into()));
    }
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| failed(key, format!("no PEM private key can be read from it ({e})")))?;
    CertifiedKey::from_der(chain, key_der, &provider::default_provider())
        .map_err(|e| failed(key, format!("the key does not fit the certificate {} ({e})", cert.display())))
}

/// Makes a self-signed certificate and key in `folder` unless they are there, and returns their paths. Blocks.
///
/// # Errors
/// The folder cannot be written.
pub fn self_signed(folder: &Path, names: Vec<String>) -> Result<(PathBuf, PathBuf), CertError> {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let failed = |why: String| CertError { file: folder.to_owned(), why };
    let mut params = rcgen::CertificateParams::new(names).map_err(|e| failed(e.to_string()))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "VM-share self-signed");
    // Browsers refuse longer ones even after the user's consent.
    let today = jiff::Timestamp::now().as_second() / 86_400;
    let day = |offset: i64| {
        let date = jiff::Timestamp::from_second((today + offset) * 86_400).unwrap_or_default();
        let date = date.to_zoned(jiff::tz::TimeZone::UTC).date();
        let part = |value: i8| u8::try_from(value).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    (params.not_before, params.not_after) = (day(-1), day(390));
    let pair = rcgen::KeyPair::generate().map_err(|e| failed(e.to_string()))?;
    let made = params.self_signed(&pair).map_err(|e| failed(e.to_string()))?;
    std::fs::create_dir_all(folder).map_err(|e| failed(e.to_string()))?;
    write_private(&key, pair.serialize_pem().as_bytes()).map_err(|e| failed(e.to_string()))?;
    std::fs::write(&cert, made.pem()).map_err(|e| failed(e.to_string()))?;
    Ok((cert, key))
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

/// What one batch of received bytes held.
pub struct Opened {
    /// Bytes of plaintext written to the buffer.
    pub plain: usize,
    /// The peer said that nothing more comes.
    pub closed: bool,
}

/// One connection's TLS state.
pub struct Tls {
    conn: ServerConnection,
    fresh: bool,
}

impl Tls {
    /// True until the first byte was taken.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Decrypts all of `cipher` into `plain`, which is longer by [`RECORD_BYTES`] at least: of a record that ends here most may have come
    /// before.
    ///
    /// # Errors
    /// A protocol error, in words; an alert waits to be written.
    pub fn open(&mut self, mut cipher: &[u8], plain: &mut [u8]) -> Result<Opened, String> {
        self.fresh = false;
        let mut opened = Opened { plain: 0, closed: false };
        while !cipher.is_empty() {
            let taken = self.conn.read_tls(&mut cipher).map_err(|e| e.to_string())?;
            let state = self.conn.process_new_packets().map_err(|e| format!("TLS: {e}"))?;
            opened.closed |= state.peer_has_closed();
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let room = plain.get_mut(opened.plain..).unwrap_or_default();
                match self.conn.reader().read(room) {
                    // Kept, it would wait for bytes that may never come.
                    Ok(0) => return Err("TLS: there is no room for all that came".into()),
                    Ok(count) => {
                        opened.plain += count;
                        left -= count;
                    }
                    Err(_) => break,
                }
            }
            if taken == 0 {
                break;
            }
        }
        Ok(opened)
    }

    /// Encrypts `bytes`; the result waits for [`Tls::write_to`].
    ///
    /// # Errors
    /// None in practice: the buffer has no limit of its own.
    pub fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.conn.writer().write_all(bytes)
    }

    /// Encrypts a bounded part of a queue.
    ///
    /// # Errors
    /// As [`Tls::seal`].
    pub fn seal_from(&mut self, out: &mut OutBuf) -> io::Result<()> {
        let mut sealed = 0;
        while sealed < SEAL_BYTES && !out.is_empty() {
            sealed += out.write_to(&mut Bounded(self.conn.writer()))?;
        }
        Ok(())
    }

    /// True when encrypted bytes wait.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.conn.wants_write()
    }

    /// Writes waiting bytes once.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        self.conn.write_tls(socket)
    }

    /// Queues close_notify.
    pub fn send_close(&mut self) {
        self.conn.send_close_notify();
    }
}

/// Takes at most [`SEAL_BYTES`] of the first piece a call: a whole file must not be encrypted for a reader that may leave.
struct Bounded<W>(W);

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(SEAL_BYTES);
        self.0.write_all(bytes.get(..count).unwrap_or_default())?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{READ_BYTES, Scratch};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    /// What encrypting adds to a record, its header included (RFC 8446 5.2).
    const ADDED: usize = 22;

    fn client(cert: &Path) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()));
        let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config.with_no_client_auth()), name).unwrap();
        client.set_buffer_limit(None);
        client
    }

    fn sent(client: &mut ClientConnection) -> Vec<u8> {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn what_comes_at_once_is_opened_whole_also_after_most_of_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = self_signed(folder.path(), vec!["localhost".into()]).unwrap();
        let (mut client, mut server) = (client(&cert), TlsSettings::load(&cert, &key).unwrap().accept().unwrap());
        let mut scratch = Scratch::default();
        while client.is_handshaking() {
            assert_eq!(server.open(&sent(&mut client), &mut scratch.plain).unwrap().plain, 0);
            let mut down = Vec::new();
            while server.wants_write() {
                server.write_to(&mut down).unwrap();
            }
            let mut down = down.as_slice();
            while !down.is_empty() {
                client.read_tls(&mut down).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        server.open(&sent(&mut client), &mut scratch.plain).unwrap();
        // Whole records of as much as is ever read at a time, and the few bytes that end a form.
        for bytes in [READ_BYTES, 9] {
            client.writer().write_all(&vec![7; bytes]).unwrap();
        }
        let cipher = sent(&mut client);
        let (most_of_one, rest) = cipher.split_at(RECORD_BYTES + ADDED - 1);
        assert!(rest.len() <= READ_BYTES, "they come at once");
        let opened = [most_of_one, rest].map(|part| server.open(part, &mut scratch.plain).unwrap().plain);
        assert_eq!(opened, [0, READ_BYTES + 9]);
    }
}
