//! Stories: a table of boxed futures that the loop polls in one phase of its turn.
//!
//! A *task* is an `async fn` that tells one story from top to bottom (a request, a launch, a stop). It is polled on the
//! loop's thread only, so nothing in it needs to be `Send`; what it waits for may be answered by any thread.
//!
//! Three things a reader must know:
//! - **A task is never dropped before it ends.** Undoing needs to wait (the database, a process to be reaped), and a dropped
//!   future cannot wait. There is no `abort`. Who no longer wants the outcome sets a [`Cancel`], and the task looks at it
//!   between its steps.
//! - **A wake is a message, not a call.** Wakers push the task's id on a queue and ring the loop's bell; the task runs later
//!   in [`Tasks::run_ready`]. So no task ever runs inside another's poll, and no `RefCell` is borrowed twice by surprise.
//! - **A panic ends one task.** It is caught here, told to the caller of `run_ready`, and the others go on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Called after a task's id was queued, so that a sleeping loop gets up.
pub type Ring = Arc<dyn Fn() + Send + Sync>;

type Story = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    /// What an operator sees of it: the story's name.
    name: &'static str,
    /// When it was spawned, for the same operator.
    since: Instant,
    story: Story,
    waker: Waker,
    /// Shared with the waker: already queued, so a second wake adds nothing.
    queued: Arc<Call>,
}

/// The waker's half of a task.
struct Call {
    id: u64,
    queued: AtomicBool,
    ready: mpsc::Sender<u64>,
    /// Ids on the queue, of all tasks.
    waiting: Arc<AtomicUsize>,
    ring: Ring,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            if self.ready.send(self.id).is_ok() {
                (self.ring)();
            }
        }
    }
}

/// Where new tasks are put, from inside or outside a running one.
#[derive(Clone)]
pub struct Spawner(Rc<RefCell<Vec<(&'static str, Story)>>>);

impl Spawner {
    /// Adds a story; it is first polled in the same turn, after the story that spawned it.
    pub fn spawn(&self, name: &'static str, story: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push((name, Box::pin(story)));
    }
}

/// One task as an operator sees it.
#[derive(Debug, Clone, Copy)]
pub struct TaskInfo {
    /// The story's name.
    pub name: &'static str,
    /// When it was spawned.
    pub since: Instant,
}

/// All tasks of the loop.
pub struct Tasks {
    live: HashMap<u64, Task>,
    next_id: u64,
    ready: mpsc::Receiver<u64>,
    ready_sender: mpsc::Sender<u64>,
    waiting: Arc<AtomicUsize>,
    ring: Ring,
    spawned: Spawner,
    /// The poll that took longest since somebody asked.
    slowest: Option<(&'static str, Duration)>,
}

impl Tasks {
    /// An empty table; `ring` must make a sleeping loop run another turn.
    #[must_use]
    pub fn new(ring: Ring) -> Self {
        let (ready_sender, ready) = mpsc::channel();
        let spawned = Spawner(Rc::default());
        Self {
            live: HashMap::new(),
            next_id: 0,
            ready,
            ready_sender,
            waiting: Arc::default(),
            ring,
            spawned,
            slowest: None,
        }
    }

    /// A handle that stories use to start other stories.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        self.spawned.clone()
    }

    /// Polls every task that was woken, and every new one, until none is ready or `budget` polls are used up.
    /// Returns how many are still waiting to be polled (true: call again soon) and the names of those that panicked.
    pub fn run_ready(&mut self, now: Instant, budget: usize) -> (bool, Vec<&'static str>) {
        let mut panicked = Vec::new();
        for _ in 0..budget {
            self.admit(now);
            let Ok(id) = self.ready.try_recv() else {
                return (false, panicked);
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            let Some(task) = self.live.get_mut(&id) else {
                continue;
            };
            task.queued.queued.store(false, Ordering::Release);
            let (waker, name, began) = (task.waker.clone(), task.name, Instant::now());
            let poll = catch_unwind(AssertUnwindSafe(|| task.story.as_mut().poll(&mut Context::from_waker(&waker))));
            let took = began.elapsed();
            if self.slowest.is_none_or(|(_, longest)| took > longest) {
                self.slowest = Some((name, took));
            }
            match poll {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => drop(self.live.remove(&id)),
                Err(_) => {
                    if let Some(task) = self.live.remove(&id) {
                        panicked.push(task.name);
                        // What the broken story held may panic again while it is dropped.
                        let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
                    }
                }
            }
        }
        (true, panicked)
    }

    /// The story whose poll took longest since this was last asked.
    pub fn take_slowest(&mut self) -> Option<(&'static str, Duration)> {
        self.slowest.take()
    }

    /// True when no task waits to be polled: the loop may sleep.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.spawned.0.borrow().is_empty()
    }

    /// What is alive now.
    pub fn list(&self) -> impl Iterator<Item = TaskInfo> + '_ {
        self.live.values().map(|t| TaskInfo { name: t.name, since: t.since })
    }

    /// Number of live tasks, those not yet polled included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len() + self.spawned.0.borrow().len()
    }

    /// True when nothing is alive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn admit(&mut self, now: Instant) {
        let new = std::mem::take(&mut *self.spawned.0.borrow_mut());
        for (name, story) in new {
            let id = self.next_id;
            self.next_id += 1;
            let queued = Arc::new(Call {
                id,
                queued: AtomicBool::new(true),
                ready: self.ready_sender.clone(),
                waiting: Arc::clone(&self.waiting),
                ring: Arc::clone(&self.ring),
            });
            let waker = Waker::from(Arc::clone(&queued));
            self.live.insert(id, Task { name, since: now, story, waker, queued });
            self.waiting.fetch_add(1, Ordering::SeqCst);
            // The receiver is ours: it cannot be gone.
            let _ = self.ready_sender.send(id);
        }
    }
}

/// The other side was dropped without an answer: its thread or task ended or panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the one who was to answer is gone")
    }
}

impl std::error::Error for Gone {}

enum Slot<T> {
    Empty(Option<Waker>),
    Full(T),
    Closed,
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> std::sync::MutexGuard<'_, Slot<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives one answer to one waiting task, from any thread. Dropped without one, the task gets [`Gone`].
pub struct Answer<T>(Arc<Mutex<Slot<T>>>);

/// Waits for one [`Answer`]. May be dropped at any time; the answer is then dropped too.
pub struct Promise<T>(Arc<Mutex<Slot<T>>>);

/// A pair for one value.
#[must_use]
pub fn oneshot<T>() -> (Answer<T>, Promise<T>) {
    let slot = Arc::new(Mutex::new(Slot::Empty(None)));
    (Answer(Arc::clone(&slot)), Promise(slot))
}

impl<T> Answer<T> {
    /// Hands the value over and wakes the waiting task.
    pub fn give(self, value: T) {
        let before = std::mem::replace(&mut *lock(&self.0), Slot::Full(value));
        if let Slot::Empty(Some(waker)) = before {
            waker.wake();
        }
    }

    /// True when nobody waits any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut slot = lock(&self.0);
        if let Slot::Empty(waker) = &mut *slot {
            let waker = waker.take();
            *slot = Slot::Closed;
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Future for Promise<T> {
    type Output = Result<T, Gone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.0);
        match std::mem::replace(&mut *slot, Slot::Closed) {
            Slot::Full(value) => Poll::Ready(Ok(value)),
            Slot::Closed => Poll::Ready(Err(Gone)),
            Slot::Empty(_) => {
                *slot = Slot::Empty(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// The story's wish to end early was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

/// "Nobody wants this any more", as a value that stories look at. Cloning shares it; once set it stays set.
#[derive(Clone, Default)]
pub struct Cancel(Rc<CancelState>);

#[derive(Default)]
struct CancelState {
    set: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Cancel {
    /// Asks the story to end; wakes those that wait in [`Cancel::or`].
    pub fn set(&self) {
        if !self.0.set.replace(true) {
            let waiting = std::mem::take(&mut *self.0.waiting.borrow_mut());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// True once set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.set.get()
    }

    /// For use with `?` between two steps.
    ///
    /// # Errors
    /// [`Cancelled`] once set.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_set() { Err(Cancelled) } else { Ok(()) }
    }

    /// Waits for `wait` or for the cancelling, whichever comes first. Only for waits that leave nothing behind when dropped;
    /// a step that changes the world is awaited plainly.
    ///
    /// # Errors
    /// [`Cancelled`] when set before `wait` was ready.
    pub async fn or<F: Future>(&self, wait: F) -> Result<F::Output, Cancelled> {
        let mut wait = std::pin::pin!(wait);
        std::future::poll_fn(|cx| {
            if self.is_set() {
                return Poll::Ready(Err(Cancelled));
            }
            if let Poll::Ready(value) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            let mut waiting = self.0.waiting.borrow_mut();
            if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// The first of two futures; the other is dropped, so both must be plain waits.
pub enum Either<A, B> {
    /// The first came first (or both at once).
    First(A),
    /// The second came first.
    Second(B),
}

/// Waits for whichever is ready first, looking at `a` before `b`.
pub async fn first<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = a.as_mut().poll(cx) {
            return Poll::Ready(Either::First(value));
        }
        b.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

/// A value that is set once and that any number of tasks wait for (a VM's exit, a launch's outcome).
pub struct Latch<T: Clone>(Rc<LatchState<T>>);

struct LatchState<T> {
    value: RefCell<Option<T>>,
    waiting: RefCell<Vec<Waker>>,
}

impl<T: Clone> Clone for Latch<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: Clone> Default for Latch<T> {
    fn default() -> Self {
        Self(Rc::new(LatchState { value: RefCell::new(None), waiting: RefCell::default() }))
    }
}

impl<T: Clone> Latch<T> {
    /// Sets the value and wakes all who wait; a second value is ignored.
    pub fn set(&self, value: T) {
        let mut slot = self.0.value.borrow_mut();
        if slot.is_none() {
            *slot = Some(value);
            drop(slot);
            let waiting = std::mem::take(&mut *self.0.waiting.borrow_mut());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// The value, if it is there.
    #[must_use]
    pub fn get(&self) -> Option<T> {
        self.0.value.borrow().clone()
    }

    /// Waits for the value.
    pub async fn wait(&self) -> T {
        std::future::poll_fn(|cx| {
            if let Some(value) = self.get() {
                return Poll::Ready(value);
            }
            let mut waiting = self.0.waiting.borrow_mut();
            if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn tasks() -> (Tasks, Arc<AtomicUsize>) {
        let rings = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&rings);
        let ring = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (Tasks::new(Arc::new(ring)), rings)
    }

    #[test]
    fn an_answer_from_another_thread_wakes_the_task_and_rings_once() {
        let (mut tasks, rings) = tasks();
        let (answer, promise) = oneshot();
        let got = Rc::new(Cell::new(0));
        let seen = Rc::clone(&got);
        tasks.spawner().spawn("wait", async move { seen.set(promise.await.unwrap_or(-1)) });
        tasks.run_ready(Instant::now(), 10);
        assert_eq!((got.get(), tasks.len(), rings.load(Ordering::SeqCst)), (0, 1, 0));
        std::thread::spawn(move || answer.give(7)).join().expect("thread");
        assert_eq!(rings.load(Ordering::SeqCst), 1);
        tasks.run_ready(Instant::now(), 10);
        assert_eq!((got.get(), tasks.len()), (7, 0));
    }

    /// Found by measuring CPU time, not wake-ups: a loop that never sleeps does not wake up either.
    #[test]
    fn r02_the_table_is_quiet_when_every_task_waits() {
        let (mut tasks, _) = tasks();
        assert!(tasks.is_quiet());
        let (answer, promise) = oneshot();
        tasks.spawner().spawn("wait", async move {
            let _: Result<i32, Gone> = promise.await;
        });
        assert!(!tasks.is_quiet(), "a new task waits to be polled");
        tasks.run_ready(Instant::now(), 10);
        assert!(tasks.is_quiet(), "it waits for its answer");
        answer.give(1);
        assert!(!tasks.is_quiet(), "it was woken");
        tasks.run_ready(Instant::now(), 10);
        assert!(tasks.is_quiet() && tasks.is_empty());
    }

    #[test]
    fn a_dropped_answer_is_told_as_gone() {
        let (mut tasks, _) = tasks();
        let (answer, promise) = oneshot::<u8>();
        let got = Rc::new(Cell::new(None));
        let seen = Rc::clone(&got);
        tasks.spawner().spawn("wait", async move { seen.set(Some(promise.await)) });
        tasks.run_ready(Instant::now(), 10);
        drop(answer);
        tasks.run_ready(Instant::now(), 10);
        assert_eq!(got.get(), Some(Err(Gone)));
    }

    #[test]
    fn a_panicking_task_ends_alone() {
        let (mut tasks, _) = tasks();
        let done = Rc::new(Cell::new(false));
        let seen = Rc::clone(&done);
        tasks.spawner().spawn("bad", async { panic!("a bug") });
        tasks.spawner().spawn("good", async move { seen.set(true) });
        let (_, panicked) = tasks.run_ready(Instant::now(), 10);
        assert_eq!((panicked, done.get(), tasks.len()), (vec!["bad"], true, 0));
    }

    #[test]
    fn the_budget_bounds_a_turn_and_says_that_more_is_left() {
        let (mut tasks, _) = tasks();
        for _ in 0..5 {
            tasks.spawner().spawn("one", async {});
        }
        assert!(tasks.run_ready(Instant::now(), 3).0);
        assert_eq!(tasks.len(), 2);
        assert!(!tasks.run_ready(Instant::now(), 3).0);
    }

    #[test]
    fn cancel_wins_over_a_wait_that_is_not_ready_and_loses_to_one_that_is() {
        let (mut tasks, _) = tasks();
        let cancel = Cancel::default();
        let (_answer, promise) = oneshot::<()>();
        let got = Rc::new(Cell::new(None));
        let (seen, waiting) = (Rc::clone(&got), cancel.clone());
        tasks.spawner().spawn("wait", async move { seen.set(Some(waiting.or(promise).await.is_err())) });
        tasks.run_ready(Instant::now(), 10);
        assert_eq!(got.get(), None);
        cancel.set();
        tasks.run_ready(Instant::now(), 10);
        assert_eq!(got.get(), Some(true));
    }

    #[test]
    fn a_latch_wakes_everybody_and_keeps_its_first_value() {
        let (mut tasks, _) = tasks();
        let latch = Latch::default();
        let sum = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let (latch, sum) = (latch.clone(), Rc::clone(&sum));
            tasks.spawner().spawn("wait", async move {
                let value = latch.wait().await;
                sum.set(sum.get() + value);
            });
        }
        tasks.run_ready(Instant::now(), 10);
        latch.set(2);
        latch.set(9);
        tasks.run_ready(Instant::now(), 10);
        assert_eq!((sum.get(), latch.get()), (6, Some(2)));
    }
}
