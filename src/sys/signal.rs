//! Signals as something to read: they are blocked for every thread and come out of a file descriptor the loop polls.
//!
//! A handler would run in the middle of anything; a blocked signal waits until it is asked for. [`block`] must run before the
//! first thread starts, because threads inherit the mask and a thread without it would take the signal and die of it.
//! A blocked mask is inherited through exec too: `sys::child` empties it in every child.
//!
//! SIGPIPE is ignored: a browser that went away is an error of one write, not the end of the house.
//!
//! Sources: signalfd(2), pthread_sigmask(3), signal(7).
#![allow(unsafe_code)]

use super::check;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The signals the house gets or sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read certificates and settings again.
    Hangup,
    /// SIGINT: Ctrl-C; PostgreSQL's fast shutdown.
    Interrupt,
    /// SIGQUIT: PostgreSQL's immediate shutdown.
    Quit,
    /// SIGTERM: drain and end.
    Terminate,
    /// SIGUSR1: write down what is going on.
    User1,
    /// SIGKILL: cannot be blocked or read, only sent.
    Kill,
}

impl Signal {
    const ALL: [Self; 6] = [Self::Hangup, Self::Interrupt, Self::Quit, Self::Terminate, Self::User1, Self::Kill];

    /// The kernel's number for it.
    pub(crate) const fn number(self) -> libc::c_int {
        match self {
            Self::Hangup => libc::SIGHUP,
            Self::Interrupt => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Terminate => libc::SIGTERM,
            Self::User1 => libc::SIGUSR1,
            Self::Kill => libc::SIGKILL,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| u32::try_from(signal.number()) == Ok(number))
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set and cannot fail on memory that is ours.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = empty_set();
    for signal in signals {
        // SAFETY: the set was initialised by sigemptyset; the number is one of the kernel's own.
        unsafe { libc::sigaddset(&raw mut set, signal.number()) };
    }
    set
}

fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is initialised and outlives the call; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, std::ptr::from_ref(set), std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Blocks these signals for this thread and all it starts, and ignores SIGPIPE. Call it before the first thread.
///
/// # Errors
/// What the kernel says.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, &set_of(signals))?;
    // SAFETY: SIG_IGN is no function of ours, so nothing can run at a bad time.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Unblocks every signal: for a child between fork and exec. Async-signal-safe, allocates nothing.
pub(super) fn unblock_all() -> io::Result<()> {
    change_mask(libc::SIG_SETMASK, &empty_set())
}

/// A file descriptor that becomes readable when one of its signals waits. Non-blocking.
#[derive(Debug)]
pub struct SignalFd {
    file: File,
}

impl SignalFd {
    /// For signals that are blocked already: one that is not goes its old way and is never read here.
    ///
    /// # Errors
    /// What the kernel says, such as too many open files.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: -1 asks for a new descriptor; the set is initialised and outlives the call.
        let fd = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) })?;
        // SAFETY: the kernel just gave us this descriptor, nobody else knows it.
        Ok(Self { file: File::from(unsafe { OwnedFd::from_raw_fd(fd) }) })
    }

    /// The next waiting signal, or `None` when there is none. Read until `None`: the loop is told only once.
    pub fn read(&mut self) -> Option<Signal> {
        // The kernel gives whole records of 128 bytes; the first field is the signal's number.
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        self.file.read_exact(&mut record).ok()?;
        let [a, b, c, d, ..] = record;
        Signal::from_number(u32::from_ne_bytes([a, b, c, d]))
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_to_this_thread(signal: Signal) {
        // SAFETY: pthread_self is always a live thread.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), signal.number()) }, 0);
    }

    #[test]
    fn a_blocked_signal_is_read_instead_of_killing() {
        // A thread of its own, so that the other tests keep their mask.
        std::thread::spawn(|| {
            block(&[Signal::User1, Signal::Hangup]).unwrap();
            let mut fd = SignalFd::new(&[Signal::User1, Signal::Hangup]).unwrap();
            assert_eq!(fd.read(), None);
            send_to_this_thread(Signal::User1);
            assert_eq!(fd.read(), Some(Signal::User1));
            send_to_this_thread(Signal::Hangup);
            assert_eq!(fd.read(), Some(Signal::Hangup));
            assert_eq!(fd.read(), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn every_signal_is_found_by_its_number() {
        for signal in Signal::ALL {
            assert_eq!(Signal::from_number(u32::try_from(signal.number()).unwrap()), Some(signal));
        }
        assert_eq!(Signal::from_number(0), None);
    }
}
