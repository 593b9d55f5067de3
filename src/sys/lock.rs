//! One server per folder: a lock on `lock` in `VM_BASE_DIR`, held as long as the process lives.
//!
//! Two servers on one folder would kill each other's machines as strays. The kernel drops the lock when its holder ends, however
//! it ends, so there are no stale locks; the pid inside only serves to say who it is. A child it had just forked holds the lock too, until its
//! exec a moment later: where the holder named in the file is dead, that is waited for. The file stays: removing it would let
//! two processes hold two files of the same name. It does not work across hosts on every network file system.
//!
//! Source: flock(2).
#![allow(unsafe_code)]

use super::check;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the lock of a holder that is dead is waited for.
const LEAVING: Duration = Duration::from_secs(3);

/// Why the folder is not ours.
#[derive(Debug)]
pub enum LockError {
    /// Another server has it.
    Held {
        /// The folder.
        folder: PathBuf,
        /// Its process, where the file says so.
        holder: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    Io(PathBuf, io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { folder, holder: Some(pid) } => write!(
                f,
                "{} is in use by another server (pid {pid}): stop it, or set VM_BASE_DIR to another folder",
                folder.display()
            ),
            Self::Held { folder, holder: None } => {
                write!(
                    f,
                    "{} is in use by another server: stop it, or set VM_BASE_DIR to another folder",
                    folder.display()
                )
            }
            Self::Io(file, error) => write!(f, "cannot lock {}: {error}", file.display()),
        }
    }
}

impl std::error::Error for LockError {}

/// The lock; it is given back when this is dropped or the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of this folder, or says at once who has it. Blocks for [`LEAVING`] at most.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let failed = |error| LockError::Io(path.clone(), error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        let deadline = Instant::now() + LEAVING;
        while let Err(e) = lock_now(&file) {
            if e.kind() != io::ErrorKind::WouldBlock {
                return Err(failed(e));
            }
            let holder = read_pid(&mut file);
            let is_dead = holder.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            if !is_dead || Instant::now() >= deadline {
                return Err(LockError::Held { folder: folder.to_owned(), holder });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn lock_now(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is held by file for the length of the call.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_server_on_a_folder_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let refused = FolderLock::take(folder.path()).unwrap_err();
        assert!(matches!(&refused, LockError::Held { holder: Some(pid), .. } if *pid == std::process::id()));
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(lock);
        // A child that another test forked in this moment shares the lock until its exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while let Err(error) = FolderLock::take(folder.path()) {
            assert!(std::time::Instant::now() < deadline, "it is still held: {error}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn a_pid_left_by_a_dead_server_does_not_hold_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lock"), "999999999999\n").unwrap();
        FolderLock::take(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_lock_that_only_a_child_of_a_dead_server_has_yet_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        // No process has this number: the kernel's are below 2^22.
        std::fs::write(&path, "4294967294\n").unwrap();
        let child = File::open(&path).unwrap();
        lock_now(&child).unwrap();
        let leaves = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(50));
            drop(child);
        });
        FolderLock::take(folder.path()).unwrap();
        leaves.join().unwrap();
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = FolderLock::take(Path::new("/nonexistent/vms")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vms/lock"), "{error}");
    }
}
