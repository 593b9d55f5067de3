//! Worker threads for what blocks: files and processes (`disk`), password hashing (`hash`).
//!
//! A pool has a bounded queue; a full one refuses at once ([`Refused::Full`]) so that the caller can answer 503 instead of
//! growing memory. Answers come back by [`oneshot`]. Threads never touch sockets of the loop.
//! A job that panics ends alone: its answer is dropped, the thread goes on.

pub mod hash;
pub mod lane;

use crate::reactor::task::oneshot;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// Why a job gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full; nothing was done. Try again in a moment.
    Full,
    /// The job broke off in the middle (a bug; the log has it).
    Broke,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the server is busy, try again in a moment",
            Self::Broke => "an internal job broke off; the server's log says why",
        })
    }
}

/// Named threads that share one bounded queue. Dropping the last handle ends them after the queued jobs.
#[derive(Clone)]
pub struct Pool(Arc<Handle>);

/// What the handles share; its end is the threads'.
struct Handle {
    queue: Arc<Queue>,
    room: usize,
    refused: AtomicU64,
}

/// One wake a job: a channel behind a lock would wake a second thread to hold the lock.
#[derive(Default)]
struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    there_is_one: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Job>, bool)> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.lock().1 = true;
        self.queue.there_is_one.notify_all();
    }
}

impl Pool {
    /// Starts `threads` threads called `name`, with room for `queue` jobs.
    ///
    /// # Errors
    /// The system's, when no thread can be made.
    pub fn start(name: &str, threads: usize, queue: usize) -> std::io::Result<Self> {
        Self::start_with(name, threads, queue, || ())
    }

    /// As [`Pool::start`]; its threads step back behind others that want the processor.
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub fn start_behind(name: &str, threads: usize, queue: usize) -> std::io::Result<Self> {
        Self::start_with(name, threads, queue, || {
            if let Err(e) = crate::sys::priority::step_back() {
                let thread = std::thread::current();
                log::warn!("thread {} keeps its priority: {e}", thread.name().unwrap_or("?"));
            }
        })
    }

    /// As [`Pool::start`]; each thread runs `prepare` first.
    fn start_with(name: &str, threads: usize, queue: usize, prepare: fn()) -> std::io::Result<Self> {
        let shared = Arc::new(Queue::default());
        for _ in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                prepare();
                serve(&shared);
            })?;
        }
        Ok(Self(Arc::new(Handle { queue: shared, room: queue, refused: AtomicU64::new(0) })))
    }

    /// As [`Pool::call`] for work that was let in already: it takes its turn however many wait.
    ///
    /// # Errors
    /// [`Refused::Broke`].
    pub async fn call_in_turn<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (answer, promise) = oneshot();
        self.push_always(Box::new(move || answer.give(job())));
        promise.await.map_err(|_| Refused::Broke)
    }

    /// Jobs that were refused because too many waited.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Jobs that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.queue.lock().0.len()
    }

    /// Puts a job behind the others. Only for what is bounded elsewhere: a job a connection or so.
    fn push_always(&self, job: Job) {
        self.0.queue.lock().0.push_back(job);
        self.0.queue.there_is_one.notify_one();
    }

    /// Runs `job` on the pool and waits for its value.
    ///
    /// # Errors
    /// [`Refused`]; with [`Refused::Full`] the job did not run.
    pub async fn call<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        let (answer, promise) = oneshot();
        let job = move || answer.give(job());
        match self.push(Box::new(job)) {
            Ok(()) => promise.await.map_err(|_| Refused::Broke),
            Err(_) => Err(Refused::Full),
        }
    }

    /// Puts a job behind the others, or gives it back when there are too many.
    fn push(&self, job: Job) -> Result<(), Job> {
        let mut jobs = self.0.queue.lock();
        if jobs.0.len() >= self.0.room {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return Err(job);
        }
        jobs.0.push_back(job);
        drop(jobs);
        self.0.queue.there_is_one.notify_one();
        Ok(())
    }
}

fn serve(queue: &Queue) {
    loop {
        let mut jobs = queue.lock();
        let job = loop {
            match jobs.0.pop_front() {
                Some(job) => break job,
                None if jobs.1 => return,
                None => jobs = queue.there_is_one.wait(jobs).unwrap_or_else(PoisonError::into_inner),
            }
        };
        // The lock is never held while a job runs.
        drop(jobs);
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            log::error!("a job on thread {} panicked", std::thread::current().name().unwrap_or("?"));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::reactor::task::Tasks;
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::mpsc;
    use std::time::Instant;

    /// Runs one story to its end on this thread.
    pub(crate) fn run<T: 'static>(story: impl Future<Output = T> + 'static) -> T {
        let (ring, rung) = mpsc::channel();
        let mut tasks = Tasks::new(Arc::new(move || {
            // The test may have ended.
            let _ = ring.send(());
        }));
        let out = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&out);
        tasks.spawner().spawn("test", async move { *slot.borrow_mut() = Some(story.await) });
        loop {
            tasks.run_ready(Instant::now(), 100);
            if let Some(value) = out.borrow_mut().take() {
                return value;
            }
            rung.recv_timeout(std::time::Duration::from_secs(20)).expect("the story got no wake within 20 s");
        }
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_a_panic_costs_only_its_own_answer() {
        let pool = Pool::start("test", 1, 1).expect("pool");
        let (open, gate) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        let answers = run(async move {
            let (pool, other) = (pool.clone(), pool);
            let held = other.call(move || {
                started.send(()).expect("test waits");
                gate.recv().expect("test opens");
                1
            });
            let mut held = Box::pin(held);
            // Start it, without waiting for its end.
            std::future::poll_fn(|cx| std::task::Poll::Ready(held.as_mut().poll(cx).is_pending())).await;
            running.recv().expect("job runs");
            let mut queued = Box::pin(pool.call(|| panic!("a bug")));
            std::future::poll_fn(|cx| std::task::Poll::Ready(queued.as_mut().poll(cx).is_pending())).await;
            let full = pool.call(|| 3).await;
            open.send(()).expect("job waits");
            assert_eq!(pool.refused(), 1);
            (held.await, queued.await, full, pool.call(|| 4).await)
        });
        assert_eq!(answers, (Ok(1), Err(Refused::Broke), Err(Refused::Full), Ok(4)));
    }
}
