//! A process held by a descriptor instead of a number: numbers are used again, descriptors are not.
//!
//! The loop polls it: it becomes readable when the process has ended, whether it is our child or one taken back after a
//! restart. A child must be reaped ([`PidFd::reap`]) or it stays as a zombie; a process that is not our child is reaped by
//! somebody else, and how it ended is not ours to know ([`Exit::Unknown`]).
//!
//! Sources: pidfd_open(2), pidfd_send_signal(2), waitid(2).
#![allow(unsafe_code)]

use super::{check, check_long, signal::Signal};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It was not our child: it is gone, and only its parent was told how.
    Unknown,
}

impl Exit {
    /// It returned 0.
    #[must_use]
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(libc::SIGKILL) => f.write_str("killed (signal 9; the kernel does so when memory runs out)"),
            Self::Signal(libc::SIGSYS) => f.write_str("killed by its sandbox (signal 31)"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Unknown => f.write_str("gone, exit code unknown"),
        }
    }
}

/// A hold on one process.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Takes hold of the process that has this number now. For a process that is not an unreaped child of ours, compare its
    /// start time afterwards: the number may have gone to another.
    ///
    /// # Errors
    /// `ESRCH` when there is no such process.
    pub fn open(pid: u32) -> io::Result<Self> {
        let no_such = || io::Error::from_raw_os_error(libc::ESRCH);
        let pid = libc::pid_t::try_from(pid).map_err(|_| no_such())?;
        // SAFETY: two plain integers; the kernel makes the descriptor close-on-exec by itself.
        let fd = check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel just gave us this descriptor, nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Sends a signal. One to a process that has ended already is no error: what was wanted is so.
    ///
    /// # Errors
    /// `EPERM` for a process of another user.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        self.send_number(signal.number())
    }

    /// Whether we may send it signals, without sending one.
    ///
    /// # Errors
    /// `EPERM` when we may not.
    pub fn may_send(&self) -> io::Result<()> {
        self.send_number(0)
    }

    fn send_number(&self, number: libc::c_int) -> io::Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is held by self; a null info asks for what kill(2) would fill in.
        let sent =
            check_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), number, info, 0) });
        match sent {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether the process has ended, without waiting and without reaping it.
    ///
    /// # Errors
    /// What poll(2) says; not in ordinary life.
    pub fn has_exited(&self) -> io::Result<bool> {
        self.wait(Duration::ZERO)
    }

    /// Waits for its end, at most that long; false when it still runs. For worker threads: the loop polls instead.
    ///
    /// # Errors
    /// What poll(2) says; not in ordinary life.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one entry, which outlives the call.
        check(unsafe { libc::poll(&raw mut poll, 1, limit) }).map(|ready| ready > 0)
    }

    /// How it ended, or `None` while it runs. Clears the zombie of a child of ours; a second call gives [`Exit::Unknown`].
    ///
    /// # Errors
    /// What waitid(2) says; not in ordinary life.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        match self.wait_now() {
            Ok(exit) => Ok(exit),
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(self.has_exited()?.then_some(Exit::Unknown)),
            Err(e) => Err(e),
        }
    }

    fn wait_now(&self) -> io::Result<Option<Exit>> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let id = libc::id_t::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)?;
        // SAFETY: info is memory of ours of the right size; zeroes stay in it when nothing has ended.
        check(unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG) })?;
        // SAFETY: siginfo_t is plain numbers: all zeroes or what waitid wrote are both valid, and waitid fills the two fields
        // that si_pid and si_status read.
        let (info, pid, status) = unsafe {
            let info = info.assume_init();
            (info, info.si_pid(), info.si_status())
        };
        Ok((pid != 0).then_some(if info.si_code == libc::CLD_EXITED {
            Exit::Code(status)
        } else {
            Exit::Signal(status)
        }))
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    /// Waits for the end without sleeping for luck: the descriptor itself says when.
    pub(crate) fn wait(process: &PidFd) {
        assert!(process.wait(Duration::from_secs(20)).unwrap(), "it did not end within 20 s");
    }

    #[expect(clippy::zombie_processes, reason = "reaping by descriptor is what is tested")]
    fn start(script: &str) -> PidFd {
        let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        PidFd::open(child.id()).unwrap()
    }

    #[test]
    fn a_childs_exit_code_is_told_once() {
        let process = start("exit 7");
        wait(&process);
        assert!(process.has_exited().unwrap());
        assert_eq!(process.reap().unwrap(), Some(Exit::Code(7)));
        assert_eq!(process.reap().unwrap(), Some(Exit::Unknown));
    }

    #[test]
    fn a_running_child_is_left_alone_and_a_killed_one_says_so() {
        let process = start("exec sleep 60");
        assert!(!process.has_exited().unwrap());
        process.may_send().unwrap();
        assert_eq!(process.reap().unwrap(), None, "being asked ends nothing");
        process.send(Signal::Kill).unwrap();
        wait(&process);
        assert_eq!(process.reap().unwrap(), Some(Exit::Signal(9)));
        process.send(Signal::Kill).unwrap();
    }

    #[test]
    fn a_process_that_is_not_our_child_ends_with_an_unknown_code() {
        // The shell ends at once; the sleep is then somebody else's child. Its number comes by the pipe.
        let out = Command::new("/bin/sh").args(["-c", "sleep 60 >/dev/null 2>&1 & echo $!"]).output().unwrap();
        let process = PidFd::open(String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()).unwrap();
        assert_eq!(process.reap().unwrap(), None);
        process.send(Signal::Terminate).unwrap();
        wait(&process);
        assert_eq!(process.reap().unwrap(), Some(Exit::Unknown));
    }

    #[test]
    fn a_process_of_another_user_may_not_be_signalled() {
        let other = std::fs::metadata("/proc/1").unwrap().uid();
        // Root may signal everybody.
        if ![0, other].contains(&crate::sys::user::euid()) {
            let refused = PidFd::open(1).unwrap().may_send().unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_number_nobody_has_is_refused() {
        assert_eq!(PidFd::open(u32::MAX).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(PidFd::open(0x3fff_ffff).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
