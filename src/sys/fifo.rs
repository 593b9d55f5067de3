//! Named pipes, for a program whose output a later server reads on.
//!
//! The writing end is open for reading too, as Linux allows: so the pipe is never broken while no server reads it, and what was written waits there.
//! It does not block: a program that writes more than fits (64 KiB) goes on, and the rest is lost.
//!
//! Sources: fifo(7), mkfifo(3), open(2).
#![allow(unsafe_code)]

use super::check;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Makes one in the place of whatever is there: its reading end, non-blocking, and its writing end.
///
/// # Errors
/// The kernel's.
pub fn make(path: &Path) -> io::Result<(File, File)> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the name ends in a NUL and outlives the call.
    check(unsafe { libc::mkfifo(name.as_ptr(), 0o600) })?;
    let writer = open_as(OpenOptions::new().read(true).write(true), path)?;
    Ok((open(path)?, writer))
}

/// The reading end of one, non-blocking, in a folder others write to: no link is followed, and what is no pipe is refused.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path) -> io::Result<File> {
    open_as(OpenOptions::new().read(true), path)
}

fn open_as(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.file_type().is_fifo() { Ok(file) } else { Err(io::Error::other("it is no named pipe")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_written_while_nobody_reads_is_there_for_the_next_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stderr");
        std::fs::write(&path, "of a former program").unwrap();
        let (reader, mut writer) = make(&path).unwrap();
        drop(reader);
        writer.write_all(b"still here\n").unwrap();
        // More than fits is refused, not waited for.
        let full = (0..64).find_map(|_| writer.write_all(&[b'x'; 4096]).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let mut reader = open(&path).unwrap();
        drop(writer);
        let mut said = Vec::new();
        reader.read_to_end(&mut said).unwrap();
        assert!(said.starts_with(b"still here\nx"), "{} bytes", said.len());
    }

    #[test]
    fn what_is_no_named_pipe_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let [file, pipe, link] = ["file", "pipe", "link"].map(|name| folder.path().join(name));
        std::fs::write(&file, "text").unwrap();
        assert!(open(&file).is_err() && open(&link).is_err());
        make(&pipe).unwrap();
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        assert!(open(&link).is_err());
        assert!(open(&pipe).is_ok());
    }
}
