//! What the standard library does not offer of Linux: the only room of the house with `unsafe` in it.
//!
//! Rules of the room:
//! - One system call per function, wrapped so that its callers are safe whatever they pass. `SAFETY` names the invariant.
//! - No policy: which signals, limits and uids to use is the caller's business. No logging, no threads.
//! - Every file descriptor made here is close-on-exec, as every one of the standard library is. What a child gets (its three
//!   standard streams, its own images) is given to it by name; QEMU never inherits a listener, a database or another machine's socket.
//! - Linux only. A kernel without pidfd (before 5.4) is refused by `PidFd::open` with what the kernel said.
//!
//! Sources: the manual pages named in each file.

pub mod child;
pub mod fifo;
pub mod file;
pub mod kvm;
pub mod landlock;
pub mod lock;
pub mod pidfd;
pub mod priority;
pub mod process;
pub mod rights;
pub mod rlimit;
pub mod signal;
pub mod sockopt;
pub mod statvfs;
pub mod user;

use std::io;

/// The C convention: -1 means "look at errno".
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that give a `long`.
fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
