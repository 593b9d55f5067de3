//! A stream of events to one browser (server-sent events): a bounded queue between who tells and the connection that writes.
//!
//! A reader that falls too far behind is cut off: its `EventSource` connects again and gets what it missed, or the present state.

use super::outbuf::Piece;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Events one connection may be behind before it is cut off.
const QUEUE: usize = 256;

/// Called with the connection's id when there is something to write.
pub type Notify = Rc<dyn Fn(u64)>;

struct State {
    queue: RefCell<VecDeque<Rc<[u8]>>>,
    conn: Cell<Option<u64>>,
    ended: Cell<bool>,
    notify: Notify,
}

/// Both ends of the stream; clones share it.
#[derive(Clone)]
pub struct Feed(Rc<State>);

impl Feed {
    /// An empty stream; `notify` tells the loop which connection to write to.
    #[must_use]
    pub fn new(notify: Notify) -> Self {
        Self(Rc::new(State { queue: RefCell::default(), conn: Cell::new(None), ended: Cell::new(false), notify }))
    }

    /// Adds one event.
    pub fn tell(&self, line: Rc<[u8]>) {
        if self.0.ended.get() {
            return;
        }
        let behind = {
            let mut queue = self.0.queue.borrow_mut();
            queue.push_back(line);
            queue.len() > QUEUE
        };
        if behind {
            self.end();
        }
        self.wake();
    }

    /// Ends the stream after what was told so far.
    pub fn end(&self) {
        self.0.ended.set(true);
        self.wake();
    }

    /// True when nobody reads any more or it was ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.ended.get()
    }

    /// The connection takes its end.
    pub fn attach(&self, conn: u64) {
        self.0.conn.set(Some(conn));
    }

    /// The connection's side: the next piece to write.
    #[must_use]
    pub fn take(&self) -> Option<Piece> {
        self.0.queue.borrow_mut().pop_front().map(Piece::Shared)
    }

    fn wake(&self) {
        if let Some(conn) = self.0.conn.get() {
            (self.0.notify)(conn);
        }
    }
}
