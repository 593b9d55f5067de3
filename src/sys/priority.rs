//! How much of a processor a thread gets beside others.
//!
//! Sources: setpriority(2): on Linux the nice value is a thread's own. sched_setattr(2) and, for what the run time of an ordinary
//! thread means since Linux 6.12, the kernel's scheduler/sched-eevdf.rst: a request for short slices, which come sooner.
#![allow(unsafe_code)]

use super::check;
use std::io;

/// Puts the calling thread before others that want the processor (nice -10).
///
/// # Errors
/// Without the right to (`CAP_SYS_NICE`); then it stays where it is.
pub fn step_forward() -> io::Result<()> {
    // SAFETY: plain integers; 0 means the calling thread.
    let nicer = check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) }).map(drop);
    // On a host that groups processes by session (sched(7), autogroup), priorities count inside a group only, and PostgreSQL and every
    // QEMU have sessions of their own. Where the kernel has no such file, or in a service's control group, this does nothing.
    let _ = std::fs::write("/proc/self/autogroup", "-10");
    ask_for_short_slices(if nicer.is_ok() { -10 } else { 0 });
    nicer
}

/// The shortest slice the kernel gives.
const SLICE_NS: u64 = 100_000;

/// Who asks for short slices is let in sooner after it was woken. Older kernels ignore it.
fn ask_for_short_slices(nice: i32) {
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0),
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure is as long as its first field says, and lives through the call; 0 means the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Puts the calling thread a little behind others that want the processor (nice 5). Not further: guests that boot can take all
/// processors for minutes, and people want to log in meanwhile.
///
/// # Errors
/// What the kernel says; not in ordinary life: a thread may always step back.
pub fn step_back() -> io::Result<()> {
    // SAFETY: plain integers; 0 means the calling thread.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) }).map(drop)
}
