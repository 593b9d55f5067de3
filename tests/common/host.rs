//! What tests do to this host and see of it: small disks, and processes.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::missing_panics_doc)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk of a few megabytes in place of a folder, until this is dropped. To mount takes root, or sudo.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn over(folder: &Path, megabytes: u32) -> Self {
        let about = fs::metadata(folder).expect("the folder");
        let (mode, uid, gid) = (about.mode() & 0o7777, about.uid(), about.gid());
        as_root(
            &["mount", "-t", "tmpfs", "-o", &format!("size={megabytes}m,mode={mode:o},uid={uid},gid={gid}"), "tmpfs"],
            folder,
        );
        Self(folder.to_owned())
    }

    /// Gives it more room; what is on it stays.
    pub fn grow(&self, megabytes: u32) {
        as_root(&["mount", "-o", &format!("remount,size={megabytes}m")], &self.0);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        as_root(&["umount", "--lazy"], &self.0);
    }
}

fn as_root(command: &[&str], folder: &Path) {
    let sudo: &[&str] = if vmshare::sys::user::euid() == 0 { &[] } else { &["sudo", "-n"] };
    let words: Vec<&str> = sudo.iter().chain(command).copied().collect();
    let done = Command::new(words[0]).args(&words[1..]).arg(folder).output().expect("a command");
    assert!(done.status.success() || std::thread::panicking(), "{words:?} {}: {done:?}", folder.display());
}

pub fn children_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|line| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Processes whose command line names `folder` or that stand in it, as QEMUs do; the tests' own excepted.
pub fn processes_of(folder: &Path) -> Vec<u32> {
    let wanted = folder.to_string_lossy().into_owned();
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let stands = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
            (stands || line.contains(&wanted)) && !line.contains("serve\0--config")
        })
        .collect();
    found.sort_unstable();
    found
}
