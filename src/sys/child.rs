//! Starting a program that outlives us if need be: QEMU.
//!
//! A child gets nothing it was not given: an empty environment but for a handful of names, `/dev/null` to read, two pipes (named ones, where a
//! later server shall read on) to write, the files it is handed, a session of its own (so Ctrl-C in the server's terminal is not for it), an empty signal mask,
//! umask 077, no way to new privileges, and, where asked, a uid and control groups of its own. All other descriptors close on exec, also
//! those that a library or whoever started the server forgot to mark.
//!
//! Order between fork and exec matters: the session and the descriptors need no rights; control groups are joined and groups set
//! while we still may; the gid goes before the uid, because afterwards there are no rights left; `no_new_privs` comes last. Only
//! async-signal-safe calls are made there, and nothing is allocated.
//!
//! The child is not waited for here and leaves no zombie as long as its [`PidFd`] is reaped. It survives the server: there is no
//! parent-death signal, on purpose (a restart takes running machines back).
//!
//! Sources: fork(2), setsid(2), credentials(7), capabilities(7), prctl(2), close_range(2), cgroups(7).
#![allow(unsafe_code)]

use super::landlock::{self, Bounds};
use super::{check, check_long, fifo, pidfd::PidFd, process, signal};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where programs are looked for by a child; ours may be anything.
const SAFE_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Names of a child's output in its folder.
pub const STDOUT: &str = "stdout";
/// See [`STDOUT`].
pub const STDERR: &str = "stderr";

/// What to start, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Spawn<'a> {
    /// The program's path.
    pub program: &'a OsStr,
    /// Its arguments, without the program's name.
    pub args: &'a [OsString],
    /// Its working folder, also its `HOME` and `TMPDIR`.
    pub cwd: &'a Path,
    /// The user and group it runs as; `None` keeps ours. Needs root.
    pub uid_gid: Option<(u32, u32)>,
    /// Its further groups, such as the one that may open `/dev/kvm`. Only looked at together with `uid_gid`.
    pub groups: &'a [u32],
    /// Files it gets under the numbers they have here.
    pub files: &'a [File],
    /// It may do what a service manager gave us the right to do; only for programs that change the host for us.
    pub keeps_rights: bool,
    /// The `cgroup.procs` files of the control groups it is born into, open for writing.
    pub cgroups: &'a [File],
    /// What it may write to; `None` is whatever its user may.
    pub bounds: Option<&'a Bounds>,
    /// The folder in which its output gets names, [`STDOUT`] and [`STDERR`], for who takes it over; else it dies with us.
    pub output: Option<&'a Path>,
}

/// A program that was started.
#[derive(Debug)]
pub struct Child {
    /// Its number, for people and `/proc`.
    pub pid: u32,
    /// Its start time in clock ticks since boot; 0 where it has ended by now.
    pub start: u64,
    /// The hold on it: to poll, signal and reap it.
    pub pidfd: PidFd,
    /// The reading end of its standard output; non-blocking.
    pub stdout: OwnedFd,
    /// The reading end of its standard error; non-blocking.
    pub stderr: OwnedFd,
}

impl<'a> Spawn<'a> {
    /// A program as ourselves, with nothing handed to it.
    #[must_use]
    pub const fn new(program: &'a OsStr, args: &'a [OsString], cwd: &'a Path) -> Self {
        Self {
            program,
            args,
            cwd,
            uid_gid: None,
            groups: &[],
            files: &[],
            keeps_rights: false,
            cgroups: &[],
            bounds: None,
            output: None,
        }
    }

    /// Starts it. Returns when the program itself runs, so a missing program or right is an error here.
    ///
    /// # Errors
    /// What fork, the steps above or exec say.
    pub fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(self.program);
        command.args(self.args).current_dir(self.cwd).env_clear();
        command.env("PATH", SAFE_PATH).env("LC_ALL", "C.UTF-8").env("HOME", self.cwd).env("TMPDIR", self.cwd);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let named = match self.output {
            Some(folder) => {
                let (stdout, to_stdout) = fifo::make(&folder.join(STDOUT))?;
                let (stderr, to_stderr) = fifo::make(&folder.join(STDERR))?;
                command.stdout(to_stdout).stderr(to_stderr);
                Some((stdout.into(), stderr.into()))
            }
            None => None,
        };
        let numbers = |files: &[File]| files.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>();
        let (uid_gid, groups) = (self.uid_gid, self.groups.to_vec());
        let (files, cgroups, keeps_rights) = (numbers(self.files), numbers(self.cgroups), self.keeps_rights);
        let bounds = self.bounds.map(Bounds::number);
        before_exec(&mut command, move || {
            stand_apart()?;
            if !keeps_rights {
                drop_hereditary_rights()?;
            }
            files.iter().try_for_each(|fd| hand_over(*fd))?;
            cgroups.iter().try_for_each(|fd| join_group(*fd))?;
            if let Some((uid, gid)) = uid_gid {
                become_user(uid, gid, &groups)?;
            }
            forbid_new_privs()?;
            bounds.map_or(Ok(()), landlock::bind)
        });
        let mut child = command.spawn()?;
        match take_hold(&mut child, named) {
            Ok(held) => Ok(held),
            Err(e) => {
                // It runs, but we cannot watch it: take it back, so that an error means that nothing was started.
                child.kill()?;
                child.wait()?;
                Err(e)
            }
        }
    }
}

fn take_hold(child: &mut std::process::Child, named: Option<(OwnedFd, OwnedFd)>) -> io::Result<Child> {
    let pipes = || Some((child.stdout.take()?.into(), child.stderr.take()?.into()));
    let (stdout, stderr) = named.or_else(pipes).ok_or_else(|| io::Error::other("the pipes were asked for"))?;
    set_nonblocking(&stdout)?;
    set_nonblocking(&stderr)?;
    let pidfd = PidFd::open(child.id())?;
    // A child that has ended by now has none, and is told of by its pidfd.
    let start = process::start_time(child.id())?.unwrap_or(0);
    Ok(Child { pid: child.id(), start, pidfd, stdout, stderr })
}

/// Lets a command run in a process group of its own, with an empty signal mask and no hereditary rights, and as another user (with no
/// further groups, which needs root) where one is given. It stays our child in our session; the caller waits for it.
pub fn set_apart(command: &mut Command, user: Option<(u32, u32)>) {
    command.process_group(0);
    before_exec(command, move || {
        signal::unblock_all()?;
        close_others()?;
        drop_hereditary_rights()?;
        user.map_or(Ok(()), |(uid, gid)| become_user(uid, gid, &[]))
    });
}

fn before_exec(command: &mut Command, steps: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: every step given by this file makes only async-signal-safe calls and allocates nothing; io::Error from an errno
    // is a plain number.
    unsafe { command.pre_exec(steps) };
}

/// A session, mask, umask and set of descriptors of its own.
fn stand_apart() -> io::Result<()> {
    new_session()?;
    signal::unblock_all()?;
    close_others()?;
    private_umask();
    Ok(())
}

fn new_session() -> io::Result<()> {
    // SAFETY: no arguments; a child just forked leads no group, so it is allowed.
    check(unsafe { libc::setsid() }).map(drop)
}

fn private_umask() {
    // SAFETY: a plain integer, cannot fail.
    unsafe { libc::umask(0o077) };
}

/// Marks every descriptor above the standard three, not closes them: the standard library reports a failed exec over one.
fn close_others() -> io::Result<()> {
    // SAFETY: three plain integers; marking a descriptor breaks nobody who still uses it before exec.
    let marked = check_long(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) });
    match marked {
        // Before Linux 5.11 there is no such call or flag; all descriptors of our own are marked anyway.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        other => other.map(drop),
    }
}

/// Takes the mark away again that [`close_others`] set.
fn hand_over(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain integers; the parent holds this descriptor open until the child runs.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// Writes "0", which means the writer, into a `cgroup.procs`.
fn join_group(fd: RawFd) -> io::Result<()> {
    // SAFETY: the byte is static and its length is given; the parent holds this descriptor open until the child runs.
    let written = unsafe { libc::write(fd, b"0".as_ptr().cast(), 1) };
    if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Rights that a service manager made hereditary are not the child's: neither at once (ambient) nor by a program's file (inheritable).
fn drop_hereditary_rights() -> io::Result<()> {
    let unused: libc::c_ulong = 0;
    // SAFETY: plain integers of the width prctl reads.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, unused, unused, unused) })?;
    // linux/capability.h: a version and whose, then twice the effective, the permitted and the inheritable ones.
    let (mut whose, mut rights) = ([CAPABILITY_VERSION_3, 0], [0_u32; 6]);
    // SAFETY: the kernel writes that many numbers of this version into both, which outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_capget, whose.as_mut_ptr(), rights.as_mut_ptr()) })?;
    (rights[2], rights[5]) = (0, 0);
    // SAFETY: as above; it only reads them.
    check_long(unsafe { libc::syscall(libc::SYS_capset, whose.as_mut_ptr(), rights.as_ptr()) }).map(drop)
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    set_groups(groups)?;
    set_gid(gid)?;
    set_uid(uid)
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one slice.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: a plain integer. The raw call: between fork and exec there is one thread, and the C library's wrapper would
    // look for the parent's others.
    check_long(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: as in set_gid. The saved uid is changed too, so there is no way back.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

fn forbid_new_privs() -> io::Result<()> {
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: plain integers of the width prctl reads.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, unused, unused, unused) }).map(drop)
}

fn status_flags(fd: &impl AsFd) -> io::Result<libc::c_int> {
    // SAFETY: the descriptor is borrowed for the call.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFL) })
}

/// Makes reading or writing it never wait.
///
/// # Errors
/// What the kernel says; not in ordinary life.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = status_flags(fd)? | libc::O_NONBLOCK;
    // SAFETY: the descriptor is borrowed for the call; the flags are its own and one more.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pidfd::{Exit, tests::wait};
    use crate::sys::signal::Signal;
    use crate::sys::user::{euid, lookup_user};
    use std::io::{Read, Write};

    fn shell(script: &str) -> Vec<OsString> {
        ["-c", script].map(OsString::from).to_vec()
    }

    fn spawn<'a>(args: &'a [OsString]) -> Spawn<'a> {
        Spawn::new(OsStr::new("/bin/sh"), args, Path::new("/"))
    }

    /// Runs it to its end and returns what it wrote and how it ended. The output must fit in the pipe.
    fn run(spawn: &Spawn<'_>) -> (String, Exit) {
        let child = spawn.start().unwrap();
        wait(&child.pidfd);
        let mut text = Vec::new();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        for mut pipe in [child.stdout, child.stderr].map(File::from) {
            // A child of another test has this pipe too, from its fork to its exec: there is no end to read yet then.
            while let Err(e) = pipe.read_to_end(&mut text) {
                assert!(e.kind() == io::ErrorKind::WouldBlock && std::time::Instant::now() < deadline, "{e}");
                std::thread::yield_now();
            }
        }
        (String::from_utf8(text).unwrap(), child.pidfd.reap().unwrap().unwrap())
    }

    #[test]
    fn a_child_has_its_own_session_mask_umask_and_environment() {
        std::thread::spawn(|| {
            signal::block(&[Signal::Terminate, Signal::Hangup]).unwrap();
            let args = shell("umask; env; cat /proc/self/status; cut -d' ' -f6 /proc/self/stat; echo $$; exit 3");
            let (text, exit) = run(&spawn(&args));
            assert_eq!(exit, Exit::Code(3));
            assert!(text.starts_with("0077\n"), "{text}");
            assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
            assert!(text.contains("NoNewPrivs:\t1"), "{text}");
            assert!(text.contains("LC_ALL=C.UTF-8") && !text.contains("CARGO"), "{text}");
            let mut last = text.lines().rev();
            assert_eq!(last.next(), last.next(), "session and pid differ: {text}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_child_inherits_nothing_but_its_three_streams() {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: a plain call on a descriptor we hold: it clears close-on-exec, as a careless library would.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }).unwrap();
        // No pipeline: the shell would hold a pipe while `ls` looks. The `true` keeps it from becoming `ls` itself.
        let (text, _) = run(&spawn(&shell("ls /proc/$$/fd; true")));
        let fds: Vec<&str> = text.split_whitespace().collect();
        // 10 is the shell's own copy where it keeps one; ours would be another number.
        assert!(fds.starts_with(&["0", "1", "10", "2"]) || fds.starts_with(&["0", "1", "2"]), "{text}");
        assert!(!fds.contains(&file.as_raw_fd().to_string().as_str()), "{text}");
    }

    #[test]
    fn a_child_gets_the_files_it_is_handed_whatever_it_may_open_itself() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"handed over").unwrap();
        let files = [file];
        let args = shell(&format!("dd if=/proc/self/fd/{0} 2>/dev/null || cat <&{0}", files[0].as_raw_fd()));
        let (text, exit) = run(&Spawn { files: &files, ..spawn(&args) });
        assert!(exit.success() && text.contains("handed over"), "{exit:?} {text}");
    }

    #[test]
    fn a_child_is_born_into_its_control_groups() {
        let folder = tempfile::tempdir().unwrap();
        let procs = [File::create(folder.path().join("cgroup.procs")).unwrap()];
        let (_, exit) = run(&Spawn { cgroups: &procs, ..spawn(&shell("true")) });
        assert!(exit.success());
        assert_eq!(std::fs::read(folder.path().join("cgroup.procs")).unwrap(), b"0");
        let closed = [File::open("/dev/null").unwrap()];
        let args = shell("true");
        let refused = Spawn { cgroups: &closed, ..spawn(&args) }.start();
        assert!(refused.is_err(), "it runs outside of its group");
    }

    #[test]
    fn a_child_of_another_user_has_no_other_groups_and_no_way_back() {
        let Some((uid, gid)) = lookup_user("nobody").unwrap() else { return };
        let args = shell("id -u; id -g; id -G; grep -E '^(Cap(Eff|Prm)|Uid)' /proc/self/status");
        let as_nobody = Spawn { uid_gid: Some((uid, gid)), groups: &[], ..spawn(&args) };
        if euid() != 0 {
            assert_eq!(as_nobody.start().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            return;
        }
        let (text, exit) = run(&as_nobody);
        assert!(exit.success(), "{text}");
        assert!(text.starts_with(&format!("{uid}\n{gid}\n{gid}\n")), "{text}");
        assert!(text.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{text}");
        assert!(text.contains("CapPrm:\t0000000000000000"), "{text}");
        let (text, _) = run(&Spawn { groups: &[4711], ..as_nobody });
        assert!(text.contains("4711"), "{text}");
    }

    #[test]
    fn a_missing_program_is_an_error_and_leaves_nothing() {
        let missing = Spawn::new(OsStr::new("/nonexistent/qemu"), &[], Path::new("/"));
        assert_eq!(missing.start().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_command_dropped_to_another_user_is_that_user() {
        let Some((uid, gid)) = lookup_user("nobody").unwrap() else { return };
        let mut command = Command::new("/usr/bin/id");
        command.arg("-u").current_dir("/");
        set_apart(&mut command, Some((uid, gid)));
        match command.output() {
            Ok(out) => assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), uid.to_string()),
            Err(e) => assert!(euid() != 0 && e.kind() == io::ErrorKind::PermissionDenied, "{e}"),
        }
    }
}
