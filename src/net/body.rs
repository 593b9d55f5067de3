//! A large request's body on its way from the connection to its story: three buffers, and back-pressure to the socket.
//!
//! The connection fills one buffer while the story has the others. When the story is behind, the connection stops reading and the
//! client's window closes; when the client is behind, the story waits. Nothing is read before the story asks for the first piece, so
//! a refusal needs no body, and `100 Continue` is only sent to who may go on.
//! However it ends, the story learns it: the whole body, or a [`Broken`].

use super::feed::Notify;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Bytes of a buffer.
pub const BUFFER_BYTES: usize = 72 * 1024;
/// Buffers of a body: one that is filled, the others with the story.
pub const BUFFERS: usize = 3;

/// Bytes of a body.
pub struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into_boxed_slice(), len: 0 }
    }

    /// What it holds.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }
}

/// Why a body is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The connection is gone.
    Left,
    /// Nothing came for too long.
    Stalled,
    /// A chunk that is none.
    Malformed,
    /// The server ends.
    Ending,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "the client left",
            Self::Stalled => "nothing came for too long",
            Self::Malformed => "the chunked body is malformed",
            Self::Ending => "the server is ending",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Broken(Broken),
}

struct Shared {
    filling: RefCell<Option<Buffer>>,
    spare: RefCell<Vec<Buffer>>,
    /// How many there are.
    made: Cell<usize>,
    end: Cell<Option<End>>,
    /// The story has asked for bytes.
    wanted: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    /// The connection stopped reading because there was no room.
    stopped: Cell<bool>,
    length: Option<u64>,
    conn: u64,
    notify: Notify,
}

impl Shared {
    fn wake(&self) {
        let waker = self.waiting.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn finish(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.wake();
        }
    }
}

/// The story's end.
pub struct Incoming(Rc<Shared>);

/// The connection's end.
pub struct Inlet(Rc<Shared>);

/// Both ends of the body of `conn`'s request; `notify` tells the loop that there is room again.
#[must_use]
pub fn body(length: Option<u64>, conn: u64, notify: Notify) -> (Inlet, Incoming) {
    let shared = Rc::new(Shared {
        filling: RefCell::default(),
        spare: RefCell::default(),
        made: Cell::new(0),
        end: Cell::new(None),
        wanted: Cell::new(false),
        waiting: RefCell::default(),
        stopped: Cell::new(false),
        length,
        conn,
        notify,
    });
    (Inlet(Rc::clone(&shared)), Incoming(shared))
}

impl Incoming {
    /// The body's length in bytes, where the client told it.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.0.length
    }

    /// The next bytes, or `None` at the end. Give the buffer back when done with it. A plain wait: dropping it loses nothing.
    ///
    /// # Errors
    /// The rest will not come; what came before it was handed out.
    pub async fn next(&self) -> Result<Option<Buffer>, Broken> {
        if !self.0.wanted.replace(true) {
            (self.0.notify)(self.0.conn);
        }
        poll_fn(|cx| {
            let there = self.0.filling.borrow().as_ref().is_some_and(|buffer| buffer.len > 0);
            if there {
                let buffer = self.0.filling.borrow_mut().take();
                if self.0.stopped.replace(false) {
                    (self.0.notify)(self.0.conn);
                }
                return Poll::Ready(Ok(buffer));
            }
            match self.0.end.get() {
                Some(End::Whole) => Poll::Ready(Ok(None)),
                Some(End::Broken(why)) => Poll::Ready(Err(why)),
                None => {
                    *self.0.waiting.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Returns a buffer for further bytes.
    pub fn give_back(&self, mut buffer: Buffer) {
        buffer.len = 0;
        self.0.spare.borrow_mut().push(buffer);
        if self.0.stopped.replace(false) {
            (self.0.notify)(self.0.conn);
        }
    }
}

impl Inlet {
    /// Bytes that may be taken now.
    #[must_use]
    pub fn room(&self) -> usize {
        if !self.is_wanted() {
            return 0;
        }
        let mut filling = self.0.filling.borrow_mut();
        if filling.is_none() {
            *filling = self.0.spare.borrow_mut().pop();
            if filling.is_none() && self.0.made.get() < BUFFERS {
                self.0.made.set(self.0.made.get() + 1);
                *filling = Some(Buffer::new());
            }
        }
        filling.as_ref().map_or(0, |buffer| BUFFER_BYTES - buffer.len)
    }

    /// The connection stops reading until the story has taken what is there.
    pub fn wait_for_room(&self) {
        self.0.stopped.set(true);
        self.hand_over();
    }

    /// True once the story has asked for bytes and until the body's end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.wanted.get() && self.0.end.get().is_none()
    }

    /// Takes what there is room for; returns how many bytes.
    #[must_use]
    pub fn take(&self, bytes: &[u8]) -> usize {
        self.fill_with(|room| {
            let count = bytes.len().min(room.len());
            room[..count].copy_from_slice(&bytes[..count]);
            count
        })
    }

    /// Lets `read` write into the room there is and say how many bytes it wrote.
    pub fn fill_with(&self, read: impl FnOnce(&mut [u8]) -> usize) -> usize {
        if self.room() == 0 {
            return 0;
        }
        let mut filling = self.0.filling.borrow_mut();
        let Some(buffer) = filling.as_mut() else { return 0 };
        let count = read(buffer.room());
        buffer.len += count;
        count
    }

    /// The socket has no more for now: the story may have what is there.
    pub fn hand_over(&self) {
        if self.0.filling.borrow().as_ref().is_some_and(|buffer| buffer.len > 0) {
            self.0.wake();
        }
    }

    /// The body is whole.
    pub fn finish(&self) {
        self.0.finish(End::Whole);
    }

    /// The rest will not come.
    pub fn fail(&self, why: Broken) {
        self.0.finish(End::Broken(why));
    }

    /// True when the whole body was taken.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.end.get() == Some(End::Whole)
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.fail(Broken::Left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::task::Tasks;
    use std::sync::Arc;
    use std::time::Instant;

    fn pair() -> (Inlet, Incoming, Rc<Cell<u32>>) {
        let rung = Rc::new(Cell::new(0));
        let count = Rc::clone(&rung);
        let (inlet, incoming) = body(None, 1, Rc::new(move |_| count.set(count.get() + 1)));
        (inlet, incoming, rung)
    }

    /// What came, and how it ended.
    type Collected = Rc<RefCell<(Vec<u8>, Option<Result<(), Broken>>)>>;

    /// Collects the whole body in a story; the buffer it has is given back before the next.
    fn collect(incoming: Incoming) -> (Tasks, Collected) {
        let out = Collected::default();
        let slot = Rc::clone(&out);
        let mut tasks = Tasks::new(Arc::new(|| ()));
        tasks.spawner().spawn("collect", async move {
            let end = loop {
                match incoming.next().await {
                    Ok(Some(buffer)) => {
                        slot.borrow_mut().0.extend_from_slice(buffer.filled());
                        incoming.give_back(buffer);
                    }
                    Ok(None) => break Ok(()),
                    Err(why) => break Err(why),
                }
            };
            slot.borrow_mut().1 = Some(end);
        });
        tasks.run_ready(Instant::now(), 10);
        (tasks, out)
    }

    #[test]
    fn nothing_is_taken_before_the_story_asks() {
        let (inlet, incoming, rung) = pair();
        assert_eq!(inlet.take(b"early"), 0);
        let (mut tasks, out) = collect(incoming);
        assert_eq!(rung.get(), 1, "the connection is told that bytes are wanted");
        assert_eq!(inlet.take(b"now"), 3);
        inlet.hand_over();
        inlet.finish();
        tasks.run_ready(Instant::now(), 10);
        assert_eq!(*out.borrow(), (b"now".to_vec(), Some(Ok(()))));
    }

    #[test]
    fn a_full_buffer_stops_the_connection_and_room_starts_it_again() {
        let (inlet, incoming, rung) = pair();
        let bytes: Vec<u8> = (0..250_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut tasks, out) = collect(incoming);
        let mut sent = 0;
        while sent < bytes.len() {
            let taken = inlet.take(&bytes[sent..]);
            sent += taken;
            if taken == 0 {
                let before = rung.get();
                inlet.wait_for_room();
                tasks.run_ready(Instant::now(), 10);
                assert!(rung.get() > before, "the connection was not told that there is room");
            }
        }
        inlet.hand_over();
        inlet.finish();
        tasks.run_ready(Instant::now(), 10);
        assert!(out.borrow().0 == bytes && out.borrow().1 == Some(Ok(())));
    }

    #[test]
    fn what_came_before_the_break_is_handed_out_first() {
        let (inlet, incoming, _) = pair();
        let (mut tasks, out) = collect(incoming);
        assert_eq!(inlet.take(b"half"), 4);
        drop(inlet);
        tasks.run_ready(Instant::now(), 10);
        assert_eq!(*out.borrow(), (b"half".to_vec(), Some(Err(Broken::Left))));
    }
}
