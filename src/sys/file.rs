//! Hints to the kernel about a file's pages.
//!
//! Sources: sync_file_range(2), posix_fadvise(2).
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

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
