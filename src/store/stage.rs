//! A file as it arrives: written where it comes, hashed on the way, on the disk before anybody is told so.
//!
//! Dirty pages are handed to the disk every few megabytes, so that the sync at the end of 4 GB is short. Nothing is written
//! beyond the announced size. What a failed write left is cut off to the last good byte.

use crate::proto::tus::Algorithm;
use crate::sys::file::start_writeback;
use ring::digest::{self, Context};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes between two requests to write back.
const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes read at a time where a file has to be read again.
const READ_BYTES: usize = 1024 * 1024;

/// The running hash of a file's first bytes; worth keeping between two pieces of an upload.
#[derive(Clone)]
pub struct Progress {
    context: Context,
    bytes: u64,
}

/// See the file's page.
pub struct Stage {
    file: File,
    path: PathBuf,
    length: u64,
    limit: u64,
    /// The hash of all of it so far; `None` when it does not begin at the first byte.
    sha256: Option<Progress>,
    /// The digest the client sent for this piece, being computed.
    piece: Option<Context>,
    began_at: u64,
    written_back: u64,
}

/// Why bytes were not taken.
#[derive(Debug)]
pub enum StageError {
    /// More than was announced.
    TooLong,
    /// The system's.
    Io(io::Error),
}

impl From<io::Error> for StageError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Stage {
    /// A new, empty file that may grow to `limit` bytes. It has its name for good: an offset that is told later is told of this file.
    ///
    /// # Errors
    /// The system's; the file must not be there yet.
    pub fn create(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            super::make_folder(folder)?;
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        if let Some(folder) = path.parent() {
            super::sync_folder(folder)?;
        }
        let sha256 = Some(Progress { context: Context::new(&digest::SHA256), bytes: 0 });
        Ok(Self { file, path: path.to_owned(), length: 0, limit, sha256, piece: None, began_at: 0, written_back: 0 })
    }

    /// Goes on with a file. `verified_to` cuts off what came after it; `progress` is what an earlier piece left.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(path: &Path, limit: u64, verified_to: Option<u64>, progress: Option<Progress>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let mut length = file.metadata()?.len();
        if let Some(cut) = verified_to.or(Some(limit)).filter(|cut| *cut < length) {
            file.set_len(cut)?;
            length = cut;
        }
        let fresh = || (length == 0).then(|| Progress { context: Context::new(&digest::SHA256), bytes: 0 });
        let sha256 = progress.filter(|progress| progress.bytes == length).or_else(fresh);
        let (path, written_back) = (path.to_owned(), length);
        Ok(Self { file, path, length, limit, sha256, piece: None, began_at: length, written_back })
    }

    /// Lowers the most it may grow to.
    pub fn limit_to(&mut self, bytes: u64) {
        self.limit = self.limit.min(bytes);
    }

    /// Bytes there are.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an `Upload-Checksum` is compared with, from here on.
    pub fn check_piece(&mut self, algorithm: Algorithm) {
        self.piece = Some(Context::new(match algorithm {
            Algorithm::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => &digest::SHA256,
        }));
    }

    /// The digest of what came since [`Stage::check_piece`].
    #[must_use]
    pub fn piece_digest(&mut self) -> Option<Vec<u8>> {
        self.piece.take().map(|context| context.finish().as_ref().to_vec())
    }

    /// Appends. After an error the file ends at the last good byte.
    ///
    /// # Errors
    /// See [`StageError`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let length = self.length + bytes.len() as u64;
        if length > self.limit {
            return Err(StageError::TooLong);
        }
        if let Err(e) = self.file.write_all_at(bytes, self.length) {
            // Part of it may be there.
            let _ = self.file.set_len(self.length);
            return Err(e.into());
        }
        if let Some(progress) = &mut self.sha256 {
            progress.context.update(bytes);
            progress.bytes = length;
        }
        if let Some(piece) = &mut self.piece {
            piece.update(bytes);
        }
        self.length = length;
        if length - self.written_back >= WRITEBACK_BYTES {
            start_writeback(&self.file, self.written_back, length - self.written_back);
            self.written_back = length;
        }
        Ok(())
    }

    /// Cuts off what came since this piece began.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_piece(&mut self) -> io::Result<()> {
        self.file.set_len(self.began_at)?;
        (self.length, self.sha256, self.piece) = (self.began_at, None, None);
        self.sync()
    }

    /// Waits until this piece is on the disk, and takes it back when it is not: the system tells such an error once, so a later sync
    /// would not know of it.
    ///
    /// # Errors
    /// The system's.
    pub fn settle(&mut self) -> io::Result<()> {
        let synced = self.sync();
        if synced.is_err() {
            self.cut(self.began_at);
        }
        synced
    }

    /// Forgets all that came.
    pub fn restart(&mut self) {
        self.cut(0);
    }

    fn cut(&mut self, length: u64) {
        if let Err(e) = self.file.set_len(length) {
            log::error!("{}: what could not be stored cannot be cut off: {e}", self.path.display());
        }
        (self.length, self.sha256, self.piece) = (length, None, None);
    }

    /// Waits until all of it is on the disk.
    ///
    /// # Errors
    /// The system's: then nobody may be told that it is.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.sync_all()
    }

    /// The running hash, for the next piece.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.sha256.clone()
    }

    /// The SHA-256 of all of it in hex; the file is read again where not all of it came by here.
    ///
    /// # Errors
    /// The system's.
    pub fn sha256(&mut self) -> io::Result<String> {
        if let Some(progress) = self.sha256.take().filter(|progress| progress.bytes == self.length) {
            return Ok(data_encoding::HEXLOWER.encode(progress.context.finish().as_ref()));
        }
        sha256_of(&self.file, self.length)
    }

    /// The first bytes of it, at most `most`.
    ///
    /// # Errors
    /// The system's.
    pub fn head(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(most);
        File::open(&self.path)?.take(most as u64).read_to_end(&mut head)?;
        Ok(head)
    }
}

/// The SHA-256 of a file's first `length` bytes in hex.
///
/// # Errors
/// The system's; there are fewer bytes.
pub fn sha256_of(file: &File, length: u64) -> io::Result<String> {
    let mut context = Context::new(&digest::SHA256);
    let (mut buffer, mut at) = (vec![0; READ_BYTES], 0);
    while at < length {
        let most = usize::try_from(length - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let count = file.read_at(&mut buffer[..most], at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        context.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(data_encoding::HEXLOWER.encode(context.finish().as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_in_pieces_has_the_same_hash_with_and_without_what_the_first_left() {
        let folder = tempfile::tempdir().unwrap();
        for keeps in [true, false] {
            let path = folder.path().join(format!("deep/{keeps}"));
            let mut first = Stage::create(&path, 3).unwrap();
            first.write(b"a").unwrap();
            first.sync().unwrap();
            let progress = first.progress().filter(|_| keeps);
            let mut second = Stage::resume(&path, 3, None, progress).unwrap();
            assert_eq!(second.length(), 1);
            second.write(b"bc").unwrap();
            assert_eq!(second.sha256.is_some(), keeps);
            assert_eq!(second.sha256().unwrap(), ABC);
        }
    }

    #[test]
    fn nothing_is_written_beyond_the_announced_size() {
        let folder = tempfile::tempdir().unwrap();
        let mut stage = Stage::create(&folder.path().join("x"), 3).unwrap();
        stage.write(b"ab").unwrap();
        assert!(matches!(stage.write(b"cd"), Err(StageError::TooLong)));
        assert_eq!(std::fs::read(stage.path()).unwrap(), b"ab");
    }

    #[test]
    fn a_piece_that_cannot_be_synced_counts_for_nothing() {
        // A file that takes everything and can never be synced.
        let mut stage = Stage::resume(Path::new("/dev/null"), 9, None, None).unwrap();
        stage.write(b"abc").unwrap();
        assert_eq!(stage.length(), 3);
        stage.settle().unwrap_err();
        assert_eq!((stage.length(), stage.progress().is_none()), (0, true));
    }

    #[test]
    fn a_piece_that_is_not_what_was_sent_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut stage = Stage::create(&path, 9).unwrap();
        stage.write(b"abc").unwrap();
        let mut stage = Stage::resume(&path, 9, None, stage.progress()).unwrap();
        stage.check_piece(Algorithm::Sha256);
        stage.write(b"abc").unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&stage.piece_digest().unwrap()), ABC);
        stage.forget_piece().unwrap();
        assert_eq!((stage.length(), stage.sha256().unwrap().as_str()), (3, ABC));
        // A server that died in the middle of such a piece cuts it off too.
        std::fs::write(&path, b"abcdef").unwrap();
        assert_eq!(Stage::resume(&path, 9, Some(3), None).unwrap().length(), 3);
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
    }
}
