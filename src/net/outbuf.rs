//! What a socket would not take yet: a queue of pieces, written together by one `writev`.
//!
//! Embedded files and shared event lines are queued by reference and never copied. The queue has no bound of its own: its owners
//! stop producing while it is not empty, and [`OutBuf::len`] tells them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::rc::Rc;

/// Bytes to be written, owned or borrowed for as long as the program runs.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Made for this connection.
    Owned(Vec<u8>),
    /// A part of the binary.
    Static(&'static [u8]),
    /// One line that many connections get.
    Shared(Rc<[u8]>),
}

impl Piece {
    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Static(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Pieces per `writev`.
const SLICES: usize = 16;

/// The queue.
#[derive(Debug, Default)]
pub struct OutBuf {
    queue: VecDeque<Piece>,
    /// Bytes of the first piece that are written already.
    written: usize,
    len: usize,
}

impl OutBuf {
    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Piece) {
        let len = piece.bytes().len();
        if len > 0 {
            self.len += len;
            self.queue.push_back(piece);
        }
    }

    /// Adds a copy of `bytes`, joined with the last piece when that is owned.
    pub fn extend(&mut self, bytes: &[u8]) {
        if let Some(Piece::Owned(last)) = self.queue.back_mut() {
            last.extend_from_slice(bytes);
            self.len += bytes.len();
        } else {
            self.push(Piece::Owned(bytes.to_vec()));
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Throws away what waits: the connection is given up.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes once, as much as one `writev` takes; returns how much that was.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&mut self, writer: &mut impl Write) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.queue) {
            let from = if used == 0 { self.written } else { 0 };
            *slot = IoSlice::new(piece.bytes().get(from..).unwrap_or_default());
            used += 1;
        }
        let count = writer.write_vectored(&slices[..used])?;
        self.advance(count);
        Ok(count)
    }

    fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while let Some(first) = self.queue.front() {
            let left = first.bytes().len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.queue.pop_front();
        }
        // An idle connection keeps no memory for its output.
        self.queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most `.1` bytes a time.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_way_of_cutting_the_writes_gives_the_same_bytes() {
        for step in 1..12 {
            let mut out = OutBuf::default();
            out.push(Piece::Owned(b"head ".to_vec()));
            out.extend(b"more ");
            out.push(Piece::Static(b"file "));
            out.push(Piece::Static(b""));
            out.push(Piece::Shared(Rc::from(&b"line"[..])));
            assert_eq!(out.len(), 19);
            let mut slow = Slow(Vec::new(), step);
            while !out.is_empty() {
                out.write_to(&mut slow).expect("write");
            }
            assert_eq!(slow.0, b"head more file line", "step {step}");
        }
    }
}
