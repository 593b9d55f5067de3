//! Work for one owner, done in order on a pool's threads without waiting for each answer: the next item is there when one is done.
//!
//! A thread that has an upload's piece in hand finds the next one in the lane, and does not have to sleep and be woken in between.
//! What the work is done on (the sink) goes from thread to thread with the lane, never to two at once. After the first error nothing
//! more is done.

use super::Pool;
use crate::reactor::task::{Answer, Promise, oneshot};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who waits for an item.
type Waiting<T, E> = Answer<(T, Result<(), E>)>;

struct State<S, T, E> {
    /// Away while a thread works on it.
    sink: Option<S>,
    waiting: VecDeque<(T, Waiting<T, E>)>,
    failed: bool,
}

/// See the file's page.
pub struct Lane<S, T, E> {
    pool: Pool,
    state: Arc<Mutex<State<S, T, E>>>,
    work: fn(&mut S, &T) -> Result<(), E>,
}

/// What comes back of an item: itself, and how it went.
pub type Done<T, E> = Promise<(T, Result<(), E>)>;

fn lock<S, T, E>(state: &Mutex<State<S, T, E>>) -> MutexGuard<'_, State<S, T, E>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Send + 'static, T: Send + 'static, E: Send + 'static> Lane<S, T, E> {
    /// A lane whose items `work` brings to `sink`.
    #[must_use]
    pub fn new(pool: &Pool, sink: S, work: fn(&mut S, &T) -> Result<(), E>) -> Self {
        let state = State { sink: Some(sink), waiting: VecDeque::new(), failed: false };
        Self { pool: pool.clone(), state: Arc::new(Mutex::new(state)), work }
    }

    /// Adds an item. The caller bounds how many he adds before he waits. The promise breaks when the work panicked, or when an
    /// item before this one failed.
    #[must_use]
    pub fn add(&self, item: T) -> Done<T, E> {
        let (answer, promise) = oneshot();
        let sink = {
            let mut state = lock(&self.state);
            if state.failed {
                return promise;
            }
            state.waiting.push_back((item, answer));
            state.sink.take()
        };
        if let Some(sink) = sink {
            let (state, work) = (Arc::clone(&self.state), self.work);
            self.pool.push_always(Box::new(move || serve(sink, &state, work)));
        }
        promise
    }

    /// The sink, once every item's promise was waited for. `None` when the work panicked.
    #[must_use]
    pub fn into_sink(self) -> Option<S> {
        lock(&self.state).sink.take()
    }
}

fn serve<S, T, E>(mut sink: S, state: &Mutex<State<S, T, E>>, work: fn(&mut S, &T) -> Result<(), E>) {
    loop {
        let Some((item, answer)) = lock(state).waiting.pop_front() else {
            lock(state).sink = Some(sink);
            return;
        };
        let outcome = work(&mut sink, &item);
        let mut now = lock(state);
        now.failed |= outcome.is_err();
        if now.failed {
            // Their promises break.
            now.waiting.clear();
        }
        if now.waiting.is_empty() {
            // Before the answer: who hears of the last item may ask for the sink.
            now.sink = Some(sink);
            drop(now);
            return answer.give((item, outcome));
        }
        drop(now);
        answer.give((item, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    fn write(sink: &mut Vec<u32>, item: &u32) -> Result<(), &'static str> {
        if *item == 99 {
            return Err("no");
        }
        sink.push(*item);
        Ok(())
    }

    #[test]
    fn items_are_worked_on_in_order_and_the_sink_comes_back() {
        let sink = run(async {
            let pool = Pool::start("lane", 2, 1).expect("pool");
            let lane = Lane::new(&pool, Vec::new(), write);
            let mut out = VecDeque::new();
            for item in 100..1100 {
                out.push_back(lane.add(item));
                if out.len() == 3 {
                    let (back, outcome) = out.pop_front().expect("three").await.expect("done");
                    assert_eq!((back, outcome), (item - 2, Ok(())));
                }
            }
            for done in out {
                done.await.expect("done").1.expect("written");
            }
            lane.into_sink().expect("idle")
        });
        assert_eq!(sink, (100..1100).collect::<Vec<u32>>());
    }

    #[test]
    fn nothing_is_done_after_an_error() {
        let sink = run(async {
            let pool = Pool::start("lane", 2, 1).expect("pool");
            let lane = Lane::new(&pool, Vec::new(), write);
            let out: Vec<_> = [1, 99, 2, 3].into_iter().map(|item| lane.add(item)).collect();
            let mut outcomes = Vec::new();
            for done in out {
                outcomes.push(done.await.map(|(_, outcome)| outcome).ok());
            }
            assert_eq!(outcomes[..2], [Some(Ok(())), Some(Err("no"))]);
            lane.into_sink().expect("idle")
        });
        assert_eq!(sink, [1]);
    }
}
