//! Kept disks: qcow2 files of one user, by name. What a disk is made of is read from its own header.

use super::{Layout, files};
use crate::proto::qcow2;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const ENDING: &str = ".qcow2";

/// A disk in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Bytes as the guest sees it.
    pub size: u64,
    /// Bytes it takes on the host.
    pub used: u64,
    /// The image it is an overlay of.
    pub image: Option<String>,
    /// How many snapshots are in it.
    pub snapshots: u32,
    /// Seconds since 1970 when it was last written.
    pub modified: i64,
}

impl Listed {
    /// GiB it counts in its user's quota: one with snapshots may take more than its guest sees.
    #[must_use]
    pub fn counts_gb(&self) -> u64 {
        self.size.max(self.used).div_ceil(1 << 30)
    }
}

/// The file of a disk; the name has been checked.
#[must_use]
pub fn path(layout: &Layout, uid: &str, name: &str) -> PathBuf {
    layout.disks(uid).join(format!("{name}{ENDING}"))
}

/// The name of a user's disk from its path, as old clients write it: only one that lies in his own folder.
#[must_use]
pub fn name_of(layout: &Layout, uid: &str, path: &str) -> Option<String> {
    let path = Path::new(path);
    let folder = layout.disks(uid);
    let inside = path.parent().is_some_and(|parent| parent == folder || parent.as_os_str().is_empty());
    let file = path.file_name()?.to_str()?;
    inside.then(|| file.strip_suffix(ENDING).unwrap_or(file).to_owned())
}

/// A user's disks by name. A file that is no disk (any more) is listed with size 0.
#[must_use]
pub fn list(layout: &Layout, uid: &str) -> Vec<Listed> {
    let folder = layout.disks(uid);
    let found = files(&folder).into_iter().filter_map(|(file, about)| {
        let name = file.strip_suffix(ENDING)?.to_owned();
        let info = header(&folder.join(&file));
        Some(Listed {
            name,
            size: info.as_ref().map_or(0, |info| info.size),
            used: about.blocks() * 512,
            image: info.as_ref().and_then(backing).and_then(|path| Some(path.file_name()?.to_str()?.to_owned())),
            snapshots: info.as_ref().map_or(0, |info| info.snapshots),
            modified: about.mtime(),
        })
    });
    found.collect()
}

/// What a disk's header says; `None` when it is no qcow2 file.
#[must_use]
pub fn header(path: &Path) -> Option<qcow2::Qcow2Info> {
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(qcow2::HEAD_BYTES as u64).read_to_end(&mut head).ok()?;
    qcow2::parse(&head).ok()
}

fn backing(info: &qcow2::Qcow2Info) -> Option<PathBuf> {
    info.backing.as_ref().map(|path| PathBuf::from(String::from_utf8_lossy(path).into_owned()))
}

/// A disk that is an overlay of `image`, if there is one: the name of a kept one, or `None` in it for one of a VM that runs.
#[must_use]
pub fn overlay_of(layout: &Layout, image: &Path) -> Option<Option<String>> {
    let inside = |folder: &str| std::fs::read_dir(layout.base().join(folder)).into_iter().flatten().flatten();
    let kept = inside("users").map(|user| (layout.disks(&user.file_name().to_string_lossy()), true));
    let running = inside("runs").map(|run| (run.path(), false));
    for (folder, is_kept) in kept.chain(running) {
        for (file, _) in files(&folder).into_iter().filter(|(file, _)| file.ends_with(ENDING)) {
            let base = header(&folder.join(&file)).as_ref().and_then(backing);
            if base.is_some_and(|base| super::images::is_same(&base, image)) {
                return Some(is_kept.then(|| file.strip_suffix(ENDING).unwrap_or(&file).to_owned()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_counts_what_it_may_or_does_take_whichever_is_more() {
        let disk = |size: u64, used: u64| {
            let (name, image) = ("d".to_owned(), None);
            Listed { name, size, used, image, snapshots: 0, modified: 0 }.counts_gb()
        };
        assert_eq!((disk(2 << 30, 1 << 20), disk(1 << 30, 3 << 30), disk(0, 1)), (2, 3, 1));
    }

    #[test]
    fn a_path_names_a_disk_only_in_the_users_own_folder() {
        let layout = Layout::new(Path::new("/v"));
        for (path, name) in [
            ("/v/users/u1/disks/work.qcow2", Some("work")),
            ("work.qcow2", Some("work")),
            ("work", Some("work")),
            ("/v/users/u2/disks/work.qcow2", None),
            ("/v/users/u1/disks/../../u2/disks/work.qcow2", None),
            ("/etc/shadow", None),
            ("sub/work", None),
        ] {
            assert_eq!(name_of(&layout, "u1", path).as_deref(), name, "{path}");
        }
    }
}
