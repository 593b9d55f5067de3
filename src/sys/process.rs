//! Is that still the same process? A pid alone does not say: numbers are used again.
//!
//! Pid, start time (in clock ticks since boot) and the boot's id together name a process for ever. They are kept in the
//! database so that a restarted server finds its machines and never signals a stranger.
//!
//! Sources: proc(5), the file `/proc/PID/stat`; sysconf(3); clock_gettime(2).
#![allow(unsafe_code)]

use super::check;
use std::fs;
use std::io;
use std::time::Duration;

/// When the process started, in clock ticks since boot; `None` when there is none, or only its zombie.
///
/// # Errors
/// When `/proc` cannot be read or holds something else than expected.
pub fn start_time(pid: u32) -> io::Result<Option<u64>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => parse(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as proc(5) says"))),
        // ESRCH: it ended between open and read.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// `pid (name) state … start …`: the name may hold anything, so fields are counted from the last parenthesis.
fn parse(stat: &[u8]) -> Option<Option<u64>> {
    let end_of_name = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is field 3, the start time is field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some((!matches!(state, "Z" | "X" | "x")).then_some(start))
}

/// Whether that pid is still the process that started then.
#[must_use]
pub fn is_same_process(pid: u32, start: u64) -> bool {
    matches!(start_time(pid), Ok(Some(now)) if now == start)
}

/// The id of this boot: another one means that every pid written down is void.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// How long this boot has run, without the time the host slept: the clock of `Instant`, which nobody sets.
///
/// # Errors
/// None on any Linux.
pub fn uptime() -> io::Result<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call, which only writes it.
    check(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) })?;
    let (seconds, rest) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Ok(Duration::new(seconds.unwrap_or_default(), rest.unwrap_or_default()))
}

/// Bytes of a page, in which the kernel counts a process's memory.
#[must_use]
pub fn page_bytes() -> u64 {
    // SAFETY: a number in, a number out.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Clock ticks in a second, in which the kernel counts a process's time.
#[must_use]
pub fn ticks_per_second() -> u64 {
    // SAFETY: as above.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pidfd::{PidFd, tests::wait};

    #[test]
    fn a_name_full_of_parentheses_and_spaces_is_stepped_over() {
        let line =
            b"77 (a) S 1 (b) R) S 1 77 77 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 9 9 18446744073709551615 1\n";
        assert_eq!(parse(line), Some(Some(4711)));
        assert_eq!(parse(b"77 (x) Z 1 77 77 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 9"), Some(None));
        assert_eq!(parse(b"77 (x) S 1 2"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn we_are_the_process_we_are() {
        let start = start_time(std::process::id()).unwrap().unwrap();
        assert!(is_same_process(std::process::id(), start));
        assert!(!is_same_process(std::process::id(), start + 1));
    }

    #[test]
    fn a_zombie_and_a_missing_process_are_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        wait(&PidFd::open(child.id()).unwrap());
        assert_eq!(start_time(child.id()).unwrap(), None);
        child.wait().unwrap();
        assert_eq!(start_time(child.id()).unwrap(), None);
    }

    #[test]
    fn pages_and_ticks_have_a_size() {
        assert!(page_bytes() >= 4096 && page_bytes().is_power_of_two());
        assert!((1..=10_000).contains(&ticks_per_second()));
    }

    #[test]
    fn uptime_goes_on_as_instants_do() {
        let (before, began) = (uptime().unwrap(), std::time::Instant::now());
        let (took, after) = (began.elapsed(), uptime().unwrap());
        assert!(before > Duration::ZERO && after >= before + took, "{before:?} {took:?} {after:?}");
    }

    #[test]
    fn the_boot_has_an_id() {
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
