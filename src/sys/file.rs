//! Hints to the kernel about a file's pages, and opening what somebody else may have put there.
//!
//! Sources: sync_file_range(2), posix_fadvise(2), open(2).
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a plain file to read it, in a folder others write to: no link is followed, and nothing else is waited for.
///
/// # Errors
/// The kernel's; what is no plain file is refused.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Asks the kernel to begin writing these bytes to the disk, without waiting for it. A hint: nothing is promised, and an error
/// changes nothing.
pub fn start_writeback(file: &File, offset: u64, length: u64) {
    // SAFETY: the descriptor is borrowed for the call; the rest are plain integers.
    unsafe { libc::sync_file_range(file.as_raw_fd(), signed(offset), signed(length), libc::SYNC_FILE_RANGE_WRITE) };
}

/// Asks the kernel to read the file into memory ahead of use. A hint, as above.
pub fn read_ahead(file: &File) {
    // SAFETY: as above; a length of 0 means to the end.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_WILLNEED) };
}
