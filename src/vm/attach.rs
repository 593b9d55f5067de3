//! Opens what a QEMU is to use: its CD, its disks, and what they are overlays of. Blocking: for the `disk` threads.
//!
//! QEMU inherits the open files and is told no path. So its user needs no right to any of them, and nothing that a broken-out
//! guest wrote into a disk's header or into its run folder makes the server open something else for the next start: what is below an
//! overlay must be an image its owner may start from, and a disk in a run folder must be the very file the server made there.

use super::args::{Disk, Medium};
use super::image;
use crate::config::Config;
use crate::proto::problem::Problem;
use crate::proto::qcow2;
use crate::store::images;
use crate::store::names::Format;
use crate::sys::user;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What was opened; the numbers are good while the files are.
#[derive(Debug, Default)]
pub struct Attached {
    /// To be handed to QEMU.
    pub files: Vec<File>,
    /// The CD.
    pub cd: Option<RawFd>,
    /// The disks, in order.
    pub disks: Vec<Disk>,
}

/// What is to be opened.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The CD: canonical.
    pub cd: Option<PathBuf>,
    /// A disk the user keeps.
    pub kept: Option<PathBuf>,
    /// Disks in the run folder; those that are not there were not made.
    pub own: Vec<PathBuf>,
}

impl Wanted {
    /// Opens all of it for a VM of `uid`.
    ///
    /// # Errors
    /// What cannot be opened and why.
    pub fn open(&self, config: &Config, uid: &str) -> Result<Attached, Problem> {
        let mut all = Attached::default();
        if let Some(path) = &self.cd {
            let file = open(path, false).map_err(|e| cannot_open(path, &e))?;
            all.cd = Some(all.add(file));
        }
        if let Some(path) = &self.kept {
            let file = open(path, true).map_err(|e| cannot_open(path, &e))?;
            all.add_disk(config, uid, path, file)?;
        }
        for path in &self.own {
            match open(path, true).and_then(only_ours) {
                Ok(file) => all.add_disk(config, uid, path, file)?,
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(cannot_open(path, &e)),
            }
        }
        Ok(all)
    }
}

impl Attached {
    fn add(&mut self, file: File) -> RawFd {
        let fd = file.as_raw_fd();
        self.files.push(file);
        fd
    }

    fn add_disk(&mut self, config: &Config, uid: &str, path: &Path, file: File) -> Result<(), Problem> {
        let base = base(config, uid, path, &file)?.map(|(image, format)| Medium { fd: self.add(image), format });
        let fd = self.add(file);
        self.disks.push(Disk { fd, base });
        Ok(())
    }
}

/// That a kept disk is sound and lies over nothing but what its owner may start from; before `qemu-img` works on it.
///
/// # Errors
/// As [`Wanted::open`].
pub fn check(config: &Config, uid: &str, path: &Path) -> Result<(), Problem> {
    let file = open(path, false).map_err(|e| cannot_open(path, &e))?;
    base(config, uid, path, &file).map(drop)
}

/// What a disk is an overlay of, opened.
fn base(config: &Config, uid: &str, path: &Path, disk: &File) -> Result<Option<(File, &'static str)>, Problem> {
    let head = read_head(disk).map_err(|e| cannot_open(path, &e))?;
    let info = qcow2::parse(&head).map_err(|e| cannot_open(path, &io::Error::other(e)))?;
    let Some(named) = info.backing else { return Ok(None) };
    let named = Path::new(OsStr::from_bytes(&named));
    let image = open(named, false).map_err(|e| cannot_open(named, &e))?;
    let real = real_path(&image).map_err(|e| cannot_open(named, &e))?;
    if !image::may_back(config, uid, &real) {
        log::error!("{}: it is an overlay of {}, which its owner may not use", path.display(), real.display());
        let detail = "This disk is an overlay of an image that you may not use. Tell the operator.";
        return Err(Problem::conflict("disk_refused", detail));
    }
    let format = match Format::of(&real.file_name().unwrap_or_default().to_string_lossy()) {
        Format::Raw => "raw",
        Format::Qcow2 | Format::Iso => {
            let head = read_head(&image).map_err(|e| cannot_open(named, &e))?;
            let size = image.metadata().map_err(|e| cannot_open(named, &e))?.len();
            qcow2::check(&head, size).map_err(|e| cannot_open(named, &io::Error::other(e)))?;
            "qcow2"
        }
    };
    Ok(Some((image, format)))
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    // What it is comes first: to open a device may be to use it. A link at the end is not followed.
    let is_file = |kind: std::fs::FileType| kind.is_file() || std::os::unix::fs::FileTypeExt::is_block_device(&kind);
    if !is_file(path.symlink_metadata()?.file_type()) {
        return Err(io::Error::other("it is no file"));
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    if is_file(file.metadata()?.file_type()) { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

/// The owner of the folder can put links and files of his own there; files of the server's he cannot make.
fn only_ours(file: File) -> io::Result<File> {
    let about = file.metadata()?;
    let ours = about.is_file() && about.uid() == user::euid() && about.nlink() == 1;
    if ours { Ok(file) } else { Err(io::Error::other("it is not the file the server made")) }
}

fn read_head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    // Reads at the beginning, and leaves QEMU's own place there.
    let mut taken = file.try_clone()?.take(images::HEAD_BYTES as u64);
    taken.read_to_end(&mut head)?;
    io::Seek::rewind(&mut taken.into_inner())?;
    Ok(head)
}

fn real_path(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn cannot_open(path: &Path, error: &io::Error) -> Problem {
    log::error!("{}: {error}", path.display());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Problem::new(500, "image_unreadable", format!("The VM's {name} cannot be used: {error}. Tell the operator."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_in_the_place_of_a_disk_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.qcow2");
        symlink("/etc/passwd", &path).unwrap();
        assert!(open(&path, false).is_err());
    }

    #[test]
    fn a_second_name_of_one_of_our_files_is_not_the_file_we_made() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, disk) = (folder.path().join("secret"), folder.path().join("scratch.qcow2"));
        std::fs::write(&secret, "x").unwrap();
        assert!(only_ours(File::open(&secret).unwrap()).is_ok());
        std::fs::hard_link(&secret, &disk).unwrap();
        assert!(only_ours(File::open(&disk).unwrap()).is_err());
    }

    #[test]
    fn a_folder_or_a_pipe_is_no_image() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path(), false).is_err());
        assert!(open(Path::new("/dev/null"), false).is_err());
    }
}
