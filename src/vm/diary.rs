//! What happened, on its way to the database: what QEMU told of a VM, who looked at it, who changed what.
//!
//! Events wait here, in order and with the time they happened at, until they are written. A database that is away delays them and loses none
//! of the last [`MOST`]; a server that ends in that time loses what waits, and says how many they were.

use crate::db::events::{self, Event};
use crate::house::Cx;
use crate::reactor::task::{Answer, oneshot};
use jiff::Timestamp;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Events that wait at most: some megabytes.
const MOST: usize = 10_000;
/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

struct Entry {
    at: Timestamp,
    event: Event,
    /// Who waits until it is written.
    done: Option<Answer<()>>,
}

/// See the file's page.
#[derive(Default)]
pub struct Diary {
    waiting: RefCell<VecDeque<Entry>>,
    /// A story brings what waits to the database.
    writing: Cell<bool>,
    /// The database did not answer the last time.
    away: Cell<bool>,
    /// What found no room, until that is told, and in all.
    dropped: Cell<u64>,
    refused: Cell<u64>,
}

impl Diary {
    /// Events that wait for the database.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Events that found no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// False when there is no room.
    fn keep(&self, event: Event, done: Option<Answer<()>>) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= MOST {
            self.dropped.set(self.dropped.get() + 1);
            self.refused.set(self.refused.get() + 1);
            return false;
        }
        // Nobody waits for a database that is away.
        let done = done.filter(|_| !self.away.get());
        waiting.push_back(Entry { at: Timestamp::now(), event, done });
        true
    }

    fn first(&self) -> Option<(Timestamp, Event)> {
        self.waiting.borrow().front().map(|entry| (entry.at, entry.event.clone()))
    }

    fn written(&self) {
        let entry = self.waiting.borrow_mut().pop_front();
        if let Some(done) = entry.and_then(|entry| entry.done) {
            done.give(());
        }
    }

    fn nobody_waits(&self) {
        for entry in self.waiting.borrow_mut().iter_mut() {
            entry.done = None;
        }
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        if self.depth() > 0 {
            log::error!("the database did not answer: {} events are lost", self.depth());
        }
    }
}

/// Writes `event` down; nobody waits for it.
pub fn note(cx: &Cx, event: Event) {
    add(cx, event, None);
}

/// Writes `event` down, also when the caller is dropped meanwhile. Whoever asks afterwards finds it, unless the database is away.
pub async fn write(cx: &Cx, event: Event) {
    let (answer, promise) = oneshot();
    add(cx, event, Some(answer));
    let _ = promise.await;
}

fn add(cx: &Cx, event: Event, done: Option<Answer<()>>) {
    if cx.diary.keep(event, done) && !cx.diary.writing.replace(true) {
        let house = Rc::clone(cx);
        cx.spawner.spawn("events", async move { write_all(&house).await });
    }
}

async fn write_all(cx: &Cx) {
    let (diary, mut late) = (&cx.diary, 0);
    while let Some((at, event)) = diary.first() {
        if is_settled(cx, at, event).await {
            diary.written();
            late += u64::from(diary.away.get());
            continue;
        }
        if !diary.away.replace(true) {
            log::warn!("the database does not answer: events wait for it");
        }
        diary.nobody_waits();
        cx.clock.sleep(PAUSE).await;
    }
    diary.writing.set(false);
    if diary.away.replace(false) {
        log::info!("{late} events that waited for the database are written, {} found no room", diary.dropped.take());
    }
}

/// True when it is in the database, or can never be.
async fn is_settled(cx: &Cx, at: Timestamp, event: Event) -> bool {
    match cx.db(events::write(&cx.db, at, event)).await {
        Ok(()) => true,
        Err(problem) if problem.status == 503 => false,
        Err(problem) => {
            log::error!("an event of {at} cannot be written down: {}", problem.detail);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted() {
        let diary = Diary::default();
        let event = || Event::Vm { vmid: "c9a2f1c9a2f1".into(), kind: "reset", detail: String::new() };
        assert!((0..MOST).all(|_| diary.keep(event(), None)));
        assert!(!diary.keep(event(), None) && !diary.keep(event(), None));
        assert_eq!((diary.depth(), diary.refused()), (MOST, 2));
        diary.waiting.borrow_mut().clear();
    }
}
