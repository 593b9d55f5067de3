//! Lets a child write below one folder and nowhere else, whatever its user might (landlock(7), Linux 5.13).
//!
//! What it has open already, its disks among it, is not touched; reading is not either. A kernel without it answers `None`: the caller decides
//! what to say then.
#![allow(unsafe_code)]

use super::{check, check_long};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const WRITE_FILE: u64 = 1 << 1;
/// Removing and making of any kind: bits 4 to 12.
const CHANGE_FOLDER: u64 = 0x1ff0;
/// Moving between folders, from the second version on.
const REFER: u64 = 1 << 13;
/// Cutting off, from the third.
const TRUNCATE: u64 = 1 << 14;

/// Asks for the version.
const VERSION: u32 = 1;
/// A rule about what lies below an open path.
const PATH_BENEATH: u32 = 1;

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// Which version this kernel has, if any.
#[must_use]
pub fn version() -> Option<u32> {
    // SAFETY: no memory is read: the pointer is null and the size zero, as this flag asks.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// What a child may write to.
#[derive(Debug)]
pub struct Bounds(OwnedFd);

impl Bounds {
    /// Everything below `folder`, and those of `devices` that are there. `None` where the kernel cannot.
    ///
    /// # Errors
    /// The system's.
    pub fn below(folder: &Path, devices: &[&str]) -> io::Result<Option<Self>> {
        let Some(version) = version() else { return Ok(None) };
        let mut all = WRITE_FILE | CHANGE_FOLDER;
        all |= if version >= 2 { REFER } else { 0 } | if version >= 3 { TRUNCATE } else { 0 };
        let bounds = Self(create(all)?);
        bounds.allow(folder, all)?;
        for device in devices.iter().map(Path::new).filter(|device| device.exists()) {
            bounds.allow(device, all & (WRITE_FILE | TRUNCATE))?;
        }
        Ok(Some(bounds))
    }

    fn allow(&self, path: &Path, access: u64) -> io::Result<()> {
        let place: File = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
        let rule = PathBeneathAttr { allowed_access: access, parent_fd: place.as_raw_fd() };
        let none: u32 = 0;
        // SAFETY: the rule is of the kernel's layout (packed) and outlives the call, as do both descriptors.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, self.0.as_raw_fd(), PATH_BENEATH, &raw const rule, none)
        };
        check_long(added).map(drop)
    }

    /// Its number, for the child.
    pub(super) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn create(handled_access_fs: u64) -> io::Result<OwnedFd> {
    let attr = RulesetAttr { handled_access_fs };
    let none: u32 = 0;
    // SAFETY: the struct is of the kernel's layout, outlives the call, and its own size is given.
    let made =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), none) };
    let fd = check_long(made).and_then(|fd| RawFd::try_from(fd).map_err(io::Error::other)).and_then(check)?;
    // SAFETY: the kernel has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds the calling process and all that it starts, for good. It must have given up new privileges before.
pub(super) fn bind(bounds: RawFd) -> io::Result<()> {
    let none: u32 = 0;
    // SAFETY: plain integers; the parent holds this descriptor open until the child runs.
    check_long(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, bounds, none) }).map(drop)
}
