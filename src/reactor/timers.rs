//! Time on the loop: one heap for sleeping stories and for owners' deadlines; its top is the poll's timeout.
//!
//! An owner keeps one entry and corrects it lazily: when its deadline moved later, the entry fires, the owner looks at its own
//! clock and asks again. A story that stops waiting leaves its entry behind; it is thrown away when it comes to the top.
//! `now` is read once a turn by the loop, so that everything in a turn happens at one time.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What has come due: an owner's turn to look at its clock. Stories are woken by [`Clock::pop_due`] itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due<O>(pub O);

enum Kind<O> {
    /// With a sign of life where the owner may be gone before.
    Owner(O, Option<Weak<()>>),
    Sleep(Weak<SleepState>),
}

struct Entry<O> {
    at: Instant,
    /// Keeps entries of one instant in order of their making.
    seq: u64,
    kind: Kind<O>,
}

impl<O> PartialEq for Entry<O> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<O> Eq for Entry<O> {}
impl<O> PartialOrd for Entry<O> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<O> Ord for Entry<O> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: BinaryHeap gives the greatest, the loop wants the earliest.
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

struct SleepState {
    due: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

struct ClockState<O> {
    now: Cell<Instant>,
    seq: Cell<u64>,
    heap: RefCell<BinaryHeap<Entry<O>>>,
}

/// The loop's clock; clones share it.
pub struct Clock<O>(Rc<ClockState<O>>);

impl<O> Clone for Clock<O> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<O: Copy> Clock<O> {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Rc::new(ClockState { now: Cell::new(now), seq: Cell::new(0), heap: RefCell::default() }))
    }

    /// The time of this turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// Called by the loop once a turn.
    pub fn set_now(&self, now: Instant) {
        self.0.now.set(now);
    }

    /// Asks for [`Due`] with `owner` at `at`.
    pub fn at(&self, at: Instant, owner: O) {
        self.push(at, Kind::Owner(owner, None));
    }

    /// As [`Clock::at`], for an owner that may be gone by then: once `life` is dropped nobody is woken for it.
    pub fn at_while(&self, at: Instant, owner: O, life: &Rc<()>) {
        self.push(at, Kind::Owner(owner, Some(Rc::downgrade(life))));
    }

    /// Waits for `length` of time. Dropping it is free.
    #[must_use]
    pub fn sleep(&self, length: Duration) -> Sleep {
        let state = Rc::new(SleepState { due: Cell::new(false), waker: RefCell::new(None) });
        self.push(self.now() + length, Kind::Sleep(Rc::downgrade(&state)));
        Sleep(state)
    }

    /// The earliest thing to wait for: until when the loop may sleep. A time and not a length: the turn that asks has taken some already.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut heap = self.0.heap.borrow_mut();
        while let Some(top) = heap.peek() {
            match &top.kind {
                Kind::Sleep(state) if state.strong_count() == 0 => drop(heap.pop()),
                Kind::Owner(_, Some(life)) if life.strong_count() == 0 => drop(heap.pop()),
                _ => return Some(top.at),
            }
        }
        None
    }

    /// Wakes the stories that are due and returns the next owner that is, if any.
    #[must_use]
    pub fn pop_due(&self) -> Option<Due<O>> {
        loop {
            let entry = {
                let mut heap = self.0.heap.borrow_mut();
                if heap.peek().is_none_or(|top| top.at > self.now()) {
                    return None;
                }
                heap.pop()?
            };
            match entry.kind {
                Kind::Owner(owner, _) => return Some(Due(owner)),
                Kind::Sleep(state) => {
                    if let Some(state) = state.upgrade() {
                        state.due.set(true);
                        if let Some(waker) = state.waker.take() {
                            waker.wake();
                        }
                    }
                }
            }
        }
    }

    fn push(&self, at: Instant, kind: Kind<O>) {
        let seq = self.0.seq.get();
        self.0.seq.set(seq + 1);
        self.0.heap.borrow_mut().push(Entry { at, seq, kind });
    }
}

/// A wait for time; see [`Clock::sleep`].
pub struct Sleep(Rc<SleepState>);

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.due.get() {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_due_in_order_of_time_then_of_asking() {
        let start = Instant::now();
        let clock = Clock::new(start);
        for (ms, owner) in [(20, 'b'), (10, 'a'), (20, 'c'), (500, 'd')] {
            clock.at(start + Duration::from_millis(ms), owner);
        }
        assert_eq!(clock.next_deadline(), Some(start + Duration::from_millis(10)));
        assert_eq!(clock.pop_due(), None);
        clock.set_now(start + Duration::from_millis(20));
        let due: Vec<char> = std::iter::from_fn(|| clock.pop_due()).map(|Due(o)| o).collect();
        assert_eq!(due, ['a', 'b', 'c']);
        assert_eq!(clock.next_deadline(), Some(start + Duration::from_millis(500)));
    }

    #[test]
    fn a_dropped_sleep_does_not_wake_the_loop() {
        let clock = Clock::<u8>::new(Instant::now());
        drop(clock.sleep(Duration::from_secs(1)));
        assert_eq!(clock.next_deadline(), None);
    }

    /// Found by counting an idle server's wake-ups: each closed connection had left one behind.
    #[test]
    fn r03_an_owner_that_is_gone_does_not_wake_the_loop() {
        let start = Instant::now();
        let clock = Clock::new(start);
        let life = Rc::new(());
        clock.at_while(start + Duration::from_secs(1), 'a', &life);
        assert_eq!(clock.next_deadline(), Some(start + Duration::from_secs(1)));
        drop(life);
        assert_eq!(clock.next_deadline(), None);
    }

    #[test]
    fn a_sleep_is_ready_when_its_time_has_come() {
        let start = Instant::now();
        let clock = Clock::<u8>::new(start);
        let mut sleep = Box::pin(clock.sleep(Duration::from_secs(1)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sleep.as_mut().poll(&mut cx).is_pending());
        clock.set_now(start + Duration::from_secs(1));
        assert_eq!(clock.pop_due(), None);
        assert!(sleep.as_mut().poll(&mut cx).is_ready());
    }
}
