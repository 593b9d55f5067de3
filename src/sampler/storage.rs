//! Who fills the disk: what lies below `VM_BASE_DIR`, by folder and by user.
//!
//! A walk over all files, in small steps between samples so that none is late, begun anew every few minutes. Bytes are those that really lie on
//! the disk. A file that has two names is counted where its user keeps it. Links are not followed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files looked at in one step.
pub const STEP_FILES: usize = 1000;
/// Users whose storage is kept: those with the most.
pub const USERS: usize = 1000;
/// Folders that wait to be looked into; more of them are left out.
const FOLDERS: usize = 100_000;

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// Bytes below each folder of `VM_BASE_DIR`, the largest first.
    pub folders: Vec<(String, u64)>,
    /// Bytes of each user, the largest first.
    pub users: Vec<(String, u64)>,
}

/// A walk that is under way.
pub struct Walk {
    base: PathBuf,
    /// Folders to look into, with the top folder and the user they count for.
    open: Vec<(PathBuf, String, Option<String>)>,
    folders: BTreeMap<String, u64>,
    users: HashMap<String, u64>,
}

impl Walk {
    /// A walk below `base`.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        let open = vec![(base.to_owned(), String::new(), None)];
        Self { base: base.to_owned(), open, folders: BTreeMap::new(), users: HashMap::new() }
    }

    /// Goes on for about [`STEP_FILES`] files; what was found once it is over. Blocks.
    pub fn step(&mut self) -> Option<Storage> {
        let mut left = STEP_FILES;
        while left > 0 {
            let Some((folder, top, user)) = self.open.pop() else { return Some(self.found()) };
            left = left.saturating_sub(self.look_into(&folder, &top, user.as_deref()));
        }
        None
    }

    /// How many entries there were, 1 at least.
    fn look_into(&mut self, folder: &Path, top: &str, user: Option<&str>) -> usize {
        // Folders come and go meanwhile, and PostgreSQL's may not be ours to read.
        let Ok(entries) = fs::read_dir(folder) else { return 1 };
        let mut count = 1;
        for entry in entries.flatten() {
            count += 1;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(about) = entry.metadata() else { continue };
            let top = if folder == self.base { &name } else { top };
            let user = match user {
                None if top == "users" && folder == self.base.join("users") => Some(name.as_str()),
                None if top == "uploads" => name.split('.').next(),
                user => user,
            };
            if about.is_dir() {
                if self.open.len() < FOLDERS {
                    // Users are known one level below.
                    let user = user.filter(|_| top == "users").map(str::to_owned);
                    self.open.push((entry.path(), top.to_owned(), user));
                }
                continue;
            }
            // The other name of an upload is in its user's library.
            if top == "uploads" && about.nlink() > 1 {
                continue;
            }
            let bytes = about.blocks() * 512;
            *self.folders.entry(top.to_owned()).or_default() += bytes;
            if let Some(user) = user.filter(|_| top == "users" || top == "uploads") {
                *self.users.entry(user.to_owned()).or_default() += bytes;
            }
        }
        count
    }

    fn found(&mut self) -> Storage {
        let sorted = |mut all: Vec<(String, u64)>| {
            all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            all.truncate(USERS);
            all
        };
        Storage {
            folders: sorted(std::mem::take(&mut self.folders).into_iter().collect()),
            users: sorted(std::mem::take(&mut self.users).into_iter().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, kib: usize) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(path, vec![1; kib << 10]).expect("file");
        fs::File::open(path).and_then(|file| file.sync_all()).expect("on the disk");
    }

    #[test]
    fn storage_is_told_by_folder_and_by_user_and_a_second_name_costs_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let base = folder.path();
        write(&base.join("users/aaaaaaaaaaaa/images/x.iso"), 512);
        write(&base.join("users/aaaaaaaaaaaa/disks/work.qcow2"), 256);
        write(&base.join("users/bbbbbbbbbbbb/disks/work.qcow2"), 64);
        write(&base.join("uploads/cccccccccccc.iso"), 128);
        write(&base.join("runs/0123456789ab/overlay.qcow2"), 1024);
        fs::create_dir_all(base.join("uploads")).expect("uploads");
        fs::hard_link(base.join("users/aaaaaaaaaaaa/images/x.iso"), base.join("uploads/aaaaaaaaaaaa.iso"))
            .expect("link");
        std::os::unix::fs::symlink("/", base.join("runs/away")).expect("symlink");
        let mut walk = Walk::new(base);
        let found = std::iter::from_fn(|| Some(walk.step())).take(100).flatten().next().expect("an end");
        let kib = |all: &[(String, u64)]| all.iter().map(|(name, b)| (name.clone(), b >> 10)).collect::<Vec<_>>();
        let of = |name: &str, kib| (name.to_owned(), kib);
        assert_eq!(kib(&found.users), [of("aaaaaaaaaaaa", 768), of("cccccccccccc", 128), of("bbbbbbbbbbbb", 64)]);
        assert_eq!(kib(&found.folders), [of("runs", 1024), of("users", 832), of("uploads", 128)]);
    }

    #[test]
    fn many_files_take_several_steps_and_none_is_lost() {
        let folder = tempfile::tempdir().expect("folder");
        for n in 0..5 {
            let sub = folder.path().join(format!("runs/{n}"));
            fs::create_dir_all(&sub).expect("folder");
            (0..1000).for_each(|file| fs::write(sub.join(file.to_string()), "x").expect("file"));
        }
        let (mut walk, mut steps) = (Walk::new(folder.path()), 1);
        let found = loop {
            if let Some(found) = walk.step() {
                break found;
            }
            steps += 1;
        };
        assert!((2..20).contains(&steps), "{steps} steps");
        assert!(found.folders[0].1 >= 5000 * 512, "{found:?}");
    }
}
