//! Room on a file system, as an unprivileged user has it (the blocks kept for root do not count).
//!
//! Blocks on a dead network file system: not for the loop.
//!
//! Source: statvfs(3).
#![allow(unsafe_code)]

use super::check;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file system's size and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all, those kept for root left out.
    pub total: u64,
    /// Bytes that can still be written.
    pub free: u64,
    /// Files there can be; 0 where there is no such bound.
    pub inodes: u64,
    /// Files that can still be made.
    pub inodes_free: u64,
}

/// The file system this path is on.
///
/// # Errors
/// When there is no such path.
pub fn space(path: &Path) -> io::Result<Space> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut space = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with NUL; space is ours and of the right size.
    check(unsafe { libc::statvfs(path.as_ptr(), space.as_mut_ptr()) })?;
    // SAFETY: statvfs said that it filled it in.
    let space = unsafe { space.assume_init() };
    let kept = space.f_bfree.saturating_sub(space.f_bavail);
    Ok(Space {
        total: space.f_blocks.saturating_sub(kept).saturating_mul(space.f_frsize),
        free: space.f_bavail.saturating_mul(space.f_frsize),
        inodes: space.f_files,
        inodes_free: space.f_favail,
    })
}

/// Bytes that can still be written on the file system this path is on.
///
/// # Errors
/// As [`space`].
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    space(path).map(|space| space.free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_room_and_a_missing_one_is_an_error() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
        let space = space(&std::env::temp_dir()).unwrap();
        assert!(space.total >= space.free && space.inodes >= space.inodes_free, "{space:?}");
        assert_eq!(free_bytes(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
