//! Drivers: socket bytes to and from the parsers of `proto`. The only room that sees `WouldBlock`.
//!
//! [`stream::Stream`] is one TCP connection, plain or TLS, with what could not be written yet. [`conn::Conn`] speaks HTTP on it and
//! may turn into a [`relay::Relay`] or a stream of events. Nothing here knows of users or VMs: a request goes out as a value,
//! a response comes back as one.

pub mod back;
pub mod body;
pub mod conn;
pub mod feed;
mod intake;
pub mod line;
pub mod outbuf;
pub mod relay;
pub mod response;
pub mod stream;
pub mod tls;

/// Buffers that all connections use in turn: one turn of one connection at a time, so one set is enough for thousands.
pub struct Scratch {
    /// What was received from a TLS socket.
    pub cipher: Box<[u8]>,
    /// Plaintext received from a browser.
    pub plain: Box<[u8]>,
    /// Bytes on their way to a browser, with room for a frame header in front.
    pub down: Box<[u8]>,
}

/// Bytes asked of a socket at a time. Large reads make few system calls and few frames.
pub const READ_BYTES: usize = 256 * 1024;

impl Default for Scratch {
    fn default() -> Self {
        let buffer = |size: usize| vec![0; size].into_boxed_slice();
        Self {
            cipher: buffer(READ_BYTES),
            // The end of a record brings with it what came of it before.
            plain: buffer(READ_BYTES + tls::RECORD_BYTES),
            down: buffer(READ_BYTES + relay::HEADER_ROOM),
        }
    }
}
