//! The guest's side of a relay: a connection of its own (a screen), or a place at a shared line (the serial console).

use super::line::Reader;
use mio::Token;
use mio::net::UnixStream;
use std::io::{self, Read, Write};

/// See the file's page.
pub enum Back {
    /// Nobody else reads it.
    Own(UnixStream, Option<Token>),
    /// Others look at it too.
    Shared(Reader),
}

impl Back {
    /// A connection that is this relay's alone.
    #[must_use]
    pub fn own(socket: UnixStream) -> Self {
        Self::Own(socket, None)
    }

    /// True where a call costs nothing and no event tells of news; it is tried whenever the relay is woken.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// See [`Reader::takes_mark`].
    pub fn takes_mark(&mut self) -> bool {
        match self {
            Self::Own(..) => false,
            Self::Shared(reader) => reader.takes_mark(),
        }
    }
}

impl Read for Back {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Own(socket, _) => socket.read(room),
            Self::Shared(reader) => reader.read(room),
        }
    }
}

impl Write for Back {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(socket, _) => socket.write(bytes),
            Self::Shared(reader) => reader.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
