//! The loop's parts: readiness ([`Io`]), time ([`Clock`]), the bell that ends its sleep, and stories ([`task`]).
//!
//! Nothing here knows of HTTP, TLS or VMs. `O` is whatever the house uses to say who owns a descriptor or a timer.
//!
//! Readiness is edge-triggered and every source is registered once, for reading and writing together, and never again: an
//! owner remembers that it is readable or writable until a call says `WouldBlock`. So no code path "arms" anything, and no
//! system call is spent on interest.

pub mod pulse;
pub mod task;
pub mod timers;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use timers::{Clock, Due};

/// The waker's token; owners get the numbers above it.
const BELL: Token = Token(0);

/// Ends the loop's sleep from any thread; costs a system call only while the loop really sleeps.
pub struct Bell {
    asleep: AtomicBool,
    waker: Waker,
}

impl Bell {
    /// Makes the loop run another turn. The caller has put what it has to say on a queue before.
    pub fn ring(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // An error here would mean the eventfd is gone, and with it the loop.
            let _ = self.waker.wake();
        }
    }
}

/// Which edges an event carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Reading may succeed.
    pub readable: bool,
    /// Writing may succeed.
    pub writable: bool,
    /// The peer will send no more (or is gone).
    pub read_closed: bool,
}

/// Who owns which descriptor. A token is used once in the life of the process, so a stale event finds nobody.
pub struct Io<O> {
    registry: Registry,
    owners: RefCell<HashMap<Token, O>>,
    next: Cell<usize>,
}

impl<O: Copy> Io<O> {
    /// Registers `source` for both edges.
    ///
    /// # Errors
    /// The system's (out of memory or of epoll watches).
    pub fn add(&self, source: &mut impl Source, owner: O) -> io::Result<Token> {
        let token = Token(self.next.get());
        self.registry.register(source, token, Interest::READABLE | Interest::WRITABLE)?;
        self.next.set(token.0 + 1);
        self.owners.borrow_mut().insert(token, owner);
        Ok(token)
    }

    /// Registers a bare descriptor for reading (signalfd, pidfd, pipe). The caller keeps it open until [`Io::remove_fd`].
    ///
    /// # Errors
    /// As [`Io::add`].
    pub fn add_fd(&self, fd: RawFd, owner: O) -> io::Result<Token> {
        let token = Token(self.next.get());
        self.registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        self.next.set(token.0 + 1);
        self.owners.borrow_mut().insert(token, owner);
        Ok(token)
    }

    /// Forgets a source before it is closed.
    pub fn remove(&self, source: &mut impl Source, token: Token) {
        self.owners.borrow_mut().remove(&token);
        // Closing the descriptor does the same; an error here changes nothing.
        let _ = self.registry.deregister(source);
    }

    /// Forgets a bare descriptor before it is closed.
    pub fn remove_fd(&self, fd: RawFd, token: Token) {
        self.remove(&mut SourceFd(&fd), token);
    }
}

/// The poll and what belongs to it.
pub struct Reactor<O> {
    poll: Poll,
    events: Events,
    bell: Arc<Bell>,
    io: Rc<Io<O>>,
}

impl<O: Copy> Reactor<O> {
    /// A reactor that owns nothing yet.
    ///
    /// # Errors
    /// The system's (no descriptor left).
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = Arc::new(Bell { asleep: AtomicBool::new(false), waker: Waker::new(poll.registry(), BELL)? });
        let io = Rc::new(Io {
            registry: poll.registry().try_clone()?,
            owners: RefCell::default(),
            next: Cell::new(BELL.0 + 1),
        });
        Ok(Self { poll, events: Events::with_capacity(1024), bell, io })
    }

    /// The bell, for other threads and for wakers.
    #[must_use]
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// The table of owners, for who opens sockets.
    #[must_use]
    pub fn io(&self) -> Rc<Io<O>> {
        Rc::clone(&self.io)
    }

    /// Sleeps until an event, the bell or `deadline`, and puts who is ready into `ready`. `idle` is asked once the bell can be
    /// heard: it says that nothing was queued meanwhile, and so closes the gap between looking and sleeping.
    ///
    /// # Errors
    /// The system's; an interrupted call is none.
    pub fn wait(
        &mut self,
        deadline: Option<Instant>,
        idle: impl FnOnce() -> bool,
        ready: &mut Vec<(O, Ready)>,
    ) -> io::Result<Instant> {
        self.bell.asleep.store(true, Ordering::SeqCst);
        let left = || deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = if idle() { left() } else { Some(Duration::ZERO) };
        let polled = self.poll.poll(&mut self.events, timeout);
        self.bell.asleep.store(false, Ordering::SeqCst);
        match polled {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        let owners = self.io.owners.borrow();
        for event in &self.events {
            if let Some(owner) = owners.get(&event.token()) {
                let failed = event.is_error();
                ready.push((
                    *owner,
                    Ready {
                        readable: event.is_readable() || event.is_read_closed() || failed,
                        writable: event.is_writable() || event.is_write_closed() || failed,
                        read_closed: event.is_read_closed() || failed,
                    },
                ));
            }
        }
        Ok(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_passed_during_the_turn_is_not_waited_for_again() {
        let mut reactor = Reactor::<u8>::new().expect("epoll");
        let half = Duration::from_millis(500);
        let due = Instant::now() + half;
        // A turn that takes longer than there was to wait.
        std::thread::park_timeout(half * 2);
        let began = Instant::now();
        let now = reactor.wait(Some(due), || true, &mut Vec::new()).expect("a wait");
        assert!(now >= due && now - began < half, "{:?} late", now - began);
    }
}
