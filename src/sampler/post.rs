//! One HTTP POST, blocking, with a deadline for all of it: for the thread that tells Telegram, and for `vmshare check --telegram`.
//!
//! An HTTP client of our own because each at hand brings a second crypto library or its own list of authorities; this one has the rustls that is
//! there and the host's authorities. It knows no redirects, proxies or keep-alive. Errors never name the path: a bot's token is in it.

use crate::net::tls_client::{self, ClientSettings};
use crate::proto::telegram;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The longest answer that is read.
const ANSWER_BYTES: usize = 64 * 1024;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    is_tls: bool,
    host: String,
    port: u16,
    /// What comes before each path, without a `/` at the end.
    before: String,
}

impl Address {
    /// Takes `http://HOST[:PORT][/PATH]` or the same with `https` apart.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let (is_tls, rest) = match url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("http://")?),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let default = if is_tls { 443 } else { 80 };
        // The colons of an address of version 6 are inside its brackets.
        let end = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority.get(end..)?.rfind(':').map(|at| at + end) {
            Some(at) => (authority.get(..at)?, authority.get(at + 1..)?.parse().ok()?),
            None => (authority, default),
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b".-_[]:".contains(&b);
        let good = !host.is_empty() && host.bytes().all(is_name) && path.bytes().all(|b| b.is_ascii_graphic());
        let before = if path.is_empty() { String::new() } else { format!("/{}", path.trim_end_matches('/')) };
        good.then(|| Self { is_tls, host: host.to_owned(), port, before })
    }
}

/// A socket whose every wait ends at one time.
struct Timed {
    socket: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> std::io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(std::io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}

/// Sends JSON to `path` and gives status and body of the answer.
///
/// # Errors
/// What went wrong, in words, without the path.
pub fn json(
    to: &Address,
    tls: &mut Option<ClientSettings>,
    path: &str,
    body: &str,
    limit: Duration,
) -> Result<(u16, Vec<u8>), String> {
    let until = Instant::now() + limit;
    let words = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
            format!("{} did not answer within {} seconds", to.host, limit.as_secs())
        }
        _ => format!("{}: {e}", to.host),
    };
    let host = to.host.trim_start_matches('[').trim_end_matches(']');
    let mut last = Err(format!("{host} has no address"));
    for address in (host, to.port).to_socket_addrs().map_err(words)? {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        last = TcpStream::connect_timeout(&address, left).map_err(words);
        if last.is_ok() {
            break;
        }
    }
    let socket = last?;
    let _ = socket.set_nodelay(true);
    let mut socket = Timed { socket, until };
    let request = format!(
        "POST {}{path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: vmshare/{}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        to.before,
        to.host,
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    if !to.is_tls {
        return talk(&mut socket, &request, words);
    }
    if tls.is_none() {
        *tls = Some(ClientSettings::of_this_host()?);
    }
    let settings = tls.as_ref().ok_or("no TLS")?;
    talk(&mut tls_client::client(settings, host, socket)?, &request, words)
}

fn talk(
    stream: &mut (impl Read + Write),
    request: &str,
    words: impl Fn(std::io::Error) -> String,
) -> Result<(u16, Vec<u8>), String> {
    stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(&words)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let count = match stream.read(&mut piece) {
            Ok(count) => count,
            // A peer that leaves without TLS's farewell; whether the answer is whole is looked at below.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) => 0,
            Err(e) => return Err(words(e)),
        };
        answer.extend_from_slice(piece.get(..count).unwrap_or_default());
        if let Some(reply) = telegram::reply(&answer, count == 0)? {
            return Ok(reply);
        }
        if count == 0 || answer.len() > ANSWER_BYTES {
            return Err("the answer has no end".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let of = |is_tls, host: &str, port, before: &str| {
            Some(Address { is_tls, host: host.into(), port, before: before.into() })
        };
        assert_eq!(Address::parse("https://api.telegram.org"), of(true, "api.telegram.org", 443, ""));
        assert_eq!(Address::parse("http://127.0.0.1:8081/bots/"), of(false, "127.0.0.1", 8081, "/bots"));
        assert_eq!(Address::parse("http://[::1]:81"), of(false, "[::1]", 81, ""));
        assert_eq!(Address::parse("http://[::1]"), of(false, "[::1]", 80, ""));
        for bad in ["ftp://x", "http://", "http://x:port", "http://a b", "https://u@h", "http://x:99999"] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }
}
