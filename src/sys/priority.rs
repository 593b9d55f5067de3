//! How much of a processor a thread gets beside others.
//!
//! Source: setpriority(2): on Linux the nice value is a thread's own.
#![allow(unsafe_code)]

use super::check;
use std::io;

/// Puts the calling thread before others that want the processor (nice -10).
///
/// # Errors
/// Without the right to (`CAP_SYS_NICE`); then it stays where it is.
pub fn step_forward() -> io::Result<()> {
    // SAFETY: plain integers; 0 means the calling thread.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) }).map(drop)
}

/// Puts the calling thread behind all others that want the processor (nice 19). It still gets what is left, which on an idle host
/// is all of it.
///
/// # Errors
/// What the kernel says; not in ordinary life: a thread may always step back.
pub fn step_back() -> io::Result<()> {
    // SAFETY: plain integers; 0 means the calling thread.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }).map(drop)
}
