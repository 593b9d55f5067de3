//! One TCP connection, plain or TLS, with what could not be written yet.
//!
//! Reads go into buffers of the whole process; writes go to the socket at once, and only what it refuses is kept. An owner must not
//! produce more while [`Stream::is_blocked`]: that is the back-pressure, and the only bound the queue needs.
//! Edges are remembered here: `readable` and `writable` stay true until a call says `WouldBlock`.

use super::Scratch;
use super::outbuf::{OutBuf, Piece};
use super::tls::Tls;
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

/// What one read gave.
pub enum Received<'a> {
    /// These bytes (never empty).
    Bytes(&'a mut [u8]),
    /// Nothing now; an event will come.
    Blocked,
    /// The peer sends no more.
    End,
    /// The first byte on a TLS connection was that of a plain HTTP request.
    NotTls,
    /// The connection is broken; the text is for the log.
    Broken(String),
}

/// See the file's page.
pub struct Stream {
    socket: TcpStream,
    tls: Option<Box<Tls>>,
    readable: bool,
    writable: bool,
    out: OutBuf,
    /// When bytes last left, for the write deadline.
    moved: Instant,
}

impl Stream {
    /// Takes an accepted connection; it is taken for readable and writable until it says otherwise.
    #[must_use]
    pub fn new(socket: TcpStream, tls: Option<Box<Tls>>, now: Instant) -> Self {
        Self { socket, tls, readable: true, writable: true, out: OutBuf::default(), moved: now }
    }

    /// The socket, for registering it.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// True when the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Remembers an event.
    pub fn set_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// True when a read may give something.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// When bytes last left (or the output became not empty).
    #[must_use]
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// One read from the socket. All plaintext it holds is returned; nothing is kept.
    pub fn receive<'a>(&mut self, scratch: &'a mut Scratch) -> Received<'a> {
        self.receive_up_to(scratch, super::READ_BYTES)
    }

    /// As [`Stream::receive`], but `most` bytes are asked of the socket; over TLS the rest of a record may come on top.
    pub fn receive_up_to<'a>(&mut self, scratch: &'a mut Scratch, most: usize) -> Received<'a> {
        if !self.readable {
            return Received::Blocked;
        }
        let target = if self.tls.is_some() { &mut scratch.cipher } else { &mut scratch.plain };
        let most = most.clamp(1, target.len());
        let target = &mut target[..most];
        let count = match self.socket.read(target) {
            Ok(count) => count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return Received::Blocked;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return Received::Blocked,
            Err(e) => return Received::Broken(e.to_string()),
        };
        if count == 0 {
            return Received::End;
        }
        let Some(tls) = &mut self.tls else {
            return Received::Bytes(&mut scratch.plain[..count]);
        };
        if tls.is_fresh() && scratch.cipher[0].is_ascii_uppercase() {
            return Received::NotTls;
        }
        let opened = tls.open(&scratch.cipher[..count], &mut scratch.plain);
        // Handshake answers, tickets and alerts leave at once.
        let flushed = self.flush_tls();
        match (opened, flushed) {
            (Err(e), _) => Received::Broken(e),
            (_, Err(e)) => Received::Broken(e.to_string()),
            (Ok(opened), Ok(())) if opened.plain > 0 => Received::Bytes(&mut scratch.plain[..opened.plain]),
            (Ok(opened), Ok(())) if opened.closed => Received::End,
            // Only a piece of a record came: ask the socket again until it blocks.
            (Ok(_), Ok(())) => self.receive_up_to(scratch, most),
        }
    }

    /// One read of a plain connection straight to where the bytes belong. `Ok(0)` is the end; `None` means that an event will come.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn receive_into(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.readable {
            return Ok(None);
        }
        match self.socket.read(room) {
            Ok(count) => Ok(Some(count)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Goes on in plain text, to tell a browser that spoke HTTP to the TLS port what to do.
    pub fn drop_tls(&mut self) {
        self.tls = None;
    }

    /// Writes `bytes` now; what the socket refuses is copied and waits.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            if self.out.is_empty() {
                tls.seal(bytes)?;
                return self.flush_tls();
            }
            self.out.extend(bytes);
            return Ok(());
        }
        let mut rest = bytes;
        if self.out.is_empty() {
            while !rest.is_empty() && self.writable {
                match self.socket.write(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        if !rest.is_empty() {
            self.out.extend(rest);
        }
        Ok(())
    }

    /// Puts a piece behind what waits; [`Stream::flush`] writes it.
    pub fn push(&mut self, piece: Piece) {
        self.out.push(piece);
    }

    /// Writes what waits until all is gone or the socket refuses.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        let before = self.out.len();
        let result = self.flush_some();
        if self.out.len() < before || !self.is_blocked() {
            self.moved = now;
        }
        result
    }

    /// True while output waits: the owner must not produce more.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Bytes that wait for the socket.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Tells the peer that nothing more comes (TLS close_notify, then FIN).
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close();
            // The peer may be gone already; then there is nobody to tell.
            let _ = self.flush_tls();
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn flush_some(&mut self) -> io::Result<()> {
        loop {
            self.flush_tls()?;
            if self.out.is_empty() || !self.writable || self.is_tls_blocked() {
                return Ok(());
            }
            let written = match &mut self.tls {
                Some(tls) => tls.seal_from(&mut self.out),
                None => self.out.write_to(&mut self.socket).map(drop),
            };
            match written {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn is_tls_blocked(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() && self.writable {
            match tls.write_to(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
