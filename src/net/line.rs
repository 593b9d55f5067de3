//! A byte stream that many look at and one end serves: a guest's serial console.
//!
//! QEMU takes one client on such a socket, so the house holds that one connection, for the VM's whole life. What the guest writes is read
//! at once and kept in a ring of bounded size (`proto::scrollback`); each [`Reader`] has a place in it and takes bytes as fast as its browser does. A
//! new reader begins at the oldest line that is kept, a slow one is moved ahead and told how much it missed, and none costs memory. What readers
//! write goes to the socket or is refused: then they keep it, and are told when there is room again.
//!
//! It must not: wait for a reader, or keep what the guest has not taken. When the connection ends, readers get what is left, then the end.

use super::feed::Notify;
use crate::proto::scrollback::{Place, Ring};
use mio::Token;
use mio::net::UnixStream;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

/// Bytes taken from the guest in one turn.
const QUANTUM: usize = 64 * 1024;
/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 16 * 1024;

/// What reading from the guest came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The guest has no more now; an event will come.
    Blocked,
    /// The quantum was used up; no event will come.
    More,
    /// The connection has ended.
    Ended,
}

struct State {
    socket: RefCell<Option<UnixStream>>,
    token: Cell<Option<Token>>,
    writable: Cell<bool>,
    kept: RefCell<Ring>,
    readers: RefCell<HashSet<u64>>,
    notify: Notify,
}

/// See the file's page; clones share it.
#[derive(Clone)]
pub struct Line(Rc<State>);

impl Line {
    /// A line without a connection that keeps `most` bytes; `notify` tells the loop which connection can go on.
    #[must_use]
    pub fn new(most: usize, notify: Notify) -> Self {
        Self(Rc::new(State {
            socket: RefCell::default(),
            token: Cell::new(None),
            writable: Cell::new(false),
            kept: RefCell::new(Ring::new(most)),
            readers: RefCell::default(),
            notify,
        }))
    }

    /// Takes the connection to the guest, which is registered under `token`.
    pub fn join(&self, socket: UnixStream, token: Token) {
        self.0.socket.replace(Some(socket));
        self.0.token.set(Some(token));
        self.0.writable.set(true);
    }

    /// Gives the connection back, for the caller to forget its token.
    #[must_use]
    pub fn part(&self) -> Option<(UnixStream, Token)> {
        let socket = self.0.socket.take();
        self.tell_readers();
        Some((socket?, self.0.token.take()?))
    }

    /// True while the guest is connected.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.0.socket.borrow().is_some()
    }

    /// The guest takes bytes again: readers may write where that was refused.
    pub fn on_writable(&self) {
        if !self.0.writable.replace(true) {
            self.tell_readers();
        }
    }

    /// Reads what the guest has, up to the quantum.
    #[must_use]
    pub fn receive(&self) -> Flow {
        let mut news = false;
        let mut budget = QUANTUM;
        let mut buffer = [0; READ_BYTES];
        let flow = loop {
            if budget == 0 {
                break Flow::More;
            }
            let read = self.0.socket.borrow_mut().as_mut().map(|socket| socket.read(&mut buffer));
            match read {
                None | Some(Ok(0)) => break Flow::Ended,
                Some(Ok(count)) => {
                    news = true;
                    budget = budget.saturating_sub(count);
                    self.0.kept.borrow_mut().push(buffer.get(..count).unwrap_or_default());
                }
                Some(Err(e)) if e.kind() == ErrorKind::WouldBlock => break Flow::Blocked,
                Some(Err(e)) if e.kind() == ErrorKind::Interrupted => {}
                Some(Err(_)) => break Flow::Ended,
            }
        };
        if news {
            self.tell_readers();
        }
        flow
    }

    /// The place behind the newest byte: another one when something came.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.0.kept.borrow().end()
    }

    /// What is kept, to be given to [`Line::restore`] some day.
    #[must_use]
    pub fn kept(&self) -> Vec<u8> {
        self.0.kept.borrow().to_vec()
    }

    /// Puts what was kept before the first byte, where none has come yet.
    pub fn restore(&self, kept: &[u8]) {
        let mut ring = self.0.kept.borrow_mut();
        if ring.end() == 0 {
            ring.push(kept);
        }
    }

    /// Somebody who looks from the oldest whole line on.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let place = Place::begin(&self.0.kept.borrow());
        Reader { line: self.clone(), conn: None, place }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut slot = self.0.socket.borrow_mut();
        let Some(socket) = slot.as_mut() else { return Err(ErrorKind::NotConnected.into()) };
        if !self.0.writable.get() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = socket.write(bytes);
        if written.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
            self.0.writable.set(false);
        }
        written
    }

    fn tell_readers(&self) {
        self.0.readers.borrow().iter().for_each(|conn| (self.0.notify)(*conn));
    }
}

/// One who looks at a [`Line`]; dropping it is leaving.
pub struct Reader {
    line: Line,
    conn: Option<u64>,
    place: Place,
}

impl Reader {
    /// From now on the connection `conn` is told when there is something to read or room to write.
    pub fn attach(&mut self, conn: u64) {
        self.line.0.readers.borrow_mut().insert(conn);
        self.conn = Some(conn);
    }

    /// True once, when all that was kept before it came is read: what follows is live.
    pub fn takes_mark(&mut self) -> bool {
        self.place.takes_mark()
    }

    /// The next bytes; 0 at the end of the line.
    ///
    /// # Errors
    /// `WouldBlock` when the guest has written no more.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.place.read(&self.line.0.kept.borrow(), room);
        match count {
            0 if self.line.is_joined() || self.place.is_behind_its_mark() => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    /// Writes to the guest; see [`Write::write`].
    ///
    /// # Errors
    /// `WouldBlock` when the guest takes nothing now, anything else when it is gone.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.write(bytes)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(conn) = self.conn {
            self.line.0.readers.borrow_mut().remove(&conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream as StdStream;

    /// A line with its guest, and who was notified.
    fn line(most: usize) -> (Line, StdStream, Rc<RefCell<Vec<u64>>>) {
        let (guest, ours) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        guest.set_nonblocking(true).unwrap();
        let told: Rc<RefCell<Vec<u64>>> = Rc::default();
        let heard = Rc::clone(&told);
        let line = Line::new(most, Rc::new(move |conn| heard.borrow_mut().push(conn)));
        line.join(UnixStream::from_std(ours), Token(7));
        (line, guest, told)
    }

    fn all(reader: &mut Reader) -> String {
        let mut room = [0; 7];
        let mut text = String::new();
        while let Ok(count @ 1..) = reader.read(&mut room) {
            text.push_str(&String::from_utf8_lossy(&room[..count]));
        }
        text
    }

    #[test]
    fn a_new_reader_gets_what_was_then_a_mark_then_what_comes() {
        let (line, mut guest, told) = line(1000);
        guest.write_all(b"login: ").unwrap();
        assert_eq!(line.receive(), Flow::Blocked);
        let mut reader = line.reader();
        reader.attach(3);
        guest.write_all(b"root").unwrap();
        assert_eq!(line.receive(), Flow::Blocked);
        assert_eq!(*told.borrow(), [3]);
        assert!(!reader.takes_mark());
        assert_eq!(all(&mut reader), "login: ");
        assert!(reader.takes_mark());
        assert!(!reader.takes_mark(), "once");
        assert_eq!(all(&mut reader), "root");
        drop(reader);
        guest.write_all(b"!").unwrap();
        let _ = line.receive();
        assert_eq!(*told.borrow(), [3], "who left is not told");
    }

    #[test]
    fn a_reader_of_a_silent_line_is_live_at_once() {
        let (line, _guest, _) = line(1000);
        let mut reader = line.reader();
        assert!(reader.takes_mark());
        assert_eq!(reader.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_slow_reader_is_told_what_it_missed() {
        let (line, mut guest, _) = line(10);
        let mut slow = line.reader();
        assert!(slow.takes_mark());
        guest.write_all(b"0123456789abc\ndef").unwrap();
        let _ = line.receive();
        assert_eq!(line.0.kept.borrow().len(), 10);
        let text = all(&mut slow);
        assert!(text.contains("[1 KB were skipped") && text.ends_with("789abc\ndef"), "{text:?}");
        assert_eq!(all(&mut line.reader()), "def", "a new one begins with a whole line");
    }

    #[test]
    fn a_guest_that_does_not_stop_writing_gives_others_their_turn() {
        let (line, mut guest, _) = line(1000);
        let chunk = [b'x'; READ_BYTES];
        while guest.write(&chunk).is_ok() {}
        let first = line.receive();
        assert_eq!(first, Flow::More);
        while line.receive() == Flow::More {}
        assert_eq!(line.0.kept.borrow().len(), 1000);
    }

    #[test]
    fn a_guest_that_does_not_listen_stops_writers_and_tells_them_when_it_does() {
        let (line, mut guest, told) = line(1000);
        let mut reader = line.reader();
        reader.attach(9);
        let chunk = [b'k'; READ_BYTES];
        while reader.write(&chunk).is_ok() {}
        assert_eq!(reader.write(b"k").unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut taken = vec![0; READ_BYTES];
        while guest.read(&mut taken).is_ok() {}
        line.on_writable();
        line.on_writable();
        assert_eq!(*told.borrow(), [9]);
        assert_eq!(reader.write(b"k").unwrap(), 1);
    }

    #[test]
    fn the_end_comes_after_what_was_written() {
        let (line, mut guest, _) = line(1000);
        let mut reader = line.reader();
        assert!(reader.takes_mark());
        guest.write_all(b"bye").unwrap();
        drop(guest);
        assert_eq!(line.receive(), Flow::Ended);
        assert!(line.part().is_some());
        let mut room = [0; 8];
        assert_eq!(reader.read(&mut room).unwrap(), 3);
        assert_eq!(reader.read(&mut room).unwrap(), 0);
        assert_eq!(reader.write(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
    }
}
